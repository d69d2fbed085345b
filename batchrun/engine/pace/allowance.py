"""An allowance: so much per second, charged by estimates that are corrected later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


class Allowance:
    """A signed balance, refilled continuously up to one window's worth, and to one at least.

    Who asks for more than that waits for a full balance and leaves a debt; the balance may be
    allowed to grow for the one that waits. What was not used comes back when it is settled, and
    whoever waits is woken then.
    """

    def __init__(
        self, per_min: float, now_s: Callable[[], float], *, window_s: float = 1.0
    ) -> None:
        self._window_s = window_s
        self._now_s = now_s
        self._at_s = now_s()
        self._changed = asyncio.Event()
        self._rate = per_min / 60
        self._capacity = max(1.0, self._rate * window_s)
        self._balance = self._capacity
        self._most = 0.0
        self._wanted = 0.0

    def _refill(self) -> None:
        now = self._now_s()
        full = max(self._capacity, self._wanted)
        if self._balance < full:
            self._balance = min(full, self._balance + (now - self._at_s) * self._rate)
        self._at_s = now

    def set_rate(self, per_s: float, *, most: float = 0.0) -> None:
        """Refill at another rate from now on. What has gathered stays, as far as it may. For a
        request that costs more than the window holds, up to ``most`` is gathered while it waits.
        """
        self._refill()
        self._rate = per_s
        self._capacity = max(1.0, per_s * self._window_s)
        self._most = most
        self._wanted = min(self._wanted, most)
        self._balance = min(self._balance, max(self._capacity, self._wanted))
        self._changed.set()

    def try_take(self, amount: float) -> bool:
        """Charge the amount if the balance covers it, or is full."""
        self._refill()
        if self._balance < min(amount, max(self._capacity, self._most)) - 1e-6:
            return False
        self._balance -= amount
        self._wanted = 0.0
        return True

    def lend(self, amount: float) -> bool:
        """Charge the amount if the balance covers it as it stood when it was looked at last. That
        takes no look at the clock; in return up to two windows' worth may go out at once.
        """
        if self._balance < amount:
            return False
        self._balance -= amount
        return True

    async def take(self, amount: float) -> None:
        """Wait until the balance covers the amount, or is full, and charge it."""
        while not self.try_take(amount):
            await self.wait(amount)

    async def wait(self, amount: float, *, wait_s_max: float = float("inf")) -> None:
        """Return when the balance may cover the amount, when the rate changed, or after
        ``wait_s_max``. Nothing is charged.
        """
        self._wanted = min(amount, self._most)
        missing = min(amount, max(self._capacity, self._most)) - self._balance
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(0.0, missing) / self._rate, wait_s_max)):
                await self._changed.wait()

    def give(self, amount: float) -> None:
        """Give some back, or charge more with a negative number."""
        self._refill()
        ceiling = max(self._capacity, self._rate * 60)
        self._balance = min(ceiling, self._balance + amount)
        self._changed.set()
