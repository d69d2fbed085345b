"""A sorted file that maps the hash of a request to the place of its answer.

It is built once for each directory that answers are taken from, in memory that does not grow with
its rows: records are distributed to buckets in a temporary file, and every bucket is sorted
separately. A look-up reads one short stretch of the file. For equal hashes the first place is kept.

Layout, little-endian unless noted: a head (``_HEAD``), a table with the number of the first record
of every bucket and one past the last, and the records in order: the first 16 bytes of the hash and
the place, 8 bytes, big-endian. A bucket has the hashes with the same first bits. Hashes are evenly
spread, so a bucket has about ``BUCKET_ROWS`` records.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from batchrun.adapters.storage import disk, files

MAGIC = b"batchrun idx\n\0\0\0"
FORMAT = 1
HASH_BYTES = 32
KEY_BYTES = 16
PLACE_BYTES = 8
RECORD_BYTES = KEY_BYTES + PLACE_BYTES
BUCKET_ROWS = 64
BUCKET_BITS_MAX = 16
RUN_ROWS = 16_384
"""About how many records are sorted at once."""
HELD_BYTES_MAX = 2 * 2**20
"""Buffer for records on their way to the temporary file."""
_HEAD = struct.Struct("<16sIIQQ32s")  # magic, format, bits, records, bytes of answers, identity
_DEALT_BYTES = HASH_BYTES + PLACE_BYTES


class Builder:
    """Takes hashes and places in any order; ``write`` makes the file. Leaving the context removes
    the temporary file.
    """

    def __init__(self, rows_about: int, folder: Path) -> None:
        """``rows_about`` is how many records are expected; ``folder`` is for the temporary file."""
        bits = 0
        while bits < BUCKET_BITS_MAX and RUN_ROWS << bits < rows_about:
            bits += 1
        self._shift = 8 * 2 - bits
        self._held = [bytearray() for _ in range(1 << bits)]
        self._held_bytes = 0
        self._stretches: list[list[tuple[int, int]]] = [[] for _ in self._held]
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._written = 0
        self.all_differ = True
        """Whether no hash came twice; known once it is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, hashes: bytes, places: Sequence[bytes]) -> None:
        """Add records: their hashes, concatenated, and the place of each."""
        starts = range(0, len(places) * HASH_BYTES, HASH_BYTES)
        if len(self._held) == 1:
            held = self._held[0]
            for start, place in zip(starts, places, strict=True):
                held += hashes[start : start + HASH_BYTES] + place
        else:
            all_held, shift = self._held, self._shift
            for start, place in zip(starts, places, strict=True):
                bucket = (hashes[start] << 8 | hashes[start + 1]) >> shift
                all_held[bucket] += hashes[start : start + HASH_BYTES] + place
        self._held_bytes += len(places) * _DEALT_BYTES
        if self._held_bytes > HELD_BYTES_MAX:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed at the end
        for number, held in enumerate(self._held):
            if held:
                self._file.write(held)
                self._stretches[number].append((self._written, len(held)))
                self._written += len(held)
                held.clear()
        self._held_bytes = 0

    def write(self, path: Path, identity: bytes, answers_bytes: int) -> None:
        """Write the file, durable when this returns. ``identity`` identifies what it was made from,
        ``answers_bytes`` is the size of the file of answers that some places point into.
        """
        draft = files.Draft(path, digests=False)
        try:
            self._write(draft, identity, answers_bytes)
            draft.sync()
            draft.rename()
            files.sync_folder(path.parent)
        finally:
            draft.discard()

    def _write(self, draft: files.Draft, identity: bytes, answers_bytes: int) -> None:
        most = (self._written + self._held_bytes) // _DEALT_BYTES
        bits = 0
        while bits < BUCKET_BITS_MAX and BUCKET_ROWS << bits < most:
            bits += 1
        # The table comes before the records that it counts, so these are written to another file
        # first.
        with tempfile.TemporaryFile(dir=self._folder) as aside:
            table = [0] * ((1 << bits) + 1)
            count = 0
            for number in range(len(self._held)):
                records = self._sorted(number)
                for record in records:
                    table[(record[0] << 8 | record[1]) >> 16 - bits] += 1
                aside.write(b"".join(r[:KEY_BYTES] + r[HASH_BYTES:] for r in records))
                count += len(records)
            total = 0
            for bucket, here in enumerate(table):
                table[bucket], total = total, total + here
            draft.write(_HEAD.pack(MAGIC, FORMAT, bits, count, answers_bytes, identity))
            draft.write(struct.pack(f"<{len(table)}Q", *table))
            aside.seek(0)
            while piece := aside.read(2**20):
                draft.write(piece)

    def _sorted(self, number: int) -> list[bytes]:
        """The records of a bucket in order, with only the first place for equal hashes."""
        data = bytearray()
        if self._file is not None:
            self._file.flush()
            for start, size in self._stretches[number]:
                data += os.pread(self._file.fileno(), size, start)
        data += self._held[number]
        whole = bytes(data)
        records = [whole[at : at + _DEALT_BYTES] for at in range(0, len(whole), _DEALT_BYTES)]
        records.sort()
        kept, last = [], b""
        for record in records:
            key = record[:HASH_BYTES]
            if key != last:
                kept.append(record)
                last = key
            else:
                self.all_differ = False
        return kept


class Index:
    """The file, open for look-ups. It maps nothing into memory and holds only its table, at most
    half a megabyte.
    """

    def __init__(self, descriptor: int, bits: int, count: int, table: memoryview) -> None:
        self._descriptor = descriptor
        self._bits = bits
        self.count = count
        """How many different requests it knows."""
        self._table = table
        self._start = _HEAD.size + table.nbytes

    @classmethod
    def opened(cls, path: Path, identity: bytes, answers_bytes: int) -> Self | None:
        """The file; None if there is none made from this, or it is incomplete."""
        try:
            descriptor = disk.open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            head = os.pread(descriptor, _HEAD.size, 0)
            if len(head) < _HEAD.size:
                return None
            magic, version, bits, count, answers, made_from = _HEAD.unpack(head)
            table_bytes = 8 * ((1 << min(bits, BUCKET_BITS_MAX)) + 1)
            whole = _HEAD.size + table_bytes + count * RECORD_BYTES
            if (magic, version, answers, made_from) != (
                MAGIC,
                FORMAT,
                answers_bytes,
                identity,
            ) or os.fstat(descriptor).st_size != whole:
                return None
            table = memoryview(os.pread(descriptor, table_bytes, _HEAD.size)).cast("Q")
            stack.pop_all()
            return cls(descriptor, bits, count, table)

    def find(self, digest: bytes) -> list[int]:
        """The places of answers to requests whose hash has the same first bytes: nearly always none
        or one. The caller compares the whole hash.
        """
        found = []
        bucket = (digest[0] << 8 | digest[1]) >> 16 - self._bits
        first, end = self._table[bucket], self._table[bucket + 1]
        data = os.pread(
            self._descriptor, (end - first) * RECORD_BYTES, self._start + first * RECORD_BYTES
        )
        key = digest[:KEY_BYTES]
        at = data.find(key)
        while at >= 0:
            if at % RECORD_BYTES == 0:
                place = data[at + KEY_BYTES : at + RECORD_BYTES]
                found.append(int.from_bytes(place, "big"))
            at = data.find(key, at + 1)
        return found

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
