"""Reading the published results of a run directory, while a run may be replacing them.

On a disk the folder of parts is opened once, and every file below it: what is replaced meanwhile is
read to its end as it was, and a directory that is moved away does not mix two runs. An object store
has no folders to hold open, so every part is fetched as a whole before it is read.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.columns import large_answers
from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import StoreReader
from batchrun.errors import UsageError

OPEN_TRIES = 5
OPEN_WAIT_S = 0.05


class Results:
    """The published parts of a run directory, in row order."""

    def __init__(self, store: StoreReader, kind: str = "results") -> None:
        """Begin with the parts that are there; ``kind`` is their folder. Raises ``UsageError`` if
        there is none.
        """
        self._store = store
        self._kind = kind
        with contextlib.ExitStack() as stack:
            if isinstance(store, DiskStore):
                folder = stack.enter_context(_Folder(store, kind))
                names, self._open = folder.names(), folder.open
            else:
                names, self._open = store.names(kind), self._fetched
            self._names = [n for n in names if n.startswith("part-") and n.endswith(".parquet")]
            if not self._names:
                raise _nothing(store, kind)
            with self._part(self._names[0]) as part:
                self.schema: pa.Schema = part.schema_arrow
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, a row group at a time."""
        for name in self._names:
            with self._checked(name) as part:
                for group in range(part.num_row_groups):
                    yield self._group(name, part, group, columns)

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[pa.Table]:
        """These rows (numbers in order), as far as they are published; ``columns`` have ``row``.
        Only row groups that may hold one of them are read.
        """
        for name in self._names:
            with self._checked(name) as part:
                place = part.schema_arrow.get_field_index("row")
                for group in range(part.num_row_groups):
                    known = part.metadata.row_group(group).column(place).statistics
                    wanted = numbers
                    if known is not None and known.has_min_max:
                        start, end = (
                            bisect_left(numbers, known.min),
                            bisect_right(numbers, known.max),
                        )
                        wanted = numbers[start:end]
                    if wanted:
                        table = self._group(name, part, group, columns)
                        yield table.filter(
                            pc.is_in(table.column("row"), pa.array(wanted, pa.int64()))
                        )

    @contextlib.contextmanager
    def _checked(self, name: str) -> Iterator[pq.ParquetFile]:
        """A part whose columns are those of the first one."""
        with self._part(name) as part:
            found = part.schema_arrow
            alike = found.equals(self.schema) or any(
                part_schema.lacks_only_later(one, other)
                for one, other in ((found, self.schema), (self.schema, found))
            )
            if not alike:
                why = f"its columns are not those of {self._names[0]}"
                raise damaged(self._where(name), why)
            yield part

    def _group(
        self, name: str, part: pq.ParquetFile, group: int, columns: Sequence[str] | None
    ) -> pa.Table:
        try:
            table = part.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._where(name), error) from error
        return part_schema.completed(table, self._wanted(columns))

    def _wanted(self, columns: Sequence[str] | None) -> pa.Schema:
        """The schema of some columns, in the order of the parts."""
        if columns is None:
            return self.schema
        return pa.schema([field for field in self.schema if field.name in set(columns)])

    def whole_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The same, with replies and media in their columns that are in files of their own."""
        for table in self.tables(columns):
            yield from large_answers.whole(self._store, table)

    def _where(self, name: str) -> str:
        return self._store.where(f"{self._kind}/{name}")

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[pq.ParquetFile]:
        with self._open(name) as file:
            try:
                part = pq.ParquetFile(file, pre_buffer=False)
            except (OSError, pa.ArrowException) as error:
                raise damaged(self._where(name), error) from error
            with part:
                yield part

    def _fetched(self, name: str) -> io.BufferedIOBase:
        try:
            return self._store.open(f"{self._kind}/{name}")
        except FileNotFoundError:
            raise _gone(self._where(name)) from None


class _Folder:
    """The folder of parts of a disk, held open."""

    def __init__(self, store: DiskStore, kind: str) -> None:
        self._path = store.folder / kind
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise _nothing(store, kind) from None
        except OSError as error:
            message = f"cannot look into {self._path}: {error.strerror}"
            raise UsageError(message) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def names(self) -> list[str]:
        """The names in it, in order."""
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - of a descriptor

    def open(self, name: str) -> io.BufferedIOBase:
        """A part as it is now. On network file systems a replaced one is gone for a moment."""
        for tried in range(1, OPEN_TRIES + 1):
            try:
                return os.fdopen(os.open(name, os.O_RDONLY, dir_fd=self._descriptor), "rb")
            except FileNotFoundError:
                if tried == OPEN_TRIES:
                    raise _gone(str(self._path / name)) from None
                time.sleep(OPEN_WAIT_S)
            except OSError as error:
                message = f"cannot read {self._path / name}: {error.strerror}"
                raise UsageError(message) from None
        raise AssertionError


def _nothing(store: StoreReader, kind: str) -> UsageError:
    message = f"{store.where()} has no {kind} yet: no part is published"
    return UsageError(message)


def _gone(where: str) -> UsageError:
    message = f"{where} was taken away while it was to be read"
    return UsageError(message)
