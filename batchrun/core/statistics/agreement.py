"""How far two raters agree, beyond what chance would give: Cohen's kappa.

J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement
20, 1960; the large-sample error by Fleiss, Cohen and Everitt, Psychological Bulletin 72, 1969. That
error is the spread of a linear term that each rating has (``kappa_terms``). Where ratings belong
together, the terms of a cluster are summed first, as for the mean of clustered rows (CR1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE, Interval
from batchrun.core.statistics.mean import clustered_interval
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
    kappa = (share - chance) / (1 - chance)
    terms = kappa_terms(table)
    cells = ((i, j) for i in range(size) for j in range(size) if table[i][j])
    square = math.fsum(table[i][j] * (terms[i][j] - kappa) ** 2 for i, j in cells) / n**2
    half = two_sided_z(confidence) * math.sqrt(square)
    return Agreement(n, share, interval, kappa, _within(kappa - half, kappa + half))


def kappa_terms(table: Sequence[Sequence[int]]) -> list[list[float]]:
    """What a rating in each cell of a table adds to kappa, to first order: the mean of these terms
    over all ratings is kappa, and their standard error is that of kappa. The table has ratings in
    at least two categories.
    """
    size, n = len(table), sum(map(sum, table))
    first = [sum(row) / n for row in table]
    second = [sum(row[j] for row in table) / n for j in range(size)]
    share = sum(table[i][i] for i in range(size)) / n
    chance = math.fsum(a * b for a, b in zip(first, second, strict=True))
    rest = 1 - chance
    middle = share + share * chance - 2 * chance
    kappa = (share - chance) / rest
    return [
        [
            kappa + (rest * (i == j) - (1 - share) * (second[i] + first[j]) - middle) / rest**2
            for j in range(size)
        ]
        for i in range(size)
    ]


def clustered_kappa_interval(
    clusters: int,
    n: int,
    total: float,
    ss: float,
    sn: float,
    nn: float,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The interval of kappa over ``n`` ratings in clusters: the arguments are those of
    ``mean.clustered_interval``, of ``kappa_terms``. None for fewer than two clusters.
    """
    found = clustered_interval(clusters, n, total, ss, sn, nn, confidence)
    return None if found is None else _within(*found)


def _within(low: float, high: float) -> Interval:
    return Interval(max(-1.0, low), min(1.0, high))
