"""Parquet files: read in small batches without pre-buffering, columns told apart by name.

The body comes from a ``body`` column (OpenAI Batch lines), or from the columns that are named like
parameters; both as nested Arrow values or as JSON text. Every other column is carried with its
exact type, and can be shown by templates. Files with different schemas are unified if Arrow can
widen the types, else refused.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import arrow_as_text, arrow_nan
from batchrun.adapters.sources.files import storage
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.sampling import Sample
from batchrun.adapters.sources.splitting import Splitter, needs_of, roles_of, sent_columns
from batchrun.core.request import cells
from batchrun.core.settings import parameters
from batchrun.core.settings.addresses import local_path
from batchrun.core.text.legible import legible
from batchrun.errors import InputError, InputLostError
from batchrun.records import Block, Position, Row, Span

BLOCK_ROWS = 512
BLOCK_BYTES = 4 * 2**20
BUFFER_BYTES = 2**16
REMOTE_BUFFER_BYTES = 2**20
_PARSED = parameters.STRUCTURED | parameters.MAYBE_STRUCTURED | {"body"}  # text there may be JSON

_encode = msgspec.json.Encoder().encode


_Batches = Iterator[tuple[pa.RecordBatch, int, Sequence[int]]]
"""Batches with their file, and the number in it of each row."""


class ParquetReader:
    """``reader.Reader`` for Parquet files."""

    def __init__(
        self,
        files: Sequence[Stamp],
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
        *,
        nan_is_null: bool = True,
    ) -> None:
        """Read the footers. Raises ``InputError`` for files that are not Parquet or cannot be
        unified. Without ``nan_is_null`` a NaN is carried or shown like any other value.
        """
        self._files = files
        self._carry = carry
        self._shard_rows = shard_rows
        self.split = splitter
        self.picked: Sample | None = None
        """The rows to read, if not all."""
        self.times = 1
        """How often each row is sent: blocks are smaller by this factor."""
        self._going_on: tuple[Position, _Batches] | None = None
        """The end of the last span, and the partly decoded rows after it."""
        schemas, self._rows = self._known()
        self._own = [frozenset(schema.names) for schema in schemas]
        schemas = [
            _and_folders(schema, stamp) for schema, stamp in zip(schemas, files, strict=True)
        ]
        names = dict.fromkeys(name for schema in schemas for name in schema.names)
        self._sent = sent_columns(tuple(names), splitter)
        self._schema = _unified(files, schemas, self._sent)
        roles = roles_of(splitter)
        self._names = tuple(names)
        self._numbers = frozenset() if roles is None else roles.sends
        # The columns that templates show, and those of `--send`; templates see other parameters as
        # they are sent.
        self._shown = needs_of(splitter) & set(self._schema.names)
        self._read = self._sent | self._shown | set(carry.names if carry else ())
        self._floats = frozenset(
            field.name for field in self._schema if nan_is_null and arrow_nan.are_in(field.type)
        )
        self._parameters = {f.name: f for schema in schemas for f in schema if f.name in self._sent}

    def _known(self) -> tuple[list[pa.Schema], list[int]]:
        """The schemas of the files, and their numbers of rows."""
        return _footers(self._files)

    def schema(self) -> pa.Schema:
        """The columns that can be carried, with their types."""
        return self._schema

    def sample(self) -> Iterator[dict[str, Any]]:
        """See ``reader.Reader``: one example row made from the schema."""
        parsed = _PARSED if roles_of(self.split) is None else _PARSED & self._sent
        yield {
            field.name: None if field.name in parsed else arrow_as_text.example(field.type)
            for field in (*self._schema, *self._parameters.values())
        }

    def sent(self, rows: int) -> tuple[str, ...]:  # noqa: ARG002 - the schema says it
        """See ``reader.Reader``."""
        roles = roles_of(self.split)
        return () if roles is None else roles.sent_of(self._names)

    def count(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - known at once
        """The number of rows, from the footers."""
        return sum(self._rows)

    def remarks(self) -> list[str]:
        """See ``reader.Reader``."""
        return []

    def starts(self) -> Iterator[tuple[int, Position]]:
        """See ``PickingReader``. Uses the footers."""
        rows, picked = sum(self._rows), self.picked
        if picked is not None:
            rows = picked.below(rows)
        ends = list(accumulate(self._rows))
        for row in (*range(self._shard_rows, rows, self._shard_rows), *([rows] if rows else ())):
            place = (row if picked is None else picked.behind(row)) - 1
            file = bisect_right(ends, place)
            line = place - (ends[file - 1] if file else 0) + 1
            yield row, Position(file, line, line)

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        borders = sorted(breaks)
        for span in spans:
            yield from self._span(span, limit, borders)

    def _span(self, span: Span, limit: int | None, breaks: Sequence[int]) -> Iterator[Block]:
        size = self._shard_rows
        row = span.first * size
        last = None if span.last is None else (span.last + 1) * size
        if limit is not None:
            last = limit if last is None else min(last, limit)
        digest = Digest()
        batches = self._batches_from(span, row)
        end = span.start
        for batch, file, lines in batches:
            done = 0
            while done < batch.num_rows and (last is None or row < last):
                shard = row // size
                taken_max = max(1, batch.num_rows // self.times)
                border = min((shard + 1) * size, row + min(taken_max, batch.num_rows - done))
                if last is not None:
                    border = min(border, last)
                if (place := bisect_right(breaks, row)) < len(breaks):
                    border = min(border, breaks[place])
                taken = batch.slice(done, border - row)
                there = lines[done : done + taken.num_rows]
                done += taken.num_rows
                if row % size == 0:
                    digest = Digest()
                for block in self._blocks(shard, row, taken, file, there, digest):
                    end = block.end
                    yield block
                row = border
            if last is not None and row >= last:
                rest = (batch.slice(done), file, lines[done:])
                self._going_on = end, chain([rest], batches)
                return

    def _batches_from(self, span: Span, row: int) -> _Batches:
        """The batches from the span's start on. If the last span ended there, its reading
        continues: a process of a fleet reads one shard after the other, and a row group has many.
        """
        going_on, self._going_on = self._going_on, None
        final = span.last is None
        if going_on is not None and going_on[0] == span.start and not final and self.picked is None:
            return going_on[1]
        found = self._batches(span.start, final=final)
        return _all(found) if self.picked is None else self.picked.batches(found, row)

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
            name = self._files[index].name
            try:
                with _opened(self._files[index]) as file:
                    for batch in self._aligned(file, offset):
                        yield self.in_folders(batch, index), Position(index, offset, offset)
                        offset += batch.num_rows
            except (OSError, pa.ArrowException) as error:
                message = f"input {name} cannot be read from row {offset} on: {error}"
                raise InputLostError(message) from error

    def in_folders(self, batch: pa.RecordBatch, index: int) -> pa.RecordBatch:
        """A batch of a file, with the columns that its folders name and the file lacks."""
        for name, value in self._files[index].folders:
            if name in self._read and name not in self._own[index]:
                kept = cells.of_folder(name, value) if name in self._sent else value
                one = pa.scalar(kept, pa.string() if isinstance(kept, str | None) else None)
                batch = batch.append_column(name, pa.repeat(one, batch.num_rows))
        return batch

    def _aligned(self, file: pq.ParquetFile, skip: int) -> Iterator[pa.RecordBatch]:
        """Batches from row ``skip`` on. Their borders only depend on the row groups, not on where
        reading began, so that a shard's digest can be computed again.
        """
        present = self._present(file.schema_arrow.names)
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

    def _present(self, names: Sequence[str]) -> list[str]:
        """The columns to read. If there are none, one column is read to count the rows."""
        return [name for name in names if name in self._read] or list(names[:1])

    def _blocks(
        self,
        shard: int,
        first_row: int,
        batch: pa.RecordBatch,
        file: int,
        lines: Sequence[int],
        digest: Digest,
    ) -> Iterator[Block]:
        """A batch as one block, or several if files are read for its rows. ``lines`` are the
        numbers of its rows in the file.
        """
        sent = [name for name in batch.schema.names if name in self._sent]
        data = self._data(batch)
        size = batch.nbytes // max(1, batch.num_rows)
        rows: list[Row] = []
        added_bytes, begun = 0, 0
        fields_of = batch.select(sent).to_pylist() if sent else [{}] * batch.num_rows
        for place, fields in enumerate(fields_of):
            shown = {name: values[place] for name, values in data.items()}
            row = self._row(first_row + place, fields, shown, file, lines[place], size)
            digest.body.update(_encode((row.custom_id, row.body, row.problem)))
            rows.append(row)
            added_bytes += row.size_bytes - size
            if added_bytes > BLOCK_BYTES:
                yield self._block(shard, rows, batch.slice(begun, len(rows)), digest)
                begun += len(rows)
                rows, added_bytes = [], 0
        if rows:
            yield self._block(shard, rows, batch.slice(begun), digest)

    def _block(
        self,
        shard: int,
        rows: Sequence[Row],
        batch: pa.RecordBatch,
        digest: Digest,
    ) -> Block:
        carried = self._carried(batch)
        digest.add(carried)
        end = rows[-1].line + 1
        return Block(
            shard=shard,
            first_row=rows[0].number,
            rows=tuple(rows),
            carried=part_schema.to_ipc(carried) if carried.num_columns else b"",
            rows_read=rows[-1].number + 1 - shard * self._shard_rows,
            digest=digest.digest(),
            end=Position(rows[-1].file, end, end),
        )

    def _data(self, batch: pa.RecordBatch) -> dict[str, list[Any]]:
        """The columns that templates show, or that are data and sent as well."""
        found = {}
        for name in batch.schema.names:
            if name in self._shown:
                column = self._column(batch, name)
                found[name] = arrow_as_text.template_values(
                    arrow_as_text.number(column) if name in self._numbers else column
                )
        return found

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        """A column as it is carried and shown."""
        column = batch.column(name)
        return arrow_nan.finite(column) if name in self._floats else column

    def _row(
        self,
        number: int,
        fields: dict[str, Any],
        shown: dict[str, Any],
        file: int,
        line: int,
        size: int,
    ) -> Row:
        try:
            body = shown | {name: cells.typed(name, value) for name, value in fields.items()}
        except ValueError as error:
            return Row(number, None, None, str(error), size, file, line)
        parts = self.split({k: v for k, v in body.items() if v is not None})
        size += parts.added_bytes
        return Row(number, parts.custom_id, parts.body, parts.problem, size, file, line)

    def where(self, row: Row) -> str:
        """See ``reader.Reader``."""
        return f"{self._files[row.file].name} row {row.line}"

    def _carried(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self._carry is not None
        arrays = []
        for name, field in zip(self._carry.names, self._carry.schema, strict=True):
            if name in batch.schema.names:
                array = self._column(batch, name)
                if array.type != field.type:
                    array = array.cast(field.type)
            else:
                array = pa.nulls(batch.num_rows, field.type)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self._carry.schema)


def _and_folders(schema: pa.Schema, stamp: Stamp) -> pa.Schema:
    """A file's columns, followed by those that only its folders name, as text."""
    for name, _ in stamp.folders:
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def _all(
    batches: Iterator[tuple[pa.RecordBatch, Position]],
) -> Iterator[tuple[pa.RecordBatch, int, Sequence[int]]]:
    """Batches with their file, and the number in it of each row."""
    for batch, start in batches:
        yield batch, start.file, range(start.offset, start.offset + batch.num_rows)


class Digest:
    """The digest of a shard's rows so far, by value, independent of batches."""

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
    """A column's values as Python values with distinct reprs."""
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
        return [
            part_schema.to_ipc(pa.record_batch([single], names=["value"])) for single in singles
        ]
    return values


def _opened(stamp: Stamp) -> pq.ParquetFile:
    """A file opened for reading in small pieces."""
    local = local_path(stamp.path)
    if local is not None:
        # Arrow writes a name as UTF-8; bytes are the name as it is.
        source = local if legible(local) == local else pa.OSFile(os.fsencode(local))
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=BUFFER_BYTES)
    return pq.ParquetFile(
        storage.open_file(stamp), pre_buffer=False, buffer_size=REMOTE_BUFFER_BYTES
    )


def _footers(files: Sequence[Stamp]) -> tuple[list[pa.Schema], list[int]]:
    schemas, rows = [], []
    for stamp in files:
        try:
            with _opened(stamp) as file:
                schema = file.schema_arrow.remove_metadata()
                rows.append(file.metadata.num_rows)
        except (OSError, pa.ArrowException) as error:
            message = f"input {stamp.name} is not a readable Parquet file: {error}"
            raise InputError(message) from None
        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            message = f"input {stamp.name} has the column {min(twice)!r} more than once"
            raise InputError(message)
        schemas.append(schema)
    return schemas, rows


def _unified(
    files: Sequence[Stamp], schemas: Sequence[pa.Schema], sent: Collection[str]
) -> pa.Schema:
    """The data columns of all files, each with a type wide enough for every file. Columns that are
    sent need no common type. Raises ``InputError`` naming a column without one.
    """
    fields: dict[str, pa.Field] = {}
    for stamp, schema in zip(files, schemas, strict=True):
        for field in schema:
            if field.name in sent:
                continue
            known = fields.get(field.name, field)
            try:
                both = [pa.schema([known]), pa.schema([field])]
                fields[field.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
            except pa.ArrowException:
                message = (
                    f"input {stamp.name} does not fit {files[0].name}: column {field.name!r} is "
                    f"{field.type}, and {known.type} before; convert one of them, or run them apart"
                )
                raise InputError(message) from None
    return pa.schema(list(fields.values()))
