"""The interval of a quantile by order statistics, whatever the distribution of the values.

The number of values below the true quantile is binomial, so two of the sorted values enclose it
with a probability that can be computed (H. A. David and H. N. Nagaraja, "Order statistics", 3rd
edition, 2003, section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from batchrun.core.statistics.distributions import binomial_tail
from batchrun.core.statistics.interval import CONFIDENCE


class Ranks(NamedTuple):
    """Places among sorted values, from 1: that of the quantile, and those of its interval's ends.
    An end that no value reaches is None.
    """

    value: int
    low: int | None
    high: int | None


def quantile_ranks(n: int, share: float, confidence: float = CONFIDENCE) -> Ranks | None:
    """Which of ``n`` sorted values are the quantile ``share`` and the ends of its interval; None
    without a value. Raises ``ValueError`` for a share that is not within 0 and 1.
    """
    if not 0 < share < 1:
        message = f"a quantile is between 0 and 1, not {share!r}"
        raise ValueError(message)
    if n < 1:
        return None
    rest = (1 - confidence) / 2
    value = min(n, max(1, math.ceil(n * share)))
    # Fewer than r values lie below the quantile where the value of rank r is above it.
    low = _first(n, lambda r: binomial_tail(r, n, share) > rest)
    high = _first(n, lambda r: binomial_tail(r, n, share) >= 1 - rest) + 1
    return Ranks(value, low or None, high if high <= n else None)


def _first(n: int, reached: Callable[[int], bool]) -> int:
    """The first of 0 to ``n`` for which a condition holds that holds from there on."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle + 1
    return low
