"""Turns the files that a user names into one source, with its schema of carried columns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources.files import finding, heads, pipes, storage
from batchrun.adapters.sources.files.local_file import read_file
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource, FileBytes, Pipe
from batchrun.adapters.sources.reader import Carry, Reader, choose
from batchrun.adapters.sources.sampling import PickingReader, Sample, SampledReader, Spool
from batchrun.adapters.sources.splitting import (
    MESSAGE_COLUMNS,
    Splitter,
    reserved_by,
    roles_of,
    schema_splitter,
    splitter_of,
)
from batchrun.core.request import columns
from batchrun.core.request.body import split
from batchrun.core.request.carried import COLUMNS_MAX
from batchrun.core.request.chained_rows import KIND
from batchrun.core.request.column_roles import JSON
from batchrun.core.settings.reading import NOW, QUOTED_FORMATS, Reading, plain
from batchrun.core.settings.resolve import Settings
from batchrun.errors import InputError, InputLostError, UsageError
from batchrun.records import Position, Span

NOTHING: tuple[str, ...] = ()
LOOKED_AT = 100
"""How many rows are read to find which columns are sent, if nothing else is needed."""

NO_MODEL = (
    "no model: name one with --model (or request.model in the config file). It may be a template "
    "over a column, such as '{{ model }}'; a column called `model` is sent by --send model"
)
if TYPE_CHECKING:
    from batchrun.adapters.sources.sheets import Workbooks
    from batchrun.core.request.prompt import Plan


@dataclass(frozen=True, slots=True)
class Input:
    """The input of a run: its files as they were found, their format, how a row is split, and the
    rules it is read by.

    ``pipe`` is input that can be read only once, such as standard input. ``picked`` are the rows of
    a sample, and ``spool`` has the data of a pipe for it.
    """

    stamps: tuple[Stamp, ...]
    kind: str
    splitter: Splitter = split
    pipe: Pipe | None = None
    reading: Reading = NOW
    picked: Sample | None = None
    spool: Spool | None = None
    notices: tuple[str, ...] = ()
    """Notices about how it will be read."""
    workbooks: Workbooks | None = None
    repeat: int = 1
    """How often each of its rows is sent."""

    def reader(self, carry: Carry | None, shard_rows: int) -> Reader:
        """The reader of the format, which yields every row as often as it is sent. Without
        ``carry`` it can only return its schema, and count the rows of the input. Raises
        ``InputError`` for files that are not of the format or do not match each other.
        """
        if carry is not None and self.repeat > 1:
            from batchrun.adapters.sources.repeating import RepeatingReader

            return RepeatingReader(self._selected, carry, shard_rows, self.repeat)
        return self._selected(carry, shard_rows)

    def _selected(self, carry: Carry | None, shard_rows: int, times: int = 1) -> Reader:
        """The reader of the rows to send, from the whole input or a sample, each once. Its blocks
        are small enough for each row to be repeated ``times`` times.
        """
        reader = self._reader(carry, shard_rows)
        reader.times = times
        if self.picked is None:
            return reader
        reader.picked = self.picked
        return SampledReader(reader, self.picked, self._count_beside)

    def shard_starts(self, carry: Carry, shard_rows: int) -> Iterator[tuple[int, Position]]:
        """The position in the input after each shard, and the number of the row there. Raises
        ``InputLostError``.
        """
        # With repeats, shards keep their numbers, and have more rows.
        reader = self._reader(carry, max(1, shard_rows // self.repeat))
        reader.picked = self.picked
        for row, end in reader.starts():
            yield row * self.repeat, end

    def _count_beside(self, stop: Callable[[], bool]) -> int | None:
        """The rows of the whole input, counted while another thread reads them."""
        return replace(self, picked=None).count(stop)

    def _reader(self, carry: Carry | None, shard_rows: int) -> PickingReader:
        if self.kind == "parquet":
            from batchrun.adapters.sources.parquet import ParquetReader

            nan_is_null = self.reading.nan_is_null
            return ParquetReader(
                self.stamps, carry, shard_rows, self.splitter, nan_is_null=nan_is_null
            )
        if self.kind == "xlsx":
            from batchrun.adapters.sources.sheets import SheetReader, Workbooks

            books = self.workbooks or Workbooks(self.stamps)
            return SheetReader(books, self.stamps, carry, shard_rows, self.splitter)
        stamps = self.stamps if self.spool is None else (self.spool.stamp,)
        source: ByteSource = self.pipe or FileBytes(stamps)
        splitter = schema_splitter(self.splitter) if carry is None else self.splitter
        if self.has_extra:
            from batchrun.adapters.sources.jsonl import JsonlReader

            made = JsonlReader
            if self.kind != "jsonl":
                from batchrun.adapters.sources.elements import JsonReader

                made = JsonReader
            nan_is_null = self.reading.nan_is_null
            return made(self.stamps, source, carry, shard_rows, splitter, nan_is_null=nan_is_null)
        from batchrun.adapters.sources.delimited import CsvReader

        return CsvReader(
            self.stamps,
            source,
            carry,
            shard_rows,
            self.splitter,
            self.reading.dialects or (plain(self.kind),) * len(self.stamps),
            quoted=self.reading.of(self.kind).quoting == "csv",
            looks=self.reading.looks,
        )

    def sampled(self, rows: int, seed: int) -> Input:
        """A sample of this input: that many of its rows, or all if it has no more. Raises
        ``InputError`` if they cannot be counted, and ``StorageError`` if the data of a pipe cannot
        be kept.
        """
        try:
            spool = self.spool if self.pipe is None else Spool(self.pipe)
            whole = replace(self, pipe=None, spool=spool, picked=None)
            return replace(whole, picked=Sample.drawn(whole.count() or 0, rows, seed))
        except InputLostError as error:
            raise InputError(str(error)) from error.__cause__

    def with_sample(self, recorded: bytes) -> Input:
        """The sample of this input that ``sample_recorded`` gave."""
        spool = None if self.pipe is None else Spool(self.pipe)
        return replace(self, pipe=None, spool=spool, picked=Sample.recorded(recorded))

    def sample_recorded(self) -> bytes | None:
        """The rows of the sample, to be recorded; None if this is not a sample."""
        return None if self.picked is None else self.picked.as_bytes()

    def is_of(self, recorded: object) -> bool:  # noqa: ARG002 - a source knows itself again
        """Whether this is certainly the run that was recorded as the source of a run."""
        return False

    def recorded(self) -> dict[str, Any]:
        """The values that a run records of its input besides its stamps, by key."""
        return {}

    def count(self, stop: Callable[[], bool] = lambda: False) -> int | None:
        """The number of rows of an input that is not a sample, counted now; None if ``stop``
        returned true before it was known. Raises ``InputLostError``.
        """
        stamps = self.stamps if self.spool is None else (self.spool.stamp,)
        return replace(self, stamps=stamps, spool=None).reader(None, 1).count(stop)

    @property
    def has_extra(self) -> bool:
        """Whether there may be fields that fit no column."""
        return self.kind in JSON

    def carry(self, wanted: str | tuple[str, ...], shard_rows: int) -> Carry:
        """The columns that are carried, and those known to be sent. Raises ``InputError``, or
        ``UsageError`` for a missing column.
        """
        try:
            reader = self.reader(None, shard_rows)
            if wanted == "none" and self.kind != KIND:
                # Do not wait for more rows of a pipe: one shows what is sent.
                schema, sent = pa.schema([]), NOTHING
                with contextlib.suppress(InputLostError):
                    sent = reader.sent(1 if self.pipe else LOOKED_AT)
            else:
                schema = reader.schema()
                sent = reader.sent(0)
        except InputLostError as error:
            raise InputError(str(error)) from error.__cause__
        known = self.reading.columns_are_data
        return replace(self.choose(schema, wanted), sent=sent if known else ())

    def choose(
        self, schema: pa.Schema, wanted: str | tuple[str, ...], kept: Collection[str] = ()
    ) -> Carry:
        """The columns of the results that are not the answer's, out of those of the input: see
        ``reader.choose``; with repeats also the two that number these.
        """
        own = tuple(reserved_by(self.splitter))
        if self.repeat == 1:
            return choose(schema, wanted, with_extra=self.has_extra, kept=kept, taken=own)
        from batchrun.adapters.sources.repeating import with_repeats

        own = (*own, *part_schema.REPEAT_NAMES)
        carry = choose(schema, wanted, with_extra=self.has_extra, kept=kept, taken=own)
        return with_repeats(carry, self.repeat)

    def require_model(self, settings: Settings, *, of_rows: bool = True) -> None:
        """Check that some row has a model, if the settings have none. Without ``of_rows``, rows
        with their own messages may all lack one.

        Raises ``UsageError``: nothing of such an input could be sent. JSON rows are read up to the
        first that has one, at most as many as determine the carried columns.
        """
        if settings.has_model or not self.reading.columns_are_data:
            return
        if not of_rows and not settings.makes_messages:
            return
        apart, some = schema_splitter(self.splitter), False
        with contextlib.suppress(InputLostError):
            for fields in self.reader(None, 1).sample():
                body = apart(dict(fields)).body
                if body is None:
                    continue
                # The `extra_body` of a table is only known row by row.
                if "model" in body or (self.kind == "parquet" and "extra_body" in fields):
                    return
                some = True
            if some:
                raise UsageError(NO_MODEL)

    def with_messages(self) -> Input:
        """This input, if a row may be a request. Raises ``InputError`` for a table whose columns do
        not make one, without a template that does. JSON rows may differ, so they only get a notice,
        and each bad row becomes an ``invalid_row``. Rows are read up to the first that may be a
        request, at most as many as determine the carried columns.
        """
        rows_differ = self.kind == "jsonl"
        if rows_differ and self.pipe is not None:  # its next rows may take long to arrive
            return self
        names: dict[str, None] = {}
        try:
            for row in self.reader(None, 1).sample():
                if any(name in MESSAGE_COLUMNS for name in row):
                    return self
                if len(names) <= COLUMNS_MAX:
                    names.update(dict.fromkeys(row))
        except InputLostError as error:
            raise InputError(str(error)) from error.__cause__
        if not names:
            return self
        message = columns.no_messages(self.stamps[0].name, list(names))
        if not rows_differ:
            raise InputError(message)
        return replace(self, notices=(*self.notices, f"warning: {message}"))

    def require_rows(self) -> None:
        """Raise ``InputError`` for an input without a row, or one that cannot be opened."""
        fields = [pa.field(part_schema.EXTRA, pa.string())] if self.has_extra else []
        reader = self._selected(Carry(pa.schema(fields), (), everything=False), 1)
        try:
            block = next(reader.blocks([Span(0, None, Position())], limit=1), None)
        except InputLostError as error:
            raise InputError(str(error)) from error.__cause__
        if block is None:
            names = ", ".join(stamp.name for stamp in self.stamps[:5])
            more = f" and {len(self.stamps) - 5:,} more" if len(self.stamps) > 5 else ""
            message = f"input {names}{more}: not a single row in it"
            raise InputError(message)


def find(
    names: Sequence[str],
    given_format: str,
    plan: Plan | None = None,
    reading: Reading = NOW,
) -> Input:
    """The input that a user names: files, globs, directories, addresses, or ``-`` for standard
    input; with the templates of ``plan`` applied to its rows.

    Raises ``InputError`` for input that cannot be read or has no rows, ``UsageError`` for a
    template that names a missing column, or that no row can render.
    """
    found = _found(names, given_format, plan, reading)
    found.require_rows()
    if plan is not None and not plan.only_repeats:
        return shaped(found, plan)
    return found.with_messages()


def column_names(names: Sequence[str], given_format: str, rows: int) -> list[str]:
    """The columns of the input: those of its header or schema, else of its first rows. Raises as
    ``find`` does.
    """
    found = _found(names, given_format, None, NOW)
    sample = islice(found.reader(None, 1).sample(), rows)
    return list(dict.fromkeys(name for row in sample for name in row))


def _found(names: Sequence[str], given_format: str, plan: Plan | None, reading: Reading) -> Input:
    files = finding.expand(names, given_format)
    paths = [file.path for file in files]
    once = next((path for path in paths if pipes.passes(path)), None)
    kind = finding.format_of(paths, given_format, once)
    pipe = None if once is None else Pipe(pipes.opened(once), once)
    if kind == finding.UNKNOWN:
        assert pipe is not None
        kind = heads.format_piped(pipe, paths[0]) if reading.looks else "jsonl"
    for name, asked in reading.asked().items():
        if kind not in QUOTED_FORMATS:
            message = f"input.{name} is {asked}, and the input is {kind}, not CSV or TSV"
            raise UsageError(message)
    stamps = [Stamp(once, -1, 0)] if once is not None else _stamped(files, reading)
    if kind == "jsonl" and pipe is None and reading.looks and heads.holds_array(stamps):
        kind = "json"
    splitter = splitter_of(kind, plan, reading)
    reading = heads.with_dialects(reading.of(kind), kind, stamps, pipe)
    said = tuple(heads.notices(reading, kind, stamps))
    times = 1 if plan is None else plan.repeat
    found = Input(
        tuple(stamps), kind, splitter, pipe=pipe, reading=reading, notices=said, repeat=times
    )
    if kind == "xlsx":
        from batchrun.adapters.sources.sheets import Workbooks

        found = replace(found, workbooks=Workbooks(stamps))
    return found


def _stamped(files: Sequence[finding.Found], reading: Reading) -> list[Stamp]:
    """The stamps of files, with their sheets and the columns that their folders name."""
    stamps = storage.stamp([file.path for file in files])
    return [
        replace(stamp, sheet=file.sheet, folders=file.folders if reading.looks else ())
        for stamp, file in zip(stamps, files, strict=True)
    ]


def shaped(found: Input, plan: Plan) -> Input:
    """An input with templates applied to its rows. Raises as ``find`` does."""
    try:
        sample = found.reader(None, 1).sample()
        shaper = plan.shaper(sample, read_file, roles_of(found.splitter))
    except InputLostError as error:
        raise InputError(str(error)) from error.__cause__
    if not plan.renders:  # it only assigns columns, which the present splitter knows
        return found
    replace(found, splitter=shaper.strict()).require_rows()
    return replace(found, splitter=shaper)
