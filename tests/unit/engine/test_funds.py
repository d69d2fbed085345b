"""Money while a run goes on: what a snapshot says, and the warning that the budget will not do."""

import asyncio
import random
import re

import pytest

from batchrun.core.cost.price_book import PriceBook
from batchrun.engine.observe.funds import Funds
from batchrun.engine.session.budget import Budget, Charge
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.spending import Spending
from batchrun.engine.session.tally import Tally
from batchrun.records import Failure, Outcome

CENT_PD = 10**10
NOTHING = Charge(0)
PRICES = PriceBook({}, lambda *_: None, lambda _: None)


def _budget(cap, before=NOTHING):
    async def made():
        return Budget(
            guard="max_cost",
            cap=cap,
            before=before,
            commit=lambda *_: asyncio.sleep(0),
            switch=StopSwitch(),
            used_up=lambda *_: "",
        )

    return asyncio.run(made())


def _finish(tally, budget, rows, dice):
    """So many rows, each at a price about a cent."""
    for number in range(rows):
        cost = dice.randint(CENT_PD // 2, CENT_PD * 3 // 2)
        tally.spend(cost, kept=False)
        if budget is not None:
            budget.charge = Charge(budget.charge.spent + cost, *budget.charge[1:])
        failure = Failure("server_error", None, "")
        tally.finished(Outcome(number, None, None, failure, 1, None, None, None), cost)


def test_the_user_is_warned_once_when_the_budget_will_not_do():
    """As soon as the spread of enough rows is known, with what is needed and how far it goes."""
    tally, budget = Tally(rows_input=1000), _budget(500 * CENT_PD)
    funds, dice = Funds(tally, Spending(PRICES, cost=budget)), random.Random(1)
    _finish(tally, budget, 60, dice)
    funds.snapshot(0, 1.0, in_flight=64, stopping=False)
    assert not tally.notices  # those in flight are the long ones
    funds.snapshot(0, 1.0, in_flight=4, stopping=True)
    assert not tally.notices
    for _ in range(3):
        _finish(tally, budget, 20, dice)
        found = funds.snapshot(0, 1.0, in_flight=4, stopping=False)
    (news,) = tally.notices
    low, high = (float(found[1:]) for found in re.findall(r"\$[\d.]+", news)[:2])
    assert news.startswith("warning: at this rate the run will need $") and 9 < low < 10 < high
    reached = int(news.split("about ")[1].split(" of ")[0])
    assert "stops at --max-cost $5.0000" in news and 450 < reached < 550
    assert found.projected_low_usd < 10 < found.projected_high_usd
    assert found.charged_usd == budget.charge.spent / 1e12
    assert found.max_cost_usd == 5 and found.held_usd == 0


@pytest.mark.parametrize(
    ("cap", "held", "warned"), [(1100, 0, False), (1100, 10, True), (2000, 10, False)]
)
def test_requests_that_nobody_answers_use_the_budget_up_too(cap, held, warned):
    """What is held for some rows is expected to be held for others: it is no part of the bill."""
    before = Charge(held * CENT_PD, held * CENT_PD, held)
    tally, budget = Tally(rows_input=1000), _budget(cap * CENT_PD, before)
    _finish(tally, budget, 50, random.Random(2))
    Funds(tally, Spending(PRICES, cost=budget)).snapshot(0, 1.0, in_flight=1, stopping=False)
    assert bool(tally.notices) is warned


def test_without_a_budget_nobody_is_warned():
    """Figures there are."""
    tally = Tally(rows_input=1000)
    funds = Funds(tally)
    assert funds.snapshot(0, 1.0, in_flight=1, stopping=False) is None
    _finish(tally, None, 100, random.Random(3))
    found = funds.snapshot(5 * CENT_PD, 10.0, in_flight=1, stopping=False)
    assert not tally.notices
    assert found.per_hour_usd == pytest.approx(0.05 * 360)
    assert found.projected_usd == pytest.approx(10, rel=0.1)
    assert found.max_cost_usd is None and found.charged_usd is None
    assert found.per_ok_row_usd is None  # all of them failed


def test_nothing_is_projected_before_the_input_is_counted():
    """The bill is known all the same."""
    tally = Tally()
    _finish(tally, None, 100, random.Random(4))
    found = Funds(tally).snapshot(0, 0.0, in_flight=1, stopping=False)
    assert found.projected_usd is None and found.per_hour_usd is None
