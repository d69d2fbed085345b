"""Intervals of the figures of one run: shares, means, rows in clusters, other aggregates."""

import math
import random
import statistics

import numpy as np
import paired_eval
import pytest
from scipy import stats

from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import Interval
from batchrun.core.statistics.jackknife import jackknife_interval
from batchrun.core.statistics.mean import clustered_interval, mean_interval
from batchrun.core.statistics.proportion import wilson
from tests.harness.coverage import cluster_sums, clustered_rows

COUNTS = [(0, 1), (1, 1), (0, 20), (1, 20), (10, 20), (20, 20), (812, 1000), (3, 10**6)]


@pytest.mark.parametrize(("successes", "n"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_against_scipy(successes, n, confidence):
    """The interval of a share, at any confidence."""
    expected = stats.binomtest(successes, n).proportion_ci(confidence, "wilson")
    found = wilson(successes, n, confidence)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), COUNTS)
def test_wilson_against_paired_eval(successes, n):
    """The same by a tool for evaluations."""
    expected = paired_eval.wilson_ci(successes, n, z=two_sided_z(0.95))
    assert wilson(successes, n) == pytest.approx(tuple(expected), abs=1e-9)


def test_a_share_of_nothing():
    """Without rows everything is possible; impossible counts are refused."""
    assert wilson(0, 0) == Interval(0.0, 1.0)
    for successes, n in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match=f"{successes} successes in 5 rows"):
            wilson(successes, n)


@pytest.mark.parametrize("n", [2, 3, 20, 10_000, 10**6])
def test_a_mean_against_scipy(n):
    """Student's t with n - 1 degrees."""
    expected = stats.t.interval(0.95, n - 1, 3.2, math.sqrt(1.7 / n))
    assert mean_interval(n, 3.2, 1.7) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "mean", "variance", "expected"),
    [
        (0, 0.0, 0.0, None),
        (1, 0.4, 0.0, None),
        (5, math.nan, 0.1, None),
        (5, 0.4, math.inf, None),
        (5, 0.4, 0.0, Interval(0.4, 0.4)),
        (5, 0.4, -1e-18, Interval(0.4, 0.4)),
    ],
)
def test_means_without_a_spread(n, mean, variance, expected):
    """Fewer than two values have no interval; equal values have an empty one."""
    assert mean_interval(n, mean, variance) == expected


@pytest.mark.parametrize("clusters", [2, 5, 40])
def test_clusters_against_a_sandwich(clusters):
    """The sums give what the matrices of a regression on a constant do (CR1)."""
    groups = clustered_rows(random.Random(clusters), clusters)
    y = np.array([value for group in groups for value in group])
    x = np.ones((len(y), 1))
    residuals = iter(y - y.mean())
    meat = sum(sum(next(residuals) for _ in group) ** 2 for group in groups)
    bread = np.linalg.inv(x.T @ x)
    error = math.sqrt((bread * meat @ bread).item() * clusters / (clusters - 1))
    expected = stats.t.interval(0.95, clusters - 1, y.mean(), error)
    assert clustered_interval(*cluster_sums(groups)) == pytest.approx(expected, abs=1e-9)


def test_clusters_of_one_row_are_rows():
    """Then it is the plain interval of a mean."""
    values = [0.1, 0.5, 0.9, 0.3]
    expected = mean_interval(4, statistics.fmean(values), statistics.variance(values))
    assert clustered_interval(*cluster_sums([[v] for v in values])) == pytest.approx(expected)


@pytest.mark.parametrize("groups", [[], [[1.0, 0.0]]])
def test_one_cluster_has_no_interval(groups):
    """What varies between clusters cannot be known from one of them."""
    assert clustered_interval(*cluster_sums(groups)) is None


def test_equal_clusters_have_an_empty_interval():
    """Rounding below zero does not become an error."""
    found = clustered_interval(*cluster_sums([[0.1, 0.3], [0.3, 0.1], [0.1, 0.3]]))
    assert found == pytest.approx((0.2, 0.2), abs=1e-8)


def test_the_jackknife_of_a_mean_is_students_t():
    """Of groups of one size it is the interval of the groups' means."""
    rng = random.Random(4)
    means = [rng.random() for _ in range(50)]
    whole = statistics.fmean(means)
    left_out = [(whole * 50 - mean) / 49 for mean in means]
    expected = mean_interval(50, whole, statistics.variance(means))
    assert jackknife_interval(whole, left_out) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "left_out"),
    [(None, [1.0, 2.0]), (math.nan, [1.0, 2.0]), (1.0, []), (1.0, [1.0]), (1.0, [1.0, None, 2.0])],
)
def test_a_jackknife_without_its_figures(value, left_out):
    """An aggregate that hangs on one group, or on fewer than two, has no interval."""
    assert jackknife_interval(value, left_out) is None
