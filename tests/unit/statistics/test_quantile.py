"""Quantiles by order statistics: the exact ranks, and how often they hold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from batchrun.core.statistics.quantile import quantile_ranks


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 2, 5, 20, 100, 3_000, 1_000_000])
def test_ranks_are_the_binomial_quantiles(n, share):
    """Both ends leave at most 2.5 % outside each, and the next rank inwards would leave more."""
    ranks = quantile_ranks(n, share)
    below = stats.binom(n, share)
    assert ranks.value == math.ceil(n * share)
    if ranks.low is not None:
        assert below.cdf(ranks.low - 1) <= 0.025 < below.cdf(ranks.low)
    else:
        assert below.cdf(0) > 0.025
    if ranks.high is not None:
        assert below.sf(ranks.high - 1) <= 0.025 + 1e-12
        assert below.sf(ranks.high - 2) > 0.025
    else:
        assert below.sf(n - 1) > 0.025


def test_five_values_have_no_interval_of_a_median():
    """Five values leave 3.1 % on either side; six are enough for the median."""
    assert quantile_ranks(5, 0.5)[1:] == (None, None)
    assert quantile_ranks(6, 0.5)[1:] == (1, 6)


@given(st.integers(1, 10_000), st.floats(0.01, 0.99))
def test_the_quantile_is_within_its_interval(n, share):
    """The ends enclose the value, and are ranks that exist."""
    ranks = quantile_ranks(n, share)
    assert 1 <= ranks.value <= n
    assert 1 <= (ranks.low or 1) <= ranks.value <= (ranks.high or n) <= n


def test_what_is_no_quantile():
    """No value has no quantile, and 0 and 1 are the least and the largest, not quantiles."""
    assert quantile_ranks(0, 0.5) is None
    for share in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            quantile_ranks(5, share)
