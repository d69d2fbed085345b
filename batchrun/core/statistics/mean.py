"""The interval of a mean: Student's t, and for rows that belong together the cluster-robust error.

The clustered error is CR1 of an intercept alone (Liang and Zeger, "Longitudinal data analysis using
generalized linear models", Biometrika 73, 1986; the factor G / (G - 1) and t with G - 1 degrees as
in Cameron and Miller, "A practitioner's guide to cluster-robust inference", Journal of Human
Resources 50, 2015).
"""

from __future__ import annotations

import math

from batchrun.core.statistics.distributions import student_quantile
from batchrun.core.statistics.interval import CONFIDENCE, Interval
from batchrun.core.statistics.proportion import wilson


def values_interval(
    n: int, mean: float, variance: float | None, zero_or_one: int
) -> Interval | None:
    """The interval of the mean of ``n`` values: Wilson's where all are 0 or 1 (``zero_or_one``
    counts those), else Student's t. None without values, and where ``variance`` is None.
    """
    if n and zero_or_one == n:
        return wilson(min(round(mean * n), n), n)
    return None if variance is None else mean_interval(n, mean, variance)


def mean_interval(
    n: int, mean: float, variance: float, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of the mean of ``n`` values whose sample variance (divided by n - 1) is
    ``variance``. None for fewer than two values, and where mean or variance is not finite.
    """
    if n < 2 or not (math.isfinite(mean) and math.isfinite(variance)):
        return None
    return _around(mean, variance / n, n - 1, confidence)


def clustered_interval(
    clusters: int,
    n: int,
    total: float,
    ss: float,
    sn: float,
    nn: float,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The interval of the mean ``total / n`` of rows in clusters that may differ in size.

    For cluster g with n_g rows that sum to s_g: ``total`` is the sum of s_g, ``ss`` of s_g², ``sn``
    of s_g·n_g and ``nn`` of n_g². None for fewer than two clusters, and for sums that are not
    finite. Of paired differences it is the interval of the clustered difference.
    """
    error = clustered_error(clusters, n, total, ss, sn, nn)
    if error is None:
        return None
    return _around(total / n, error**2, clusters - 1, confidence)


def clustered_error(
    clusters: int, n: int, total: float, ss: float, sn: float, nn: float
) -> float | None:
    """The standard error that ``clustered_interval`` takes; None where that has no interval."""
    if clusters < 2 or n < 1 or not all(map(math.isfinite, (total, ss, sn, nn))):
        return None
    mean = total / n
    squares = ss - 2 * mean * sn + mean * mean * nn
    return math.sqrt(max(0.0, squares) * clusters / (clusters - 1)) / n


def _around(value: float, square_error: float, freedom: int, confidence: float) -> Interval:
    half = student_quantile(0.5 + confidence / 2, freedom) * math.sqrt(max(0.0, square_error))
    return Interval(value - half, value + half)
