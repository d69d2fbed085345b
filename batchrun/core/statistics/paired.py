"""How far two runs over the same rows differ: the interval of a difference of paired values.

For shares it is T. Tango's score interval ("Equivalence test and confidence interval for the
difference in proportions for the paired-sample design", Statistics in Medicine 17, 1998): the
differences that a score test does not reject. Only the four counts matter.
"""

from __future__ import annotations

import math

from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE, Interval
from batchrun.core.statistics.mean import mean_interval

_HALVINGS = 60


def paired_share_interval(
    both: int, lost: int, won: int, neither: int, confidence: float = CONFIDENCE
) -> Interval:
    """The interval of ``(won - lost) / n``, how much larger the second run's share is.

    ``both`` rows succeeded in both runs, ``lost`` in the first alone, ``won`` in the second alone,
    ``neither`` in none; n is their sum. Without pairs it is all of [-1, 1]. Raises ``ValueError``
    for a negative count.
    """
    n = both + lost + won + neither
    if min(both, lost, won, neither) < 0:
        message = f"negative number of pairs in {(both, lost, won, neither)}"
        raise ValueError(message)
    if n == 0:
        return Interval(-1.0, 1.0)
    z, difference = two_sided_z(confidence), (won - lost) / n
    return Interval(_end(lost, won, n, difference, -1.0, z), _end(lost, won, n, difference, 1.0, z))


def share_score(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's score statistic: standard errors between the counts and a true ``difference``. It is
    infinite at -1 and 1, unless the counts are those of such a difference.
    """
    missed = won - lost - n * difference
    b = (2 * n - won + lost) * difference - won - lost
    root = math.sqrt(max(0.0, b * b + 8 * n * lost * difference * (1 - difference)))
    share = (root - b) / (4 * n)  # the likeliest share of lost pairs under this difference
    variance = n * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, missed) if missed else 0.0
    return missed / math.sqrt(variance)


def _end(lost: int, won: int, n: int, estimate: float, limit: float, z: float) -> float:
    """Where the statistic reaches ``z``, between the estimate and one end of [-1, 1]."""
    inside, outside = estimate, limit
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if abs(share_score(lost, won, n, middle)) <= z:
            inside = middle
        else:
            outside = middle
    return inside


def paired_mean_interval(
    n: int, mean: float, variance: float, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of the mean of ``n`` differences, one for each pair, whose sample variance is
    ``variance``. None for fewer than two pairs.
    """
    return mean_interval(n, mean, variance, confidence)


def paired_share_variance(lost: int, won: int, n: int) -> float:
    """The variance of a pair's difference, which is -1 for a lost pair, 1 for a won one, else 0."""
    return (lost + won) / n - ((won - lost) / n) ** 2 if n else 0.0
