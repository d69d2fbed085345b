"""What exchanges may cost: each has its worst case set aside in the budgets before it goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchrun.core.cost import billing
from batchrun.core.cost.price_book import PriceBook
from batchrun.core.verdict.judge import Verdict
from batchrun.engine.session.budget import Budget
from batchrun.errors import TransportFault
from batchrun.records import Attempt, Reply, Request

DOUBTFUL = frozenset({408, 499, 504, 524})
"""Statuses by which somebody in between gave up waiting: the model may have answered, for money."""


class Reserved(NamedTuple):
    """What is set aside for one exchange, in picodollars and in tokens; ``most_*`` is its worst
    case, which more may be set aside for.
    """

    cost_pd: int
    tokens: int
    most_pd: int
    most_tokens: int


class Spending:
    """The budgets of a run: for money, for tokens, or for both."""

    def __init__(
        self,
        prices: PriceBook,
        *,
        cost: Budget | None = None,
        tokens: Budget | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``say`` gets news for the user."""
        self._prices = prices
        self._say = say
        self._percent = {"cost": 100, "tokens": 100}
        """Of a worst case, what is set aside: more once an exchange went beyond its own."""
        self._told_beyond = False
        self.cost = cost
        self.tokens = tokens

    async def reserve(
        self,
        endpoint: str,
        named: str,
        request: Request,
        wall_us: int,
        beside: Sequence[tuple[str, str, str]] = (),
    ) -> Reserved:
        """Return once the worst case of a request is set aside; ``named`` is what its model is
        called at the endpoint. ``beside`` are other models that its row may ask later (endpoint,
        model, its name there): the dearest counts.

        Every request has one, and a price where there is a budget for money: rows without are
        refused before. Cancelling leaves nothing set aside.
        """
        worst = request.worst
        assert worst is not None
        cost_pd = most_pd = 0
        if self.cost is not None:
            found = self._prices.most_pd(endpoint, request.model, named, worst, wall_us)
            assert found is not None
            most_pd = found
            for elsewhere, model, there in beside:
                other_pd = self._prices.most_pd(elsewhere, model, there, worst, wall_us)
                most_pd = max(most_pd, other_pd or 0)
            cost_pd = -(-most_pd * self._percent["cost"] // 100)
            await self.cost.reserve(cost_pd)
        tokens = -(-worst.tokens * self._percent["tokens"] // 100)
        if self.tokens is not None:
            try:
                await self.tokens.reserve(tokens)
            except BaseException:
                if self.cost is not None:
                    self.cost.settle(cost_pd, 0)
                raise
        return Reserved(cost_pd, tokens, most_pd, worst.tokens)

    def settle(
        self, reserved: Reserved, cost_pd: int | None = None, tokens: int | None = None
    ) -> None:
        """An exchange is over and cost so much. None: nobody knows, and all that was set aside for
        it stays charged.
        """
        if self.cost is not None:
            self.cost.settle(reserved.cost_pd, cost_pd)
        if self.tokens is not None:
            self.tokens.settle(reserved.tokens, tokens)

    def answered(
        self,
        reserved: Reserved,
        attempt: Attempt,
        exchange: Reply | TransportFault,
        verdict: Verdict,
    ) -> None:
        """The same for an exchange that ended by itself."""
        told_pd, told = attempt.cost_pd, billing.tokens(attempt.usage, attempt.usage_raw)
        if isinstance(exchange, TransportFault) and exchange.sent:
            # A stream that breaks off may have told a part; the model may have gone on.
            told_pd = None if told_pd is None or told_pd <= reserved.cost_pd else told_pd
            told = None if told is None or told <= reserved.tokens else told
        free = 0 if _is_free(exchange, verdict) else None
        if self.cost is not None:
            self._compare("cost", reserved.most_pd, told_pd)
        if self.tokens is not None:
            self._compare("tokens", reserved.most_tokens, told)
        self.settle(reserved, free if told_pd is None else told_pd, free if told is None else told)

    def _compare(self, name: str, most: int, told: int | None) -> None:
        """Set more aside from now on, where an exchange went beyond its worst case."""
        if told is None or told <= most:
            return
        if not self._told_beyond:
            self._told_beyond = True
            self._say(
                "warning: a request was billed with more than its worst case: is its model's price "
                "right, or does the server add to prompts? Requests in flight may pass the budget "
                "by as much; more is set aside for those that follow"
            )
        if most:
            self._percent[name] = max(self._percent[name], -(-100 * told // most))


def _is_free(exchange: Reply | TransportFault, verdict: Verdict) -> bool:
    """Whether an exchange without a reported cost was free."""
    if isinstance(exchange, TransportFault):
        return not exchange.sent
    refused = exchange.status >= 300 and exchange.status not in DOUBTFUL
    return refused and verdict.completion is None
