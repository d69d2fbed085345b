"""What exchanges may cost: each has its worst case set aside in the budgets before it goes out."""

from __future__ import annotations

from typing import NamedTuple

from batchrun.core.price_book import PriceBook
from batchrun.core.verdict import Verdict
from batchrun.engine.budget import Budget
from batchrun.errors import TransportFault
from batchrun.records import Attempt, Reply, Request

DOUBTFUL = frozenset({408, 499, 504, 524})
"""Statuses by which somebody in between gave up waiting: the model may have answered, for money."""


class Reserved(NamedTuple):
    """What is set aside for one exchange, in picodollars and in tokens."""

    cost_pd: int
    tokens: int


class Spending:
    """The budgets of a run: for money, for tokens, or for both."""

    def __init__(
        self, prices: PriceBook, *, cost: Budget | None = None, tokens: Budget | None = None
    ) -> None:
        self._prices = prices
        self.cost = cost
        self.tokens = tokens

    async def reserve(self, endpoint: str, request: Request, wall_us: int) -> Reserved:
        """Return once the worst case of a request is set aside.

        Every request has one, and a price where there is a budget for money: rows without are
        refused before. Cancelling leaves nothing set aside.
        """
        worst = request.worst
        assert worst is not None
        cost_pd = 0
        if self.cost is not None:
            price = self._prices.price_of(endpoint, request.model, worst.tier, wall_us)
            assert price is not None
            cost_pd = price.most_pd(worst.input_tokens, worst.output_tokens)
            await self.cost.reserve(cost_pd)
        if self.tokens is not None:
            try:
                await self.tokens.reserve(worst.tokens)
            except BaseException:
                if self.cost is not None:
                    self.cost.settle(cost_pd, 0)
                raise
        return Reserved(cost_pd, worst.tokens)

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
        usage = attempt.usage
        tokens = usage.total_tokens
        if tokens is None and usage.prompt_tokens is not None:
            tokens = usage.prompt_tokens + (usage.completion_tokens or 0)
        free = 0 if _is_free(exchange, verdict) else None
        self.settle(
            reserved,
            free if attempt.cost_pd is None else attempt.cost_pd,
            free if tokens is None else tokens,
        )


def _is_free(exchange: Reply | TransportFault, verdict: Verdict) -> bool:
    """Whether an exchange whose cost nobody told cost nothing."""
    if isinstance(exchange, TransportFault):
        return not exchange.sent
    refused = exchange.status >= 300 and exchange.status not in DOUBTFUL
    return refused and verdict.completion is None
