"""Input in memory or from a program: dicts, Arrow data, data frames.

Dicts become JSON and are handled like JSON Lines, Arrow data like Parquet. Data frames and data
sets of other libraries are converted to Arrow; none of those libraries is imported here. Iterators
are read only once: see ``tape``.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections import deque
from collections.abc import (
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field

import pyarrow as pa

from batchrun.adapters.sources import opening
from batchrun.adapters.sources.files.lines import Line
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import FileBytes
from batchrun.adapters.sources.jsonl import JsonlReader
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.parquet import BLOCK_BYTES, BLOCK_ROWS, ParquetReader
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.sampling import PickingReader
from batchrun.adapters.sources.splitting import Splitter, schema_splitter, splitter_of
from batchrun.adapters.sources.tables import ArrowRows, arrow_rows
from batchrun.adapters.sources.tape import Tape
from batchrun.adapters.storage.home import at_home
from batchrun.core.request.prompt import Plan
from batchrun.core.request.rows_as_json import BAD, TEXT, as_json
from batchrun.core.settings.addresses import scheme_of
from batchrun.core.settings.reading import NOW, Reading
from batchrun.core.text.wording import shortened
from batchrun.errors import InputError, InputLostError, UsageError
from batchrun.records import Block, JsonObject, Position, Row, Span

TEXT_SHOWN = 60
"""Characters of a text that a message shows."""
_SUFFIX = re.compile(r"\.\w{1,8}(#.*)?$", re.DOTALL)
FLUSH_S = 0.1
"""Rows that arrive slowly are passed on after this time, before a block is full."""


def find(
    rows: object,
    given_format: str,
    plan: Plan | None = None,
    reading: Reading = NOW,
) -> Input:
    """The input that a program gives, with the templates of ``plan`` applied to its rows.

    A path or a list of paths are files. Raises ``UsageError`` for something other than rows, and
    ``InputError`` for empty input; for templates see ``opening.find``.
    """
    if isinstance(rows, (str, os.PathLike)):
        if _is_text(rows) and any(map(str.isspace, os.fspath(rows))):
            raise _texts(f"there is no file {shortened(os.fspath(rows), TEXT_SHOWN)!r}")
        return opening.find([at_home(os.fspath(rows))], given_format, plan, reading)
    if (
        isinstance(rows, Sequence)
        and rows
        and all(isinstance(item, (str, os.PathLike)) for item in rows)
    ):
        files = [at_home(os.fspath(item)) for item in rows]
        if all(map(_is_text, rows)):
            raise _texts(f"there is no file {shortened(os.fspath(rows[0]), TEXT_SHOWN)!r}")
        return opening.find(files, given_format, plan, reading)
    table = arrow_rows(rows)
    given: DictRows | ArrowRows
    if table is not None:
        given = table
    elif isinstance(rows, Mapping):
        message = "the input is one dict; a run takes an iterable of dicts, one for each row"
        raise UsageError(message)
    elif isinstance(rows, Iterable) and not isinstance(rows, (bytes, bytearray)):
        given = DictRows(rows)
        if not isinstance(rows, Sequence) and given.begin_with_text:
            raise _texts("the rows are texts")
    else:
        hint = "collect it into a list first" if isinstance(rows, AsyncIterable) else "see the docs"
        message = f"the input is a {type(rows).__name__}, which is neither files nor rows; {hint}"
        raise UsageError(message)
    name = f"<{type(rows).__name__}>"
    # Rows in memory have no stamp, so they are always compared by value.
    stamp = Stamp(name, 0, time.time_ns())
    kind = "jsonl" if isinstance(given, DictRows) else "parquet"
    splitter = splitter_of(kind, plan, reading)
    times = 1 if plan is None else plan.repeat
    found = MemoryInput(
        (stamp,), kind, splitter, reading=reading.of(kind), repeat=times, rows=given
    )
    found.require_rows()
    return found if plan is None else opening.shaped(found, plan)


def _is_text(item: object) -> bool:
    """Whether it is a text rather than a path: without a suffix, and no file, folder or pattern."""
    if not isinstance(item, str) or scheme_of(item) or item == "-" or _SUFFIX.search(item):
        return False
    path = at_home(item)
    try:
        return not os.path.lexists(path) and not glob.glob(path)  # noqa: PTH207 - of any folder
    except (OSError, ValueError):  # too long for a path, or with a null in it
        return True


def _texts(what: str) -> UsageError:
    """The message for texts given instead of rows."""
    return UsageError(
        f"{what}; a run takes files, or rows, which are dicts. If these are texts, make rows of "
        'them, and a prompt that shows them: batchrun.run([{"text": text} for text in texts], '
        'prompt="{{ text }}", ...)'
    )


@dataclass(frozen=True, slots=True)
class MemoryInput(Input):
    """An ``Input`` without files."""

    rows: DictRows | ArrowRows = field(kw_only=True)

    def _reader(self, carry: Carry | None, shard_rows: int) -> PickingReader:
        if isinstance(self.rows, DictRows):
            splitter = schema_splitter(self.splitter) if carry is None else self.splitter
            return DictReader(self.rows, self.stamps, carry, shard_rows, splitter)
        nan_is_null = self.reading.nan_is_null
        return ArrowReader(
            self.rows, self.stamps, carry, shard_rows, self.splitter, nan_is_null=nan_is_null
        )

    def count(self, stop: Callable[[], bool] = lambda: False) -> int | None:  # noqa: ARG002
        """See ``Input``. Rows from an iterator are all read, and kept on disk."""
        if self.rows.known is None:
            rows = self.rows
            read = rows.lines if isinstance(rows, DictRows) else rows.batches
            deque(read(0, final=False), maxlen=0)
        return self.rows.known

    def _count_beside(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - it never waits
        """See ``Input``. Rows from an iterator belong to the other thread and are not read here."""
        return _counted(self.rows, None if self.picked is None else self.picked.end)

    def require_rows(self) -> None:
        """Raise ``InputError`` for an input without a row."""
        columns = [pa.field("extra", pa.string())] if self.has_extra else []
        reader = self._reader(Carry(pa.schema(columns), (), everything=False), 1)
        if next(reader.blocks([Span(0, 0, Position())], limit=1), None) is None:
            message = f"input {self.stamps[0].path}: not a single row in it"
            raise InputError(message)


class DictRows:
    """Dicts as lines of JSON, from any row on."""

    def __init__(self, rows: Iterable[object]) -> None:
        self._sequence = rows if isinstance(rows, Sequence) else None
        self._tape = Tape((1, as_json(row)) for row in rows)

    @property
    def known(self) -> int | None:
        """The number of rows, if it is known."""
        if self._sequence is not None:
            return len(self._sequence)
        return self._tape.rows if self._tape.ended else None

    @property
    def seen(self) -> int:
        """Rows that there are at least."""
        return len(self._sequence) if self._sequence is not None else self._tape.rows

    @property
    def begin_with_text(self) -> bool:
        """Whether the first row is a text; to be asked before anything is read."""
        first = next(self._tape.read(0, final=False), None)
        return first is not None and first.data == TEXT

    def lines(self, first: int, *, final: bool) -> Iterator[tuple[int, bytes]]:
        """Row numbers and their JSON, or ``BAD`` followed by what is wrong with the row."""
        if self._sequence is not None:
            for row in range(first, len(self._sequence)):
                yield row, as_json(self._sequence[row])
            return
        for piece in self._tape.read(first, final=final):
            yield piece.first_row, piece.data


class DictReader(JsonlReader):
    """``reader.Reader`` for dicts."""

    def __init__(
        self,
        rows: DictRows,
        stamps: Sequence[Stamp],
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
    ) -> None:
        super().__init__(stamps, FileBytes(()), carry, shard_rows, splitter)
        self._rows = rows
        self._limit: int | None = None

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        self._limit = limit
        return super().blocks(spans, limit=limit, breaks=breaks)

    def _records(self, start: Position, *, final: bool = False) -> Iterator[Line | None]:
        flushed_s = time.monotonic()
        try:
            for row, data in self._rows.lines(start.offset, final=final):
                yield Line(data, len(data), row + 1, 0, row + 1)
                if time.monotonic() - flushed_s > FLUSH_S:
                    yield None
                    flushed_s = time.monotonic()
        except InputLostError:
            yield None  # what came before it is answered
            raise

    def fields(self, record: Line) -> tuple[JsonObject | None, str | None]:
        """See ``TextReader``."""
        if record.data is not None and record.data.startswith(BAD):
            return None, record.data.removeprefix(BAD).decode()
        return super().fields(record)

    def where(self, row: Row) -> str:
        """See ``reader.Reader``."""
        return f"rows[{row.line - 1}]"

    def count(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - it never waits
        """The number of rows, or None while it is not known. See ``reader.Reader``."""
        return _counted(self._rows, self._limit)


class ArrowReader(ParquetReader):
    """``reader.Reader`` for Arrow data."""

    def __init__(
        self,
        rows: ArrowRows,
        stamps: Sequence[Stamp],
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
        *,
        nan_is_null: bool,
    ) -> None:
        self._table = rows
        self._limit: int | None = None
        super().__init__(stamps, carry, shard_rows, splitter, nan_is_null=nan_is_null)

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        self._limit = limit
        return super().blocks(spans, limit=limit, breaks=breaks)

    def _known(self) -> tuple[list[pa.Schema], list[int]]:
        names = self._table.schema.names
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            message = f"the input has the column {min(twice)!r} more than once"
            raise InputError(message)
        return [self._table.schema.remove_metadata()], []

    def _batches(
        self, start: Position, *, final: bool
    ) -> Iterator[tuple[pa.RecordBatch, Position]]:
        present = self._present(self._table.schema.names)
        for first, whole in self._table.batches(start.offset, final=final):
            skip = max(0, start.offset - first)
            batch = whole.select(present).slice(skip)
            row = first + skip
            row_bytes = max(1.0, batch.nbytes / max(1, batch.num_rows))
            size = max(1, min(BLOCK_ROWS, int(BLOCK_BYTES / row_bytes)))
            for place in range(0, batch.num_rows, size):
                offset = row + place
                yield batch.slice(place, size), Position(0, offset, offset)

    def where(self, row: Row) -> str:
        """See ``reader.Reader``."""
        return f"rows[{row.line}]"

    def count(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - it never waits
        """The number of rows, or None while it is not known. See ``reader.Reader``."""
        return _counted(self._table, self._limit)


def _counted(rows: DictRows | ArrowRows, limit: int | None) -> int | None:
    """The number of rows; for an iterator stopped by a limit, as many as were read."""
    if rows.known is None and limit is not None and rows.seen >= limit:
        return rows.seen
    return rows.known
