"""Money while a run goes on: what it will have cost at its end, and what its budgets have left."""

from __future__ import annotations

from dataclasses import dataclass

from batchrun.core.cost.money import format_picodollars, format_rough_cost, usd
from batchrun.core.cost.projection import ROWS_MIN, Projection
from batchrun.core.text.wording import counted
from batchrun.engine.session.budget import Budget
from batchrun.engine.session.spending import Spending
from batchrun.engine.session.tally import Tally

HOUR_S = 3600.0
TURNS = 2
"""So many rows for each one in flight are done before the budget is judged."""


@dataclass(frozen=True, slots=True)
class MoneySnapshot:
    """Money at one moment, in US dollars. ``per_hour_usd`` is over the last seconds; the projected
    figures are of the whole run at its end, with the ends of an interval that holds it in nine of
    ten cases. None is what cannot be told: no cost is known, the input is not counted, too few rows
    are done, there is no such budget.

    ``charged_*`` is what is charged to a budget, ``held_*`` the part of it for exchanges whose cost
    nobody told; ``reserved_*`` is set aside for those that are out, on top.
    """

    per_hour_usd: float | None = None
    per_ok_row_usd: float | None = None
    projected_usd: float | None = None
    projected_low_usd: float | None = None
    projected_high_usd: float | None = None
    max_cost_usd: float | None = None
    charged_usd: float | None = None
    held_usd: float | None = None
    reserved_usd: float | None = None
    max_total_tokens: int | None = None
    charged_tokens: int | None = None
    held_tokens: int | None = None
    reserved_tokens: int | None = None


class Funds:
    """Looks at the money of a run, and says once when its budget will not do."""

    def __init__(self, tally: Tally, spending: Spending | None = None) -> None:
        self._tally = tally
        self._cost = None if spending is None else spending.cost
        self._tokens = None if spending is None else spending.tokens
        self._warned = False

    def snapshot(
        self, spent_pd: int, span_s: float, *, in_flight: int, stopping: bool
    ) -> MoneySnapshot | None:
        """The money now, of which ``spent_pd`` went in the last ``span_s`` seconds, with so many
        rows in flight. None where nothing is known and there is no budget.
        """
        tally, cost, tokens = self._tally, self._cost, self._tokens
        bill_pd = tally.cost_pd
        if bill_pd is None and cost is None and tokens is None:
            return None
        ahead = tally.projection()
        # Short answers come first: the first rows done cost less than the others will.
        judged = tally.row_costs.rows >= ROWS_MIN + TURNS * in_flight and not stopping
        judged = judged and not (cost is not None and cost.is_shared)  # others spend of it too
        if ahead is not None and cost is not None and judged and not self._warned:
            self._warn(ahead, cost)
        ok = tally.ok + tally.resumed_ok
        told = bill_pd is not None
        return MoneySnapshot(
            per_hour_usd=usd(spent_pd) / span_s * HOUR_S if told and span_s > 0 else None,
            per_ok_row_usd=usd(bill_pd) / ok if bill_pd is not None and ok else None,
            projected_usd=None if ahead is None else usd(ahead.total),
            projected_low_usd=None if ahead is None or ahead.low is None else usd(ahead.low),
            projected_high_usd=None if ahead is None or ahead.high is None else usd(ahead.high),
            max_cost_usd=None if cost is None else usd(cost.cap),
            charged_usd=None if cost is None else usd(cost.charge.spent),
            held_usd=None if cost is None else usd(cost.charge.held),
            reserved_usd=None if cost is None else usd(cost.reserved),
            max_total_tokens=None if tokens is None else tokens.cap,
            charged_tokens=None if tokens is None else tokens.charge.spent,
            held_tokens=None if tokens is None else tokens.charge.held,
            reserved_tokens=None if tokens is None else tokens.reserved,
        )

    @property
    def full(self) -> bool:
        """Whether requests wait for room in a budget."""
        return any(budget is not None and budget.full for budget in (self._cost, self._tokens))

    def _warn(self, ahead: Projection, budget: Budget) -> None:
        """Say that the budget will not do. What is charged goes by the bill and, of exchanges that
        nobody told the cost of, by their worst case: as many of these are expected further on.
        """
        tally = self._tally
        if ahead.low is None or ahead.high is None or not ahead.pending or not tally.done:
            return
        charge = budget.charge
        row_pd = ahead.row + charge.held / tally.done
        left = tally.rows_input - tally.done if tally.rows_input else 0
        if row_pd <= 0 or charge.spent + row_pd * left <= budget.cap:
            return
        self._warned = True
        reached = tally.done + int(max(0, budget.cap - charge.spent) / row_pd)
        held = (
            f", {format_picodollars(charge.held)} held for unanswered requests"
            if charge.held
            else ""
        )
        tally.notices.append(
            f"warning: at this rate the run will need {format_rough_cost(usd(ahead.low))} to "
            f"{format_rough_cost(usd(ahead.high))}{held}, and stops at --max-cost "
            f"{format_picodollars(budget.cap)} after "
            f"about {reached:,} of {counted(tally.rows_input or 0, 'row')}"
        )
