"""What a run had spent when its directory was opened: published parts and logs together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from batchrun.adapters.journal.journal import Journal, read_attempt, read_outcome
from batchrun.adapters.journal.shard_log import ATTEMPT, OUTCOME
from batchrun.core.cost import billing
from batchrun.core.run.totals import Totals


class Spent(NamedTuple):
    """The bill in picodollars, None while no cost is known; the part of it that did not produce the
    answer of an ok row; and the tokens.
    """

    bill_pd: int | None
    wasted_pd: int
    tokens: int


def published(totals: Totals) -> Spent:
    """The amounts in recorded totals."""
    return Spent(*totals.bill(), sum(map(_tokens, totals.usage_rows())))


def _tokens(told: Mapping[str, int | None]) -> int:
    """The tokens of one or more exchanges: some servers report the parts without a total."""
    parts = (told["prompt_tokens"] or 0) + (told["completion_tokens"] or 0)
    return max(told["total_tokens"] or 0, parts)


def spent(journal: Journal) -> Spent:
    """All of it. A log has exchanges that the recorded totals of its shard do not include yet."""
    totals = Totals()
    for shard in journal.states.published():
        totals.add(shard.totals)
    bill_pd, wasted_pd, tokens = published(totals)
    for log in list(journal.logs.values()):
        counted: set[tuple[int, int]] = set()
        for place in log.places:
            if place.kind == OUTCOME:
                outcome = read_outcome(log.body(place))
                attempt, kept = outcome.attempt, outcome.ok
            elif place.kind == ATTEMPT:
                attempt, kept = read_attempt(bytes(log.body(place))), False
            else:
                continue
            # A failure that was withheld for a while is recorded twice: alone, and as the row's
            # end.
            if attempt is None or (attempt.row, attempt.number) in counted:
                continue
            counted.add((attempt.row, attempt.number))
            tokens += billing.tokens(attempt.usage, attempt.usage_raw) or 0
            if attempt.cost_pd is not None:
                bill_pd = (bill_pd or 0) + attempt.cost_pd
                wasted_pd += 0 if kept else attempt.cost_pd
    return Spent(bill_pd, wasted_pd, tokens)
