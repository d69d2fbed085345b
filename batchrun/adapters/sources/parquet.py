"""Parquet files: read in small batches without pre-buffering, columns told apart by name.

The body comes from a ``body`` column (OpenAI Batch lines), or from the columns that are named like
parameters; both as nested Arrow values or as JSON text. Every other column is carried with its
exact type. Files whose schemas differ are unified where Arrow can widen the types, else refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters import arrow
from batchrun.adapters.sources.opening import Carry, Splitter, Stamp
from batchrun.core import parameters
from batchrun.core.body import TOO_DEEP, nested_too_deeply
from batchrun.errors import InputError, InputLostError
from batchrun.records import Block, Position, Row, Span

BLOCK_ROWS = 512
BLOCK_BYTES = 4 * 2**20
BUFFER_BYTES = 2**16

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Columns:
    """A table's columns told apart."""

    read: tuple[str, ...]
    carried: tuple[str, ...]


class ParquetReader:
    """Rows of Parquet files, as ``opening.Reader`` describes."""

    def __init__(
        self, files: Sequence[Stamp], carry: Carry | None, shard_rows: int, splitter: Splitter
    ) -> None:
        """Read the footers. Raises ``InputError`` for what is not Parquet or does not unify."""
        self._files = files
        self._carry = carry
        self._shard_rows = shard_rows
        self.split = splitter
        self._schema, self._rows = self._known()
        self._columns = _tell_apart(self._schema)

    def _known(self) -> tuple[pa.Schema, list[int]]:
        """The schema, and the numbers of rows."""
        return _footers(self._files)

    def schema(self) -> pa.Schema:
        """The carried columns with their types."""
        return pa.schema([self._schema.field(name) for name in self._columns.carried])

    def count(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - known at once
        """The number of rows, from the footers."""
        return sum(self._rows)

    def blocks(self, spans: Sequence[Span], *, limit: int | None) -> Iterator[Block]:
        """See ``opening.Reader``."""
        for span in spans:
            yield from self._span(span, limit)

    def _span(self, span: Span, limit: int | None) -> Iterator[Block]:
        size = self._shard_rows
        row = span.first * size
        last = None if span.last is None else (span.last + 1) * size
        if limit is not None:
            last = limit if last is None else min(last, limit)
        digest = _Digest()
        for batch, start in self._batches(span.start, final=span.last is None):
            done = 0
            while done < batch.num_rows and (last is None or row < last):
                shard = row // size
                border = min((shard + 1) * size, row + batch.num_rows - done)
                if last is not None:
                    border = min(border, last)
                taken = batch.slice(done, border - row)
                offset = start.offset + done
                done += taken.num_rows
                end = Position(start.file, start.offset + done, start.offset + done)
                if row % size == 0:
                    digest = _Digest()
                yield self._block(shard, row, taken, Position(start.file, offset), digest, end)
                row = border
            if last is not None and row >= last:
                return

    def _batches(
        self,
        start: Position,
        *,
        final: bool,  # noqa: ARG002 - files can be read again
    ) -> Iterator[tuple[pa.RecordBatch, Position]]:
        """Batches with the position of their first row. After a ``final`` call nothing is read
        again.
        """
        for index in range(start.file, len(self._files)):
            offset = start.offset if index == start.file else 0
            name = self._files[index].path
            try:
                with pq.ParquetFile(name, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
                    for batch in self._aligned(file, offset):
                        yield batch, Position(index, offset, offset)
                        offset += batch.num_rows
            except (OSError, pa.ArrowException) as error:
                message = f"input {name} cannot be read from row {offset} on: {error}"
                raise InputLostError(message) from error

    def _aligned(self, file: pq.ParquetFile, skip: int) -> Iterator[pa.RecordBatch]:
        """Batches from row ``skip`` on. Their borders depend on the row groups alone, not on
        where reading began, so that a shard's digest can be computed again.
        """
        present = [name for name in self._columns.read if name in file.schema_arrow.names]
        for index in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(index)
            if skip >= group.num_rows:
                skip -= group.num_rows
                continue
            row_bytes = max(1.0, group.total_byte_size / group.num_rows)
            size = max(1, min(BLOCK_ROWS, int(BLOCK_BYTES / row_bytes)))
            for batch in file.iter_batches(
                batch_size=size, row_groups=[index], columns=present, use_threads=False
            ):
                if skip < batch.num_rows:
                    yield batch.slice(skip)
                skip = max(0, skip - batch.num_rows)

    def _block(
        self,
        shard: int,
        first_row: int,
        batch: pa.RecordBatch,
        start: Position,
        digest: _Digest,
        end: Position,
    ) -> Block:
        carried = self._carried(batch)
        sent = [name for name in batch.schema.names if name not in set(self._columns.carried)]
        size = batch.nbytes // max(1, batch.num_rows)
        rows = []
        for place, fields in enumerate(batch.select(sent).to_pylist()):
            row = self._row(first_row + place, fields, start, place, size)
            digest.body.update(_encode((row.custom_id, row.body, row.problem)))
            rows.append(row)
        digest.add(carried)
        return Block(
            shard=shard,
            first_row=first_row,
            rows=tuple(rows),
            carried=arrow.to_ipc(carried) if carried.num_columns else b"",
            rows_read=first_row + len(rows) - shard * self._shard_rows,
            digest=digest.digest(),
            end=end,
        )

    def _row(
        self, number: int, fields: dict[str, Any], start: Position, place: int, size: int
    ) -> Row:
        line = start.offset + place
        try:
            body = {name: _named(name, value) for name, value in fields.items()}
        except ValueError as error:
            return Row(number, None, None, str(error), size, start.file, line)
        parts = self.split({k: v for k, v in body.items() if v is not None})
        return Row(number, parts.custom_id, parts.body, parts.problem, size, start.file, line)

    def where(self, row: Row) -> str:
        """See ``opening.Reader``."""
        return f"{self._files[row.file].path} row {row.line}"

    def _carried(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self._carry is not None
        arrays = []
        for name, field in zip(self._carry.names, self._carry.schema, strict=True):
            if name in batch.schema.names:
                array = batch.column(name)
                if array.type != field.type:
                    array = array.cast(field.type)
            else:
                array = pa.nulls(batch.num_rows, field.type)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self._carry.schema)


class _Digest:
    """The digest of a shard's rows so far: by value, whatever batches they come in."""

    def __init__(self) -> None:
        self.body = hashlib.sha256()
        self._columns: dict[str, Any] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the carried columns of the next rows."""
        for field, column in zip(batch.schema, batch.columns, strict=True):
            running = self._columns.setdefault(field.name, hashlib.sha256())
            running.update("".join(f"{value!r}\n" for value in _values(column)).encode())

    def digest(self) -> bytes:
        """The digest of everything taken in."""
        whole = self.body.copy()
        for running in self._columns.values():
            whole.update(running.digest())
        return whole.digest()


def _values(column: pa.Array) -> list[Any]:
    """A column's values as Python values whose repr tells them apart."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if pa.types.is_temporal(kind) and kind.bit_width in (32, 64):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    try:
        values: list[Any] = column.to_pylist()
    except ValueError:
        # Nested nanoseconds have no Python value.
        singles = (column.take([place]) for place in range(len(column)))
        return [arrow.to_ipc(pa.record_batch([single], names=["value"])) for single in singles]
    return values


def _footers(files: Sequence[Stamp]) -> tuple[pa.Schema, list[int]]:
    schemas, rows = [], []
    for stamp in files:
        try:
            with pq.ParquetFile(Path(stamp.path)) as file:
                schemas.append(file.schema_arrow.remove_metadata())
                rows.append(file.metadata.num_rows)
        except (OSError, pa.ArrowException) as error:
            message = f"input {stamp.path} is not a readable Parquet file: {error}"
            raise InputError(message) from None
    unified = schemas[0]
    for stamp, schema in zip(files[1:], schemas[1:], strict=True):
        try:
            unified = pa.unify_schemas([unified, schema], promote_options="permissive")
        except pa.ArrowException as error:
            message = f"input {stamp.path} does not fit {files[0].path}: {error}"
            raise InputError(message) from None
    twice = {name for name in unified.names if unified.names.count(name) > 1}
    if twice:
        message = f"input {files[0].path} has the column {min(twice)!r} more than once"
        raise InputError(message)
    return unified, rows


def _tell_apart(schema: pa.Schema) -> _Columns:
    names = schema.names
    batch_lines = "body" in names and "messages" not in names
    sent = parameters.ENVELOPE if batch_lines else parameters.SENT | {"custom_id", "extra_body"}
    carried = tuple(name for name in names if name not in sent)
    return _Columns(tuple(names), carried)


def _named(name: str, value: object) -> object:
    try:
        return _value(name, value)
    except ValueError as error:
        message = f"column {name!r} {error}"
        raise ValueError(message) from None


def _value(name: str, value: object) -> object:
    """A parameter's value as JSON has it. Raises ``ValueError`` for text that should be JSON."""
    if isinstance(value, str):
        if name in parameters.STRUCTURED or name == "body":
            return _parsed(value)
        if name in parameters.MAYBE_STRUCTURED and value.lstrip()[:1] in ("{", "["):
            return _parsed(value)
        return value
    return _without_nulls(value)


def _parsed(text: str) -> object:
    if nested_too_deeply(text.encode()):
        message = TOO_DEEP
        raise ValueError(message)
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        message = f"is not valid JSON: {error}"
        raise ValueError(message) from None


def _without_nulls(value: object) -> object:
    """Nested Arrow values name every field in every row: absent ones come as nulls and are not
    sent.
    """
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        message = f"holds {value}, which JSON cannot hold"
        raise ValueError(message)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    message = f"holds a {type(value).__name__}, which JSON cannot hold"
    raise ValueError(message)
