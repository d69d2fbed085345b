"""Tails and quantiles against scipy's."""

import pytest
from scipy import stats

from batchrun.core.statistics.distributions import (
    beta_tail,
    binomial_probability,
    binomial_tail,
    normal_quantile,
    student_quantile,
    student_tail,
)

FREEDOMS = (1, 2, 3, 4.5, 9, 49, 999, 9_999, 10_000, 999_999, 1e9)


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("probability", [0.0003, 0.1, 0.5, 0.8, 0.95, 0.975, 0.9999])
def test_students_quantiles(freedom, probability):
    """To eleven digits, from one degree of freedom to a billion."""
    expected = stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("freedom", [f for f in FREEDOMS if f <= 10_000])
@pytest.mark.parametrize("t", [0.0, 0.01, 1, 2, 5, 40])
def test_students_tail(freedom, t):
    """To 1e-12, as far as quantiles are computed from it."""
    assert abs(student_tail(t, freedom) - stats.t.sf(t, freedom)) < 1e-12


@pytest.mark.parametrize("n", [1, 7, 20, 100, 1000, 10**5, 10**7])
@pytest.mark.parametrize("p", [0.5, 0.1, 0.97])
def test_the_binomial(n, p):
    """Tail and probability to 1e-12 at any number of rows, in the middle and far out."""
    middle, spread = n * p, (n * p * (1 - p)) ** 0.5
    counts = {0, 1, n - 1, n, *(int(middle + z * spread) for z in (-6, -2, -0.5, 0, 0.5, 2, 6))}
    for count in sorted(k for k in counts if 0 <= k <= n):
        assert abs(binomial_tail(count, n, p) - stats.binom.cdf(count, n, p)) < 1e-12
        assert abs(binomial_probability(count, n, p) - stats.binom.pmf(count, n, p)) < 1e-12


@pytest.mark.parametrize("count", [-1, 21])
def test_impossible_counts(count):
    """They have no probability, and everything is on one side of them."""
    assert binomial_probability(count, 20, 0.5) == 0
    assert binomial_tail(count, 20, 0.5) == float(count > 20)


@pytest.mark.parametrize(
    ("a", "b", "x"), [(0.5, 0.5, 0.3), (2, 300, 0.01), (40, 3, 0.9), (1, 1, 0)]
)
def test_the_incomplete_beta_function(a, b, x):
    """On either side of its mean, and at its ends."""
    assert abs(beta_tail(a, b, x, 1 - x) - stats.beta.cdf(x, a, b)) < 1e-13
    assert beta_tail(a, b, 1, 0) == 1


def test_normal_quantiles():
    """Against scipy's."""
    for probability in (1e-9, 0.025, 0.5, 0.8, 0.975):
        assert normal_quantile(probability) == pytest.approx(stats.norm.ppf(probability), abs=1e-12)


def test_no_degree_of_freedom_is_refused():
    """One cluster or one value has no error."""
    with pytest.raises(ValueError, match="degrees of freedom, not 0"):
        student_quantile(0.975, 0)
