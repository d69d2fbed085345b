"""The lock of a run directory: one run at a time, even across machines.

On one machine the operating system's lock (``flock``) decides, and is released when a process dies.
On a directory that machines share, the others may not see it: many network file systems keep locks
local. So the holder shows that it is alive by touching its note every few seconds, and a process
that finds the note of another machine watches it before taking the lock: if it is touched
meanwhile, the holder is alive, and the lock is refused. No clocks are compared. A holder that was
thought dead (it was suspended, or cut off) finds another name in its note and stops before it
writes anything more.

Machines are told apart by their kernel's random boot id; containers on one machine share it, and
its locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from batchrun.adapters.environment.clock import real_s
from batchrun.adapters.storage import disk
from batchrun.adapters.storage.files import open_private
from batchrun.adapters.system import platform
from batchrun.errors import RunLockedError, StorageError

NAME = "lock"
BEAT_S = 2.0
"""How often the holder touches its note."""
WATCH_S = 20.0
"""If a note of another machine is not touched for this long, its holder is dead."""
_KERNEL = "kernel "


class _Note(NamedTuple):
    """A note as read: its text, and when it was touched."""

    text: str
    touched_ns: int

    @property
    def holder(self) -> str:
        return self.text.partition("\n")[0].strip()

    @property
    def foreign(self) -> bool:
        """Whether another machine wrote it. One without a boot id counts as this machine's."""
        kernel = self.text.partition("\n")[2].strip()
        return kernel.startswith(_KERNEL) and kernel != _KERNEL + this_kernel()


class Held(Protocol):
    """Exclusive use of a run directory."""

    def check(self) -> None:
        """Raise ``StorageError`` if another process took it over."""
        ...

    def release(self, *, clear: bool = True) -> None:
        """Release it; releasing twice is harmless."""
        ...


class Lock:
    """Exclusive use of a run directory and its checkpoint, until the process ends or ``release``.

    The run directory itself is locked, wherever its checkpoint is; the file in the checkpoint is
    locked too, and tells people and other machines who holds it.
    """

    def __init__(
        self, folder: Path, note: Path, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """``say`` gets a line if acquiring takes a while."""
        self.folder = folder
        self.note = note
        self._say = say
        self._descriptors: list[int] = []
        self._text = ""
        self._released = threading.Event()
        self._taken_by: str | None = None
        self._looked_s = math.inf

    def acquire(self) -> None:
        """Take the locks. Raises ``RunLockedError`` naming the holder if they are taken, and
        ``FileNotFoundError`` if the folder was moved away at this moment.
        """
        try:
            self._descriptors.append(os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC))
            _take(self._descriptors[-1])
            self._refuse_moved()
            self._descriptors.append(open_private(self.note))
            _take(self._descriptors[-1])
            self._refuse_living()
        except BlockingIOError:
            self.release(clear=False)
            try:
                holder = _seen(self.note).holder
            except OSError:
                holder = ""
            holder = holder or "a run with another checkpoint"
            raise self._locked(holder) from None
        except BaseException:
            self.release(clear=False)
            raise
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._text = (
            f"process {os.getpid()} on {socket.gethostname()}, since {started}\n"
            f"{_KERNEL}{this_kernel()}\n"
        )
        disk.truncate(self._descriptors[-1], 0)
        disk.pwrite(self._descriptors[-1], self._text.encode(), 0)
        self._looked_s = real_s()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def check(self) -> None:
        """Raise ``StorageError`` if another machine took the directory over.

        The note is read first if it was not checked for so long that this may have happened: this
        process was suspended, and may have woken before the thread that checks.
        """
        if self._descriptors and real_s() - self._looked_s > WATCH_S / 2:
            self._look()
        if self._taken_by is not None:
            message = (
                f"{self.folder} was taken over by another run ({self._taken_by}), which saw no "
                "sign of this one. Nothing more is written here; what was not safe is sent again"
            )
            raise StorageError(message)

    def release(self, *, clear: bool = True) -> None:
        """Release the locks; ``clear`` wipes the note."""
        self._released.set()
        if clear and self._descriptors and self._taken_by is None:
            disk.truncate(self._descriptors[-1], 0)
        for descriptor in reversed(self._descriptors):
            os.close(descriptor)
        self._descriptors = []

    def _locked(self, holder: str) -> RunLockedError:
        message = (
            f"{self.folder} is in use by another run ({holder}). "
            "Wait for it, or stop it; `batchrun status` shows it"
        )
        return RunLockedError(message, holder=holder)

    def _refuse_moved(self) -> None:
        locked = os.fstat(self._descriptors[0])
        if not os.path.samestat(locked, self.folder.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder))

    def _refuse_living(self) -> None:
        """This process has the lock on this machine; check whether the note's holder is alive on
        another.
        """
        first = _seen(self.note)
        if not first.foreign:
            return
        self._say(
            f"{self.note} names a run on another machine ({first.holder}): watching for "
            f"{WATCH_S:.0f} s whether it is alive"
        )
        until_s = time.monotonic() + WATCH_S
        while time.monotonic() < until_s:
            time.sleep(BEAT_S / 4)
            now = _seen(self.note)
            if not now.text:
                return  # it has just ended
            if now != first:
                raise self._locked(now.holder)

    def _beat(self) -> None:
        while self._taken_by is None and not self._released.wait(BEAT_S):
            self._look()

    def _look(self) -> None:
        """Check that the note is still ours, and touch it."""
        # If the file system does not answer, the next write will fail.
        with contextlib.suppress(OSError):
            note = _seen(self.note)
            if note.foreign:
                self._taken_by = note.holder
            elif note.text == self._text:
                os.utime(self.note)
        self._looked_s = real_s()


def _seen(path: Path) -> _Note:
    """A note, opened again, since network file systems ask their server on opening."""
    with path.open("rb") as file:
        touched_ns = os.fstat(file.fileno()).st_mtime_ns
        return _Note(file.read(4096).decode(errors="replace"), touched_ns)


def this_kernel() -> str:
    """An id that differs between machines, and changes when a machine is restarted."""
    return platform.boot_id()


def _take(descriptor: int) -> None:
    """Take the lock, retrying for a while: ``is_locked`` holds it for a moment."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.02)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(folder: Path) -> bool:
    """Whether a run on this machine holds this directory. Needs no write permission."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def is_held_elsewhere(checkpoint: Path) -> bool:
    """Whether a run on another machine seems to hold this checkpoint: its note was touched a moment
    ago, by this machine's clock. That is good enough for a view; taking the lock compares no
    clocks.
    """
    try:
        note = _seen(checkpoint / NAME)
    except OSError:
        return False
    return note.foreign and abs(time.time() - note.touched_ns / 1e9) < WATCH_S
