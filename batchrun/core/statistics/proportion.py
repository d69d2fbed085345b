"""The interval of a share: Wilson's score interval.

E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22, 1927. It stays within [0, 1], and is not empty where every row
or no row succeeds, as the plain normal interval is.
"""

from __future__ import annotations

import math

from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE, Interval


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of the share ``successes / n``; without rows, all of [0, 1].

    Raises ``ValueError`` for more successes than rows, or fewer than none.
    """
    if not 0 <= successes <= n:
        message = f"{successes} successes in {n} rows"
        raise ValueError(message)
    if n == 0:
        return Interval(0.0, 1.0)
    square = two_sided_z(confidence) ** 2
    share = successes / n
    middle = share + square / (2 * n)
    half = math.sqrt(square * (share * (1 - share) / n + square / (4 * n * n)))
    whole = 1 + square / n
    low = (middle - half) / whole if successes > 0 else 0.0
    high = (middle + half) / whole if successes < n else 1.0
    return Interval(max(0.0, low), min(1.0, high))
