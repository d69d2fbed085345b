"""The pace of one endpoint, by what it tells of its limits; each is judged in ``account``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchrun.core.reply.limit_dialects import MINUTE_S, REQUESTS, TOKENS
from batchrun.core.reply.limit_headers import Limits
from batchrun.engine.pace.allowance import Allowance
from batchrun.engine.pace.limit_model import UNBOUND, Account, Limit, News

FRESH_S = 0.1
"""For so long a share stands before it is worked out again, unless there is news."""
WAIT_S = 0.25
REQUESTS_WINDOW_S = 0.05
TOKENS_WINDOW_S = 0.5
"""Seconds' worth that may go out at once; as lent, it may be twice that (see ``gate.WINDOW_S``)."""
COST_WEIGHT = 1 / 32
RATIO_OF = 32
"""Requests over which it is learned what estimates come to."""


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
        """Whether some limit is believed, and told lately."""

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
        self._budget.set_rate(min(rate, 1e15))

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
    """All that is known of an endpoint's limits: requests and tokens.

    Limits of input or output tokens alone do not pace: of a request that waits, only the sum is
    estimated. Limits of an hour or longer do not either: what they leave may be used up at once.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        self._requests: Pace | None = None
        self._tokens: Pace | None = None
        self._ratio = 1.0
        self._settled = 0
        self.active = False
        """Whether a limit was told that could be kept."""

    def told(self, limits: Limits, *, refused: bool, sent_at_s: float, answers: int) -> None:
        """The limits in the reply to a request that went out at ``sent_at_s``. ``refused`` says
        that it was a refusal (429), ``answers`` how many requests were answered so far.
        """
        news = News(self._now_s(), refused, sent_at_s, held=False, answers=answers)
        requests, tokens = _kept(limits, REQUESTS), _kept(limits, TOKENS)
        if requests and self._requests is None:
            self._requests = Pace(self._now_s, self._began_s, REQUESTS_WINDOW_S)
        if tokens and self._tokens is None:
            self._tokens = Pace(self._now_s, None, TOKENS_WINDOW_S)
        if self._requests is not None:
            self._requests.told(requests, news)
        if self._tokens is not None:
            self._tokens.told(tokens, news)
        self.active = self._requests is not None or self._tokens is not None

    @property
    def slows(self) -> bool:
        """Whether some limit is believed and kept."""
        return any(pace is not None and pace.bound for pace in (self._requests, self._tokens))

    def expected(self, tokens: int) -> float:
        """What a request estimated at so many tokens is charged: by what such estimates came to.

        Where a request states no maximum, the estimate may be ten times of what is used, and a
        few of them would hold a second's worth until they are answered.
        """
        return tokens * self._ratio

    def try_take(self, tokens: float) -> bool:
        """Charge a request, if it may go out now."""
        requests = self._requests
        if requests is not None and not requests.try_take(1.0):
            return False
        if self._tokens is None or self._tokens.try_take(tokens):
            return True
        if requests is not None:
            requests.give(1.0)
        return False

    async def take(self, tokens: float) -> None:
        """Wait until a request of so many tokens may go out, and charge it."""
        requests = self._requests
        if requests is not None:
            await requests.take(1.0)
        try:
            if self._tokens is not None:
                await self._tokens.take(tokens)
        except BaseException:
            if requests is not None:
                requests.give(1.0)
            raise

    def settle(self, estimate: int, charged: float, used: int) -> None:
        """Correct what was charged for an estimate by what was really used."""
        if used > 0 and estimate > 0:
            self._settled = min(self._settled + 1, RATIO_OF)
            self._ratio += (used / estimate - self._ratio) / self._settled
        if self._tokens is not None and charged:
            self._tokens.give(charged - used)

    def give_back(self, tokens: float) -> None:
        """The request does not go out after all."""
        if self._requests is not None:
            self._requests.give(1.0)
        if self._tokens is not None:
            self._tokens.give(tokens)


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
