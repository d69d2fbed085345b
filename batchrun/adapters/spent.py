"""What a run has cost so far, as its directory is opened: published parts and logs together."""

from __future__ import annotations

from batchrun.adapters.journal import Journal, read_attempt, read_outcome
from batchrun.adapters.log import ATTEMPT, OUTCOME
from batchrun.core.totals import Totals


def spent(journal: Journal) -> tuple[int | None, int]:
    """The bill in picodollars, None while no cost is known, and what of it was no answer of an ok
    row. A log holds exchanges that the recorded totals of its shard do not have yet.
    """
    totals = Totals()
    for published in journal.states.published():
        totals.add(published.totals)
    bill_pd, wasted_pd = totals.bill()
    for log in list(journal.logs.values()):
        for place in log.places:
            if place.kind == OUTCOME:
                outcome = read_outcome(log.body(place))
                attempt, kept = outcome.attempt, outcome.ok
            elif place.kind == ATTEMPT:
                attempt, kept = read_attempt(bytes(log.body(place))), False
            else:
                continue
            if attempt is not None and attempt.cost_pd is not None:
                bill_pd = (bill_pd or 0) + attempt.cost_pd
                wasted_pd += 0 if kept else attempt.cost_pd
    return bill_pd, wasted_pd
