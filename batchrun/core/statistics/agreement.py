"""How far two raters agree, beyond what chance would give: Cohen's kappa.

J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement
20, 1960; the large-sample error by Fleiss, Cohen and Everitt, Psychological Bulletin 72, 1969.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE, Interval
from batchrun.core.statistics.proportion import wilson


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of rows on which two raters agree, and kappa, each with its interval. Kappa is None
    where it has no meaning: without rows, and where both raters gave one and the same answer.
    """

    n: int
    share: float | None
    share_interval: Interval
    kappa: float | None
    kappa_interval: Interval | None


def agreement(table: Sequence[Sequence[int]], confidence: float = CONFIDENCE) -> Agreement:
    """The agreement of two raters. ``table[i][j]`` counts the rows that the first put into category
    i and the second into j. Raises ``ValueError`` for a table that is not square.
    """
    size = len(table)
    if any(len(row) != size for row in table):
        message = f"the table of {size} rows is not square"
        raise ValueError(message)
    n = sum(map(sum, table))
    if n == 0:
        return Agreement(0, None, Interval(0.0, 1.0), None, None)
    same = sum(table[i][i] for i in range(size))
    first = [sum(row) / n for row in table]
    second = [sum(row[j] for row in table) / n for j in range(size)]
    share, chance = same / n, math.fsum(a * b for a, b in zip(first, second, strict=True))
    interval = wilson(same, n, confidence)
    if sum(first[i] > 0 or second[i] > 0 for i in range(size)) < 2:
        return Agreement(n, share, interval, None, None)
    rest = 1 - chance
    kappa = (share - chance) / rest
    spread = math.fsum(
        table[i][j]
        / n
        * ((rest * (i == j) - (1 - share) * (second[i] + first[j])) ** 2 if table[i][j] else 0.0)
        for i in range(size)
        for j in range(size)
    )
    square = max(0.0, spread - (share * chance - 2 * chance + share) ** 2) / (n * rest**4)
    half = two_sided_z(confidence) * math.sqrt(square)
    ends = Interval(max(-1.0, kappa - half), min(1.0, kappa + half))
    return Agreement(n, share, interval, kappa, ends)
