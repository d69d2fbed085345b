"""What tokens cost: a price, and the exact cost of one exchange by it.

Prompt tokens from the cache are part of the prompt tokens, reasoning tokens part of the completion
tokens; each kind is billed at its own rate. All is integers: a price that is finer than a
picodollar per token has a divisor, and the cost of an exchange is rounded once, half to even.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from batchrun.core.money import PICODOLLARS, half_even, settled
from batchrun.records import Usage

EXCHANGE_USD_MAX = 10_000
"""One exchange that seems to cost more has junk for a token count or a cost."""
EXCHANGE_PD_MAX = EXCHANGE_USD_MAX * PICODOLLARS
_PER_TOKENS = 10**6


class Quote(NamedTuple):
    """USD per million tokens; a kind without a price of its own has the one of its whole."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None


class Rates(NamedTuple):
    """Picodollars per token, times the divisor of their ``Price``."""

    input: int
    cached: int
    output: int
    reasoning: int


class Price(NamedTuple):
    """What a token of each kind costs.

    ``steps`` has other rates for longer prompts: above so many prompt tokens (the cached ones
    included) all tokens of the exchange are billed at these. The longest comes first.
    """

    rates: Rates
    divisor: int = 1
    steps: tuple[tuple[int, Rates], ...] = ()

    def cost_pd(self, usage: Usage) -> int | None:
        """The cost of an exchange in picodollars; None where the counts do not tell it."""
        prompt, completion, total, cached, reasoning = usage
        if prompt is None or completion is None:
            if total is None:
                return None
            if prompt is None and completion is not None:
                prompt = total - completion
            elif completion is None and prompt is not None:
                completion = total - prompt
            if prompt is None or completion is None or prompt < 0 or completion < 0:
                return None
        rates = self.rates
        for above, others in self.steps:
            if prompt > above:
                rates = others
                break
        cost = prompt * rates.input + completion * rates.output
        if cached:
            cost += min(cached, prompt) * (rates.cached - rates.input)
        if reasoning:
            if total == prompt + completion + reasoning:
                # Said to come on top (xAI): the total tells.
                cost += reasoning * rates.reasoning
            else:
                cost += min(reasoning, completion) * (rates.reasoning - rates.output)
        if self.divisor != 1:
            cost = half_even(cost, self.divisor)
        return settled(cost) if cost <= EXCHANGE_PD_MAX else None

    def most_pd(self, input_tokens: int, output_tokens: int) -> int:
        """What an exchange of at most so many tokens costs at most, in picodollars."""
        listed = [self.rates]
        listed += [rates for above, rates in self.steps if input_tokens > above]
        most = max(
            input_tokens * max(rates.input, rates.cached)
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
    return [
        Fraction(usd) * PICODOLLARS / _PER_TOKENS
        for usd in (quote.input, cached, quote.output, reasoning)
    ]
