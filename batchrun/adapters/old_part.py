"""Reading a published part: in pieces while it is replaced, or some of its columns at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.log import REMEDIES
from batchrun.errors import DamagedError

BATCH_ROWS = 1024


class OldPart:
    """A published part, read forward in pieces; nothing where there is none."""

    def __init__(self, path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> None:
        """``schema`` is what the part must have, ``columns`` those that are read (None: all).

        Raises ``DamagedError``, here and later, for a part that cannot be read.
        """
        self._path = path
        self._schema = schema
        self._columns = columns
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Table | None = None

    def __enter__(self) -> Self:
        if self._path.exists():
            try:
                self._file = pq.ParquetFile(self._path, pre_buffer=False)
            except (OSError, pa.ArrowException) as error:
                raise damaged(self._path, error) from error
            if not self._file.schema_arrow.equals(self._schema):
                raise damaged(self._path, "its columns are not those of this run")
            self._batches = self._file.iter_batches(
                batch_size=BATCH_ROWS, columns=self._columns, use_threads=False
            )
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def below(self, row: int) -> pa.Table | None:
        """The rows not taken yet that lie below ``row``; None where there is no old part."""
        if self._file is None:
            return None
        pieces = []
        while True:
            if self._rest is None:
                try:
                    batch = next(self._batches, None)
                except (OSError, pa.ArrowException) as error:
                    raise damaged(self._path, error) from error
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
        return pa.concat_tables(pieces).cast(self._wanted())

    def read_through(self) -> None:
        """Read all of it. Raises ``DamagedError`` at the first thing that cannot be read."""
        try:
            for _ in self._batches:
                pass
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._path, error) from error

    def _wanted(self) -> pa.Schema:
        if self._columns is None:
            return self._schema
        return pa.schema([self._schema.field(name) for name in self._columns])


def damaged(path: Path, why: object) -> DamagedError:
    """The error for a part that cannot be trusted."""
    message = f"{path} is damaged: {why}. Nothing was changed. {REMEDIES}"
    return DamagedError(message, path=str(path))


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part. Raises ``DamagedError``."""
    try:
        return pq.read_table(path, columns=list(columns), partitioning=None).select(list(columns))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise damaged(path, error) from error


def amended(old: pa.Table, values: pa.Table) -> pa.Table:
    """Old rows, with the values that others among them have by now."""
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
