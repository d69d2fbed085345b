"""Tails and quantiles of the normal, Student's t and the binomial distribution.

All three rest on the regularised incomplete beta function: a continued fraction (NIST Digital
Library of Mathematical Functions, 8.17.22) times a factor that is computed the way C. Loader
computes binomial probabilities ("Fast and accurate computation of binomial probabilities", 2000).
Differences of ``math.lgamma`` have nine good digits at a million rows; his way keeps tails good to
1e-12 at any number of rows.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""The series of log n! minus Stirling's formula, in odd powers of 1/n."""
_SERIES_FROM = 15.0
"""From here on the series is exact to the last bit; below, ``math.lgamma`` is."""
_EXPANSION_FROM = 10_000
"""Degrees of freedom from which on the expansion of Student's t is exact to the last bit."""
_STEPS_MAX = 100_000
_SMALLEST = 1e-300


def normal_quantile(probability: float) -> float:
    """The value that a standard normal variable stays below with this probability."""
    return _NORMAL.inv_cdf(probability)


def two_sided_z(confidence: float) -> float:
    """The standard errors on either side of an estimate that a normal interval takes."""
    return normal_quantile(0.5 + confidence / 2)


@lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t with ``freedom`` degrees stays below with this probability.

    Raises ``ValueError`` for a probability outside of (0, 1), or without a degree of freedom.
    """
    if freedom <= 0:
        message = f"Student's t needs a positive number of degrees of freedom, not {freedom}"
        raise ValueError(message)
    z = normal_quantile(probability)
    if freedom >= _EXPANSION_FROM:
        return _cornish_fisher(z, freedom)
    t, wanted = abs(z), min(probability, 1 - probability)
    # The tail is convex and the normal quantile is too small: Newton's steps only go up.
    for _ in range(_STEPS_MAX):
        step = (student_tail(t, freedom) - wanted) / _student_density(t, freedom)
        t += step
        if step <= 1e-14 * t:
            break
    return math.copysign(t, z)


def student_tail(t: float, freedom: float) -> float:
    """The probability that Student's t is larger than ``t``, which is not negative. Beyond 10,000
    degrees its rounding grows with them.
    """
    whole = freedom + t * t
    return beta_tail(freedom / 2, 0.5, freedom / whole, t * t / whole) / 2


def _cornish_fisher(z: float, v: float) -> float:
    """A quantile of Student's t from that of the normal (Abramowitz and Stegun, 26.7.5)."""
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def _student_density(t: float, freedom: float) -> float:
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    log -= math.log(freedom * math.pi) / 2 + (freedom + 1) / 2 * math.log1p(t * t / freedom)
    return math.exp(log)


def binomial_tail(successes: int, n: int, p: float) -> float:
    """The probability of at most this many successes in ``n`` trials."""
    if successes < 0:
        return 0.0
    if successes >= n:
        return 1.0
    return beta_tail(n - successes, successes + 1, 1 - p, p)


def binomial_probability(successes: int, n: int, p: float) -> float:
    """The probability of exactly this many successes in ``n`` trials."""
    if not 0 <= successes <= n:
        return 0.0
    if successes == 0:
        return math.exp(n * math.log1p(-p)) if p < 1 else float(n == 0)
    if successes == n:
        return p**n
    return _density(successes, n, p, 1 - p)


def beta_tail(a: float, b: float, x: float, y: float) -> float:
    """The probability that a beta variable (``a``, ``b``) is at most ``x``: the regularised
    incomplete beta function. ``y`` is 1 - ``x``, given because it may be far smaller than the
    rounding of ``x``.
    """
    if x <= 0:
        return 0.0
    if y <= 0:
        return 1.0
    factor = _density(a, a + b, x, y) * a * b / (a + b)
    if x <= (a + 1) / (a + b + 2):
        return factor / a * _fraction(a, b, x)
    return 1 - factor / b * _fraction(b, a, y)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS_MAX):
        before = value
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_0(1 + term * d)
            c = _away_from_0(1 + term / c)
            value *= c * d
        if abs(value - before) <= 1e-15 * abs(value):
            break
    return value


def _away_from_0(value: float) -> float:
    return value if abs(value) >= _SMALLEST else _SMALLEST


def _density(k: float, n: float, p: float, q: float) -> float:
    """Loader's binomial probability; ``k`` and ``n`` need not be whole, 0 < k < n."""
    log = _stirling_error(n) - _stirling_error(k) - _stirling_error(n - k)
    log -= _deviance(k, n * p) + _deviance(n - k, n * q)
    return math.exp(log) * math.sqrt(n / (2 * math.pi * k * (n - k)))


def _stirling_error(n: float) -> float:
    """The logarithm of n! minus Stirling's formula for it."""
    if n < _SERIES_FROM:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - _LOG_SQRT_2PI
    return sum(term / n ** (2 * power + 1) for power, term in enumerate(_STIRLING))


def _deviance(x: float, mean: float) -> float:
    """``x log(x / mean) + mean - x`` without cancellation."""
    if abs(x - mean) >= 0.1 * (x + mean):
        return x * math.log(x / mean) + mean - x
    v = (x - mean) / (x + mean)
    value, term, square = (x - mean) * v, 2 * x * v, v * v
    for j in range(3, 1000, 2):
        term *= square
        if value + term / j == value:
            break
        value += term / j
    return value
