"""The results of another run as input (``--from``): one row per selected row, in the same order.

Parts are read one after the other, one row group at a time, and only the columns that are carried,
or that templates show. A row's position is the number of its part and its row in the run, so that
reading can begin at any shard of the new run. Nothing of an answer is sent as a parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import opening, repeating
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.parquet import BLOCK_BYTES, BLOCK_ROWS, ParquetReader
from batchrun.adapters.sources.reader import Carry, choose
from batchrun.adapters.sources.sampling import PickingReader
from batchrun.adapters.sources.splitting import Splitter, needs_of, splitter_of
from batchrun.adapters.storage.store import StoreReader
from batchrun.core.request.chained_rows import (
    FIELDS,
    HASHED,
    KIND,
    MESSAGES,
    ROW,
    SOURCE,
    SOURCE_HASH,
    SOURCE_ROW,
    carried_names,
    fields_used,
    source_hash,
)
from batchrun.core.request.prompt import Plan
from batchrun.core.settings.reading import NOW
from batchrun.errors import InputError, InputLostError
from batchrun.records import Block, Position, Row, Span

Messages = Callable[[Sequence[int], Sequence[str | None]], Sequence[Any]]
"""The messages of the requests of some rows, given their request hashes; None for a row that was
never sent. Raises ``InputLostError`` if they cannot be found.
"""
ANY = "any"
_TYPES = dict(part_schema.RESULT_FIELDS)
_EXAMPLE_CALL = {"id": "", "type": "", "name": "", "arguments": ""}
_HASH = "request_hash"
OWN = (pa.field(SOURCE_ROW, pa.int64()), pa.field(SOURCE_HASH, pa.string()))


@dataclass(frozen=True, slots=True)
class RunSource:
    """Another run as input: the names of its parts of results, the columns that its rows carry, and
    which rows are selected (``ok``, ``error`` or ``any``). ``run`` is its id, if known;
    ``messages`` finds the messages of its requests.
    """

    name: str
    directory: str
    store: StoreReader
    parts: tuple[str, ...]
    carried: pa.Schema
    status: str
    run: str | None = None
    messages: Messages | None = None


@dataclass(frozen=True, slots=True)
class RunInput(Input):
    """An ``Input`` made from the results of another run. ``fields`` are the fields of ``row`` that
    templates show.
    """

    source: RunSource = field(kw_only=True)
    fields: frozenset[str] = frozenset()

    def _reader(self, carry: Carry | None, shard_rows: int) -> PickingReader:
        return RunReader(
            self.source,
            self.fields,
            self.stamps,
            carry,
            shard_rows,
            self.splitter,
            taken=self._taken,
        )

    @property
    def _taken(self) -> tuple[str, ...]:
        """The columns that ``--repeat`` adds to this run."""
        return part_schema.REPEAT_NAMES if self.repeat > 1 else ()

    def is_of(self, recorded: object) -> bool:
        """See ``Input``: the same directory, or one that was moved since."""
        if not isinstance(recorded, dict):
            return False
        same_run = self.source.run is not None and recorded.get("run") == self.source.run
        return same_run or recorded.get("directory") == self.source.directory

    @property
    def own(self) -> tuple[pa.Field, ...]:
        """The columns that identify a row's source; they are always carried."""
        return OWN

    def recorded(self) -> dict[str, Any]:
        """See ``Input``: the place of the source, and its id."""
        return {SOURCE: {"directory": self.source.directory, "run": self.source.run}}

    def choose(
        self, schema: pa.Schema, wanted: str | tuple[str, ...], kept: Collection[str] = ()
    ) -> Carry:
        """See ``Input``. The columns that identify a row are always carried."""
        names = wanted
        if isinstance(wanted, tuple) or wanted == "none":
            named = wanted if isinstance(wanted, tuple) else ()
            names = tuple(dict.fromkeys([*named, *(each.name for each in self.own)]))
        found = choose(schema, names, with_extra=False, kept=kept, taken=self._taken)
        # Fields that fitted no column of the first run of a chain are carried under their own name.
        fields = [
            each.with_name(name) if name == part_schema.EXTRA else each
            for name, each in zip(found.names, found.schema, strict=True)
        ]
        found = replace(found, schema=pa.schema(fields))
        return found if self.repeat == 1 else repeating.with_repeats(found, self.repeat)

    def require_rows(self) -> None:
        """Raise ``InputError`` for a selection without a row, or one that cannot be read."""
        reader = self._reader(choose(pa.schema(self.own), "all", with_extra=False), 1)
        try:
            if next(reader.blocks([Span(0, None, Position())], limit=1), None) is not None:
                return
        except InputLostError as error:
            raise InputError(str(error)) from None
        which = "row" if self.source.status == ANY else f"`{self.source.status}` row"
        hint = "" if self.source.status == ANY else "; --from-status any takes all of its rows"
        message = f"--from {self.source.name}: there is not a single {which} in it{hint}"
        raise InputError(message)


def run_input(source: RunSource, stamps: Sequence[Stamp], plan: Plan) -> RunInput:
    """The results of a run as an input, with the templates of ``plan`` applied to its rows. Raises
    ``InputError`` for a selection without a row, ``UsageError`` for a template with an unknown
    field.
    """
    used = fields_used(plan.templates.paths, plan.templates.whole)
    splitter = splitter_of(KIND, plan, NOW)
    reading = NOW.of(KIND)
    found = RunInput(
        tuple(stamps),
        KIND,
        splitter,
        reading=reading,
        repeat=plan.repeat,
        source=source,
        fields=used,
    )
    found.require_rows()
    shaped = opening.shaped(found, plan)
    assert isinstance(shaped, RunInput)
    return shaped


class RunReader(ParquetReader):
    """``reader.Reader`` for the results of another run."""

    own: tuple[pa.Field, ...] = OWN
    """The columns that identify a row's source."""

    def __init__(
        self,
        source: RunSource,
        fields: frozenset[str],
        stamps: Sequence[Stamp],
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
        *,
        taken: Sequence[str] = (),
    ) -> None:
        """``taken`` are names that carried columns must not use. Raises ``InputError`` for a part
        that cannot be read.
        """
        self._source = source
        self._parts_of = [f"results/{name}" for name in source.parts]
        self._renamed = carried_names(source.carried.names, taken)
        super().__init__(stamps, carry, shard_rows, splitter)
        self._answer = ROW in needs_of(splitter)
        self._fields = fields if self._answer else frozenset()
        self._shown = self._shown | {ROW} if self._answer else self._shown

    def _known(self) -> tuple[list[pa.Schema], list[int]]:
        carried = [
            each.with_name(name).remove_metadata()
            for name, each in zip(self._renamed, self._source.carried, strict=True)
        ]
        whole = pa.schema([pa.field("custom_id", pa.string()), *carried, *self.own])
        return [whole] * len(self._files), []

    def sample(self) -> Iterator[dict[str, Any]]:
        """See ``reader.Reader``."""
        for row in super().sample():
            yield row | {ROW: self.example()}

    def example(self) -> dict[str, Any]:
        """An example answer in the form that templates see."""
        answer: dict[str, Any] = dict.fromkeys(FIELDS, "")
        return answer | {"tool_calls": [_EXAMPLE_CALL], MESSAGES: None}

    def count(self, stop: Callable[[], bool]) -> int | None:
        """The number of selected rows; only their status is read."""
        rows = 0
        for index in range(len(self._parts_of)):
            if stop():
                return None
            with self._opened(index) as part:
                if self._source.status == ANY:
                    rows += part.metadata.num_rows
                    continue
                for group in range(part.num_row_groups):
                    status = part.read_row_group(group, columns=["status"], use_threads=False)
                    rows += status.column(0).to_pylist().count(self._source.status)
        return rows

    def starts(self) -> Iterator[tuple[int, Position]]:
        """See ``PickingReader``. Only numbers and status of the rows are read."""
        rows, picked, size = self.count(lambda: False) or 0, self.picked, self._shard_rows
        if picked is not None:
            rows = picked.below(rows)
        ends = iter([*range(size, rows, size), *([rows] if rows else ())])
        row = next(ends, None)
        first = 0
        for index in range(len(self._parts_of)):
            with self._opened(index) as part:
                for batch in part.iter_batches(columns=["row", "status"], use_threads=False):
                    numbers = self._kept(batch, 0).column("row")
                    while row is not None:
                        place = (row if picked is None else picked.behind(row)) - 1 - first
                        if place >= len(numbers):
                            break
                        line = numbers[place].as_py() + 1
                        yield row, Position(index, line, line)
                        row = next(ends, None)
                    first += len(numbers)

    def where(self, row: Row) -> str:
        """See ``reader.Reader``."""
        return f"{self._source.name} row {row.line}"

    @contextlib.contextmanager
    def _opened(self, index: int) -> Iterator[pq.ParquetFile]:
        """A part of the run. Raises ``InputLostError`` for one that cannot be read."""
        name = self._parts_of[index]
        where = self._source.store.where(name)
        try:
            with (
                self._source.store.open(name) as file,
                pq.ParquetFile(file, pre_buffer=False) as part,
            ):
                yield part
        except (OSError, pa.ArrowException) as error:
            message = (
                f"{where} cannot be read: {error}. It is a part of the run that --from names: "
                "`batchrun verify` checks that one"
            )
            raise InputLostError(message) from error

    def _batches(
        self,
        start: Position,
        *,
        final: bool,  # noqa: ARG002 - parts can be read again
    ) -> Iterator[tuple[pa.RecordBatch, Position]]:
        """The selected rows, with the place of the first one: a position in a part is the number of
        the row in the run.
        """
        for index in range(start.file, len(self._parts_of)):
            first = start.offset if index == start.file else 0
            with self._opened(index) as part:
                for batch in self._selected(part, first):
                    row = batch.column(SOURCE_ROW)[0].as_py()
                    yield batch, Position(index, row, row)

    def _selected(self, part: pq.ParquetFile, first: int) -> Iterator[pa.RecordBatch]:
        """The selected rows of a part from row ``first`` of the run on, in batches."""
        there = set(part.schema_arrow.names)
        names = [name for name in self._columns() if name in there]
        place = part.schema_arrow.get_field_index("row")
        for index in range(part.num_row_groups):
            group = part.metadata.row_group(index)
            statistics = group.column(place).statistics
            if statistics is not None and statistics.has_min_max and statistics.max < first:
                continue
            size_bytes = sum(
                column.total_uncompressed_size
                for column in map(group.column, range(group.num_columns))
                if column.path_in_schema.partition(".")[0] in names
            )
            row_bytes = max(1.0, size_bytes / max(1, group.num_rows))
            size = max(1, min(BLOCK_ROWS, int(BLOCK_BYTES / row_bytes)))
            for batch in part.iter_batches(
                batch_size=size, row_groups=[index], columns=names, use_threads=False
            ):
                kept = self._kept(batch, first)
                if kept.num_rows:
                    yield self._as_input(kept)

    def _columns(self) -> list[str]:
        """The columns of the results that are read."""
        wanted = {"row", "status", "custom_id"}
        wanted |= {
            own
            for own, name in zip(self._source.carried.names, self._renamed, strict=True)
            if name in self._read
        }
        if SOURCE_HASH in self._read:
            wanted.update(HASHED)
        wanted.update(self._fields.intersection(FIELDS))
        if MESSAGES in self._fields:
            wanted.add(_HASH)
        return sorted(wanted)

    def _kept(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """The selected rows of a batch of results."""
        rows = batch.column("row").to_pylist()
        wanted = self._source.status
        if wanted == ANY:
            kept = [row >= first for row in rows]
        else:
            status = batch.column("status").to_pylist()
            kept = [row >= first and said == wanted for row, said in zip(rows, status, strict=True)]
        return batch if all(kept) else batch.filter(pa.array(kept, pa.bool_()))

    def _as_input(self, results: pa.RecordBatch) -> pa.RecordBatch:
        """Results as rows of the input: the columns that are read, under the names of this run."""
        found = {"custom_id": column_of(results, "custom_id"), SOURCE_ROW: results.column("row")}
        for own, name in zip(self._source.carried.names, self._renamed, strict=True):
            if own in results.schema.names and name in self._read:
                found[name] = results.column(own)
        if SOURCE_HASH in self._read:
            answers = zip(*(column_of(results, name).to_pylist() for name in HASHED), strict=True)
            found[SOURCE_HASH] = pa.array([source_hash(*each) for each in answers], pa.string())
        if self._answer:
            used = sorted(self._fields.intersection(FIELDS))
            columns = [column_of(results, name) for name in used]
            if MESSAGES in self._fields:
                used.append(_HASH)
                columns.append(column_of(results, _HASH))
            if not used:
                used, columns = ["status"], [results.column("status")]
            found[ROW] = pa.StructArray.from_arrays(columns, names=used)
        return pa.RecordBatch.from_pydict(found)

    def _data(self, batch: pa.RecordBatch) -> dict[str, list[Any]]:
        found = super()._data(batch)
        if MESSAGES in self._fields and self._source.messages is not None:
            hashes = [answer.pop(_HASH) for answer in found[ROW]]
            rows = batch.column(SOURCE_ROW).to_pylist()
            for answer, said in zip(found[ROW], self._source.messages(rows, hashes), strict=True):
                answer[MESSAGES] = said
        return found

    def _blocks(
        self,
        shard: int,
        first_row: int,
        batch: pa.RecordBatch,
        file: int,
        lines: Sequence[int],  # noqa: ARG002 - the rows of the run may have gaps
        digest: Any,
    ) -> Iterator[Block]:
        rows = batch.column(SOURCE_ROW).to_pylist()
        yield from super()._blocks(shard, first_row, batch, file, rows, digest)


def column_of(results: pa.RecordBatch, name: str) -> pa.Array:
    """A column of results; nulls if an earlier version did not write it."""
    if name in results.schema.names:
        return results.column(name)
    return pa.nulls(results.num_rows, _TYPES[name])
