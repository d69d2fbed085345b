"""How often intervals hold the truth, and how often gates on a difference are wrong.

The exact coverage of ``tests.harness.coverage`` is what simulated runs must come to; averaged over
what a night may look like, it must be 95 of 100.
"""

import math
import random

import pytest

from batchrun.core.evaluation.gates import judge_difference
from batchrun.core.evaluation.rules import difference_rule
from batchrun.core.statistics.paired import paired_share_interval
from batchrun.core.statistics.proportion import wilson
from tests.harness.coverage import (
    NEIGHBOURHOODS,
    ROWS,
    averaged,
    clustered_held,
    holds,
    jackknife_held,
    mean_held,
    newcombe_coverage,
    paired_averaged,
    paired_coverage,
    paired_held,
    paired_shares,
    simulated,
    unclustered_held,
    wilson_coverage,
)
from tests.harness.slow import rest_slow

TRIALS = 2000


def three_sigma(share, trials):
    """How far a simulated share may be from the true one."""
    return 3 * math.sqrt(share * (1 - share) / trials) + 1e-9


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("near", NEIGHBOURHOODS)
def test_wilson_holds_95_of_100(near, n):
    """Averaged over shares near 0, one half and 1; never far below at a single one."""
    mean, least = averaged(n, *NEIGHBOURHOODS[near])
    assert 0.93 < mean < 0.97
    assert least > (0.92 if near == "0.5" else 0.83)


@pytest.mark.parametrize("n", [20, 100, 1000])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.85])
def test_simulated_shares_come_to_the_exact_coverage(n, share):
    """The sum over the binomial is what drawn rows do."""
    rng, trials = random.Random(n), TRIALS if n < 1000 else 400
    exact = wilson_coverage(n, share)
    found = simulated(
        trials, lambda: holds(wilson(sum(rng.random() < share for _ in range(n)), n), share)
    )
    assert abs(found - exact) < three_sigma(exact, trials)


@pytest.mark.parametrize("n", rest_slow(ROWS, 4))
@pytest.mark.parametrize("won_more", [0.0, 0.5])
def test_tango_holds_95_of_100(n, won_more):
    """Averaged over the pairs that flip, with and without a true difference. Where fewer than five
    pairs flip, the counts are so few that it holds more.
    """
    mean, least = paired_averaged(n, 0.02, 0.20, won_more, 10)
    assert 0.93 < mean < (0.97 if n >= 50 else 0.99)
    assert least > 0.94


def test_tango_is_closer_than_newcombe():
    """Of both intervals for pairs it is the one whose coverage is nearer to 95 of 100."""
    for n in (20, 50, 100):
        tango, _ = paired_averaged(n, 0.02, 0.20, 0.0, 5)
        newcombe, _ = paired_averaged(n, 0.02, 0.20, 0.0, 5, newcombe_coverage)
        assert 0.95 < tango < newcombe


@pytest.mark.parametrize(
    ("n", "lost", "won"), [(50, 0.1, 0.1), (300, 0.02, 0.05), (1000, 0.1, 0.07)]
)
def test_simulated_pairs_come_to_the_exact_coverage(n, lost, won):
    """The sum over lost and won pairs is what two drawn runs do."""
    rng, trials = random.Random(n), 1000
    exact = paired_coverage(n, lost + won, won - lost)
    found = simulated(trials, lambda: paired_held(rng, n, lost, won))
    assert abs(found - exact) < three_sigma(exact, trials)


@pytest.mark.parametrize("kind", rest_slow(["normal", "uniform", "most of them 1 (beta 4, 1)"], 2))
@pytest.mark.parametrize("n", [20, 200])
def test_means_hold_95_of_100(kind, n):
    """Of values as scores have them: bell-shaped, even, most of them near the upper end."""
    rng = random.Random(5)
    assert 0.93 < simulated(TRIALS, lambda: mean_held(rng, n, kind)) < 0.97


@pytest.mark.slow
def test_a_long_tail_takes_many_rows():
    """The interval of a mean of log-normal values holds too little at 20 rows, and enough at 1,000:
    the documentation says so.
    """
    rng, kind = random.Random(6), "long tail (log-normal, sigma 1)"
    assert simulated(1000, lambda: mean_held(rng, 20, kind)) < 0.90
    assert simulated(1000, lambda: mean_held(rng, 1000, kind)) > 0.93


def test_clusters_are_accounted_for():
    """Rows that belong together: the clustered interval holds the truth, the plain one does not."""
    rng = random.Random(7)
    assert 0.93 < simulated(TRIALS, lambda: clustered_held(rng, 60)) < 0.97
    assert simulated(TRIALS, lambda: unclustered_held(rng, 60)) < 0.90


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 400])
def test_the_jackknife_holds_95_of_100(n):
    """Of F1, over rows that leave some of the 50 groups empty, and over more."""
    rng = random.Random(8)
    assert 0.93 < simulated(TRIALS, lambda: jackknife_held(rng, n)) < 0.97


NIGHTS = 1000
DEFAULT = difference_rule("accuracy", {"not_worse_by": 0.01})


def nights(seed, n, lost, won, rule=DEFAULT):
    """The verdicts on a thousand pairs of nights."""
    rng = random.Random(seed)
    found = []
    for _ in range(NIGHTS):
        counts = paired_shares(rng, n, lost, won)
        difference = (counts[2] - counts[1]) / n
        found.append(judge_difference(rule, difference, *paired_share_interval(*counts), n))
    return found


@pytest.mark.parametrize(
    ("n", "flips"),
    [(200, 0.1), (1000, 0.1), (1000, 0.3), pytest.param(5000, 0.1, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_quiet_nights_stay_quiet(n, flips, seed):
    """Two nights that differ by noise alone fail in at most 2.5 of 100, and block nothing else."""
    found = nights(seed, n, flips / 2, flips / 2)
    failed = sum(verdict.verdict == "fail" for verdict in found)
    assert failed <= NIGHTS * 0.025 + 2 * math.sqrt(NIGHTS * 0.025 * 0.975)
    assert sum(verdict.blocks for verdict in found) == failed


@pytest.mark.parametrize(
    ("n", "least_caught"), [(1000, 0.1), pytest.param(10_000, 0.95, marks=pytest.mark.slow)]
)
def test_a_loss_of_twice_the_margin_is_not_passed(n, least_caught):
    """It is caught, or inconclusive with the rows that would settle it; few pass by chance."""
    found = nights(3, n, 0.06, 0.04)
    assert sum(verdict.verdict == "fail" for verdict in found) >= least_caught * NIGHTS
    assert sum(verdict.verdict == "pass" for verdict in found) <= 0.025 * NIGHTS + 10
    open_ones = [verdict for verdict in found if verdict.verdict == "inconclusive"]
    assert all(v.rows_needed is not None and v.rows_needed > n for v in open_ones)
