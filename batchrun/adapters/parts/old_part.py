"""Reading a published part: in pieces while it is replaced, or some of its columns at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.columns.columns import MEDIUM
from batchrun.adapters.journal.shard_log import REMEDIES
from batchrun.adapters.storage.store import StoreReader
from batchrun.errors import DamagedError

BATCH_ROWS = 1024
_LEAN = {"media": "media.list.element.kind"}
REFERENCES = "batchrun.references"
"""Metadata key of a part: how many files of ``responses/`` its rows name; absent for none."""


class OldPart:
    """A published part, read forward in pieces; empty if there is none."""

    def __init__(
        self,
        store: StoreReader,
        name: str,
        schema: pa.Schema,
        columns: Sequence[str] | None = None,
    ) -> None:
        """``schema`` is the required schema, ``columns`` are those that are read (None: all).

        Raises ``DamagedError``, here and later, for a part that cannot be read.
        """
        self._store = store
        self._name = name
        self._schema = schema
        self._columns = columns
        self._source: io.BufferedIOBase | None = None
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Table | None = None

    def __enter__(self) -> Self:
        try:
            self._source = self._store.open(self._name)
        except FileNotFoundError:
            return self
        except OSError as error:
            raise self._damaged(error) from error
        try:
            self._begin(self._source)
        except BaseException:
            self._source.close()
            raise
        return self

    def _begin(self, source: io.BufferedIOBase) -> None:
        try:
            self._file = pq.ParquetFile(source, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        found = self._file.schema_arrow
        if not found.equals(self._schema) and not part_schema.lacks_only_later(found, self._schema):
            raise self._damaged("its columns are not those of this run")
        self._batches = self._file.iter_batches(
            batch_size=BATCH_ROWS, columns=self._columns, use_threads=False
        )

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._source is not None:
            self._source.close()

    def _damaged(self, why: object) -> DamagedError:
        return damaged(self._store.where(self._name), why)

    @property
    def found(self) -> bool:
        """Whether there is such a part."""
        return self._file is not None

    @property
    def names_files(self) -> bool:
        """Whether rows of it name files of ``responses/``."""
        told = None if self._file is None else self._file.metadata.metadata
        return REFERENCES.encode() in (told or {})

    def below(self, row: int) -> pa.Table | None:
        """The rows below ``row`` that were not taken yet; None if there is no old part."""
        if self._file is None:
            return None
        pieces = []
        while True:
            if self._rest is None:
                try:
                    batch = next(self._batches, None)
                except (OSError, pa.ArrowException) as error:
                    raise self._damaged(error) from error
                if batch is None:
                    break
                self._rest = pa.Table.from_batches([batch])
            numbers = self._rest.column("row").to_pylist()
            count = sum(1 for number in numbers if number < row)
            pieces.append(self._rest.slice(0, count))
            if count < len(numbers):
                self._rest = self._rest.slice(count)
                break
            self._rest = None
        if not pieces:
            return self._wanted().empty_table()
        return part_schema.completed(pa.concat_tables(pieces), self._wanted())

    def read_through(self) -> None:
        """Read all of it. Raises ``DamagedError`` at the first piece that cannot be read."""
        try:
            for _ in self._batches:
                pass
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _wanted(self) -> pa.Schema:
        if self._columns is None:
            return self._schema
        return pa.schema([self._schema.field(name) for name in self._columns])


def damaged(where: str, why: object) -> DamagedError:
    """The error for a part that cannot be trusted."""
    message = f"{where} is damaged: {why}. Nothing was changed. {REMEDIES}"
    return DamagedError(message, path=where)


def read(store: StoreReader, name: str, columns: Sequence[str]) -> pa.Table | None:
    """Some columns of a part, without those that version 0.1 did not write; None if there is no
    part. For media only the kinds are read. Raises ``DamagedError``.
    """
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            found = part.schema_arrow
            columns = [n for n in columns if n in found.names or n not in part_schema.ADDED_LATER]
            if "media" in columns and found.field("media").type != pa.list_(MEDIUM):
                columns.remove("media")  # an input column that had the name before
            return part.read([_LEAN.get(name, name) for name in columns]).select(columns)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise damaged(store.where(name), error) from error


def amended(old: pa.Table, values: pa.Table) -> pa.Table:
    """Old rows, with the amended values of those that have some."""
    places = {row: place for place, row in enumerate(values.column("row").to_pylist())}
    rows = old.column("row").to_pylist()
    hit = [row in places for row in rows]
    if not any(hit):
        return old
    changed = old.filter(pa.array(hit, pa.bool_()))
    values = values.take([places[row] for row in changed.column("row").to_pylist()])
    for name in values.schema.names:
        place = changed.schema.get_field_index(name)
        changed = changed.set_column(place, changed.schema.field(name), values.column(name))
    return pa.concat_tables([old.filter(pa.array([not h for h in hit], pa.bool_())), changed])
