"""A JSON file that is an array of rows, cut into its elements, with at most one in memory.

An element is found by its brackets and strings and parsed later, so that a faulty one is one bad
row. Elements are numbered from 1, in messages and as the lines of a ``Position``, whose offset is
after an element, where reading can begin again. A file that does not begin with ``[`` is JSON
lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto

import msgspec

from batchrun.adapters.sources.files import heads, lines
from batchrun.adapters.sources.files.lines import BOM, Line
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource, FileBytes
from batchrun.adapters.sources.jsonl import LINE_BYTES_MAX, JsonlReader
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.splitting import Splitter
from batchrun.errors import InputError
from batchrun.records import JsonObject, Position, Row

_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[^,\]\s]*+")
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_IN = rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+'
_FLAT = re.compile(_IN, re.DOTALL)
_QUICK = re.compile(
    rb"[ \t\r\n]*+(\{%s(?:[\[{]%s[\]}]%s)*+\})[ \t\r\n]*+," % (_IN, _IN, _IN), re.DOTALL
)
"""An object with at most one level of brackets inside, and the comma after it: most elements."""

_WRAPPED = re.compile(rb'"([^"\\]{1,100})"\s*:\s*\[\s*\{')
_OPENING, _CLOSING, _QUOTE, _BACKSLASH, _COMMA = b"{[", b"]"[0], b'"'[0], b"\\"[0], b","[0]
_OWN = ("messages", "body")
"""Lists and objects under these make a row of an object."""


class _At(Enum):
    """The scanner's state within the array."""

    START = auto()
    ELEMENT_OR_END = auto()
    INSIDE = auto()
    BEHIND_ELEMENT = auto()
    END = auto()
    BEHIND_END = auto()


class _Scanner:
    """Finds the elements in chunks of bytes. One is returned when the byte after it is known."""

    def __init__(self, index: int, start: Position, bytes_max: int) -> None:
        self._index = index
        self._bytes_max = bytes_max
        self._offset = start.offset
        self._number = start.line
        self._at = _At.START if start.offset == 0 else _At.BEHIND_ELEMENT
        self._ready: Line | None = None
        self._begin(None)

    def _begin(self, problem: str | None) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._problem = problem
        self._depth = 0
        self._in_string = self._escaped = self._is_scalar = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The elements that end in the next chunk."""
        place = 0
        while place < len(chunk):
            if self._at is _At.INSIDE:
                end = self._inside(chunk, place)
                self._take(chunk[place:] if end < 0 else chunk[place:end])
                if end < 0:
                    return
                place = end
                self._at = _At.BEHIND_ELEMENT
                self._ready = self._line()
                continue
            if self._at is _At.BEHIND_END:
                self._take(chunk[place:])
                return
            if self._at is _At.ELEMENT_OR_END and (found := _QUICK.match(chunk, place)):
                self._begin(None)
                self._offset += found.start(1) - place
                self._take(found[1])
                yield self._line()
                self._offset += found.end() - found.end(1)
                place = found.end()
                continue
            begun = _end(_SPACE, chunk, place)
            self._offset += begun - place
            place = begun
            if place == len(chunk):
                return
            if self._ready is not None:
                yield self._ready
                self._ready = None
            problem = self._next(chunk[place])
            if problem is not None:
                yield self._bad(problem)
            if self._at not in (_At.INSIDE, _At.BEHIND_END):
                place += 1
                self._offset += 1

    def _next(self, byte: int) -> str | None:
        """Take in a byte between elements; returns what is wrong with it."""
        match self._at:
            case _At.START:
                self._at = _At.ELEMENT_OR_END
            case _At.END:
                self._at = _At.BEHIND_END
                self._begin("there is text behind the end of the array")
            case _ if byte == _CLOSING:
                self._at = _At.END
            case _At.BEHIND_ELEMENT if byte == _COMMA:
                self._at = _At.ELEMENT_OR_END
            case _ if byte == _COMMA:
                return "an element is missing before a comma"
            case before:
                self._begin(
                    "there is no comma before the element" if before is _At.BEHIND_ELEMENT else None
                )
                self._is_scalar = byte not in _OPENING and byte != _QUOTE
                self._at = _At.INSIDE
        return None

    def _inside(self, chunk: bytes, place: int) -> int:
        """The end of the element in this chunk; -1 if it continues."""
        if self._is_scalar:
            place = _end(_SCALAR, chunk, place)
            return place if place < len(chunk) else -1
        if self._escaped:
            place += 1
            self._escaped = False
        while True:
            if self._in_string:
                place = _end(_STRING, chunk, place)
                if place >= len(chunk):
                    return -1
                if chunk[place] == _BACKSLASH:
                    self._escaped = True
                    return -1
                place += 1
                self._in_string = False
                if self._depth == 0:
                    return place
            place = _end(_FLAT, chunk, place) if self._depth else place
            if place >= len(chunk):
                return -1
            byte = chunk[place]
            place += 1
            if byte == _QUOTE:
                self._in_string = True
            elif byte in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return place

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        self._offset += len(piece)
        self._pieces = [] if self._size > self._bytes_max else [*self._pieces, piece]

    def _line(self) -> Line:
        self._number += 1
        data = None if self._size > self._bytes_max else b"".join(self._pieces)
        return Line(
            data, self._size, self._number, self._index, self._offset, problem=self._problem
        )

    def _bad(self, problem: str) -> Line:
        self._begin(problem)
        return self._line()

    def end(self) -> Iterator[Line]:
        """The bad row for a file that ends before its array does. Its position must not be the end
        of the file: reading on from there would find it again.
        """
        if self._at is _At.INSIDE:
            self._problem = "the file ends inside of this element: it is cut off"
            yield self._line()
        elif self._at is _At.BEHIND_END:
            yield self._line()
        elif self._at is _At.ELEMENT_OR_END:
            yield self._bad("the file ends before its array does: it is cut off")
        elif self._ready is not None:
            problem = "the file ends behind this element, before its array does: it is cut off"
            yield self._ready._replace(problem=problem)


def _end(pattern: re.Pattern[bytes], chunk: bytes, place: int) -> int:
    found = pattern.match(chunk, place)
    assert found is not None
    return found.end()


def split(
    source: ByteSource, index: int, start: Position, *, bytes_max: int
) -> Iterator[Line | None]:
    """The elements of one file from a position on; None if more may come, but not at once. Raises
    ``InputLostError`` if reading the file fails.
    """
    scanner = _Scanner(index, start, bytes_max)
    first = start.offset == 0
    for chunk in source.chunks(index, start.offset):
        if not chunk:
            yield None
            continue
        # The scanner sees a byte-order mark as three spaces, so that offsets stay those of the
        # file.
        yield from scanner.feed(b"   " + chunk[3:] if first and chunk.startswith(BOM) else chunk)
        first = False
    yield from scanner.end()


class JsonReader(JsonlReader):
    """``reader.Reader`` for JSON files: arrays, or lines."""

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
        """Check the first bytes of each file. Raises ``InputError`` for one that is an object
        around the rows.
        """
        super().__init__(files, source, carry, shard_rows, splitter, nan_is_null=nan_is_null)
        self._is_array = [_is_array(source, index, stamp) for index, stamp in enumerate(files)]

    def _records(self, start: Position, *, final: bool = False) -> Iterator[Line | None]:  # noqa: ARG002 - files can be read again
        for index in range(start.file, len(self._files)):
            here = start if index == start.file else Position(index)
            yield from self._of_file(self._source, index, here)

    def _of_file(self, source: ByteSource, index: int, start: Position) -> Iterator[Line | None]:
        if self._is_array[index]:
            return split(source, index, start, bytes_max=LINE_BYTES_MAX)
        stamp = self._files[index]
        return lines.split(source, stamp, index, start, bytes_max=LINE_BYTES_MAX, blank=False)

    def count(self, stop: Callable[[], bool]) -> int | None:
        """Count the elements, or the lines that are not blank."""
        rows = 0
        source = FileBytes(self._files)
        try:
            for index in range(len(self._files)):
                for _ in self._of_file(source, index, Position(index)):
                    if rows % 1024 == 0 and stop():
                        return None
                    rows += 1
        finally:
            source.close()
        return rows

    def fields(self, record: Line) -> tuple[JsonObject | None, str | None]:
        """The fields of an element or a line, or None and what is wrong with it."""
        if record.problem is not None:
            return None, record.problem
        fields, problem = super().fields(record)
        if problem is not None and self._is_array[record.file]:
            problem = problem.replace("the line", "the element")
        return fields, problem

    def where(self, row: Row) -> str:
        """See ``reader.Reader``: file and element."""
        if self._is_array[row.file]:
            return f"{self._files[row.file].name} element {row.line}"
        return super().where(row)


def _is_array(source: ByteSource, index: int, stamp: Stamp) -> bool:
    head, whole = heads.read(source, index, lines=1 if stamp.passes else None)
    text = head.removeprefix(BOM).lstrip()
    if text.startswith(b"{"):
        _refuse_wrapped(stamp, text, whole=whole)
    return text.startswith(b"[")


def _refuse_wrapped(stamp: Stamp, text: bytes, *, whole: bool) -> None:
    """Raise ``InputError`` for a single object that is written over several lines, or has the rows
    as a list.
    """
    first, _, rest = text.partition(b"\n")
    first = first.rstrip()
    if not first.endswith(b"}") and rest:
        found = _WRAPPED.search(text)
        inner = None if found is None else found[1].decode(errors="replace")
        raise _wrapped(stamp, None if inner in _OWN else inner)
    if not whole or rest.strip():
        return
    try:
        fields = msgspec.json.decode(first)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if not isinstance(fields, dict) or fields.keys() & set(_OWN):
        return
    lists = [
        name
        for name, value in fields.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    ]
    if len(lists) == 1:
        raise _wrapped(stamp, lists[0])


def _wrapped(stamp: Stamp, inner: str | None) -> InputError:
    name = stamp.name
    if inner is None:
        what = "an object over several lines"
        remedy = f"put the row on one line: jq -c . {name} > rows.jsonl"
    else:
        what = f"one object, and a list of objects under {inner!r} in it"
        remedy = (
            f"take the list out: jq '.[\"{inner}\"]' {name} > rows.json; if the object is one row, "
            "name it with --format jsonl, on one line"
        )
    return InputError(
        f"input {name} holds {what}, not an array of rows or a row on each line; {remedy}"
    )
