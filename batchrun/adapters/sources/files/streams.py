"""The bytes of text input, in chunks: plain files, compressed ones, and a pipe.

Readers of lines get all their bytes from ``ByteSource.chunks``. Offsets count the uncompressed
bytes. A compressed file has to be decompressed up to an offset, so skipping runs at that speed,
without splitting lines.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from batchrun.adapters.sources.files import storage
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.errors import InputError, InputLostError

READ_BYTES = 2**18
SKIP_BYTES = 2**20
HEAD_BYTES_MAX = 64 * 2**20
"""How much of a pipe may be read and kept before its rows are read for the run."""

END_PAUSE_S = 0.2
"""Ctrl-C reaches every process of a pipeline: the writer dies first, perhaps in the middle of a
line. So a pipe's end only counts if no stop of the run follows within this time.
"""


class ByteSource(Protocol):
    """The bytes of the input files."""

    def chunks(self, index: int, offset: int) -> Iterator[bytes]:
        """The bytes of file ``index`` from ``offset`` (uncompressed) on, only those present at the
        start. An empty chunk means that more may come, but not at once. Raises ``InputLostError``
        if reading the file fails.
        """
        ...

    def close(self) -> None:
        """Close files kept open between two calls of ``chunks``."""
        ...


class FileBytes:
    """``ByteSource`` over files. Not thread-safe: each thread makes its own."""

    def __init__(self, stamps: Sequence[Stamp]) -> None:
        self._stamps = stamps
        self._unpacked: tuple[int, _Unpacked] | None = None

    def chunks(self, index: int, offset: int) -> Iterator[bytes]:
        """See ``ByteSource``."""
        stamp = self._stamps[index]
        with _reading(stamp):
            if stamp.codec is None:
                yield from _plain(stamp, offset)
            elif stamp.size:
                yield from self._opened(index, offset).chunks(offset)

    def _opened(self, index: int, offset: int) -> _Unpacked:
        """The decompressor left behind by the last call if it is not past the offset, else a new
        one, so that reading many spans of a compressed file does not unpack it many times.
        """
        if self._unpacked is not None:
            last, unpacked = self._unpacked
            if last == index and unpacked.first <= offset:
                return unpacked
            self.close()
        unpacked = _Unpacked(self._stamps[index])
        self._unpacked = index, unpacked
        return unpacked

    def close(self) -> None:
        """See ``ByteSource``."""
        if self._unpacked is not None:
            self._unpacked[1].close()
            self._unpacked = None


@contextlib.contextmanager
def _reading(stamp: Stamp) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"input {stamp.name} can no longer be read: {error.strerror or error}"
        raise InputLostError(message) from error


def _plain(stamp: Stamp, offset: int) -> Iterator[bytes]:
    left = stamp.size - offset
    size = storage.read_size(stamp, READ_BYTES)
    with storage.open_file(stamp) as file:
        file.seek(offset)
        while left > 0 and (chunk := file.read(min(size, left))):
            left -= len(chunk)
            yield chunk
    if left > 0:
        raise _shorter(stamp, left)


def _shorter(stamp: Stamp, missing: int) -> InputLostError:
    message = f"input {stamp.name} became shorter while it was read: {missing:,} bytes less"
    return InputLostError(message)


class _Present(io.RawIOBase):
    """The bytes of a file that existed when it was stamped."""

    def __init__(self, stamp: Stamp, file: BinaryIO) -> None:
        self.left = stamp.size
        self.missing = False
        """Whether the file ended before them."""
        self._file = file
        self._size = storage.read_size(stamp, 0)
        self._held = io.BytesIO()

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def read(self, size: int = -1) -> bytes:
        """See ``io.RawIOBase``."""
        piece = self._held.read(size)
        if piece or self.left <= 0:
            return piece
        more = self._file.read(min(max(size, self._size), self.left))
        self.left -= len(more)
        self.missing = not more
        if len(more) <= size:
            return more
        self._held = io.BytesIO(more)
        return self._held.read(size)


class _Unpacked:
    """A compressed file being read: ``first`` is the lowest offset it can still return."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._file = storage.open_file(stamp)
        self._present = _Present(stamp, self._file)
        self._stream: Any = pa.CompressedInputStream(
            pa.PythonFile(self._present, mode="r"), stamp.codec
        )
        self._end = 0
        self._last = b""

    @property
    def first(self) -> int:
        return self._end - len(self._last)

    def chunks(self, offset: int) -> Iterator[bytes]:
        if offset < self._end:
            yield self._last[offset - self.first :]
        while self._end < offset:
            if not self._read(min(SKIP_BYTES, offset - self._end)):
                message = f"input {self._stamp.name} became shorter: it ends at {self._end:,}"
                raise InputLostError(message)
        self._last = b""
        while self._read(READ_BYTES):
            yield self._last

    def _read(self, size: int) -> bytes:
        try:
            self._last = self._stream.read(size)
        except OSError as error:
            if self._present.missing:
                raise _shorter(self._stamp, self._present.left) from None
            message = (
                f"input {self._stamp.name} is damaged: behind byte {self._end:,} of what it "
                f"unpacks to: {error}"
            )
            raise InputLostError(message) from None
        self._end += len(self._last)
        return self._last

    def close(self) -> None:
        self._stream.close()
        self._file.close()


class Pipe:
    """``ByteSource`` over input that can be read only once: standard input, or a named pipe. Until
    ``release`` every call of ``chunks`` begins at the first byte, and what is read is kept, up to
    ``HEAD_BYTES_MAX``: enough to inspect the first rows. After it there is one more call, which
    returns what was kept and continues to the end, keeping nothing.
    """

    def __init__(self, descriptor: int, path: str = storage.STDIN) -> None:
        """``path`` is the user's name for it. Raises ``InputError`` if nothing is piped in."""
        self._name = "standard input" if path == storage.STDIN else path
        try:
            terminal = os.isatty(descriptor)
            os.fstat(descriptor)
        except OSError as error:
            message = f"input {path}: {self._name} cannot be read: {error.strerror}"
            raise InputError(message) from None
        if terminal:
            message = f"input {path}: {self._name} is a terminal; pipe rows into the command"
            raise InputError(message)
        self._descriptor = descriptor
        self._head: deque[bytes] = deque()
        self._kept = 0
        self._released = False

    def release(self) -> None:
        """From now on nothing is kept."""
        self._released = True

    def chunks(self, index: int, offset: int) -> Iterator[bytes]:
        """See ``ByteSource``. Only from the start."""
        assert (index, offset) == (0, 0)
        if not self._released:
            yield from self._look()
            return
        while self._head:
            yield self._head.popleft()
        while True:
            if not select.select([self._descriptor], [], [], 0)[0]:
                yield b""
            chunk = self._read()
            if not chunk:
                time.sleep(END_PAUSE_S)
                return
            yield chunk

    def _look(self) -> Iterator[bytes]:
        yield from tuple(self._head)
        while self._kept < HEAD_BYTES_MAX and (chunk := self._read()):
            self._head.append(chunk)
            self._kept += len(chunk)
            yield chunk

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            message = f"{self._name} can no longer be read: {error.strerror}"
            raise InputLostError(message) from error

    def close(self) -> None:
        """See ``ByteSource``. The pipe stays open: there is no other way to its rows."""
