"""A part of another run's results, read one row group at a time."""

from __future__ import annotations

import contextlib
import io
from bisect import bisect_right
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts import old_part
from batchrun.adapters.storage.store import StoreReader
from batchrun.errors import StorageError, UsageError

NEEDED = ("status", "request_hash", "endpoint")
"""Columns that parts of every version have."""
FORMAT = b"1"


class Part:
    """A part of results, open."""

    def __init__(self, store: StoreReader, name: str) -> None:
        self._where = store.where(name)
        try:
            self._source: io.BufferedIOBase = store.open(name)
        except (OSError, StorageError) as error:
            raise self._gone(error) from error
        try:
            self._file = pq.ParquetFile(self._source, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            self._source.close()
            raise old_part.damaged(self._where, error) from error
        found = self._file.schema_arrow
        version = (found.metadata or {}).get(b"batchrun.format", FORMAT)
        if version != FORMAT:
            self.close()
            message = (
                f"--reuse: {self._where} has format {version.decode(errors='replace')}, this "
                f"version reads format {FORMAT.decode()}. Use the version that made it"
            )
            raise UsageError(message)
        self.repeat = part_schema.repeats_in(found)
        """How many rows belong to one row of the input."""
        self._names = set(found.names)
        metadata = self._file.metadata
        self.groups: int = metadata.num_row_groups
        self.rows: int = metadata.num_rows
        self._ends: list[int] = []
        end = 0
        for number in range(self.groups):
            end += metadata.row_group(number).num_rows
            self._ends.append(end)

    def _gone(self, why: object) -> StorageError:
        message = (
            f"{self._where} cannot be read while answers are taken from it: {why}. Every answer "
            "taken so far is kept; run the same command again"
        )
        return StorageError(message)

    def at(self, row: int) -> tuple[int, int, int]:
        """The row group of a row of the part, the row's number in it, and how many rows of the
        group remain from there.
        """
        group = bisect_right(self._ends, row)
        if group >= self.groups:
            raise self._gone("it is not what it was")
        end = self._ends[group]
        return group, row - (self._ends[group - 1] if group else 0), end - row

    def size_bytes(self, group: int) -> int:
        """The memory that a row group takes, according to the file's metadata."""
        return int(self._file.metadata.row_group(group).total_byte_size)

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Those of some columns that a row group has."""
        names = [name for name in columns if name in self._names]
        try:
            table = self._file.read_row_group(group, columns=names, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise old_part.damaged(self._where, error) from error
        missing = [name for name in NEEDED if name in columns and name not in names]
        if missing:
            why = f"it lacks the column {missing[0]!r}"
            raise old_part.damaged(self._where, why)
        return table.select(names)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(AttributeError):
            self._file.close()
        self._source.close()
