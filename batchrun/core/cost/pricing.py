"""What tokens cost: a price, and the exact cost of one exchange by it.

Each kind of token is billed at its own rate; ``core.cost.billing`` says how many there are of
each. All is integers: a price that is finer than a picodollar per token has a divisor, and the
cost of an exchange is rounded once, half to even.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from batchrun.core.cost.billing import Billed, adds_up, read
from batchrun.core.cost.money import PICODOLLARS, half_even, settled
from batchrun.records import Usage

EXCHANGE_USD_MAX = 10_000
"""One exchange that seems to cost more has junk for a token count or a cost."""
EXCHANGE_PD_MAX = EXCHANGE_USD_MAX * PICODOLLARS
CACHE_WRITE_TIMES = Decimal("1.25")
"""What a token that is written into the cache costs where no price says so, as a multiple of the
input's price (OpenAI from GPT-5.6 on, Anthropic for a cache of five minutes)."""
_PER_TOKENS = 10**6


class Quote(NamedTuple):
    """USD per million tokens. A kind without its own price uses the price of its whole;
    ``cache_write`` then costs ``CACHE_WRITE_TIMES`` the input price.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None
    cache_write: Decimal | None = None


class Rates(NamedTuple):
    """Picodollars per token, times the divisor of their ``Price``."""

    input: int
    cached: int
    output: int
    reasoning: int
    written: int


class Price(NamedTuple):
    """What a token of each kind costs.

    ``steps`` has other rates for longer prompts: above so many prompt tokens (the cached ones
    included) all tokens of the exchange are billed at these. The longest comes first.
    """

    rates: Rates
    divisor: int = 1
    steps: tuple[tuple[int, Rates], ...] = ()

    def cost_pd(self, usage: Usage, raw: str | None = None) -> int | None:
        """The cost of an exchange in picodollars; None where the counts do not tell it. ``raw`` is
        the usage as the server sent it.
        """
        if adds_up(usage):
            return self.plain_pd(usage)
        billed = read(usage, raw)
        return None if billed is None else self.bill_pd(billed)

    def plain_pd(self, usage: Usage) -> int | None:
        """The same for counts that need no reading (``billing.adds_up``)."""
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        return self._cost_pd(prompt, prompt, 0, 0, completion, 0)

    def bill_pd(self, billed: Billed) -> int | None:
        """The cost of these tokens in picodollars; None where it is more than can be meant."""
        return self._cost_pd(billed.prompt, *billed[:5])

    def _cost_pd(
        self, prompt: int, fresh: int, cached: int, written: int, output: int, reasoning: int
    ) -> int | None:
        rates = self.rates
        for above, others in self.steps:
            if prompt > above:
                rates = others
                break
        cost = fresh * rates.input + output * rates.output
        if cached or written or reasoning:
            cost += cached * rates.cached + written * rates.written + reasoning * rates.reasoning
        if self.divisor != 1:
            cost = half_even(cost, self.divisor)
        return settled(cost) if cost <= EXCHANGE_PD_MAX else None

    def most_pd(self, input_tokens: int, output_tokens: int) -> int:
        """What an exchange of at most so many tokens costs at most, in picodollars."""
        listed = [self.rates]
        listed += [rates for above, rates in self.steps if input_tokens > above]
        most = max(
            input_tokens * max(rates.input, rates.cached, rates.written)
            + output_tokens * max(rates.output, rates.reasoning)
            for rates in listed
        )
        return -(-most // self.divisor)


def price(quote: Quote, steps: Iterable[tuple[int, Quote]] = ()) -> Price:
    """The price of a quote, and of the quotes for prompts above so many tokens."""
    listed = [(-1, quote), *steps]
    exact = [_per_token(each) for _, each in listed]
    divisor = math.lcm(*(rate.denominator for rates in exact for rate in rates))
    whole = [Rates(*(int(rate * divisor) for rate in rates)) for rates in exact]
    above = sorted(zip((above for above, _ in listed[1:]), whole[1:], strict=True), reverse=True)
    return Price(whole[0], divisor, tuple(above))


def _per_token(quote: Quote) -> list[Fraction]:
    cached = quote.input if quote.cached_input is None else quote.cached_input
    reasoning = quote.output if quote.reasoning is None else quote.reasoning
    written = quote.cache_write
    if written is None:
        written = quote.input * CACHE_WRITE_TIMES
    return [
        Fraction(usd) * PICODOLLARS / _PER_TOKENS
        for usd in (quote.input, cached, quote.output, reasoning, written)
    ]
