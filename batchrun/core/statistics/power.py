"""What a comparison can see: the smallest detectable difference, and the rows that a given one
needs. Both are of a two-sided test in the normal approximation (J. Cohen, "Statistical power
analysis for the behavioral sciences", 2nd edition, 1988).
"""

from __future__ import annotations

import math

from batchrun.core.statistics.distributions import normal_quantile, two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE

POWER = 0.80
"""The share of true differences of that size that a comparison finds."""


def detectable(
    standard_error: float, confidence: float = CONFIDENCE, power: float = POWER
) -> float:
    """The smallest true difference that is found with this power: 2.80 standard errors."""
    return (two_sided_z(confidence) + normal_quantile(power)) * standard_error


def rows_needed(
    difference: float,
    variance_of_pair_difference: float,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> int | None:
    """The pairs of rows that find a true ``difference`` with this power, at least 1; None where the
    difference is 0. Of shares the variance is the share of pairs that flip, less the square of the
    difference.
    """
    if difference == 0:
        return None
    one = detectable(math.sqrt(max(0.0, variance_of_pair_difference)), confidence, power)
    return max(1, math.ceil((one / difference) ** 2))
