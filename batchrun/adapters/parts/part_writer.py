"""Writes a shard's parts: records in row order become row groups.

The first publication, the completion of a provisional part and every later change work the same
way: the old part and the records are merged in row order, and the records win.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa

from batchrun.adapters.columns import large_answers, read_answers
from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.log_reader import ShardReader
from batchrun.adapters.journal.shard_log import damaged as log_damaged
from batchrun.adapters.parts import old_part, truncation
from batchrun.adapters.parts.old_part import OldPart
from batchrun.adapters.parts.request_part import RequestsPart
from batchrun.adapters.parts.row_groups import Groups
from batchrun.adapters.storage.store import Store
from batchrun.core.cost.money import picodollars
from batchrun.core.reply import answer
from batchrun.core.run.totals import TOKENS, AttemptLine, ResultLine, Totals, day_of
from batchrun.records import NO_USAGE, Attempt, Outcome, ReusedRows

PIECE_ROWS = 256
PIECE_BYTES = 12 * 2**20
"""How much is taken at once: records are many small objects, four times the size of columns."""
ATTEMPT_BYTES = 200
"""The approximate size of a line of the ledger, whose texts are names and codes."""
_ATTEMPT_COLUMNS = ["row", "endpoint", "model", "service_tier", "cost_usd", "unanswered", *TOKENS]
_KEY = itemgetter(*map(Attempt._fields.index, ("endpoint", "model", "service_tier")))
_PLACE = itemgetter(*map(Attempt._fields.index, ("row", "number")))
_STARTED = itemgetter(Attempt._fields.index("started_at_us"))
_RESULT_COLUMNS = ["row", "error_class", "cost_usd", *TOKENS]


class Shape(NamedTuple):
    """The layout of a run's parts."""

    results: pa.Schema
    attempts: pa.Schema
    requests: pa.Schema
    carried: pa.Schema
    turns: bool = False
    """Whether it is a run of conversations, whose results have their messages."""


class Filling:
    """A shard's drafts of results and attempts, and of requests if the run keeps those, filled in
    row order. Leaving the context removes what was not published.
    """

    def __init__(
        self,
        store: Store,
        names: tuple[str, str, str],
        shape: Shape,
        rows: range,
        log: Path,
        piece_rows: int = PIECE_ROWS,
    ) -> None:
        """``names`` are those of the parts of results, attempts and requests, ``rows`` the shard's.
        The parts published under these names are merged in. ``log`` is the file to report as
        damaged if records are missing; ``piece_rows`` are taken at once.
        """
        self._piece_rows = piece_rows
        self._store = store
        self._names_files = False
        """Whether rows that were taken may name files."""
        self._shape = shape
        self._log = log
        self._end = rows.stop
        self.next_row = rows.start
        """Rows below this number are in the drafts."""
        self._totals = Totals()
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context
            self.results = opened(store.draft(names[0]))
            self.attempts = opened(store.draft(names[1]))
            self._results = opened(Groups(self.results, shape.results))
            self._attempts = opened(Groups(self.attempts, shape.attempts))
            self._old_results = opened(OldPart(store, names[0], shape.results))
            self._old_attempts = opened(OldPart(store, names[1], shape.attempts))
            self._opened = contextlib.ExitStack()
            self.requests = RequestsPart(store, names[2], shape.requests, opened(self._opened))
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was not published. Closing twice is harmless."""
        self._opened.close()

    def finish(self, records: ShardReader) -> Totals:
        """Take the records and finish the files; returns the totals of their content."""
        last = False
        while not last:
            while (reused := records.reused()) is not None:
                self._add_reused(records, reused)
            outcomes = records.outcomes(rows_max=self._piece_rows, bytes_max=PIECE_BYTES)
            last = not records.more
            self._add(records, outcomes, last=last)
        self.requests.end()
        self._attempts.end()
        self._results.end()
        return self._totals

    def _add(self, records: ShardReader, outcomes: list[Outcome], *, last: bool) -> None:
        """Take outcomes, and whatever else is known of the rows before their end."""
        high = self._end if last else outcomes[-1].row + 1
        if self._old_results.found:
            # Only a few rows of a large old part are in memory at a time.
            first = outcomes[0].row if outcomes else high
            while self.next_row + self._piece_rows < first:
                self._add_piece(records, [], self.next_row + self._piece_rows)
        self._add_piece(records, outcomes, high)

    def _add_reused(self, records: ShardReader, reused: ReusedRows) -> None:
        """Take rows that come as columns, and whatever else is known of the rows before them."""
        results = part_schema.from_ipc(reused.results)
        old = self._old_results.found or self._old_attempts.found or self.requests.found
        if reused.row > self.next_row or old:
            self._add(records, read_answers.outcomes(reused), last=False)
            return
        rows = list(range(reused.row, reused.row + reused.rows))
        carried = self._gather(records, rows).columns if len(self._shape.carried) else []
        schema, there = self._shape.results, set(results.schema.names)
        fixed = zip(schema.names[: len(schema) - len(carried)], schema.types, strict=False)
        columns = [
            results.column(name) if name in there else pa.nulls(reused.rows, kind)
            for name, kind in fixed
        ]
        resulted = pa.Table.from_arrays([*columns, *carried], schema=schema)
        self._results.add(resulted, records.taken_bytes)
        _count_reused(self._totals, resulted)
        self.next_row = rows[-1] + 1

    def _add_piece(self, records: ShardReader, outcomes: list[Outcome], high: int) -> None:
        """Take a piece: outcomes, and the attempts of these rows and of those between them."""
        ledger = list(records.attempts_below(high))
        alone = not ledger
        ledger += [o.attempt for o in outcomes if o.attempt is not None]
        if not alone:
            # A row whose failure was withheld has its attempt twice here; the second one decides.
            ledger = sorted({_PLACE(attempt): attempt for attempt in ledger}.values(), key=_PLACE)
        ledgered = self._attempts_table(ledger, self._old_attempts.below(high))
        old = self._old_results.below(high)
        resulted = self._results_table(records, outcomes, old, ledgered)
        self._attempts.add(ledgered, ledgered.num_rows * ATTEMPT_BYTES)
        if self._names_files or self._old_results.names_files:
            self._results.references += sum(1 for _ in large_answers.references(resulted))
        size = records.taken_bytes - self.requests.add(outcomes, resulted, high)
        self._results.add(resulted, size + (0 if old is None else old.nbytes))
        count_piece(self._totals, ledger, outcomes, ledgered, resulted)
        self.next_row = high

    def _attempts_table(self, ledger: list[Attempt], old: pa.Table | None) -> pa.Table:
        """A piece of the ledger, old lines and new ones."""
        new = pa.Table.from_arrays(part_schema.attempt_columns(ledger), schema=self._shape.attempts)
        if old is None:
            return new
        seen = {(attempt.row, attempt.number) for attempt in ledger}
        keys = zip(old.column("row").to_pylist(), old.column("attempt").to_pylist(), strict=True)
        old = old.filter(pa.array([key not in seen for key in keys], pa.bool_()))
        merged = pa.concat_tables([old, new])
        return merged.sort_by([("row", "ascending"), ("attempt", "ascending")])

    def _results_table(
        self,
        records: ShardReader,
        outcomes: list[Outcome],
        old: pa.Table | None,
        ledgered: pa.Table,
    ) -> pa.Table:
        """A piece of the results, old rows and new ones; ``ledgered`` is the ledger of both."""
        rows = [outcome.row for outcome in outcomes]
        lean = large_answers.shelved(self._store, outcomes)
        if lean is not None:
            outcomes = lean
            self._names_files = True
        fixed = part_schema.result_columns(outcomes)
        messages = [part_schema.messages_column(outcomes)] if self._shape.turns else []
        if len(fixed) + len(messages) + len(self._shape.carried) > len(self._shape.results):
            names = self._shape.results.names[: -len(self._shape.carried)]
            fixed = [fixed[part_schema.RESULT_NAMES.index(name)] for name in names]
        carried = self._gather(records, rows).columns if len(self._shape.carried) else []
        arrays = [*fixed, *messages, *carried]
        new = pa.Table.from_arrays(arrays, schema=self._shape.results)
        if old is None:
            return new
        fresh = set(rows)
        kept = [row not in fresh for row in old.column("row").to_pylist()]
        old = old.filter(pa.array(kept, pa.bool_()))
        for amendment in records.amendments():
            old = old_part.amended(old, part_schema.from_ipc(amendment))
        return _counted(pa.concat_tables([old, new]).sort_by("row"), ledgered)

    def _gather(self, records: ShardReader, rows: list[int]) -> pa.Table:
        """The carried columns of these rows (ascending), from the blocks."""
        pieces: list[pa.Table] = []
        at = 0
        if rows:
            for first, count, data in records.blocks(rows[0], rows[-1] + 1):
                if at == len(rows) or rows[at] < first:
                    continue
                start, at = at, bisect_left(rows, first + count, at)
                if at > start:
                    table = part_schema.from_ipc(data)
                    if rows[at - 1] - rows[start] + 1 == at - start:
                        pieces.append(table.slice(rows[start] - first, at - start))
                    else:
                        pieces.append(table.take([row - first for row in rows[start:at]]))
        if at < len(rows):
            why = f"the carried columns of row {rows[at]} are missing"
            raise log_damaged(self._log, why)
        if not pieces:
            return self._shape.carried.empty_table()
        return pa.concat_tables(pieces)


def _counted(results: pa.Table, ledger: pa.Table) -> pa.Table:
    """Results with ``attempts`` counted from the ledger: a row that was sent again, and has no new
    outcome so far, keeps its old one while the count goes up.
    """
    highest = dict(part_schema.tuples(ledger.select(["row", "attempt"])))
    counts = [
        max(count, highest.get(row, 0))
        for row, count in part_schema.tuples(results.select(["row", "attempts"]))
    ]
    place = results.schema.get_field_index("attempts")
    field = results.schema.field(place)
    return results.set_column(place, field, pa.array(counts, field.type))


def count_piece(
    totals: Totals,
    ledger: list[Attempt],
    outcomes: list[Outcome],
    ledgered: pa.Table,
    resulted: pa.Table,
) -> None:
    """Count a piece as published into the totals."""
    if ledgered.num_rows == resulted.num_rows == 0:
        return  # at the end of a shard with rows as columns
    keys = set(map(_KEY, ledger))
    starts_us = list(map(_STARTED, ledger))
    days = {day_of(min(starts_us)), day_of(max(starts_us))} if ledger else set()
    if (
        len(keys) == len(days) == 1
        and len(ledger) == len(outcomes) == ledgered.num_rows == resulted.num_rows
        and resulted.column("error_class").null_count == len(outcomes)
        and resulted.column("endpoint").null_count == 0  # each was sent, here or elsewhere
        and not _reused_rows(resulted)
    ):
        said = [outcome.completion for outcome in outcomes if outcome.completion is not None]
        odd = [completion for completion in said if not answer.is_ordinary(completion)]
        totals.add_outputs(
            truncated=sum(map(answer.is_truncated, odd)),
            empty=sum(map(answer.is_empty, odd)),
        )
        usages = [attempt.usage for attempt in ledger]
        costs_pd = [attempt.cost_pd for attempt in ledger if attempt.cost_pd is not None]
        bare = usages.count(NO_USAGE)
        unpriced = len(ledger) - len(costs_pd) - bare
        if bare and costs_pd:
            unpriced = sum(a.cost_pd is None and a.usage != NO_USAGE for a in ledger)
        totals.add_alike(
            keys.pop(),
            ok=len(outcomes),
            without_usage=bare,
            tokens=[sum(filter(None, counts)) for counts in zip(*usages, strict=True)],
            day=days.pop(),
            cost_pd=sum(costs_pd) if costs_pd else None,
            unpriced=unpriced,
        )
        return
    if ledgered.num_rows == 0 and _reused_rows(resulted) == resulted.num_rows:
        _count_reused(totals, resulted)
        return
    totals.add_attempts(
        AttemptLine(row, (endpoint, model, tier), _pd(cost), unanswered, tokens, day_of(at_us))
        for (row, endpoint, model, tier, cost, unanswered, *tokens), at_us in zip(
            part_schema.tuples(ledgered.select(_ATTEMPT_COLUMNS)),
            ledgered.column("started_at").cast(pa.int64()).to_pylist(),
            strict=True,
        )
    )
    totals.add_results(
        ResultLine(row, error_class, any(count is not None for count in tokens), _pd(cost), *told)
        for (row, error_class, cost, *tokens), told in zip(
            part_schema.tuples(resulted.select(_RESULT_COLUMNS)),
            truncation.cut_or_empty(resulted),
            strict=True,
        )
    )
    if _reused_rows(resulted):
        origins = resulted.column("reused_from")
        endpoints = resulted.column("endpoint").filter(origins.is_valid())
        totals.add_reused(endpoints.to_pylist())


def _reused_rows(resulted: pa.Table) -> int:
    """How many of these rows took their answer from another run."""
    if not part_schema.marks_reused(resulted.schema):
        return 0
    origins = resulted.column("reused_from")
    return len(origins) - int(origins.null_count)


def _count_reused(totals: Totals, resulted: pa.Table) -> None:
    """Count rows that took their answers from another run, none of which was sent here."""
    endpoints = read_answers.values(resulted.column("endpoint"))
    truncated, empty = truncation.counted(resulted)
    counts = [resulted.column(name) for name in TOKENS]
    bare = 0
    if all(column.null_count for column in counts):
        usages = zip(*map(read_answers.values, counts), strict=True)
        bare = sum(usage == NO_USAGE for usage in usages)
    totals.add_unsent(ok=len(endpoints), without_usage=bare, truncated=truncated, empty=empty)
    totals.add_reused(endpoints)


def _pd(cost_usd: float | None) -> int | None:
    """The exact value of a cost in a column, as it was written."""
    return None if cost_usd is None else picodollars(cost_usd)
