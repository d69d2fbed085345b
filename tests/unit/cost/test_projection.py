"""What a run will have cost, told from a part of its rows."""

import random

import pytest

from batchrun.core.cost.projection import ROWS_MIN, RowCosts, project
from tests.harness.slow import rest_slow

POPULATIONS = {
    "alike": lambda dice: dice.randint(90, 110) * 10**6,
    "any length": lambda dice: dice.randint(0, 10**9),
    "long tail": lambda dice: round(dice.expovariate(1e-8)),
    "two kinds": lambda dice: dice.choice((10**6, 10**6, 10**8)),
}


def _after(costs, rows):
    sums = RowCosts()
    for cost in costs[:rows]:
        sums.add(cost)
    return project(sums, spent=sum(costs[:rows]), pending=len(costs) - rows)


@pytest.mark.parametrize("kind", POPULATIONS)
@pytest.mark.parametrize(
    ("rows", "done"), rest_slow([(300, 150), (2000, 40), (1000, 950)], several=True)
)
def test_the_interval_holds_the_total_in_nine_of_ten_cases(kind, rows, done):
    """Over 800 runs of each kind, from a fiftieth of the rows to nearly all of them. Without the
    correction for a finite population, the last case would hold it always.
    """
    dice = random.Random(f"{kind} {rows}")
    costs = [POPULATIONS[kind](dice) for _ in range(rows)]
    total, held, runs = sum(costs), 0, 800
    for _ in range(runs):
        dice.shuffle(costs)
        found = _after(costs, done)
        held += found.low <= total <= found.high
    assert 0.86 <= held / runs <= 0.94, held / runs


def test_the_projection_is_the_bill_when_all_is_done():
    """And its interval ends with it."""
    costs = [random.Random(1).randint(0, 10**9) for _ in range(100)]
    found = _after(costs, 100)
    assert (found.total, found.low, found.high, found.pending) == (*[sum(costs)] * 3, 0)


def test_what_is_spent_in_vain_is_counted():
    """What earlier attempts of pending rows cost is spent, whatever these rows cost further on."""
    sums = RowCosts()
    for _ in range(50):
        sums.add(100)
    found = project(sums, spent=5_700, pending=10)
    assert (found.total, found.pending, found.margin) == (6_700, 1_000, 0)


def test_there_is_no_interval_from_a_few_rows():
    """A mean there is, from the first row on."""
    assert project(RowCosts(), spent=0, pending=10) is None
    few = _after([5, 7] * ROWS_MIN, ROWS_MIN - 1)
    assert few.total > 0 and few.low is None and few.high is None
    assert _after([5, 7] * ROWS_MIN, ROWS_MIN).low is not None


def test_an_interval_never_ends_below_what_is_spent():
    """A few dear rows make it wide."""
    found = _after([0] * 29 + [10**12] + [0] * 1000, 30)
    assert found.low == 10**12


def test_sums_come_back_from_where_they_were_written_down():
    """To the last digit, where squares are beyond 64 bits."""
    sums = RowCosts()
    for cost in (3, 10**15, 7):
        sums.add(cost)
    assert RowCosts.of(sums.recorded()) == sums
    assert RowCosts.of(None) == RowCosts()
