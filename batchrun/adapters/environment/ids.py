"""Finds every ``custom_id`` that occurs more than once, exactly and in bounded memory.

Ids are sorted into ``PILES`` piles by a checksum, so that equal ones meet in the same pile; what
does not fit into ``HELD_BYTES`` goes to temporary files. At the end each pile is searched
separately, with a small table of its ids. A pile with too many different ids is split once more by
other bits. The ids themselves are compared, not hashes of them.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
import tempfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from batchrun.errors import StorageError

PILES = 256
HELD_BYTES = 16 * 2**20
TABLE_IDS = 200_000
"""Different ids of one pile that are compared at once: at most about 40 MB."""
KEY_BYTES = 128
"""Longer ids are represented by their beginning and their SHA-256."""
SHOWN = 20

_HEAD = struct.Struct("<QB")
_BITS = 8
_READ_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class Repeated:
    """An id that occurs more than once, and the rows of its first and second occurrence."""

    custom_id: str
    rows: tuple[int, int]


@dataclass(slots=True)
class Repeats:
    """How many ids occur more than once, in how many rows, and the first few of them."""

    ids: int = 0
    rows: int = 0
    first: tuple[Repeated, ...] = ()


class IdPiles:
    """Takes ids with their rows and finds those that repeat. Removes its files at exit."""

    def __init__(self, level: int = 0) -> None:
        self._level = level
        self._piles = [bytearray() for _ in range(PILES)]
        self._held = 0
        self._room: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._room is not None:
            self._room.cleanup()

    def add(self, row: int, custom_id: str) -> None:
        """Add a row's id. Raises ``StorageError`` if a temporary file fails."""
        key = custom_id.encode("utf-8", "surrogatepass")
        if len(key) > KEY_BYTES:
            key = key[: KEY_BYTES // 2] + hashlib.sha256(key).hexdigest()[: KEY_BYTES // 2].encode()
        self._put(row, key)

    def _put(self, row: int, key: bytes) -> None:
        pile = self._piles[(zlib.crc32(key) >> (_BITS * self._level)) % PILES]
        pile += _HEAD.pack(row, len(key))
        pile += key
        self._held += _HEAD.size + len(key)
        if self._held >= HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        """Write what is held to the temporary files."""
        try:
            if self._room is None:
                self._room = tempfile.TemporaryDirectory(prefix="batchrun-ids-")
            for number, pile in enumerate(self._piles):
                if pile:
                    with Path(self._room.name, str(number)).open("ab") as file:
                        file.write(pile)
                    pile.clear()
        except OSError as error:
            place = self._room.name if self._room else tempfile.gettempdir()
            message = (
                f"cannot write the ids to be compared into {place}: {error.strerror or error}; "
                "make room, or name another folder with TMPDIR"
            )
            raise StorageError(message) from error
        self._held = 0

    def repeats(self) -> Repeats:
        """The repeated ids, ordered by their second occurrence."""
        found = Repeats()
        firsts: list[tuple[int, int, bytes]] = []
        for number in range(PILES):
            for first, second, times, key in self._repeated_in(number):
                found.ids += 1
                found.rows += times
                heapq.heappush(firsts, (-second, -first, key))
                if len(firsts) > SHOWN:
                    heapq.heappop(firsts)
        found.first = tuple(
            Repeated(key.decode("utf-8", "replace"), (-first, -second))
            for second, first, key in sorted(firsts, reverse=True)
        )
        return found

    def _repeated_in(self, number: int) -> Iterator[tuple[int, int, int, bytes]]:
        """First row, second row, number of rows and key of the ids that repeat in a pile."""
        seen: dict[bytes, int] = {}
        again: dict[bytes, tuple[int, int]] = {}
        splits = _BITS * (self._level + 1) < 32
        for row, key in self._records(number):
            if seen.setdefault(key, row) != row:
                second, times = again.get(key, (row, 1))
                again[key] = second, times + 1
            elif len(seen) > TABLE_IDS and splits:
                yield from self._sorted_again(number)
                return
        for key, (second, times) in again.items():
            yield seen[key], second, times, key

    def _sorted_again(self, number: int) -> Iterator[tuple[int, int, int, bytes]]:
        with IdPiles(self._level + 1) as finer:
            for row, key in self._records(number):
                finer._put(row, key)
            for inner in range(PILES):
                yield from finer._repeated_in(inner)

    def _records(self, number: int) -> Iterator[tuple[int, bytes]]:
        """The rows and keys of a pile, in row order: first those on the disk, then those held."""
        path = Path(self._room.name, str(number)) if self._room else None
        if path is not None and path.exists():
            with path.open("rb") as file:
                rest = b""
                while chunk := file.read(_READ_BYTES):
                    rest = yield from _parsed(rest + chunk)
        yield from _parsed(bytes(self._piles[number]))


def _parsed(data: bytes) -> Generator[tuple[int, bytes], None, bytes]:
    """The whole records at the beginning of some bytes; returns the rest."""
    at = 0
    while at + _HEAD.size <= len(data):
        row, size = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + size
        if end > len(data):
            break
        yield row, data[at + _HEAD.size : end]
        at = end
    return data[at:]
