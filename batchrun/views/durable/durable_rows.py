"""The durable rows of a run directory, from parts and journal, without the lock.

Logs are opened before parts: a log that disappears meanwhile was published, and its rows are in a
part by then. If both have a row, the log wins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.columns.columns import ATTEMPTS, MESSAGES
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.storage import files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import (
    REQUESTS,
    SCORES,
    SUMMARY,
    part_name,
    part_names,
    part_number,
    read_json,
)
from batchrun.core.settings.table import BY_NAME
from batchrun.errors import UsageError
from batchrun.rundir import inspect, state_reader
from batchrun.rundir.inspect import Look
from batchrun.rundir.open_run import STATUS
from batchrun.views.durable.log_view import LogView, logs_of

STRETCH_ROWS = 1024
"""Rows of a shard in progress that are put in order at once."""
NOTHING: Container[int] = ()
_OF_SCORES = ("row", "custom_id")


class DurableRows:
    """A view of a run directory. Later changes may or may not be in it: each row has its state at
    some moment since.
    """

    def __init__(self, folder: str, checkpoint: str | None = None) -> None:
        """Raises ``UsageError`` for what is not a run directory."""
        self.directory = folder
        """As it was named."""
        self.look: Look = inspect.look_at(folder, checkpoint)
        self.store = self.look.store
        place = self.look.checkpoint
        found = read_json(self.store, SUMMARY)
        self.summary: dict[str, Any] = found if isinstance(found, dict) else {}
        self.known = None if place is None else state_reader.read(place)
        shards = {} if self.known is None else self.known.shards
        self._logs = logs_of(place, {n: one.generation for n, one in shards.items()})
        if self.look.fleet is not None:
            from batchrun.rundir.fleet import looking

            self._logs |= looking.logs(self.look.fleet)
        self._parts = {part_number(name) for name in part_names(self.store, "results")}
        if not self._parts and self.known is None and not self.summary:
            raise inspect.no_run(self.look)
        self.shard_rows = self._recorded("output.shard_rows")

    @property
    def place(self) -> str:
        """The directory in canonical form."""
        store = self.store
        return str(store.folder.resolve()) if isinstance(store, DiskStore) else store.where()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run as they are recorded, by name."""
        told = self.summary.get("settings")
        found = dict(told) if isinstance(told, dict) else {}
        return found | (self.known.settings if self.known else {})

    @property
    def has_turns(self) -> bool:
        """Whether it is a run of conversations."""
        return part_schema.has_turns(self.settings)

    def _recorded(self, name: str) -> Any:
        return self.settings.get(name, BY_NAME[name].default)

    @property
    def rows_input(self) -> int | None:
        """Rows of the input, if they were counted."""
        rows = self.summary.get("rows")
        found = rows.get("input") if isinstance(rows, dict) else None
        if found is None and self.known is not None:
            found = self.known.meta.get("input_rows")
        if found is None and self.look.checkpoint is not None:
            live = files.read_json(self.look.checkpoint / STATUS)
            found = live.get("rows_input") if isinstance(live, dict) else None
        return found if isinstance(found, int) else None

    @property
    def shards(self) -> list[int]:
        """The shards of which something is durable."""
        parts = {number for number in self._parts if number is not None}
        return sorted(parts | self._logs.keys())

    def carried(self) -> pa.Schema:
        """The carried columns."""
        recorded = None if self.known is None else self.known.carried
        if recorded is not None:
            return recorded
        own = {*part_schema.RESULT_NAMES, *([MESSAGES.name] if self.has_turns else ())}
        return pa.schema([f for f in self._schema() if f.name not in own])

    def schema(self) -> pa.Schema:
        """The columns of results."""
        carried = self.carried()
        found = self._schema()
        if len(found):
            return found
        return part_schema.results_schema(carried, turns=self.has_turns)

    def _schema(self) -> pa.Schema:
        for number in sorted(n for n in self._parts if n is not None):
            with contextlib.suppress(FileNotFoundError), self._opened("results", number) as part:
                return part.schema_arrow
        return pa.schema([])

    # Passing over all rows

    def pieces(
        self, shard: int, columns: Sequence[str], rows: range | None = None
    ) -> Iterator[pa.Table]:
        """Some columns of a shard's results, in pieces of bounded size, every row once; of all
        ``rows``, or of these. Those that the run lacks are null. ``row`` is among them.
        """
        schema = self.schema()
        wanted = pa.schema([field for field in schema if field.name in {*columns, "row"}])
        carried = self.carried()
        needed = carried if any(name in columns for name in carried.names) else None
        with contextlib.ExitStack() as stack:
            log = self._log(shard, stack)
            newer = NOTHING if log is None else log.rows
            if log is not None:
                for table in log.tables(rows, needed, turns=self.has_turns):
                    yield part_schema.completed(_with(table, wanted), wanted)
            with contextlib.suppress(FileNotFoundError):
                part = stack.enter_context(self._opened("results", shard))
                for table in self._of_part(part, shard, wanted, newer, rows):
                    yield table if rows is None else _among(table, rows)

    def _of_part(
        self,
        part: pq.ParquetFile,
        shard: int,
        wanted: pa.Schema,
        newer: Container[int],
        rows: range | None,
    ) -> Iterator[pa.Table]:
        names = [name for name in wanted.names if name in part.schema_arrow.names]
        for group in _groups(part, rows):
            try:
                table = part.read_row_group(group, columns=names, use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise damaged(self._where("results", shard), error) from error
            table = part_schema.completed(table, wanted)
            if newer is not NOTHING:
                kept = [row not in newer for row in table.column("row").to_pylist()]
                table = table.filter(pa.array(kept, pa.bool_()))
            yield table

    def ordered(self, shard: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The same as ``pieces`` in row order. Of a shard with a log, what is there of some rows
        after the other is read again for each stretch of them.
        """
        if shard not in self._logs:
            yield from self.pieces(shard, columns)
            return
        first = shard * self.shard_rows
        for low in range(first, first + self.shard_rows, STRETCH_ROWS):
            rows = range(low, min(low + STRETCH_ROWS, first + self.shard_rows))
            tables = list(self.pieces(shard, columns, rows))
            if sum(table.num_rows for table in tables):
                yield pa.concat_tables(tables).sort_by("row")

    def all_pieces(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The same of all shards."""
        for shard in self.shards:
            yield from self.pieces(shard, columns)

    def ledgers(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of all attempts, every one once, in pieces of bounded size."""
        for shard in self.shards:
            with contextlib.ExitStack() as stack:
                log = self._log(shard, stack)
                names = [] if log is None else ["row", "attempt"]
                newer = set()
                if log is not None:
                    for held in log.all_attempts():
                        newer |= {(attempt.row, attempt.number) for attempt in held}
                        arrays = part_schema.attempt_columns(held)
                        schema = part_schema.attempts_schema()
                        yield pa.Table.from_arrays(arrays, schema=schema).select(columns)
                with contextlib.suppress(FileNotFoundError):
                    part = stack.enter_context(self._opened("attempts", shard))
                    yield from self._lines_of(part, shard, [*columns, *names], newer)

    def _lines_of(
        self, part: pq.ParquetFile, shard: int, columns: Sequence[str], newer: set[tuple[int, int]]
    ) -> Iterator[pa.Table]:
        wanted = part_schema.attempts_schema()
        wanted = pa.schema([wanted.field(name) for name in columns])
        names = [name for name in columns if name in part.schema_arrow.names]
        try:
            table = part.read(names, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._where("attempts", shard), error) from error
        table = part_schema.completed(table, wanted)
        if newer:
            places = part_schema.tuples(table.select(["row", "attempt"]))
            kept = [place not in newer for place in places]
            table = table.filter(pa.array(kept, pa.bool_()))
        yield table

    # Single rows

    def results(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The results of some rows of one shard, as Python values; no entry for pending ones."""
        [shard] = {row // self.shard_rows for row in rows}
        found: dict[int, dict[str, Any]] = {}
        with contextlib.ExitStack() as stack:
            log = self._log(shard, stack)
            for line in self._lines("results", shard, rows):
                found[line["row"]] = line
            if log is not None:
                for table in log.tables(set(rows), self.carried(), turns=self.has_turns):
                    found |= {line["row"]: line for line in table.to_pylist()}
        return found

    def attempts(self, rows: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """The ledger of some rows of one shard, by row, in the order of the attempts."""
        [shard] = {row // self.shard_rows for row in rows}
        found: dict[int, dict[int, dict[str, Any]]] = {row: {} for row in rows}
        with contextlib.ExitStack() as stack:
            log = self._log(shard, stack)
            for line in self._lines("attempts", shard, rows):
                found[line["row"]][line["attempt"]] = line
            newer = [] if log is None else list(log.attempts(set(rows)))
        names = [column.name for column in ATTEMPTS]
        columns = [column.to_pylist() for column in part_schema.attempt_columns(newer)]
        for values in zip(*columns, strict=True):
            line = dict(zip(names, values, strict=True))
            found[line["row"]][line["attempt"]] = line
        return {row: [lines[n] for n in sorted(lines)] for row, lines in found.items()}

    def bodies(self, rows: Sequence[int]) -> dict[int, tuple[str | None, str]]:
        """Hash and body of the requests that are kept, of some rows of one shard."""
        [shard] = {row // self.shard_rows for row in rows}
        found: dict[int, tuple[str | None, str]] = {}
        with contextlib.ExitStack() as stack:
            log = self._log(shard, stack)
            for line in self._lines(REQUESTS, shard, rows):
                found[line["row"]] = line["request_hash"], line["body"]
            for outcome in log.outcomes(set(rows)) if log is not None else ():
                if outcome.body:
                    found[outcome.row] = outcome.request_hash, outcome.body.decode()
        return found

    def scores(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The scores of some rows of one shard, by name; no entry where there are none."""
        [shard] = {row // self.shard_rows for row in rows}
        lines = self._lines(SCORES, shard, rows)
        return {
            line["row"]: {name: v for name, v in line.items() if name not in _OF_SCORES}
            for line in lines
        }

    def score_schema(self) -> pa.Schema:
        """The scores of the run and their types; empty where it has none."""
        for name in part_names(self.store, SCORES):
            number = part_number(name)
            if number is None:
                continue
            with contextlib.suppress(FileNotFoundError), self._opened(SCORES, number) as part:
                return pa.schema([f for f in part.schema_arrow if f.name not in _OF_SCORES])
        return pa.schema([])

    def score_table(self, shard: int, names: Sequence[str]) -> pa.Table:
        """Some scores of a shard, with ``row``; those that it lacks are null."""
        wanted = pa.schema([("row", pa.int64()), *(self.score_schema().field(n) for n in names)])
        try:
            with self._opened(SCORES, shard) as part:
                there = [name for name in wanted.names if name in part.schema_arrow.names]
                table = part.read(there, use_threads=False)
        except FileNotFoundError:
            return wanted.empty_table()
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._where(SCORES, shard), error) from error
        return part_schema.completed(table, wanted)

    def _lines(self, kind: str, shard: int, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Lines of a part that are of these rows: only row groups that may have one are read."""
        wanted = pa.array(sorted(rows), pa.int64())
        with contextlib.ExitStack() as stack:
            try:
                part = stack.enter_context(self._opened(kind, shard))
            except FileNotFoundError:
                return
            for group in _groups(part, rows):
                try:
                    table = part.read_row_group(group, use_threads=False)
                except (OSError, pa.ArrowException) as error:
                    raise damaged(self._where(kind, shard), error) from error
                yield from table.filter(pc.is_in(table.column("row"), wanted)).to_pylist()

    def _log(self, shard: int, stack: contextlib.ExitStack) -> LogView | None:
        path = self._logs.get(shard)
        if path is None:
            return None
        rows = range(shard * self.shard_rows, (shard + 1) * self.shard_rows)
        try:
            return stack.enter_context(LogView(path, rows))
        except FileNotFoundError:
            return None

    def _where(self, kind: str, shard: int) -> str:
        return self.store.where(f"{kind}/{part_name(shard)}")

    @contextlib.contextmanager
    def _opened(self, kind: str, shard: int) -> Iterator[pq.ParquetFile]:
        """A part. Raises ``FileNotFoundError``, or ``DamagedError`` for one that is none."""
        try:
            file = self.store.open(f"{kind}/{part_name(shard)}")
        except FileNotFoundError:
            raise
        except OSError as error:
            message = f"cannot read {self._where(kind, shard)}: {error.strerror or error}"
            raise UsageError(message) from None
        with contextlib.ExitStack() as stack:
            stack.enter_context(file)
            try:
                part = stack.enter_context(pq.ParquetFile(file, pre_buffer=False))
            except (OSError, pa.ArrowException) as error:
                raise damaged(self._where(kind, shard), error) from error
            yield part


def _groups(part: pq.ParquetFile, rows: Sequence[int] | None) -> Iterator[int]:
    """The row groups of a part that may have one of these rows."""
    place = part.schema_arrow.get_field_index("row")
    for group in range(part.num_row_groups):
        statistics = part.metadata.row_group(group).column(place).statistics
        if rows is not None and statistics is not None and statistics.has_min_max:
            low, high = statistics.min, statistics.max
            if not any(low <= row <= high for row in rows):
                continue
        yield group


def _among(table: pa.Table, rows: range) -> pa.Table:
    column = table.column("row")
    inside = pc.and_(pc.greater_equal(column, rows.start), pc.less(column, rows.stop))
    return table.filter(inside)


def _with(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    return table.select([name for name in wanted.names if name in table.schema.names])
