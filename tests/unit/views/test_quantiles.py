"""Percentiles in one pass."""

import math
import random

import pyarrow as pa
import pytest

from batchrun.views.report.quantiles import Quantiles


@pytest.mark.parametrize("count", [1, 2, 10, 5_000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_percentiles_lie_within_a_per_cent(count, spread):
    """Of any shape, in any number of pieces; the ends are exact."""
    dice = random.Random(count)
    values = [dice.lognormvariate(0, spread) for _ in range(count)]
    found = Quantiles()
    for start in range(0, count, 700):
        found.add(pa.chunked_array([values[start : start + 700]], pa.float64()))
    ordered = sorted(values)
    for share in (0.5, 0.9, 0.99, 1.0):
        exact = ordered[max(0, math.ceil(share * count) - 1)]
        assert found.at(share) == pytest.approx(exact, rel=0.011), (count, spread, share)
    assert (found.low, found.high, found.count) == (ordered[0], ordered[-1], count)


def test_what_is_no_number_is_passed_over():
    """Nulls, not-a-number and infinity; 0 is a value; of nothing there is no percentile."""
    found = Quantiles()
    found.add(pa.chunked_array([[None, math.nan, math.inf]], pa.float64()))
    assert found.count == 0 and found.at(0.5) is None
    found.add(pa.chunked_array([[0, 0, 7, None]], pa.int64()))
    assert (found.count, found.at(0.5), found.at(1.0)) == (3, 0, 7)
