"""One append-only file for each shard in progress: what arrived for its rows, in order of arrival.

Layout: a head (magic, format version, shard, generation, checksum), then groups. A group is what
one flush to the disk made durable together: a group head (magic, length, checksum of the head) and
then records, each a fixed prefix (length, CRC-32 of what follows, row, kind) and a msgpack body.

A group is written only after the one before it was flushed. So on reading, a group whose bytes are
not all there is the torn end of a power cut: nobody was told that it was durable, and it is cut
off. Anything else that does not check out is damage, and is said so rather than passed over.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from batchrun.adapters import files
from batchrun.errors import DamagedError, UsageError

FORMAT = 1
MAGIC = b"batchrun log\n\0\0\0"
OUTCOME, ATTEMPT, BLOCK, AMENDMENT = 1, 2, 3, 4

REMEDIES = (
    "Set it aside with --repair, which keeps what is sound and sends the other rows again; restore "
    "it from a copy; or start over with --restart (the old contents are kept aside)"
)

BULK_FACTOR = 4
"""Records are read together while what lies between them is at most this much more."""

_HEAD = struct.Struct("<16sIIqqI")  # magic, format, reserved, shard, generation, checksum
_GROUP = struct.Struct("<4sQI")  # magic, bytes of records, checksum
_GROUP_MAGIC = b"\xf5grp"
_PREFIX = struct.Struct("<IIqB")  # bytes of body, checksum, row, kind
_CHECKED = struct.Struct("<qB")

_pack = msgspec.msgpack.Encoder().encode


_Bytes = TypeVar("_Bytes", bytes, memoryview)


class Place(NamedTuple):
    """Where a record's body lies."""

    row: int
    kind: int
    offset: int
    size: int
    crc: int


def record(row: int, kind: int, value: object) -> bytes:
    """One record, ready to be written."""
    body = _pack(value)
    crc = zlib.crc32(body, zlib.crc32(_CHECKED.pack(row, kind)))
    return _PREFIX.pack(len(body), crc, row, kind) + body


def head(shard: int, generation: int) -> bytes:
    """The head of a log."""
    start = _HEAD.pack(MAGIC, FORMAT, 0, shard, generation, 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start))


def group(records: Sequence[bytes]) -> bytes:
    """Records as one group."""
    start = struct.pack("<4sQ", _GROUP_MAGIC, sum(map(len, records)))
    return b"".join((start, struct.pack("<I", zlib.crc32(start)), *records))


def sound_records(data: bytes | mmap.mmap, rows: range) -> Iterator[tuple[int, int, bytes]]:
    """Row, kind and bytes of every record of a damaged log whose checksum holds.

    ``rows`` are those of the shard. Where nothing sound begins, the next byte is tried.
    """
    at, end = _HEAD.size, len(data)
    while at + _PREFIX.size <= end:
        magic, _, crc = _GROUP.unpack_from(data, at)
        if magic == _GROUP_MAGIC and crc == zlib.crc32(data[at : at + _GROUP.size - 4]):
            at += _GROUP.size
            continue
        size, crc, row, kind = _PREFIX.unpack_from(data, at)
        body = at + _PREFIX.size
        if (
            kind in (OUTCOME, ATTEMPT, BLOCK, AMENDMENT)
            and row in rows
            and body + size <= end
            and crc == zlib.crc32(data[body : body + size], zlib.crc32(_CHECKED.pack(row, kind)))
        ):
            yield row, kind, data[at : body + size]
            at = body + size
        else:
            at += 1


class ShardLog:
    """The log of one shard, open for appending and reading."""

    def __init__(self, path: Path, shard: int, generation: int) -> None:
        """Open or make the log. Raises ``DamagedError`` or, for another format, ``UsageError``."""
        self.path = path
        self.shard = shard
        self.generation = generation
        self._descriptor = files.open_private(path)
        try:
            self.size = os.fstat(self._descriptor).st_size
            if self.size < _HEAD.size:
                # New, or made by a process that was killed before it could write anything.
                self._begin()
            else:
                self._check_head()
            self.places = list(self._scan())
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        os.ftruncate(self._descriptor, 0)
        _write(self._descriptor, head(self.shard, self.generation), 0)
        os.fdatasync(self._descriptor)
        files.sync_folder(self.path.parent)
        self.size = _HEAD.size

    def _check_head(self) -> None:
        start = os.pread(self._descriptor, _HEAD.size, 0)
        magic, version, _, shard, generation, crc = _HEAD.unpack(start)
        if magic != MAGIC or crc != zlib.crc32(start[:-4]):
            raise self._damaged("its head is not that of a log")
        if version != FORMAT:
            message = (
                f"{self.path} has format {version}, this version reads format {FORMAT}. Go on "
                "with the version that made it, or start over with --restart"
            )
            raise UsageError(message)
        if (shard, generation) != (self.shard, self.generation):
            raise self._damaged(f"it belongs to shard {shard}, generation {generation}")

    def _scan(self) -> Iterator[Place]:
        offset = _HEAD.size
        while offset < self.size:
            top = os.pread(self._descriptor, _GROUP.size, offset)
            if len(top) < _GROUP.size or (not any(top) and self._zeros_from(offset)):
                break
            magic, size, crc = _GROUP.unpack(top)
            if magic != _GROUP_MAGIC or crc != zlib.crc32(top[:-4]):
                raise self._damaged(f"no group of records at byte {offset:,}")
            start = offset + _GROUP.size
            if start + size > self.size:
                break
            yield from self._places(start, start + size)
            offset = start + size
        if offset < self.size:
            # The torn end of a power cut.
            os.ftruncate(self._descriptor, offset)
            os.fdatasync(self._descriptor)
            self.size = offset

    def _zeros_from(self, offset: int) -> bool:
        """Whether there is nothing but zeros up to the end: space given, nothing written yet."""
        while piece := os.pread(self._descriptor, 2**20, offset):
            if piece.count(0) != len(piece):
                return False
            offset += len(piece)
        return True

    def _places(self, start: int, end: int) -> Iterator[Place]:
        """The records of a group, their checksums compared."""
        offset = start
        while offset < end:
            prefix = os.pread(self._descriptor, _PREFIX.size, offset)
            size, crc, row, kind = _PREFIX.unpack(prefix)
            place = Place(row, kind, offset + _PREFIX.size, size, crc)
            if place.offset + size > end:
                raise self._damaged(f"a record at byte {offset:,} is longer than its group")
            self.body(place)
            yield place
            offset = place.offset + size

    def append(self, rows: Sequence[tuple[int, int]], records: Sequence[bytes]) -> None:
        """Write one group and flush it to the disk; ``rows`` are the records' rows and kinds."""
        files.reached("log.writing")
        _write(self._descriptor, group(records), self.size)
        files.reached("log.written")
        os.fdatasync(self._descriptor)
        files.reached("log.synced")
        offset = self.size + _GROUP.size
        for (row, kind), data in zip(rows, records, strict=True):
            crc = int.from_bytes(data[4:8], "little")
            body = offset + _PREFIX.size
            self.places.append(Place(row, kind, body, len(data) - _PREFIX.size, crc))
            offset += len(data)
        self.size = offset

    def body(self, place: Place) -> bytes:
        """A record's msgpack body. Raises ``DamagedError`` where the disk holds something else."""
        return self._checked(place, os.pread(self._descriptor, place.size, place.offset))

    def bodies(self, places: Sequence[Place]) -> Sequence[bytes | memoryview]:
        """The bodies of many records.

        What arrived close together is read at once: a read of its own for every record would hand
        the interpreter to another thread and back each time.
        """
        if not places:
            return []
        low = min(place.offset for place in places)
        high = max(place.offset + place.size for place in places)
        if high - low > BULK_FACTOR * sum(place.size for place in places):
            return [self.body(place) for place in places]
        data = memoryview(os.pread(self._descriptor, high - low, low))
        return [
            self._checked(place, data[place.offset - low : place.offset - low + place.size])
            for place in places
        ]

    def _checked(self, place: Place, body: _Bytes) -> _Bytes:
        crc = zlib.crc32(body, zlib.crc32(_CHECKED.pack(place.row, place.kind)))
        if len(body) != place.size or crc != place.crc:
            raise self._damaged(f"the record of row {place.row} changed on the disk")
        return body

    def _damaged(self, why: str) -> DamagedError:
        return damaged(self.path, why)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Take the log away: a part holds its rows."""
        self.close()
        self.path.unlink(missing_ok=True)
        files.reached("log.removed")


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def damaged(path: Path, why: str) -> DamagedError:
    """The error for a part of the journal that cannot be trusted."""
    message = f"{path} is damaged: {why}. Nothing was sent and nothing was changed. {REMEDIES}"
    return DamagedError(message, path=str(path))
