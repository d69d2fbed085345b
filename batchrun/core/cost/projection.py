"""What a run will have cost at its end, told from the rows that it has done.

The rows done are taken for a sample of the input, and the others for like them. Only running sums
are kept: how many rows there were, what they cost together, and the squares of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ROWS_MIN = 30
"""With fewer rows done their spread is not known well enough for an interval."""
_Z = 1.6448536269514722
"""Quantile of the normal distribution: 90 % lie between its negative and itself."""


@dataclass(slots=True)
class RowCosts:
    """Sums over the costs of finished rows, each with all of its exchanges, in picodollars. They
    are whole numbers, so that nothing cancels out.
    """

    rows: int = 0
    total: int = 0
    squares: int = 0

    def add(self, cost: int) -> None:
        """A row is finished and cost so much."""
        self.rows += 1
        self.total += cost
        self.squares += cost * cost

    def merge(self, other: RowCosts) -> None:
        """Add the sums over other rows."""
        self.rows += other.rows
        self.total += other.total
        self.squares += other.squares

    @classmethod
    def of(cls, recorded: Sequence[str] | None) -> RowCosts:
        """The sums as ``recorded`` gave them; None: nothing was."""
        return cls(*map(int, recorded or ()))

    def recorded(self) -> list[str]:
        """The sums as JSON values: they outgrow the integers of many a reader."""
        return [str(self.rows), str(self.total), str(self.squares)]


class Projection(NamedTuple):
    """Costs in picodollars: of a row, of the rows that are pending, and of the whole run with what
    is spent already. ``margin`` is half of the interval that holds the cost of the pending rows in
    nine of ten cases; None while there is none.
    """

    row: float
    pending: int
    total: int
    margin: int | None

    @property
    def low(self) -> int | None:
        """The lower end of the whole run's interval: never below what is spent."""
        if self.margin is None:
            return None
        return max(self.total - self.margin, self.total - self.pending)

    @property
    def high(self) -> int | None:
        """The upper end."""
        return None if self.margin is None else self.total + self.margin


def project(costs: RowCosts, *, spent: int, pending: int) -> Projection | None:
    """The cost of a run that has spent so much and has so many rows left; None while no row is
    finished.

    The pending rows' sum varies by their own spread and by that of the mean it is told from:
    s² · (m + m² / n) for m pending rows and n finished ones, which is the finite population
    correction: it ends at 0 with the last row. Quantiles are Student's, by the first terms of their
    expansion.
    """
    if costs.rows == 0:
        return None
    mean = costs.total / costs.rows
    rest = round(mean * pending)
    margin = None
    if costs.rows >= ROWS_MIN:
        freedom = costs.rows - 1
        # Exact until the division: rows times squares less the square of the sum.
        spread = costs.rows * costs.squares - costs.total * costs.total
        variance = spread / (costs.rows * freedom)
        quantile = _Z + (_Z**3 + _Z) / (4 * freedom)
        margin = round(quantile * math.sqrt(variance * pending * (1 + pending / costs.rows)))
    return Projection(mean, rest, spent + rest, margin)
