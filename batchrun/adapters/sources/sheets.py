"""Workbooks of spreadsheets (``.xlsx``, ``.xls``, ``.ods``): one sheet is a table.

The first row that is not empty names the columns. A column has the common type of its cells: whole
numbers are int64, other numbers double, dates and times Arrow's, and a column of several kinds is
text. Empty cells are null. Empty rows, and empty columns without a name, are ignored.

A sheet is in memory as a whole, one at a time: Excel's have at most 1,048,576 rows.
"""

from __future__ import annotations

import datetime as dt
import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pyarrow as pa

from batchrun.adapters.sources.files import storage
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.parquet import BLOCK_ROWS, ParquetReader
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.splitting import Splitter
from batchrun.core.request import columns
from batchrun.errors import InputError, InputLostError, UsageError
from batchrun.records import Position, Row

CHUNK_ROWS = 4096
WHOLE_MAX = 2**53
"""Beyond this a double, and so a spreadsheet, cannot represent every whole number."""

INSTALL = "pip install 'batchrun-llm[excel]'"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet as a table."""

    table: pa.Table
    numbers: array[int]
    """The sheet's number of each row, from 1."""
    made: tuple[str, ...]
    """Generated names of columns without a name in the sheet."""


class Workbooks:
    """The sheets of some files, the last one kept in memory."""

    def __init__(self, stamps: Sequence[Stamp]) -> None:
        self._stamps = stamps
        self._last: tuple[int, Sheet] | None = None
        self._known: list[tuple[pa.Schema, int, tuple[str, ...]]] | None = None

    def sheet(self, index: int) -> Sheet:
        """The sheet of a file. Raises ``InputError``, or ``UsageError`` without the library."""
        last = self._last
        if last is None or last[0] != index:
            self._last = None  # release it first, so that two are not in memory
            last = self._last = index, _read(self._stamps[index])
        return last[1]

    def known(self) -> list[tuple[pa.Schema, int, tuple[str, ...]]]:
        """Of each file the schema, the number of rows, and the columns without a name."""
        if self._known is None:
            self._known = [self._of(index) for index in range(len(self._stamps))]
        return self._known

    def _of(self, index: int) -> tuple[pa.Schema, int, tuple[str, ...]]:
        found = self.sheet(index)
        return found.table.schema, found.table.num_rows, found.made


class SheetReader(ParquetReader):
    """``reader.Reader`` for workbooks."""

    def __init__(
        self,
        books: Workbooks,
        files: Sequence[Stamp],
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
    ) -> None:
        """Read the sheets. Raises as ``Workbooks`` does."""
        self._books = books
        super().__init__(files, carry, shard_rows, splitter)

    def _known(self) -> tuple[list[pa.Schema], list[int]]:
        known = self._books.known()
        return [schema for schema, _, _ in known], [rows for _, rows, _ in known]

    def _batches(
        self,
        start: Position,
        *,
        final: bool,  # noqa: ARG002 - files can be read again
    ) -> Iterator[tuple[pa.RecordBatch, Position]]:
        for index in range(start.file, len(self._files)):
            offset = start.offset if index == start.file else 0
            try:
                table = self._books.sheet(index).table
            except InputError as error:
                raise InputLostError(str(error)) from None
            present = self._present(table.schema.names)
            for batch in table.select(present).slice(offset).to_batches(max_chunksize=BLOCK_ROWS):
                yield self.in_folders(batch, index), Position(index, offset, offset)
                offset += batch.num_rows

    def where(self, row: Row) -> str:
        """See ``reader.Reader``: the file, and the row of the sheet."""
        number = self._books.sheet(row.file).numbers[row.line]
        return f"{self._files[row.file].name} row {number}"

    def remarks(self) -> list[str]:
        """See ``reader.Reader``."""
        return [
            columns.remark(stamp.name, made)
            for stamp, (_, _, made) in zip(self._files, self._books.known(), strict=True)
            if made
        ][:1]


def _library(stamp: Stamp) -> ModuleType:
    try:
        import python_calamine
    except ImportError:
        message = f"input {stamp.name}: reading workbooks needs the extra `excel`: {INSTALL}"
        raise UsageError(message) from None
    return python_calamine


def _read(stamp: Stamp) -> Sheet:
    calamine = _library(stamp)
    try:
        with storage.open_file(stamp) as file:
            data = io.BytesIO(file.read())
        book = calamine.CalamineWorkbook.from_filelike(data)
        names: list[str] = book.sheet_names
        name = stamp.sheet if stamp.sheet is not None else next(iter(names), None)
        if name not in names:
            there = ", ".join(map(repr, names)) or "none"
            message = f"input {stamp.name} has no sheet {name!r}; its sheets are: {there}"
            raise InputError(message)
        return _sheet(stamp, book.get_sheet_by_name(name))
    except (OSError, calamine.CalamineError, ValueError) as error:
        message = (
            f"input {stamp.name} cannot be read as a workbook: {error}. If it opens in a "
            "spreadsheet, save it from there without a password, as .xlsx or .csv"
        )
        raise InputError(message) from None


def _sheet(stamp: Stamp, sheet: Any) -> Sheet:
    """A sheet in two passes: one finds the types, the other makes the columns."""
    _, left = sheet.start or (0, 0)
    rows = _Rows(sheet)
    header = next(iter(rows), None)
    if header is None:
        return Sheet(pa.table({}), array("q"), ())
    kinds = [_Kinds() for _ in header[1]]
    numbers = array("q")
    for number, cells in rows.behind_header():
        numbers.append(number)
        for kind, cell in zip(kinds, cells, strict=True):
            kind.note(cell)
    given = [_text(cell) or "" for cell in header[1]]
    used = [n for n, name in enumerate(given) if name.strip() or kinds[n].seen]
    named = columns.named(given, left + 1)
    names = [named[n] for n in used]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        message = f"input {stamp.name}: the header names the column {twice[0]!r} more than once"
        raise InputError(message)
    schema = pa.schema([(named[n], kinds[n].type()) for n in used])
    held: list[list[Any]] = [[] for _ in used]
    batches = []
    for _, cells in rows.behind_header():
        for place, n in enumerate(used):
            held[place].append(_value(cells[n], schema.field(place).type))
        if len(held[0]) >= CHUNK_ROWS:
            batches.append(_batch(held, schema))
            held = [[] for _ in used]
    if held and held[0]:
        batches.append(_batch(held, schema))
    made = tuple(named[n] for n in used if not given[n].strip())
    return Sheet(pa.Table.from_batches(batches, schema=schema), numbers, made)


def _batch(held: Sequence[list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(cells, kind) for cells, kind in zip(held, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Rows:
    """The rows of a sheet that are not empty, with their numbers."""

    def __init__(self, sheet: Any) -> None:
        self._sheet = sheet

    def __iter__(self) -> Iterator[tuple[int, list[Any]]]:
        for number, cells in enumerate(self._sheet.iter_rows(), 1):
            if any(cell not in ("", None) for cell in cells):
                yield number, cells

    def behind_header(self) -> Iterator[tuple[int, list[Any]]]:
        found = iter(self)
        next(found, None)
        return found


class _Kinds:
    """The kinds of cells that a column has."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def note(self, cell: Any) -> None:
        """Take in a cell."""
        match cell:
            case "" | None:
                return
            case bool():
                self.seen.add("bool")
            case int() | float():
                self.seen.add("int" if _is_whole(cell) else "float")
            case dt.datetime():
                self.seen.add("datetime")
            case dt.date():
                self.seen.add("date")
            case dt.time():
                self.seen.add("time")
            case dt.timedelta():
                self.seen.add("duration")
            case _:
                self.seen.add("text")

    def type(self) -> pa.DataType:
        """The type of the column; text if there are several kinds, or none."""
        return _TYPES.get(frozenset(self.seen), pa.string())


_TYPES = {
    frozenset({"bool"}): pa.bool_(),
    frozenset({"int"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    frozenset({"int", "float"}): pa.float64(),
    frozenset({"date"}): pa.date32(),
    frozenset({"datetime"}): pa.timestamp("us"),
    frozenset({"date", "datetime"}): pa.timestamp("us"),
    frozenset({"time"}): pa.time64("us"),
    frozenset({"duration"}): pa.duration("us"),
}


def _is_whole(number: float) -> bool:
    return isinstance(number, int) or (number.is_integer() and abs(number) <= WHOLE_MAX)


def _value(cell: Any, kind: pa.DataType) -> Any:
    if cell in ("", None):
        return None
    if pa.types.is_string(kind):
        return _text(cell)
    if pa.types.is_integer(kind):
        return int(cell)
    if pa.types.is_timestamp(kind) and not isinstance(cell, dt.datetime):
        return dt.datetime.combine(cell, dt.time())
    return cell


def _text(cell: Any) -> str | None:
    """A cell in a column of text: whole numbers have no fraction, dates are ISO 8601."""
    match cell:
        case "" | None:
            return None
        case str():
            return cell
        case bool():
            return "TRUE" if cell else "FALSE"
        case int() | float():
            return str(int(cell)) if _is_whole(cell) else repr(cell)
        case dt.datetime() | dt.date() | dt.time():
            return cell.isoformat()
        case _:
            return str(cell)
