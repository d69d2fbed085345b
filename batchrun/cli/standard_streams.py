"""Standard streams that cannot block a run when nothing reads them.

A pipe that nobody empties, and a terminal that was paused (Ctrl-S), block whoever writes to them. A
run writes its messages in several threads, the event loop's among them, and at its end; one blocked
write there, and requests in flight time out, or the process never ends. So what goes to stderr
during a run is taken by a thread that does nothing else. What nobody reads is dropped: the results
are on the disk, and `batchrun status` tells the rest.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

WAITING_BYTES_MAX = 2**20
"""The most that waits for a reader; anything beyond is dropped."""
PATIENCE_S = 2.0
"""At the end of a command, how long a reader may take nothing before the rest is dropped."""
PIECE_BYTES = 4096
"""Written at a time. Not more than a pipe takes as a whole."""

CLOSED: set[int] = set()
"""The standard streams that were closed when this process began."""


class Unblocked(io.TextIOBase):
    """A text stream over a descriptor whose writes return at once and raise nothing."""

    def __init__(self, like: TextIO) -> None:
        """``like`` is the stream that this one stands in for."""
        self._like = like
        self._descriptor = like.fileno()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._taken = 0
        self._state = threading.Condition()
        self._gone = False
        self._thread = threading.Thread(target=self._work, name="stderr", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream it stands in for."""
        return self._like.encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What cannot be encoded is shown as an escape."""
        return "backslashreplace"

    def writable(self) -> bool:
        """It is only written."""
        return True

    def isatty(self) -> bool:
        """Whether there is a terminal behind it."""
        return self._like.isatty()

    def fileno(self) -> int:
        """The descriptor behind it."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Take text; it is written when there is room for it, unless too much waits already."""
        data = text.encode(self.encoding, self.errors)
        with self._state:
            if not self._gone and self._bytes + len(data) <= WAITING_BYTES_MAX:
                self._waiting.append(data)
                self._bytes += len(data)
                self._state.notify_all()
        return len(text)

    def drain(self) -> None:
        """Wait until everything is written, as long as the reader makes progress."""
        with self._state:
            taken, until_s = self._taken, time.monotonic() + PATIENCE_S
            while self._bytes and not self._gone and (left_s := until_s - time.monotonic()) > 0:
                self._state.wait(left_s)
                if self._taken != taken:
                    taken, until_s = self._taken, time.monotonic() + PATIENCE_S
            self._gone = True
            self._waiting.clear()
            self._state.notify_all()

    def _work(self) -> None:
        while True:
            with self._state:
                while not self._waiting and not self._gone:
                    self._state.wait()
                if self._gone:
                    return
                data = self._waiting.popleft()
            for start in range(0, len(data), PIECE_BYTES):
                if not self._put(data[start : start + PIECE_BYTES]):
                    return

    def _put(self, piece: bytes) -> bool:
        """Write a piece, however long it takes. Returns whether there is a reader."""
        while piece:
            try:
                count = os.write(self._descriptor, piece)
            except OSError:
                # The reader went away, or the terminal was closed.
                count = -1
            with self._state:
                self._gone = self._gone or count < 0
                self._taken += max(0, count)
                self._bytes -= max(0, count)
                self._state.notify_all()
                if self._gone:
                    return False
            piece = piece[count:]
        return True


def open_closed() -> None:
    """Put something behind standard streams that were closed by whoever started this process.

    A file opened later would get the number 2, and every message meant for stderr would be written
    into it: into the journal, maybe.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            CLOSED.add(number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115


def unbreakable() -> None:
    """What the encoding of standard output cannot hold is shown as an escape, as on stderr."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # it may be a program's own
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextlib.contextmanager
def unblocked() -> Iterator[None]:
    """Within this block nothing that goes to ``sys.stderr`` waits for a reader."""
    before = sys.stderr
    try:
        stream = Unblocked(before)
    except (AttributeError, OSError):  # there is none, or it is a test's
        yield
        return
    sys.stderr = stream
    try:
        yield
    finally:
        stream.drain()
        sys.stderr = before


def forsake(number: int) -> None:
    """Nobody reads this standard stream any more: what is still in its buffer goes nowhere, so that
    the interpreter's last flush of it is no error.
    """
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
