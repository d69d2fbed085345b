"""The sample of a pilot: every row is in a stratum, and drawn as it should be."""

import random

from batchrun.core.estimate.strata import ROWS_LEAST, Sampler, allot


def offered(rows, wanted, seed=0):
    """The sampler's strata of (group, size) pairs, and the rows by ticket."""
    sampler = Sampler(wanted, random.Random(seed).randrange)
    kept = {}
    for number, (group, size) in enumerate(rows):
        ticket = sampler.offer(group, size)
        if ticket is not None:
            kept[ticket] = number
    return sampler.strata(), kept


def test_strata_hold_every_row_once():
    """Rows and sizes of the strata add up to the input's; the sample has as many as were wanted."""
    rng = random.Random(1)
    rows = [(rng.choice("ab"), rng.lognormvariate(5, 1.5)) for _ in range(5000)]
    strata, kept = offered(rows, 200)
    assert sum(stratum.rows for stratum in strata) == 5000
    assert abs(sum(s.size for s in strata) - sum(max(1, size) for _, size in rows)) < 1e-3
    tickets = [ticket for stratum in strata for ticket in stratum.tickets]
    assert len(tickets) == len({kept[ticket] for ticket in tickets}) == 200
    for stratum in strata:
        assert {rows[kept[ticket]][0] for ticket in stratum.tickets} == {stratum.group}
        assert len(stratum.tickets) >= min(stratum.rows, ROWS_LEAST)


def test_every_row_of_a_stratum_is_drawn_as_often():
    """Over many seeds, rows of a stratum that come first and last are in the sample alike."""
    drawn = [0] * 400
    for seed in range(400):
        strata, kept = offered([("m", 10.0)] * 400, 40, seed)
        for ticket in strata[0].tickets:
            drawn[kept[ticket]] += 1
    first, last = sum(drawn[:200]), sum(drawn[200:])
    assert first + last == 400 * 40
    # Each is binomial: 8,000 expected, a standard deviation below 90.
    assert abs(first - last) < 4 * 2 * 90
    assert max(drawn) < 40 + 6 * 6.5 and min(drawn) > 40 - 6 * 6.5


def test_the_same_seed_draws_the_same_rows():
    """The sample depends on the seed and the input alone."""
    rows = [("m", float(n % 97)) for n in range(3000)]
    draws = [offered(rows, 50, seed) for seed in (7, 7, 8)]
    numbers = [
        sorted(kept[t] for stratum in strata for t in stratum.tickets) for strata, kept in draws
    ]
    assert numbers[0] == numbers[1] != numbers[2]


def test_a_small_input_is_sampled_whole():
    """More rows wanted than there are: all are taken."""
    strata, kept = offered([("m", 5.0), ("m", 500.0), ("n", 5.0)], 100)
    assert sorted(kept[t] for s in strata for t in s.tickets) == [0, 1, 2]
    assert offered([], 100)[0] == []


def test_many_models_share_strata():
    """A million model names do not make a million strata."""
    strata, _ = offered([(f"m{n}", 5.0) for n in range(1000)], 100)
    assert len(strata) <= 17 and sum(stratum.rows for stratum in strata) == 1000


def test_never_more_rows_than_asked_for():
    """However many models there are, a small pilot stays small: rows cost money."""
    rows = [(f"m{n % 12}", 5.0 * 4 ** (n % 5)) for n in range(1000)]
    for wanted in (10, 11, 30, 77):
        strata, _ = offered(rows, wanted)
        assert sum(len(stratum.tickets) for stratum in strata) == wanted
        assert min(len(stratum.tickets) for stratum in strata) >= ROWS_LEAST


def test_allotting():
    """By weight, at least the least, never more than there are."""
    assert allot(100, [1000, 1000], [3.0, 1.0]) == [75, 25]
    assert allot(100, [1000, 3], [1.0, 100.0]) == [97, 3]
    assert allot(10, [1000, 1000, 1000], [1.0, 1.0, 1.0]) == [ROWS_LEAST] * 3
    assert allot(50, [10, 10], [1.0, 1.0]) == [10, 10]
