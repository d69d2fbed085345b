"""JSON lines: split by bytes, parsed row by row, never more than a block in memory.

Lines end at LF (a CR before it goes with it); blank lines are no rows. A line that cannot be
parsed, or is longer than ``LINE_BYTES_MAX``, is a bad row: reading goes on behind it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from batchrun.adapters import arrow
from batchrun.adapters.sources.opening import Carry, Splitter, Stamp
from batchrun.core import carried
from batchrun.core.body import TOO_DEEP, nested_too_deeply
from batchrun.core.reply import json_text
from batchrun.errors import InputLostError
from batchrun.records import Block, Position, Row, Span

READ_BYTES = 2**18
LINE_BYTES_MAX = 64 * 2**20
BLOCK_ROWS = 128
BLOCK_BYTES = 2 * 2**20
_TYPES = {
    carried.BOOL: pa.bool_(),
    carried.INT: pa.int64(),
    carried.FLOAT: pa.float64(),
    carried.TEXT: pa.string(),
}
_KINDS = {kind: name for name, kind in _TYPES.items()}
_BLANK = re.compile(rb"(?<=\n)[ \t\r\v\f]*\n")
_BOM = b"\xef\xbb\xbf"

_decode = msgspec.json.Decoder().decode


class Line(NamedTuple):
    """One line that is not blank.

    ``data`` is None for a line over the limit; ``number`` is its line number in its file, from 1;
    ``end`` is the byte offset behind it.
    """

    data: bytes | None
    size: int
    number: int
    file: int
    end: int


def lines(files: Sequence[Stamp], start: Position) -> Iterator[Line]:
    """The lines from a position on. Raises ``InputLostError`` where a file cannot be read."""
    for index in range(start.file, len(files)):
        here = start if index == start.file else Position(index)
        try:
            yield from _lines_of(files[index], index, here)
        except OSError as error:
            message = f"input {files[index].path} can no longer be read: {error.strerror}"
            raise InputLostError(message) from error


def _lines_of(  # noqa: PLR0912 - one loop, its cases in order
    stamp: Stamp, index: int, start: Position
) -> Iterator[Line]:
    left = stamp.size - start.offset
    with Path(stamp.path).open("rb", buffering=0) as file:
        file.seek(start.offset)
        offset, number = start.offset, start.line
        rest: list[bytes] = []  # pieces of a line longer than one read
        held = 0  # its bytes so far, those beyond the limit included
        while True:
            chunk = file.read(min(READ_BYTES, left)) if left > 0 else b""
            if not chunk:
                break
            left -= len(chunk)
            pieces = chunk.split(b"\n")
            tail = pieces.pop()
            for piece in pieces:
                size = held + len(piece)
                data: bytes | None = piece
                if rest or held:
                    data = None if size > LINE_BYTES_MAX else b"".join((*rest, piece))
                    rest, held = [], 0
                offset += size + 1
                number += 1
                if number == 1 and data is not None:
                    data = data.removeprefix(_BOM)
                if data is None or data.strip():
                    yield Line(data, size, number, index, offset)
            if tail:
                held += len(tail)
                if held > LINE_BYTES_MAX:
                    rest = []
                else:
                    rest.append(tail)
        if left > 0:
            message = f"input {stamp.path} became shorter while it was read: {left:,} bytes less"
            raise InputLostError(message)
        if held:
            data = None if held > LINE_BYTES_MAX else b"".join(rest)
            if number == 0 and data is not None:
                data = data.removeprefix(_BOM)
            if data is None or data.strip():
                yield Line(data, held, number + 1, index, offset + held)


def _count_lines(stamp: Stamp, stop: Callable[[], bool]) -> int | None:
    """Lines that are not blank, or None if told to stop."""
    rows, left, tail = 0, stamp.size, b""
    with Path(stamp.path).open("rb", buffering=0) as file:
        while left > 0 and (chunk := file.read(min(READ_BYTES, left))):
            if stop():
                return None
            if left == stamp.size:
                chunk = chunk.removeprefix(_BOM)
            left = stamp.size - file.tell()
            whole, newline, rest = (tail + chunk).rpartition(b"\n")
            # A line's first byte is enough to know that it is not blank.
            tail = rest if len(rest) < READ_BYTES else rest.strip()[:1] or rest[:1]
            if newline:
                lines_here = whole.count(b"\n") + 1
                if whole.count(b"\n{") + whole.startswith(b"{") != lines_here:
                    lines_here -= len(_BLANK.findall(b"\n" + whole + b"\n"))
                rows += lines_here
    return rows + bool(tail.strip())


class JsonlReader:
    """Rows of JSONL files, as ``opening.Reader`` describes."""

    def __init__(
        self, files: Sequence[Stamp], carry: Carry | None, shard_rows: int, splitter: Splitter
    ) -> None:
        self._files = files
        self._shard_rows = shard_rows
        self.split = splitter
        self._carry = carry

    def schema(self) -> pa.Schema:
        """Infer the carried columns from the first rows."""

        def sample() -> Iterator[Mapping[str, Any]]:
            for count, line in enumerate(filter(None, self._records(Position()))):
                if count == carried.SAMPLE_ROWS:
                    return
                fields, _ = self._fields(line)
                if fields is not None:
                    yield self.split(fields).carried

        kinds = carried.infer(sample())
        return pa.schema([(name, _TYPES[kind]) for name, kind in kinds.items()])

    def count(self, stop: Callable[[], bool]) -> int | None:
        """Count the lines that are not blank."""
        rows = 0
        for stamp in self._files:
            found = _count_lines(stamp, stop)
            if found is None:
                return None
            rows += found
        return rows

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
        if last is not None and row >= last:
            return
        draft = _Draft(self, row)
        for line in self._records(span.start, final=span.last is None):
            if line is None:
                if draft.rows:
                    yield draft.block((row - 1) // size, size)
                    draft.next(row, fresh_shard=False)
                continue
            fields, problem = self._fields(line)
            draft.add(line, fields, problem)
            row += 1
            at_border = row % size == 0
            if at_border or row == last or draft.full:
                yield draft.block(row // size if not at_border else row // size - 1, size)
                if row == last:
                    return
                draft.next(row, fresh_shard=at_border)
        if draft.rows:
            yield draft.block((row - 1) // size, size)

    def _records(self, start: Position, *, final: bool = False) -> Iterator[Line | None]:  # noqa: ARG002 - files can be read again
        """The lines from a position on; None where more may come, but not at once. After a
        ``final`` call nothing is read again.
        """
        return lines(self._files, start)

    def _fields(self, line: Line) -> tuple[dict[str, Any] | None, str | None]:
        """A line's top-level fields, or None and what is wrong with it."""
        data = line.data
        if data is None:
            return None, f"the line is {line.size:,} bytes, more than {LINE_BYTES_MAX:,}"
        if nested_too_deeply(data):
            return None, f"the JSON {TOO_DEEP}"
        try:
            fields = _decode(data)
        except UnicodeDecodeError:
            return None, "the line is not valid UTF-8"
        except msgspec.MsgspecError as error:
            return None, f"not valid JSON: {error}"
        except RecursionError:
            return None, "the JSON is nested too deeply"
        if not isinstance(fields, dict):
            return None, "the line is not a JSON object"
        return fields, None

    def where(self, row: Row) -> str:
        """See ``opening.Reader``."""
        return f"{self._files[row.file].path} line {row.line}"

    def carried_batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """The carried fields of some rows as columns; what does not fit is in ``extra``."""
        assert self._carry is not None
        schema = self._carry.schema
        wanted = dict.fromkeys(self._carry.names)
        columns: list[list[Any]] = []
        extras: list[dict[str, Any] | None] = [None] * len(rows)
        for place, name in enumerate(self._carry.names):
            kind = _KINDS[schema.field(place).type]
            column = []
            for index, fields in enumerate(rows):
                value, fits = carried.fit(kind, fields.get(name))
                if not fits:
                    extras[index] = (extras[index] or {}) | {name: fields[name]}
                column.append(value)
            columns.append(column)
        for index, fields in enumerate(rows):
            if self._carry.everything and not fields.keys() <= wanted.keys():
                odd = {k: v for k, v in fields.items() if k not in wanted}
                if odd:
                    extras[index] = (extras[index] or {}) | odd
        columns.append([None if extra is None else json_text(extra) for extra in extras])
        arrays = [
            pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Draft:
    """The block being filled, and the digest of its shard so far."""

    def __init__(self, reader: JsonlReader, row: int) -> None:
        self._reader = reader
        self._digest = hashlib.sha256()
        self.next(row, fresh_shard=True)

    def next(self, row: int, *, fresh_shard: bool) -> None:
        """Begin another block at ``row``."""
        self.first_row = row
        self.rows: list[Row] = []
        self._carried: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._last: Line | None = None
        if fresh_shard:
            self._digest = hashlib.sha256()

    def add(self, line: Line, fields: dict[str, Any] | None, problem: str | None) -> None:
        """Take in one line."""
        data = line.data if line.data is not None else str(line.size).encode()
        self._digest.update(data.strip() + b"\n")
        number = self.first_row + len(self.rows)
        if fields is None:
            row = Row(number, None, None, problem, line.size, line.file, line.number)
            self._carried.append({})
        else:
            parts = self._reader.split(fields)
            row = Row(
                number,
                parts.custom_id,
                parts.body,
                parts.problem,
                line.size,
                line.file,
                line.number,
            )
            self._carried.append(parts.carried)
        self.rows.append(row)
        self._bytes += line.size if line.data is not None else 0
        self._last = line

    @property
    def full(self) -> bool:
        """Whether the block should be handed on."""
        return len(self.rows) >= BLOCK_ROWS or self._bytes >= BLOCK_BYTES

    def block(self, shard: int, shard_rows: int) -> Block:
        """The block as filled so far."""
        last = self._last
        assert last is not None
        return Block(
            shard=shard,
            first_row=self.first_row,
            rows=tuple(self.rows),
            carried=arrow.to_ipc(self._reader.carried_batch(self._carried)),
            rows_read=self.first_row + len(self.rows) - shard * shard_rows,
            digest=self._digest.digest(),
            end=Position(last.file, last.end, last.number),
        )
