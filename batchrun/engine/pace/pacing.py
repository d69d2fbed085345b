"""Paces one endpoint by the limits that it reports; ``account`` judges each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchrun.core.reply.limit_dialects import (
    INPUT_TOKENS,
    MINUTE_S,
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
)
from batchrun.core.reply.limit_headers import Limits
from batchrun.engine.pace.allowance import Allowance
from batchrun.engine.pace.charging import Charging
from batchrun.engine.pace.limit_model import UNBOUND, Account, Limit, News
from batchrun.engine.pace.token_costs import Cost

FRESH_S = 0.1
"""For so long a share stands before it is worked out again, unless there is news."""
WAIT_S = 0.25
REQUESTS_WINDOW_S = 0.05
TOKENS_WINDOW_S = 0.5
"""Seconds' worth that may go out at once; as lent, it may be twice that (see ``gate.WINDOW_S``)."""
COST_WEIGHT = 1 / 32

KINDS: Mapping[str, Callable[[Cost], float]] = {
    REQUESTS: lambda _: 1.0,
    TOKENS: lambda cost: cost.total,
    INPUT_TOKENS: lambda cost: cost.prompt,
    OUTPUT_TOKENS: lambda cost: cost.output,
}
"""The kinds of limits that are kept, and what a request costs of each."""


class Pace:
    """The limits of one kind, of which the tightest counts."""

    def __init__(self, now_s: Callable[[], float], began_s: float | None, window_s: float) -> None:
        """``window_s``: so many seconds' worth may go out at once, or a little more."""
        self._now_s = now_s
        self._began_s = began_s
        self._accounts: dict[str, Account] = {}
        self._budget = Allowance(60.0, now_s, window_s=window_s)
        self._cost = 1.0
        self._requests, self._costs = 0, 0.0  # since the last news
        self._fresh_until_s = float("-inf")
        self._held = False
        self.bound = False
        """Whether any limit is believed and was reported recently."""

    def told(self, limits: Mapping[str, Limit], news: News) -> None:
        """News of the limits of this kind, by their headers."""
        now_s = news.now_s
        news = news._replace(held=self._held)
        for name, limit in limits.items():
            account = self._accounts.get(name)
            if account is None:
                account = self._accounts[name] = Account(limit, now_s, self._began_s)
            account.told(limit, news)
        self._held = False
        if self._requests:
            weight = min(1.0, self._requests * COST_WEIGHT)
            self._cost += (self._costs / self._requests - self._cost) * weight
            self._requests, self._costs = 0, 0.0
        self._refresh(now_s)

    def _refresh(self, now_s: float) -> None:
        rates = [account.rate(now_s, self._cost) for account in self._accounts.values()]
        rate = min(rates, default=UNBOUND)
        self.bound = rate < UNBOUND
        self._fresh_until_s = now_s + FRESH_S
        most = min((account.size for account in self._accounts.values()), default=0.0)
        self._budget.set_rate(min(rate, 1e15), most=most)

    def try_take(self, cost: float) -> bool:
        """Charge a request's cost, if it may go out now."""
        self._requests += 1
        self._costs += cost
        if not self.bound or self._budget.lend(cost):
            return True
        now_s = self._now_s()
        if now_s >= self._fresh_until_s:
            self._refresh(now_s)
        if self._covers(cost):
            return True
        self._requests -= 1
        self._costs -= cost
        self._held = True
        return False

    @property
    def bucket(self) -> float | None:
        """What the first of the limits holds when it is full; None: it is a window."""
        first = next(iter(self._accounts.values()), None)
        return None if first is None or first.renewed_at_once else first.size

    def _covers(self, cost: float) -> bool:
        return not self.bound or self._budget.try_take(cost)

    async def take(self, cost: float) -> None:
        """Wait until a request of this cost may go out, and charge it."""
        while not self.try_take(cost):
            await self._budget.wait(cost, wait_s_max=WAIT_S)

    def give(self, amount: float) -> None:
        """Give back what was not used, or charge more with a negative number."""
        if self.bound and amount:
            self._budget.give(amount)


class Pacing:
    """All that is known of an endpoint's limits: on requests, on tokens, and on tokens of input and
    of output where they are limited apart.

    Limits of an hour or longer do not pace: what they leave may be used up at once.
    """

    def __init__(self, now_s: Callable[[], float], charging: Charging | None = None) -> None:
        """``charging`` is to hear what is left of limits on tokens."""
        self._now_s = now_s
        self._began_s = now_s()
        self._charging = charging
        self._paces: dict[str, Pace] = {}
        self._kept: tuple[tuple[Pace, Callable[[Cost], float]], ...] = ()
        self.active = False
        """Whether a limit was told that could be kept."""
        self.short_of_tokens = False
        """Whether the latest request that had to wait did so for tokens."""

    def told(self, limits: Limits, *, refused: bool, sent_at_s: float, answers: int) -> None:
        """The limits in the reply to a request that went out at ``sent_at_s``. ``refused`` says
        that it was a refusal (429), ``answers`` how many requests were answered so far.
        """
        news = News(self._now_s(), refused, sent_at_s, held=False, answers=answers)
        for kind in KINDS:
            found = _kept(limits, kind)
            pace = self._paces.get(kind)
            if pace is None:
                if not found:
                    continue
                whole = kind == REQUESTS
                window_s = REQUESTS_WINDOW_S if whole else TOKENS_WINDOW_S
                pace = Pace(self._now_s, self._began_s if whole else None, window_s)
                self._paces[kind] = pace
                self._kept = tuple((self._paces[kind], KINDS[kind]) for kind in self._paces)
            pace.told(found, news)
            if kind == TOKENS and found and not refused and self._charging is not None:
                first = next(iter(found.values()))
                self._charging.left(first, news.now_s, bucket=pace.bucket)
        self.active = bool(self._kept)

    @property
    def slows(self) -> bool:
        """Whether some limit is believed and kept."""
        return any(pace.bound for pace, _ in self._kept)

    def try_take(self, cost: Cost) -> bool:
        """Charge a request, if it may go out now."""
        for number, (pace, of) in enumerate(self._kept):
            if not pace.try_take(of(cost)):
                self.short_of_tokens = KINDS[REQUESTS] is not of
                for taken, share in self._kept[:number]:
                    taken.give(share(cost))
                return False
        return True

    async def take(self, cost: Cost) -> None:
        """Wait until a request of this cost may go out, and charge it."""
        taken = []
        try:
            for pace, of in self._kept:
                amount = of(cost)
                await pace.take(amount)
                taken.append((pace, amount))
        except BaseException:
            for pace, amount in taken:
                pace.give(amount)
            raise

    def settle(self, charged: Cost, real: Cost) -> None:
        """Correct what was charged by what the request really cost. It was a request."""
        for pace, of in self._kept:
            pace.give(of(charged) - of(real))

    def give_back(self, cost: Cost) -> None:
        """The request does not go out after all."""
        for pace, of in self._kept:
            pace.give(of(cost))


def _kept(limits: Limits, kind: str) -> dict[str, Limit]:
    """The limits of a kind that pace, by their headers."""
    return {
        window.source: Limit(window.limit, window.per_s, window.remaining, window.reset_s)
        for window in limits
        if window.kind == kind
        and window.limit is not None
        and window.per_s is not None
        and window.per_s <= MINUTE_S
    }
