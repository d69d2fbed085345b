"""Arrow data from a program, in any container, as batches from any row on.

A table, a record batch, a data set, a stream, a data frame or a series of pandas or Polars, a
Hugging Face data set, or anything else that exports Arrow's C stream. Those libraries are
recognised by the name of their module and never imported. A series is a table of one column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources.tape import Tape
from batchrun.errors import InputError, UsageError

SCAN_ROWS = 512
VALUE = "value"
"""The column of a series without a name."""


class ArrowRows(Protocol):
    """Rows as Arrow batches."""

    schema: pa.Schema

    @property
    def known(self) -> int | None:
        """The number of rows, if it is known."""
        ...

    @property
    def seen(self) -> int:
        """Rows that there are at least."""
        ...

    def batches(self, first: int, *, final: bool) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with the number of their first row, from the one with row ``first``. After a
        ``final`` call nothing is read again.
        """
        ...


def arrow_rows(rows: Any) -> ArrowRows | None:
    """The rows of an object with Arrow data, or convertible to it; None for any other. Raises
    ``UsageError`` for a query that was not run yet, and ``InputError`` for a data frame with
    columns that have no Arrow type.
    """
    try:
        return _arrow_rows(rows)
    except pa.ArrowException as error:
        message = f"the {type(rows).__name__} cannot become Arrow data: {error}"
        raise InputError(message) from None


def _arrow_rows(rows: Any) -> ArrowRows | None:
    library = type(rows).__module__.partition(".")[0]
    kind = type(rows).__name__
    if isinstance(rows, pa.Table):
        return TableRows(rows)
    if isinstance(rows, pa.RecordBatch):
        return TableRows(pa.Table.from_batches([rows]))
    if library == "pyarrow" and kind.endswith("Dataset"):
        return DatasetRows(rows)
    if library == "pandas" and kind == "DataFrame":
        return TableRows(pa.Table.from_pandas(rows, preserve_index=False))
    if library == "polars" and kind == "LazyFrame":
        message = "the input is a Polars LazyFrame; give its collect() or sink it to Parquet"
        raise UsageError(message)
    if library == "polars" and kind == "DataFrame":
        return TableRows(pa.table(rows))
    if library in ("pandas", "polars") and kind == "Series":
        return TableRows(pa.table({_name_of(rows): pa.array(rows)}))
    if isinstance(rows, (pa.Array, pa.ChunkedArray)) and not pa.types.is_struct(rows.type):
        return TableRows(pa.table({VALUE: rows}))
    if library == "datasets" and kind == "Dataset":
        return HuggingFaceRows(rows)
    if hasattr(rows, "__arrow_c_stream__"):
        return StreamRows(pa.RecordBatchReader.from_stream(rows))
    return None


def _name_of(series: Any) -> str:
    name = series.name
    return VALUE if name is None or name == "" else str(name)


class TableRows:
    """A table in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.cast(plain_schema(table.schema))
        self.schema = self._table.schema

    @property
    def known(self) -> int:
        """See ``ArrowRows``."""
        return int(self._table.num_rows)

    seen = known

    def batches(self, first: int, *, final: bool) -> Iterator[tuple[int, pa.RecordBatch]]:  # noqa: ARG002
        """See ``ArrowRows``."""
        for batch in self._table.slice(first).to_batches():
            yield first, batch
            first += batch.num_rows


class DatasetRows:
    """A data set on some storage, scanned a little at a time."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.schema = plain_schema(dataset.schema)
        self._rows: int | None = None

    @property
    def known(self) -> int:
        """See ``ArrowRows``."""
        if self._rows is None:
            self._rows = int(self._dataset.count_rows())
        return self._rows

    seen = known

    def batches(self, first: int, *, final: bool) -> Iterator[tuple[int, pa.RecordBatch]]:  # noqa: ARG002
        """See ``ArrowRows``. Rows before ``first`` are scanned and skipped."""
        scanner = self._dataset.scanner(
            batch_size=SCAN_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False
        )
        row = 0
        for batch in scanner.to_batches():
            if row + batch.num_rows > first:
                yield row, plain_batch(batch, self.schema)
            row += batch.num_rows


class HuggingFaceRows:
    """A ``datasets.Dataset``, in the order of its indices: after a shuffle or a filter the
    underlying table has another.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset.with_format("arrow")
        self.schema = plain_schema(self._dataset[:0].schema)

    @property
    def known(self) -> int:
        """See ``ArrowRows``."""
        return len(self._dataset)

    seen = known

    def batches(self, first: int, *, final: bool) -> Iterator[tuple[int, pa.RecordBatch]]:  # noqa: ARG002
        """See ``ArrowRows``."""
        for row in range(first, len(self._dataset), SCAN_ROWS):
            at = row
            for batch in self._dataset[row : row + SCAN_ROWS].to_batches():
                yield at, plain_batch(batch, self.schema)
                at += batch.num_rows


class StreamRows:
    """Batches from a stream, which can be read only once."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.schema = plain_schema(reader.schema)
        self._tape = Tape(
            (part.num_rows, part_schema.to_ipc(plain_batch(part, self.schema)))
            for batch in reader
            for part in _parts(batch)
        )

    @property
    def known(self) -> int | None:
        """See ``ArrowRows``."""
        return self._tape.rows if self._tape.ended else None

    @property
    def seen(self) -> int:
        """See ``ArrowRows``."""
        return self._tape.rows

    def batches(self, first: int, *, final: bool) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See ``ArrowRows``."""
        for piece in self._tape.read(first, final=final):
            at = piece.first_row
            for batch in part_schema.from_ipc(piece.data).to_batches():
                yield at, batch
                at += batch.num_rows


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for place in range(0, batch.num_rows, SCAN_ROWS):
        yield batch.slice(place, SCAN_ROWS)


def plain_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch in a plain schema."""
    if batch.schema.equals(schema):
        return batch
    columns = [column.cast(kind) for column, kind in zip(batch.columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns with types that Parquet supports: view types become plain ones."""
    fields = [field.with_type(_plain(field.type)).remove_metadata() for field in schema]
    return pa.schema(fields)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    return kind
