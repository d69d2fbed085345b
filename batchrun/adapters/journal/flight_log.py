"""The flight log: which requests are in flight, in a small file mapped into memory.

An attempt is noted here, with plain stores into shared memory, just before its request is sent, and
wiped once the journal has its result. The kernel owns the pages, so after a kill of the process the
next start finds every exchange that was in flight and enters it into the ledger as unanswered: the
server may have billed it. A power cut may lose the notes (nothing is flushed here), never an
answer.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from batchrun.adapters.storage import disk, files
from batchrun.adapters.system import platform

_SLOT = struct.Struct("<qiiqI4x")  # row + 1, attempt, endpoint, started_us, checksum
_BODY = struct.Struct("<qiiq")
_ROW = struct.Struct("<q")  # the row alone: 0 frees the slot

FLIGHTS = "inflight"
"""The file's name in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Note:
    """One exchange that was in flight when the process ended."""

    row: int
    attempt: int
    endpoint: int
    started_at_us: int


class FlightLog:
    """A table of exchanges in flight, one slot per row. Not thread-safe; an entry takes about a
    microsecond.
    """

    def __init__(self, path: Path, slots: int) -> None:
        """Start an empty log with room for ``slots`` rows; it grows when they are used up."""
        self._path = path
        self._descriptor = files.open_private(path)
        disk.truncate(self._descriptor, 0)
        self._slots = 0
        self._map: mmap.mmap | None = None
        self._view: memoryview = memoryview(b"")  # stores take half the time of those into the map
        self._free: list[int] = []
        self._slot_of: dict[int, tuple[int, int]] = {}  # row: slot, attempt
        self._grow(slots)

    def _grow(self, slots: int) -> None:
        # Reserve space now: a store into a mapped page kills the process if the disk is full.
        platform.reserve(self._descriptor, 0, slots * _SLOT.size)
        if self._map is not None:
            self._view.release()
            self._map.close()
        self._map = mmap.mmap(self._descriptor, slots * _SLOT.size)
        self._view = memoryview(self._map)
        self._free.extend(range(slots - 1, self._slots - 1, -1))
        self._slots = slots
        files.reached("flights.grown", self._path)

    def note(self, row: int, attempt: int, endpoint: int, started_at_us: int) -> None:
        """Note that a request of this row is sent now."""
        held = self._slot_of.get(row)
        if held is None:
            if not self._free:
                self._grow(self._slots * 2)
            slot = self._free.pop()
        else:
            slot = held[0]
        self._slot_of[row] = (slot, attempt)
        body = _BODY.pack(row + 1, attempt, endpoint, started_at_us)
        _SLOT.pack_into(
            self._view,
            slot * _SLOT.size,
            row + 1,
            attempt,
            endpoint,
            started_at_us,
            crc32(body),
        )

    def wipe(self, row: int, attempt: int) -> None:
        """Remove a note: the result of this exchange is durable elsewhere. A later attempt's note
        stays.
        """
        held = self._slot_of.get(row)
        if held is not None and held[1] <= attempt:
            del self._slot_of[row]
            _ROW.pack_into(self._view, held[0] * _SLOT.size, 0)
            self._free.append(held[0])

    def close(self) -> None:
        """Close the file; its notes stay."""
        if self._map is not None:
            self._view.release()
            self._map.close()
            os.close(self._descriptor)
            self._map = None


def read_notes(path: Path) -> list[Note]:
    """The notes a killed process left behind; slots torn by the kill are skipped."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    notes = []
    for start in range(0, len(data) - _SLOT.size + 1, _SLOT.size):
        row, attempt, endpoint, started_at_us, checksum = _SLOT.unpack_from(data, start)
        body = data[start : start + _BODY.size]
        if row > 0 and attempt > 0 and crc32(body) == checksum:
            notes.append(Note(row - 1, attempt, endpoint, started_at_us))
    return notes
