"""JSON lines: split by bytes, parsed row by row, with at most a block in memory.

Lines end at LF (with an optional CR before it); blank lines are not rows. A line that cannot be
parsed, or is longer than ``LINE_BYTES_MAX``, is a bad row, and reading continues after it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa

from batchrun.adapters.sources.files import lines
from batchrun.adapters.sources.files.lines import BOM, Line
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import READ_BYTES, ByteSource, FileBytes
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.rows import TextReader
from batchrun.adapters.sources.splitting import Splitter, roles_of, schema_splitter
from batchrun.core.input import not_numbers
from batchrun.core.request import carried
from batchrun.core.request.body import TOO_DEEP, Split, nested_too_deeply
from batchrun.core.request.column_roles import SeenColumns
from batchrun.core.text.storable import json_text
from batchrun.records import JsonObject, Position

LINE_BYTES_MAX = 64 * 2**20
_TYPES = {
    carried.BOOL: pa.bool_(),
    carried.INT: pa.int64(),
    carried.FLOAT: pa.float64(),
    carried.TEXT: pa.string(),
}
_KINDS = {kind: name for name, kind in _TYPES.items()}
_BLANK = re.compile(rb"(?<=\n)[ \t\r\v\f]*\n")

_decode = msgspec.json.Decoder().decode


def _count_lines(chunks: Iterator[bytes], stop: Callable[[], bool]) -> int | None:
    """Lines that are not blank, or None if told to stop."""
    rows, tail, first = 0, b"", True
    for piece in chunks:
        if stop():
            return None
        chunk = piece.removeprefix(BOM) if first else piece
        first = False
        whole, newline, rest = (tail + chunk).rpartition(b"\n")
        # A line's first byte is enough to know that it is not blank.
        tail = rest if len(rest) < READ_BYTES else rest.strip()[:1] or rest[:1]
        if newline:
            lines_here = whole.count(b"\n") + 1
            if whole.count(b"\n{") + whole.startswith(b"{") != lines_here:
                lines_here -= len(_BLANK.findall(b"\n" + whole + b"\n"))
            rows += lines_here
    return rows + bool(tail.strip())


class JsonlReader(TextReader):
    """``reader.Reader`` for JSONL files."""

    def __init__(
        self,
        files: Sequence[Stamp],
        source: ByteSource,
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
        *,
        nan_is_null: bool = True,
    ) -> None:
        """Without ``nan_is_null`` a line with a bare ``NaN`` anywhere is a bad row."""
        super().__init__(files, source, carry, shard_rows, splitter)
        self._nan_is_null = nan_is_null
        self._seen = SeenColumns()

    def schema(self) -> pa.Schema:
        """Infer the carried columns from the first rows."""
        kinds = carried.infer(apart.carried for apart in self._looked_at(None))
        missing = [name for name in self.columns_of_folders() if name not in kinds]
        kinds = {**kinds, **dict.fromkeys(missing, carried.TEXT)}
        return pa.schema([(name, _TYPES[kind]) for name, kind in kinds.items()])

    def _looked_at(self, rows: int | None) -> Iterator[Split]:
        """The first rows, split; notes which of their columns are sent."""
        roles = roles_of(self.split)
        prompted = roles is not None and roles.prompted
        for fields in islice(self.sample(), rows):
            apart = self.split(fields)
            self._seen.note(fields, apart, prompted=prompted)
            yield apart

    def sent(self, rows: int) -> tuple[str, ...]:
        """See ``reader.Reader``."""
        deque(self._looked_at(rows), maxlen=0)
        return self._seen.names()

    def count(self, stop: Callable[[], bool]) -> int | None:
        """Count the lines that are not blank."""
        rows = 0
        source = FileBytes(self._files)
        try:
            for index in range(len(self._files)):
                found = _count_lines(source.chunks(index, 0), stop)
                if found is None:
                    return None
                rows += found
        finally:
            source.close()
        return rows

    def _records(self, start: Position, *, final: bool = False) -> Iterator[Line | None]:  # noqa: ARG002 - files can be read again
        for index in range(start.file, len(self._files)):
            here = start if index == start.file else Position(index)
            yield from lines.split(
                self._source, self._files[index], index, here,
                bytes_max=LINE_BYTES_MAX, blank=False,
            )  # fmt: skip

    def fingerprint(self, record: Line) -> bytes:
        """The line's text, or its length if it is over the limit."""
        data = record.data if record.data is not None else str(record.size).encode()
        return data.strip() + b"\n"

    def fields(self, record: Line) -> tuple[JsonObject | None, str | None]:
        """A line's top-level fields, or None and what is wrong with it."""
        data = record.data
        if data is None:
            return None, f"the line is {record.size:,} bytes, more than {LINE_BYTES_MAX:,}"
        if nested_too_deeply(data):
            return None, f"the JSON {TOO_DEEP}"
        try:
            fields = _decode(data)
        except UnicodeDecodeError:
            return None, "the line is not valid UTF-8"
        except msgspec.MsgspecError as error:
            found = self._with_nan(data) if self._nan_is_null else None
            return found or (None, f"not valid JSON: {error}")
        except RecursionError:
            return None, "the JSON is nested too deeply"
        if not isinstance(fields, dict):
            return None, "the line is not a JSON object"
        return fields, None

    def _with_nan(self, data: bytes) -> tuple[JsonObject, str | None] | None:
        """The fields of a line that is JSON except for ``NaN`` and infinities, which become null,
        and which of the sent fields contain one; None for any other line.
        """
        text = not_numbers.nulled(data)
        if text == data:
            return None
        try:
            fields, raw = _decode(text), not_numbers.parsed(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        sent = schema_splitter(self.split)(raw).body or {}
        odd = next((key for key, value in sent.items() if not not_numbers.is_finite(value)), None)
        if odd is None:
            return fields, None
        return fields, f"`{odd}` holds NaN or an infinity, which JSON cannot hold"

    def carried_batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """The carried fields of some rows as columns; fields that do not fit are in ``extra``."""
        assert self._carry is not None
        schema = self._carry.schema
        wanted = dict.fromkeys(self._carry.names)
        columns: list[list[Any]] = []
        extras: list[dict[str, Any] | None] = [None] * len(rows)
        for place, name in enumerate(self._carry.names):
            kind = _KINDS[schema.field(place).type]
            column = [fields.get(name) for fields in rows]
            if not carried.all_fit(kind, column):
                for index, given in enumerate(column):
                    column[index], fits = carried.fit(kind, given)
                    if not fits:
                        extras[index] = (extras[index] or {}) | {name: given}
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
