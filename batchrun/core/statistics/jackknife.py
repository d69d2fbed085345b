"""The interval of any other aggregate: the delete-a-group jackknife.

P. S. Kott, "The delete-a-group jackknife", Journal of Official Statistics 17, 2001. The rows are
split into groups at random (by a hash of their key), the aggregate is computed without each group
in turn, and the spread of these figures is the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchrun.core.statistics.distributions import student_quantile
from batchrun.core.statistics.interval import CONFIDENCE, Interval

GROUPS = 50
"""The groups that rows are split into: t with 49 degrees is 2.5 % wider than the normal."""


def jackknife_interval(
    value: float | None, left_out: Sequence[float | None], confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of ``value``, an aggregate over all rows.

    ``left_out`` has the aggregate without each group in turn, of those groups that hold a row (an
    empty one would count as a group that changes nothing). For a difference between two runs, both
    are differences, over the same groups. None for fewer than two groups, and where one of the
    figures is missing or not finite: the aggregate then hangs on one group.
    """
    figures = [figure for figure in left_out if figure is not None and math.isfinite(figure)]
    groups = len(figures)
    if value is None or not math.isfinite(value) or groups < 2 or groups < len(left_out):
        return None
    middle = math.fsum(figures) / groups
    square = math.fsum((figure - middle) ** 2 for figure in figures) * (groups - 1) / groups
    half = student_quantile(0.5 + confidence / 2, groups - 1) * math.sqrt(square)
    return Interval(value - half, value + half)
