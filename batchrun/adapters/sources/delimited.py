"""CSV, parsed record by record, so that a broken record is one bad row.

The first record of a file names its columns. Columns that are named like parameters hold JSON text
or plain values (``core.request.cells``), every other one is carried as text.

Quoting, if the format has it, follows RFC 4180 strictly: text after a closing quote, or a quote
that is never closed, breaks a record. Its first line is then the bad row, and reading continues at
the next line, so that one stray quote does not swallow the rows after it. Without quoting, a quote
is an ordinary character, and every line is a record. Blank lines are not rows.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from batchrun.adapters.sources.files import lines, recoding
from batchrun.adapters.sources.files.folding import Folded
from batchrun.adapters.sources.files.lines import Line
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource, FileBytes
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.rows import TextReader
from batchrun.adapters.sources.splitting import Splitter, roles_of, sent_columns
from batchrun.core.input.dialect import UTF8, Dialect, sep_line
from batchrun.core.request import cells, columns
from batchrun.errors import InputError, InputLostError
from batchrun.records import JsonObject, Position

RECORD_BYTES_MAX = 16 * 2**20
"""Python's parser keeps a field at four bytes per character."""

# The default, 131,072 characters, is less than many prompts. The limit is process-wide, so it is
# only ever raised.
csv.field_size_limit(max(csv.field_size_limit(), RECORD_BYTES_MAX))


class _TooLongError(Exception):
    """A record of several lines is over the limit."""


class _Feed:
    """Feeds lines to the parser, one record at a time."""

    def __init__(self, source: Iterator[Line | None]) -> None:
        self._source = source
        self._back: deque[Line] = deque()
        self._next: Line | None = None
        self.taken: list[Line] = []
        self.size = 0
        self.is_text = True

    def firsts(self) -> Iterator[Line | None]:
        """The lines at which records begin; None if more may come, but not at once."""
        while True:
            if self._back:
                yield self._back.popleft()
                continue
            try:
                line = next(self._source)
            except StopIteration:
                return
            yield line

    def begin(self, first: Line) -> None:
        """Make the parser begin a record at this line."""
        self._next, self.taken, self.size, self.is_text = first, [], 0, True

    def give_back(self) -> None:
        """The record is broken: read the lines after its first one again."""
        self._back.extendleft(reversed(self.taken[1:]))

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line, self._next = self._next, None
        while line is None:
            line = self._back.popleft() if self._back else next(self._source)
        self.taken.append(line)
        self.size += line.size + 1
        if line.data is None or self.size > RECORD_BYTES_MAX:
            raise _TooLongError
        try:
            return line.data.decode() + "\n"
        except UnicodeDecodeError:
            self.is_text = False
            return line.data.decode(errors="replace") + "\n"


def records(
    source: Iterator[Line | None], dialect: Dialect, *, parse: bool = True
) -> Iterator[Line | None]:
    """The records in some lines. Without ``parse`` they are only counted, quickly: a line without a
    quote is a record.
    """
    delimiter = dialect.delimiter
    feed = _Feed(source)
    parser = csv.reader(feed, delimiter=delimiter, strict=True)
    for first in feed.firsts():
        if first is None:
            yield None
        elif first.data is None:
            yield first._replace(problem=_too_long(first.size))
        elif not first.data.strip(b" \r"):
            continue
        elif not parse and b'"' not in first.data:
            yield first
        else:
            feed.begin(first)
            try:
                found = next(parser)
            except (csv.Error, _TooLongError) as error:
                feed.give_back()
                yield first._replace(problem=_problem(error, feed, first))
                continue
            yield _record(feed, found, dialect.encoding)


def unquoted(source: Iterator[Line | None], dialect: Dialect) -> Iterator[Line | None]:
    """The records without quoting: each line that is not blank, split at the delimiters."""
    delimiter = dialect.delimiter
    for line in source:
        if line is None:
            yield None
        elif line.data is None:
            yield line._replace(problem=_too_long(line.size))
        elif line.data.strip(b" \r"):
            try:
                text = line.data.decode()
            except UnicodeDecodeError:
                yield line._replace(problem=_not_valid(dialect.encoding))
            else:
                yield line._replace(cells=text.removesuffix("\r").split(delimiter))


def _not_valid(encoding: str) -> str:
    if encoding != UTF8:
        return f"the line is not valid {encoding}"
    return "the line is not valid UTF-8; if the file is in Windows-1252, set --encoding cp1252"


def _record(feed: _Feed, found: list[str], encoding: str) -> Line:
    first, last = feed.taken[0], feed.taken[-1]
    problem = None if feed.is_text else _not_valid(encoding)
    if first is last:
        return first._replace(cells=found, problem=problem)
    data = b"\n".join(line.data or b"" for line in feed.taken)
    lines_taken = last.number - first.number + 1
    return Line(
        data, len(data), first.number, first.file, last.end, lines_taken, found, problem
    )  # fmt: skip


def _too_long(size: int) -> str:
    return f"the line is {size:,} bytes, more than {RECORD_BYTES_MAX:,}"


def _problem(error: Exception, feed: _Feed, first: Line) -> str:
    if isinstance(error, _TooLongError) or "end of data" in str(error):
        if first.size > RECORD_BYTES_MAX:
            return _too_long(first.size)
        return "not valid CSV: a quote that opens here is not closed"
    if "expected after" in str(error):
        line = feed.taken[-1].number
        where = "" if line == first.number else f" on line {line}"
        return f"not valid CSV: text behind a closing quote{where}; write a quote inside as two"
    if "new-line character" in str(error):
        return "not valid CSV: a CR outside of quotes that ends no line"
    return f"not valid CSV: {error}"


def _begun(found: Iterator[Line | None]) -> Iterator[Line | None]:
    """The first line of a file, unless it is a spreadsheet's ``sep=;``."""
    first = next((line for line in found if line is not None), None)
    if first is not None and (first.data is None or sep_line(first.data) is None):
        yield first


def _in_quotes(name: str) -> bool:
    return len(name) > 1 and name[0] == name[-1] == '"'


class _Header(NamedTuple):
    """The columns of one file: names, which of them are sent, and what fingerprints them."""

    names: list[str]
    sent: list[bool]
    mark: bytes
    made: tuple[str, ...]
    """The names that are not in the file."""


class CsvReader(TextReader):
    """``reader.Reader`` for CSV files."""

    def __init__(
        self,
        files: Sequence[Stamp],
        source: ByteSource,
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
        dialects: Sequence[Dialect],
        *,
        quoted: bool,
        looks: bool = True,
    ) -> None:
        """Read the headers. Raises ``InputError`` for one that names no columns.

        Without ``looks`` a first line ``sep=;`` is an ordinary header, and every column must have a
        name.
        """
        super().__init__(files, source, carry, shard_rows, splitter)
        self._dialects = dialects
        self._quoted = quoted
        self._looks = looks
        self._folded = Folded()
        self._counted: Folded | None = None
        try:
            self._headers = [self._header(index) for index in range(len(files))]
        except InputLostError as error:
            raise InputError(str(error)) from None
        finally:
            source.close()

    def _header(self, index: int) -> _Header | None:
        name = self._files[index].name
        found = next(self._of_file(self._source, index, Position(index)), None)
        if found is None:
            return None
        if found.problem is not None or found.cells is None:
            message = f"input {name} line {found.number}: the header: {found.problem}"
            raise InputError(message)
        names = found.cells
        if any("\r" in cell for cell in names) and not self._quoted:
            message = f"input {name} line {found.number}: the header: a CR that ends no line"
            raise InputError(message)
        if any(cell.lstrip()[:2] in ('{"', "[{") for cell in names):
            message = f"input {name}: the first line must name the columns; it looks like a row"
            raise InputError(message)
        given = names
        if self._looks:
            names = columns.named(given)
        elif "" in (stripped := [cell.strip() for cell in names]):
            message = (
                f"input {name}: column {stripped.index('') + 1} has no name in the header; name "
                "it, or write the file without it (an index column, perhaps)"
            )
            raise InputError(message)
        twice = [column for column in names if names.count(column) > 1]
        if twice:
            message = f"input {name}: the header names the column {twice[0]!r} more than once"
            raise InputError(message)
        sent = sent_columns(names, self.split)
        mark = hashlib.sha256("\n".join(given).encode()).digest()
        made = tuple(new for new, old in zip(names, given, strict=True) if not old.strip())
        return _Header(names, [column in sent for column in names], mark, made)

    def _of_file(self, source: ByteSource, index: int, start: Position) -> Iterator[Line]:
        """The records of a file, including its header, without the pauses."""
        found = self._split(self._lines(source, index, start), index)
        return (record for record in found if record is not None)

    def _split(
        self, found: Iterator[Line | None], index: int, *, parse: bool = True
    ) -> Iterator[Line | None]:
        if self._quoted:
            return records(found, self._dialects[index], parse=parse)
        return unquoted(found, self._dialects[index])

    def _lines(self, source: ByteSource, index: int, start: Position) -> Iterator[Line | None]:
        stamp, encoding = self._files[index], self._dialects[index].encoding
        if encoding == UTF8:
            found = lines.split(source, stamp, index, start, bytes_max=RECORD_BYTES_MAX, blank=True)
        else:
            found = recoding.split(
                source, stamp, index, start, encoding=encoding, bytes_max=RECORD_BYTES_MAX
            )
        if start.offset or not self._looks:
            return found
        return itertools.chain(_begun(found), found)

    def schema(self) -> pa.Schema:
        """The carried columns of all files, in the order of their first appearance."""
        names: dict[str, None] = {}
        for header in filter(None, self._headers):
            names |= {
                n: None for n, sent in zip(header.names, header.sent, strict=True) if not sent
            }
        names |= dict.fromkeys(self.columns_of_folders())
        return pa.schema([(name, pa.string()) for name in names])

    def sent(self, rows: int) -> tuple[str, ...]:  # noqa: ARG002 - the headers say it
        """See ``reader.Reader``."""
        roles = roles_of(self.split)
        names = dict.fromkeys(n for header in filter(None, self._headers) for n in header.names)
        return () if roles is None else roles.sent_of(names)

    def count(self, stop: Callable[[], bool]) -> int | None:
        """Count the records after the headers."""
        rows = 0
        source = FileBytes(self._files)
        folded = Folded()
        try:
            for index, header in enumerate(self._headers):
                found = self._lines(source, index, Position(index))
                for record in self._split(found, index, parse=False):
                    if rows % 1024 == 0 and stop():
                        return None
                    rows += 1
                    if record is not None and record.lines > 1 and header is not None:
                        folded.note(record, len(header.names), self._dialects[index].delimiter)
                rows -= header is not None
        finally:
            source.close()
        self._counted = folded
        return rows

    def remarks(self) -> list[str]:
        """See ``reader.Reader``: for the whole input once it was counted."""
        found = self._nameless()
        if self._quoted:
            return found + (self._counted or self._folded).remarks(self._files)
        for header, stamp in zip(self._headers, self._files, strict=True):
            if header is not None and any(_in_quotes(name) for name in header.names):
                text = "the header has names in quotes, and without quoting these are part of them"
                found.append(f"warning: {stamp.name}: {text}; --quoting csv takes quotes off")
                break
        return found

    def _nameless(self) -> list[str]:
        for header, stamp in zip(self._headers, self._files, strict=True):
            if header is not None and header.made:
                return [columns.remark(stamp.name, header.made)]
        return []

    def _records(self, start: Position, *, final: bool = False) -> Iterator[Line | None]:  # noqa: ARG002 - files can be read again
        if start == Position():
            self._folded = Folded()
        for index in range(start.file, len(self._files)):
            here = start if index == start.file else Position(index)
            found = self._split(self._lines(self._source, index, here), index)
            if here.offset == 0:
                next((record for record in found if record is not None), None)  # the header
            for record in found:
                if record is not None and record.lines > 1:
                    self._note(record)
                yield record

    def _note(self, record: Line) -> None:
        header = self._headers[record.file]
        assert header is not None
        self._folded.note(record, len(header.names), self._dialects[record.file].delimiter)

    def fingerprint(self, record: Line) -> bytes:
        """The header's mark and the record's text, or its length if it is over the limit."""
        header = self._headers[record.file]
        assert header is not None
        data = record.data if record.data is not None else str(record.size).encode()
        return header.mark + data.rstrip(b"\r") + b"\n"

    def fields(self, record: Line) -> tuple[JsonObject | None, str | None]:
        """A record's fields; only the data if a parameter is broken."""
        header = self._headers[record.file]
        assert header is not None
        found = record.cells
        if record.problem is not None or found is None:
            return None, record.problem
        if len(found) != len(header.names):
            return None, f"{len(found)} fields where the header has {len(header.names)}"
        fields: JsonObject = {}
        problem = None
        for name, cell, sent in zip(header.names, found, header.sent, strict=True):
            if not sent:
                fields[name] = cell
                continue
            try:
                value = cells.text(name, cell)
            except ValueError as error:
                problem = problem or str(error)
            else:
                if value is not None:
                    fields[name] = value
        return fields, problem

    def carried_batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """The carried cells of some rows; a column that a row's file does not have is null."""
        assert self._carry is not None
        columns = [
            pa.array([row.get(name) for row in rows], pa.string()) for name in self._carry.names
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._carry.schema)
