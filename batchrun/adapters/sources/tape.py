"""Makes a source of rows that can be read only once readable again, for as long as needed.

Rows are kept in an unnamed temporary file: the first rows, which determine the schema, and those
that an earlier session had read, which are compared before anything is sent. From the final reading
on, rows pass through and nothing is kept.
"""

from __future__ import annotations

import struct
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from batchrun.errors import InputLostError, StorageError

INDEX_ROWS = 256
"""The place in the file is remembered at intervals of this many rows, with 16 bytes each."""

_HEAD = struct.Struct("<QI")


class Piece(NamedTuple):
    """Consecutive rows as bytes."""

    first_row: int
    rows: int
    data: bytes


class Tape:
    """Pieces of rows from an iterator, readable from any row until the final reading."""

    def __init__(self, pieces: Iterator[tuple[int, bytes]]) -> None:
        """``pieces`` yields numbers of rows and their bytes."""
        self._pieces = pieces
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the tape
        weakref.finalize(self, self._file.close)
        self._place = threading.Lock()
        """Protects the file's position: rows may be counted while they are read."""
        self._index: list[tuple[int, int]] = []
        self._kept = 0  # rows in the file
        self.rows = 0
        """Rows taken from the iterator so far."""
        self.ended = False
        """Whether the iterator is exhausted."""

    def read(self, first: int, *, final: bool) -> Iterator[Piece]:
        """The pieces from the one with row ``first``. Once a ``final`` reading has passed the kept
        rows, there can be no other.
        """
        if first < self._kept:
            yield from self._recalled(first)
        while not self.ended:
            if self._kept < self.rows and not final:
                message = "rows that can be read once were asked for a second time"
                raise InputLostError(message)
            try:
                found = next(self._pieces, None)
            except Exception as error:
                message = f"the rows broke off at row {self.rows}: {type(error).__name__}: {error}"
                raise InputLostError(message) from error
            if found is None:
                self.ended = True
                return
            start, (rows, data) = self.rows, found
            self.rows += rows
            if not final:
                self._keep(start, rows, data)
            if self.rows > first:
                yield Piece(start, rows, data)

    def _keep(self, start: int, rows: int, data: bytes) -> None:
        try:
            with self._place:
                place = self._file.seek(0, 2)
                if not self._index or start >= self._index[-1][0] + INDEX_ROWS:
                    self._index.append((start, place))
                self._file.write(_HEAD.pack(len(data), rows))
                self._file.write(data)
        except OSError as error:
            message = (
                f"cannot keep the input's first rows in {tempfile.gettempdir()}: "
                f"{error.strerror or error}; make room, or name another folder with TMPDIR"
            )
            raise StorageError(message) from error
        self._kept = self.rows

    def _recalled(self, first: int) -> Iterator[Piece]:
        """The kept pieces from the one with row ``first``, including those added meanwhile."""
        at = max(place for place, (row, _) in enumerate(self._index) if row <= first)
        row, place = self._index[at]
        while row < self._kept:
            data = b""
            with self._place:
                self._file.seek(place)
                size, rows = _HEAD.unpack(self._file.read(_HEAD.size))
                if row + rows > first:
                    data = self._file.read(size)
            if row + rows > first:
                yield Piece(row, rows, data)
            row += rows
            place += _HEAD.size + size
