"""A pilot's interval holds the truth as often as it says: pure computation, no HTTP."""

import math
import random

import pytest

from batchrun.core.estimate.extrapolation import Sampled, total
from batchrun.core.estimate.strata import Sampler

PILOTS = 100
ROWS = 4000


def short(rng):
    """Prompts and answers of nearly one length."""
    return "m", max(20, rng.gauss(120, 20)), rng.uniform(5, 60), 0.15, 0.6


def long_tailed(rng):
    """Prompts and answers log-normal, a few of them a hundred times the median."""
    prompt = min(200_000, math.exp(rng.gauss(6, 1.3)))
    return "m", prompt, min(16_000, math.exp(rng.gauss(5, 1.2))), 2.5, 10.0


def mixed(rng):
    """Three models whose prices are 1 : 15 : 150."""
    model = rng.choices("abc", [70, 25, 5])[0]
    dearer = {"a": 1, "b": 15, "c": 150}[model]
    prompt = math.exp(rng.gauss(5.5, 1))
    return model, prompt, min(4000, math.exp(rng.gauss(5, 0.9))), 0.15 * dearer, 0.6 * dearer


def piloted(rows, seed, wanted):
    """The intervals of prompt tokens, completion tokens and cost from one simulated pilot."""
    sampler = Sampler(wanted, random.Random(seed).randrange)
    kept = {}
    for row in rows:
        ticket = sampler.offer(row[0], row[1])
        if ticket is not None:
            kept[ticket] = row
    strata = sampler.strata()
    return [
        total(
            [
                Sampled(
                    stratum.rows,
                    stratum.size,
                    [kept[ticket][1] for ticket in stratum.tickets],
                    [kept[ticket][figure] for ticket in stratum.tickets],
                )
                for stratum in strata
            ]
        )
        for figure in (2, 3, 4)
    ]


@pytest.mark.parametrize("workload", [short, long_tailed, mixed], ids=lambda w: w.__name__)
def test_intervals_hold_the_truth(workload):
    """Of 100 pilots of 100 rows, at least 85 have the true total in their 90 % interval; and the
    intervals are no wider than they need to be.
    """
    rng = random.Random(20)
    rows = []
    for _ in range(ROWS):
        model, prompt, completion, dear_in, dear_out = workload(rng)
        guess = prompt * rng.uniform(0.8, 1.25)  # what was counted before sending
        rows.append((model, guess, prompt, completion, prompt * dear_in + completion * dear_out))
    truth = [sum(row[figure] for row in rows) for figure in (2, 3, 4)]
    held, wide = [0, 0, 0], [0.0, 0.0, 0.0]
    for seed in range(PILOTS):
        for place, interval in enumerate(piloted(rows, seed, 100)):
            held[place] += interval.low <= truth[place] <= interval.high
            wide[place] += (interval.high - interval.low) / 2 / truth[place] / PILOTS
    assert min(held) >= 85, (held, wide)
    assert wide[0] < 0.06 and wide[1] < 0.7 and wide[2] < 0.6, (held, wide)


def test_a_sample_of_everything_is_certain():
    """Where every row was sampled nothing is in doubt: the finite-population correction."""
    found = total([Sampled(3, 6.0, [1.0, 2.0, 3.0], [5.0, 7.0, 30.0])])
    assert found.total == found.low == found.high == 42.0


def test_half_of_a_stratum_leaves_half_in_doubt():
    """The same sample out of more rows has a wider interval, relative to its total."""
    values = [float(n % 7) for n in range(50)]
    near, far = (total([Sampled(n, n, [1.0] * 50, values)]) for n in (60, 6000))
    assert (near.high - near.low) / near.total < (far.high - far.low) / far.total / 2


def test_an_interval_never_falls_below_what_was_seen():
    """What the sample itself took is certain."""
    values = [0.0] * 39 + [1000.0]
    found = total([Sampled(41, 41.0, [1.0] * 40, values)])
    assert found.low >= 1000.0


def test_a_skewed_sample_reaches_further_up():
    """One dear row among many cheap ones: more may be hidden above than below."""
    rng = random.Random(2)
    values = [math.exp(rng.gauss(0, 1.5)) for _ in range(100)]
    found = total([Sampled(10_000, 10_000.0, [1.0] * 100, values)])
    assert found.high - found.total > 1.3 * (found.total - found.low)
