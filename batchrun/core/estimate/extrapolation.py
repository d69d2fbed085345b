"""Extrapolates a stratified sample to a total, with an interval that covers it nine times in ten.

The total is a regression estimate: the sample estimate, corrected by how far the sample's known
sizes miss the known size of the whole. Its interval is Hall's: the studentised estimate is
transformed so that the skewness of what is summed, which is what makes plain intervals of costs
too short above, drops out (P. Hall, "On the removal of skewness by transformation", Journal of the
Royal Statistical Society B 54, 1992). Rows that were sampled are known: the finite-population
correction leaves only the others in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchrun.core.statistics.distributions import student_quantile

LEVEL = 0.90
ASKED = 0.94
"""What the formula is asked for. A hundred rows of a long tail seldom hold its end, so that their
spread is too small; with this, 87 to 97 of 100 intervals hold the truth (docs/estimate.md)."""


LEAST_FREEDOM = 3.0
"""Degrees of freedom that the error is given at least: fewer would make it endless."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was seen of a stratum: how many rows it has, the sum of their sizes, and the sizes and
    values of the sampled ones.
    """

    rows: int
    size: float
    sizes: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A total with its interval at confidence ``LEVEL``."""

    total: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For ``--json``."""
        return {"estimate": self.total, "low": self.low, "high": self.high}


def total(strata: Sequence[Sampled], level: float = ASKED) -> Interval:
    """The total of the values over all rows of the strata. A value is never negative."""
    n = sum(len(s.values) for s in strata)
    slope = _slope(strata, n)
    estimate = variance = third = known = 0.0
    freedom = 0.0
    for s in strata:
        m = len(s.values)
        known += sum(s.values)
        rest = [y - slope * x for x, y in zip(s.sizes, s.values, strict=True)]
        mean = sum(rest) / m
        estimate += s.rows * mean + slope * s.size
        if m < 2 or m == s.rows:
            continue
        left = 1 - m / s.rows
        square = sum((r - mean) ** 2 for r in rest) / (m - 1)
        part = s.rows**2 * left * square / m
        variance += part
        freedom += part**2 / (m - 1)
        if m > 2:
            cube = sum((r - mean) ** 3 for r in rest) * m / ((m - 1) * (m - 2))
            third += s.rows**3 * left * (1 - 2 * m / s.rows) * cube / m**2
    if variance <= 0:
        return Interval(estimate, estimate, estimate)
    error = math.sqrt(variance)
    skew = third / variance**1.5
    low, high = _bounds(skew, variance**2 / freedom, level)
    return Interval(
        max(estimate, known),
        max(known, estimate - error * high),
        max(known, estimate - error * low),
    )


def _slope(strata: Sequence[Sampled], n: int) -> float:
    """How much a value grows with a row's size, within the strata; 0 where too little tells it."""
    square = product = 0.0
    for s in strata:
        m = len(s.values)
        if m < 2:
            continue
        x, y = sum(s.sizes) / m, sum(s.values) / m
        weight = s.rows**2 * (1 - m / s.rows) / m / (m - 1)
        square += weight * sum((a - x) ** 2 for a in s.sizes)
        product += weight * sum((a - x) * (b - y) for a, b in zip(s.sizes, s.values, strict=True))
    return product / square if square > 0 and n >= 10 else 0.0


def _bounds(skew: float, freedom: float, level: float) -> tuple[float, float]:
    """The quantiles of the studentised estimate."""
    z = student_quantile(0.5 + level / 2, max(LEAST_FREEDOM, freedom))
    return _back(-z, skew), _back(z, skew)


def _back(z: float, skew: float) -> float:
    """The inverse of Hall's cubic transformation of a studentised mean."""
    if abs(skew) < 1e-6:
        return z
    root = 1 + skew * (z - skew / 6)
    return 3 / skew * (math.copysign(abs(root) ** (1 / 3), root) - 1)
