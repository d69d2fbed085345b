"""How long a row waits before it is sent again."""

from __future__ import annotations

from batchrun.core.verdict.decide import Decision
from batchrun.core.verdict.rules import Action

BACKOFF_S = 0.5
BACKOFF_S_MAX = 30.0
REFUSED_BACKOFF_S = 1.0
REFUSED_BACKOFF_S_MAX = 60.0


def backoff_s(decision: Decision, attempts: int, dice: float) -> float:
    """Full jitter on an exponential backoff, or what the server asked for and a little.

    ``attempts`` counts those made so far, ``dice`` is a random number from 0 to 1. 0 where the
    gates do the waiting.
    """
    if decision.avoid or decision.action is Action.FREE:
        return 0.0
    tries = min(attempts - 1, 20)
    if decision.action is Action.THROTTLE:
        longest_s = min(REFUSED_BACKOFF_S_MAX, REFUSED_BACKOFF_S * 2.0**tries)
        if decision.wait_s is None:
            return longest_s * (0.5 + 0.5 * dice)
        return decision.wait_s + min(decision.wait_s, 1.0) * 0.5 * dice
    own_s = decision.verdict.backoff_s
    first_s = BACKOFF_S if own_s is None else own_s
    wait_s = min(BACKOFF_S_MAX, first_s * 2.0**tries) * dice
    return wait_s if decision.wait_s is None else decision.wait_s + min(wait_s, 1.0)
