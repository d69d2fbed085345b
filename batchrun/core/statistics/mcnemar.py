"""Whether a share changed between two runs over the same rows: McNemar's test, exact.

Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12, 1947. Without a change, a pair that flips is as likely lost as won.
"""

from __future__ import annotations

from batchrun.core.statistics.distributions import binomial_tail


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p-value of ``lost`` against ``won`` pairs; 1.0 where no pair flipped.

    Raises ``ValueError`` for a negative count.
    """
    if lost < 0 or won < 0:
        message = f"{lost} lost and {won} won pairs"
        raise ValueError(message)
    return min(1.0, 2 * binomial_tail(min(lost, won), lost + won, 0.5))
