"""The user's limit on tokens per minute: used up, and not exceeded in any minute."""

from __future__ import annotations

from collections.abc import Callable

from batchrun.engine.pace.allowance import Allowance

MARGIN = 0.995
"""Of the limit, this much is sent: what goes out 60 s apart may arrive a little less apart."""
SLACK_MAX = 0.04
"""Of the limit, the most that is left free so that one more request fits into any minute."""
COST_OF = 64
"""Requests over which their mean cost is taken."""
LOOK_EVERY = 16


class TokenBudget(Allowance):
    """An allowance that begins empty; the first request goes out at once, and leaves a debt.

    A server may count by the second, by a bucket, or over any 60 s, and may have been used a
    moment ago. With a full balance at the start, the first minute would hold a second's worth too
    much. A minute that begins with a request holds one more than the rate allows: as much of the
    limit is left free.
    """

    def __init__(self, per_min: float, now_s: Callable[[], float]) -> None:
        super().__init__(per_min, now_s)
        self._balance = 0.0
        self._per_min = per_min
        self._count = 0
        self._mean = 0.0

    def emptied(self) -> None:
        """The server refused a request: its own budget is empty, and so is this one. Both refill at
        nearly the same rate, so one that runs ahead of the server's would do so for minutes.
        """
        self._refill()
        self._balance = min(self._balance, 0.0)

    def try_take(self, amount: float) -> bool:
        """Charge the amount if the balance covers it, or is full, or this is the first request."""
        if self._count == 0:
            self._balance -= amount
        elif not super().try_take(amount):
            return False
        self._count += 1
        self._mean += (amount - self._mean) / min(self._count, COST_OF)
        if self._count % LOOK_EVERY == 1:
            self._refill()
            self._rate = self._sent_per_s()
        return True

    def set_per_min(self, per_min: float) -> None:
        """The limit is another one from now on."""
        self._per_min = per_min
        self.set_rate(self._sent_per_s())

    def _sent_per_s(self) -> float:
        slack = min(self._mean, SLACK_MAX * self._per_min)
        return MARGIN * (self._per_min - slack) / 60
