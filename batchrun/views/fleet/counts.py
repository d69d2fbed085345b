"""What is durable of a run that several processes do together, counted: rows, failures, costs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchrun.core.reply.answer import is_empty, is_truncated
from batchrun.core.run.totals import TOKENS, AttemptLine, ResultLine, Totals, day_of
from batchrun.records import Outcome
from batchrun.rundir.fleet.looking import SeenFleet
from batchrun.rundir.state_reader import RecordedShard
from batchrun.views.durable.log_view import LogView


@dataclass(slots=True)
class Counts:
    """The sums, and by worker how many rows and shards are its own."""

    totals: Totals = field(default_factory=Totals)
    rows: Counter[str] = field(default_factory=Counter)
    shards: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By error class, the first row in a log that failed so."""


def count(fleet: SeenFleet, recorded: Mapping[int, RecordedShard]) -> Counts:
    """Count published shards by their records, ``recorded`` being those of earlier sessions, and
    the others by their logs, each of which is read to its end.
    """
    found = Counts()
    for shard, one in recorded.items():
        if shard not in fleet.published and one.totals:
            found.totals.add(one.totals)
    for shard, published in fleet.published.items():
        found.totals.add(published.totals)
        worker = fleet.publishers[shard]
        found.shards[worker] += 1
        begun = fleet.plan.begun.get(shard)
        of_others = 0 if begun is None else _rows(begun.totals)
        found.rows[worker] += _rows(published.totals) - of_others
    size = fleet.launch.shard_rows
    for shard, path in fleet.logs.items():
        rows = _count_log(path, range(shard * size, (shard + 1) * size), found)
        found.rows[fleet.claims[shard].worker] += rows
    return found


def _rows(recorded: Mapping[str, object]) -> int:
    totals = Totals()
    totals.add(recorded)
    return sum(totals.rows())


def _count_log(path: Path, span: range, found: Counts) -> int:
    """Count a log; returns its rows."""
    rows = 0
    # It may be published, or copied, while this looks at it.
    with contextlib.suppress(FileNotFoundError), LogView(path, span) as log:
        for attempts in log.all_attempts():
            found.totals.add_attempts(
                AttemptLine(
                    one.row,
                    (one.endpoint, one.model, one.service_tier),
                    one.cost_pd,
                    one.unanswered,
                    one.usage[: len(TOKENS)],
                    day_of(one.started_at_us),
                )
                for one in attempts
            )
        for outcome in log.outcomes():
            found.totals.add_results([_line(outcome)])
            rows += 1
            failure = outcome.failure
            if failure is not None:
                known = found.examples.get(failure.error_class)
                if known is None or outcome.row < known[0]:
                    found.examples[failure.error_class] = outcome.row, failure.message
    return rows


def _line(outcome: Outcome) -> ResultLine:
    completion, failure, attempt = outcome.completion, outcome.failure, outcome.attempt
    return ResultLine(
        outcome.row,
        None if failure is None else failure.error_class,
        attempt is not None and any(tokens is not None for tokens in attempt.usage),
        None if attempt is None else attempt.cost_pd,
        completion is not None and is_truncated(completion),
        completion is not None and is_empty(completion),
    )
