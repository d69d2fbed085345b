"""Shared by readers of text formats: lines become rows, rows become blocks.

A format finds its records and their fields; this module numbers rows, begins and ends shards, and
computes the fingerprint of what was read.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources.files.lines import Line
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.sampling import Sample
from batchrun.adapters.sources.splitting import Splitter, sent_columns
from batchrun.core.input.folders import Folders
from batchrun.core.request import carried, cells
from batchrun.records import Block, JsonObject, Position, Row, Span

_new = tuple.__new__  # half the time of a named tuple's own ways

BLOCK_ROWS = 128
BLOCK_BYTES = 2 * 2**20


class TextReader(ABC):
    """``reader.Reader`` over records of bytes."""

    def __init__(
        self,
        files: Sequence[Stamp],
        source: ByteSource,
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
    ) -> None:
        self._files = files
        self._source = source
        self._carry = carry
        self._shard_rows = shard_rows
        self.split = splitter
        self.picked: Sample | None = None
        """The rows to read, if not all."""
        self.times = 1
        """How often each row is sent: blocks are smaller by this factor."""
        self.told, self.mark = self.fields, self.fingerprint
        if any(stamp.folders for stamp in files):
            self._folders = [_typed(stamp.folders, splitter) for stamp in files]
            self.told, self.mark = self._fields_and_folders, self._mark_and_folders

    def _fields_and_folders(self, record: Line) -> tuple[JsonObject | None, str | None]:
        """A record's fields, and those that its folders name; the record's own fields win."""
        fields, problem = self.fields(record)
        if fields is not None:
            more = self._folders[record.file]
            fields |= {name: value for name, value in more.items() if name not in fields}
        return fields, problem

    def _mark_and_folders(self, record: Line) -> bytes:
        return repr(self._files[record.file].folders).encode() + self.fingerprint(record)

    def columns_of_folders(self) -> list[str]:
        """The carried columns that folders name, in the order of the files."""
        names = dict.fromkeys(name for stamp in self._files for name, _ in stamp.folders)
        sent = sent_columns(tuple(names), self.split)
        return [name for name in names if name not in sent]

    @abstractmethod
    def schema(self) -> pa.Schema:
        """See ``reader.Reader``."""

    def sample(self) -> Iterator[JsonObject]:
        """See ``reader.Reader``: the first rows that can be read."""
        try:
            for count, record in enumerate(self._records(Position())):
                if count == carried.SAMPLE_ROWS:
                    return
                fields = None if record is None else self.told(record)[0]
                if fields is not None:
                    yield fields
        finally:
            self._source.close()

    @abstractmethod
    def count(self, stop: Callable[[], bool]) -> int | None:
        """See ``reader.Reader``."""

    @abstractmethod
    def _records(self, start: Position, *, final: bool = False) -> Iterator[Line | None]:
        """The records from a position on; None if more may come, but not at once. After a ``final``
        call nothing is read again.
        """

    @abstractmethod
    def fields(self, record: Line) -> tuple[JsonObject | None, str | None]:
        """A record's fields as far as they can be parsed, and what is wrong with it."""

    @abstractmethod
    def fingerprint(self, record: Line) -> bytes:
        """The bytes by which an edited record is recognised."""

    @abstractmethod
    def carried_batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """The carried fields of some rows as columns."""

    def where(self, row: Row) -> str:
        """See ``reader.Reader``."""
        return f"{self._files[row.file].name} line {row.line}"

    def remarks(self) -> list[str]:
        """See ``reader.Reader``."""
        return []

    def starts(self) -> Iterator[tuple[int, Position]]:
        """See ``PickingReader``."""
        records = self._records(Position())
        if self.picked is not None:
            records = self.picked.records(records, 0)
        row, end = 0, Position()
        try:
            for record in records:
                if record is not None:
                    row, end = row + 1, behind(record)
                    if row % self._shard_rows == 0:
                        yield row, end
        finally:
            self._source.close()
        if row % self._shard_rows:
            yield row, end

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        try:
            for span in spans:
                yield from self._span(span, limit, breaks)
        finally:
            self._source.close()

    def _span(self, span: Span, limit: int | None, breaks: Collection[int]) -> Iterator[Block]:
        size = self._shard_rows
        row = span.first * size
        last = None if span.last is None else (span.last + 1) * size
        if limit is not None:
            last = limit if last is None else min(last, limit)
        if last is not None and row >= last:
            return
        draft = _Draft(self, row)
        records = self._records(span.start, final=span.last is None)
        if self.picked is not None:
            records = self.picked.records(records, row)
        for record in records:
            if record is None:
                if draft.rows:
                    yield draft.block((row - 1) // size, size)
                    draft.next(row, fresh_shard=False)
                continue
            draft.add(record)
            row += 1
            at_border = row % size == 0
            if at_border or row == last or draft.full or row in breaks:
                yield draft.block((row - 1) // size, size)
                if row == last:
                    return
                draft.next(row, fresh_shard=at_border)
        if draft.rows:
            yield draft.block((row - 1) // size, size)


def behind(record: Line) -> Position:
    """The position in the input after a record."""
    return Position(record.file, record.end, record.number + record.lines - 1)


def _typed(folders: Folders, splitter: Splitter) -> JsonObject:
    """The columns that folders name, treated as CSV cells: the text of a parameter is parsed."""
    sent = sent_columns([name for name, _ in folders], splitter)
    return {
        name: cells.of_folder(name, value) if name in sent else value for name, value in folders
    }


class _Draft:
    """The block being filled, and the digest of its shard so far."""

    def __init__(self, reader: TextReader, row: int) -> None:
        self._reader = reader
        self._digest = hashlib.sha256()
        self._rows_max = max(1, BLOCK_ROWS // reader.times)
        self._bytes_max = BLOCK_BYTES // reader.times
        self.next(row, fresh_shard=True)

    def next(self, row: int, *, fresh_shard: bool) -> None:
        """Begin another block at ``row``."""
        self.first_row = row
        self.rows: list[Row] = []
        self._carried: list[Mapping[str, Any]] = []
        self._bytes = 0
        self.full = False
        """Whether the block should be passed on."""
        self._last: Line | None = None
        if fresh_shard:
            self._digest = hashlib.sha256()

    def add(self, record: Line) -> None:
        """Take in one record."""
        reader, rows = self._reader, self.rows
        self._digest.update(reader.mark(record))
        fields, problem = reader.told(record)
        number = self.first_row + len(rows)
        data, size, line, file, *_ = record
        self._bytes += 0 if data is None else size
        parts = None if fields is None else reader.split(fields)
        if problem is not None or parts is None:
            custom_id = None if parts is None else parts.custom_id
            row = Row(number, custom_id, None, problem, size, file, line)
        else:
            custom_id, body, _, wrong, added_bytes = parts
            size += added_bytes
            row = _new(Row, (number, custom_id, body, wrong, size, file, line))
            self._bytes += added_bytes
        self._carried.append({} if parts is None else parts.carried)
        rows.append(row)
        self._last = record
        self.full = len(rows) >= self._rows_max or self._bytes >= self._bytes_max

    def block(self, shard: int, shard_rows: int) -> Block:
        """The block so far."""
        last = self._last
        assert last is not None
        return Block(
            shard=shard,
            first_row=self.first_row,
            rows=tuple(self.rows),
            carried=part_schema.to_ipc(self._reader.carried_batch(self._carried)),
            rows_read=self.first_row + len(self.rows) - shard * shard_rows,
            digest=self._digest.digest(),
            end=behind(last),
        )
