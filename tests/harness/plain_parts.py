"""Parts without Parquet: the same promises in a twentieth of the time, for simulated runs.

Drafts, renames, flushes, generations, totals and the merge of old part and log are as in
``adapters.parts.sealer``; only what is inside the two files is MessagePack, and carried columns
are left out.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from batchrun.adapters.journal.log_reader import ShardReader
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.parts.sealer import Ending, Footer, Parts, ending_of
from batchrun.adapters.storage.store import StoreReader
from batchrun.core.reply import answer
from batchrun.core.run.totals import AttemptLine, ResultLine, Totals, day_of
from batchrun.records import NO_USAGE, Attempt, Outcome, ShardState

_pack = msgspec.msgpack.Encoder().encode
_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode
_attempts = msgspec.msgpack.Decoder(list[Attempt]).decode
_ALL = 2**60


class _Nothing:
    """The carried columns of a part that has none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def below(self, _: int) -> None:
        """No rows."""


class PlainParts(Parts):
    """``Parts`` that writes plain files."""

    def known_rows(self, shard: int) -> tuple[list[int], dict[int, int]]:
        """See ``Parts``."""
        results, attempts = self.pair(shard)
        numbers: dict[int, int] = {}
        for attempt in read_attempts(self.store, attempts):
            numbers[attempt.row] = max(attempt.number, numbers.get(attempt.row, 0))
        return [outcome.row for outcome in read_outcomes(self.store, results)], numbers

    def endings(self, shard: int, *, flaws: bool = False) -> dict[int, Ending]:
        """See ``Parts``."""
        del flaws
        outcomes = read_outcomes(self.store, self.pair(shard)[0])
        return {outcome.row: ending_of(outcome) for outcome in outcomes}

    def footer(self, name: str) -> Footer:
        """See ``Parts``."""
        read = read_outcomes if name.startswith("results") else read_attempts
        try:
            rows = [line.row for line in read(self.store, name)]
        except msgspec.MsgspecError as error:
            raise damaged(self.store.where(name), error) from error
        return Footer(len(rows), (min(rows), max(rows)) if rows else (), lacks_columns=False)

    def carried(self, shard: int) -> Any:
        """Nothing is carried: nothing is amended."""
        del shard
        return _Nothing()

    def write(self, state: ShardState) -> Published:
        """See ``Parts``."""
        store, names = self.store, self.pair(state.shard)
        log = ShardReader(self._journal, state.shard)
        new = log.outcomes(rows_max=_ALL, bytes_max=_ALL)
        lines = [*log.attempts_below(_ALL), *(o.attempt for o in new if o.attempt is not None)]
        ledger = {(line.row, line.number): line for line in read_attempts(store, names[1])}
        ledger |= {(line.row, line.number): line for line in lines}
        rows = {outcome.row: outcome for outcome in read_outcomes(store, names[0])}
        rows |= {outcome.row: outcome for outcome in new}
        highest = dict(sorted(ledger))  # of each row the last number
        merged = [
            rows[row]._replace(attempts=max(rows[row].attempts, highest.get(row, 0)))
            for row in sorted(rows)
        ]
        totals = Totals()
        totals.add_attempts(_counted(ledger[key]) for key in sorted(ledger))
        totals.add_results(map(_ended, merged))
        with store.draft(names[0]) as results, store.draft(names[1]) as attempts:
            results.write(_pack(merged))
            attempts.write(_pack([ledger[key] for key in sorted(ledger)]))
            store.publish([attempts, results])
        marks = store.marks(names)
        return Published(
            *(state, results.digest, attempts.digest, totals.recorded()),
            *(marks.get(names[0]), marks.get(names[1])),
        )

    def write_usage(self, totals: Totals) -> None:
        """No table of usage: ``accounts`` goes by the ledger."""


def read_outcomes(store: StoreReader, name: str) -> list[Outcome]:
    """The rows of a plain part of results; none where there is no file."""
    try:
        with store.open(name) as file:
            return _outcomes(file.read())
    except FileNotFoundError:
        return []


def read_attempts(store: StoreReader, name: str) -> list[Attempt]:
    """The lines of a plain part of the ledger; none where there is no file."""
    try:
        with store.open(name) as file:
            return _attempts(file.read())
    except FileNotFoundError:
        return []


def _counted(line: Attempt) -> AttemptLine:
    key = (line.endpoint, line.model, line.service_tier)
    day = day_of(line.started_at_us)
    return AttemptLine(line.row, key, line.cost_pd, line.unanswered, tuple(line.usage), day)


def _ended(outcome: Outcome) -> ResultLine:
    said = outcome.completion
    if said is None:
        assert outcome.failure is not None
        return ResultLine(outcome.row, outcome.failure.error_class, has_usage=False, cost_pd=None)
    return ResultLine(
        outcome.row,
        None,
        has_usage=said.usage != NO_USAGE,
        cost_pd=outcome.attempt.cost_pd if outcome.attempt else None,
        truncated=answer.is_truncated(said),
        empty=answer.is_empty(said),
    )
