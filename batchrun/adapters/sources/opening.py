"""From the files a user names to one source, with its schema of carried columns."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from batchrun.adapters import arrow
from batchrun.adapters.sources.local import read_file
from batchrun.core import carried
from batchrun.core.body import Split, split
from batchrun.core.shaping import Plan, Shaper
from batchrun.errors import InputError, InputLostError, UsageError
from batchrun.records import Block, JsonObject, Position, Row, Span

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}


class Reader(Protocol):
    """The rows of the input files, read synchronously."""

    def schema(self) -> pa.Schema:
        """The carried columns as the input has them, before they are chosen and renamed."""
        ...

    def sample(self) -> Iterator[Mapping[str, Any]]:
        """Rows that tell which columns there are, and which keys inside them: the first ones, or
        one that the input's schema stands for.
        """
        ...

    def blocks(self, spans: Sequence[Span], *, limit: int | None) -> Iterator[Block]:
        """The blocks of the spans, in input order; only rows numbered below ``limit``."""
        ...

    def where(self, row: Row) -> str:
        """Where a row stands, for a message: its file and line."""
        ...

    def count(self, stop: Callable[[], bool]) -> int | None:
        """The number of rows, or None if ``stop`` said so before it was known."""
        ...


@dataclass(frozen=True, slots=True)
class Carry:
    """Which carried columns are kept, and what they are called in the results."""

    schema: pa.Schema
    """As published: output names, exact types."""
    names: tuple[str, ...]
    """The same columns under the input's names."""
    everything: bool
    """Whether fields without a column are kept too, in ``extra`` (JSON rows)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the same, without reading it. Only the bytes present at
    the start are input: what is appended during a run belongs to the next one.
    """

    path: str
    size: int
    mtime_ns: int


def stamp(files: Sequence[str]) -> list[Stamp]:
    """The stamps of the input files.

    Raises ``InputError`` for a file that cannot be read.
    """
    stamps = []
    for name in files:
        path = Path(name)
        try:
            found = path.stat()
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with path.open("rb"):
                pass
        except OSError as error:
            message = f"input {name}: {error.strerror}"
            raise InputError(message) from None
        stamps.append(Stamp(name, found.st_size, found.st_mtime_ns))
    return stamps


def format_of(files: Sequence[str], given: str) -> str:
    """The one format of all files. Raises ``InputError`` where it is not known or not one."""
    if given != "auto":
        return given
    found = {}
    for name in files:
        suffix = Path(name).suffix.lower()
        if suffix not in FORMATS:
            known = ", ".join(FORMATS)
            message = (
                f"input {name}: {suffix or 'no suffix'} is not a format that can be read here "
                f"({known}); say which it is with --format"
            )
            raise InputError(message)
        found[FORMATS[suffix]] = name
    if len(found) > 1:
        message = f"one run reads one format; got {' and '.join(found.values())}"
        raise InputError(message)
    return next(iter(found))


def choose(schema: pa.Schema, carry: str | tuple[str, ...], *, with_extra: bool) -> Carry:
    """Apply ``--carry`` to the columns the input has, and name them for the results.

    Raises ``UsageError`` for a column that is not there.
    """
    if carry == "all":
        names = schema.names
    elif carry == "none":
        names = []
    else:
        names = list(carry)
        missing = [name for name in names if name not in schema.names]
        if missing:
            have = ", ".join(schema.names) or "none"
            message = f"input.carry names {missing[0]!r}; the columns to carry are: {have}"
            raise UsageError(message)
    taken = [*arrow.RESULT_NAMES, arrow.EXTRA]
    fields = [
        schema.field(name).with_name(new).with_nullable(True).remove_metadata()  # noqa: FBT003 - Arrow's own
        for name, new in zip(names, carried.output_names(names, taken), strict=True)
    ]
    if with_extra:
        fields.append(pa.field(arrow.EXTRA, pa.string()))
    return Carry(pa.schema(fields), tuple(names), everything=carry == "all")


Splitter = Callable[[JsonObject], Split]
"""Tells a row's fields apart: what is sent, what is carried (``body.split`` is one)."""


@dataclass(frozen=True, slots=True)
class Input:
    """The input of a run: its files as they were found, their format, and how a row is split."""

    stamps: tuple[Stamp, ...]
    kind: str
    splitter: Splitter = split

    def reader(self, carry: Carry | None, shard_rows: int) -> Reader:
        """The reader of the format. Without ``carry`` it can only tell its schema and count."""
        if self.kind == "jsonl":
            from batchrun.adapters.sources.jsonl import JsonlReader

            splitter = self.splitter
            if carry is None and isinstance(splitter, Shaper):
                # What is carried is known without rendering a template or reading a file.
                splitter = splitter.apart
            return JsonlReader(self.stamps, carry, shard_rows, splitter)
        from batchrun.adapters.sources.parquet import ParquetReader

        return ParquetReader(self.stamps, carry, shard_rows, self.splitter)

    @property
    def has_extra(self) -> bool:
        """Whether fields may come that fit no column."""
        return self.kind == "jsonl"

    def require_rows(self) -> None:
        """Raise ``InputError`` for an input without a row, or one that cannot be opened."""
        fields = [pa.field(arrow.EXTRA, pa.string())] if self.has_extra else []
        reader = self.reader(Carry(pa.schema(fields), (), everything=False), 1)
        try:
            block = next(reader.blocks([Span(0, None, Position())], limit=1), None)
        except InputLostError as error:
            raise InputError(str(error)) from None
        if block is None:
            names = ", ".join(stamp.path for stamp in self.stamps)
            message = f"input {names}: not a single row in it"
            raise InputError(message)


def find(files: Sequence[str], given_format: str, plan: Plan | None = None) -> Input:
    """The input that a user names, with the templates of ``plan`` applied to its rows.

    Raises ``InputError`` for what cannot be read or is no rows, ``UsageError`` for a template that
    names a column which is not there, or that no row can render.
    """
    found = Input(tuple(stamp(files)), format_of(files, given_format))
    found.require_rows()
    if plan is None:
        return found
    try:
        shaper = plan.shaper(found.reader(None, 1).sample(), read_file)
    except InputLostError as error:
        raise InputError(str(error)) from None
    replace(found, splitter=shaper.strict()).require_rows()
    return replace(found, splitter=shaper)
