"""Estimates the tokens and cost of requests before any is sent, by model and endpoint.

Every figure comes as a likely value with a lower and an upper bound. For answers, these rest on a
prior, since only the token limit of each request is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrun.core.cost.money import usd
from batchrun.core.cost.price_book import PriceBook
from batchrun.core.cost.pricing import Price
from batchrun.core.estimate.prompt_tokens import Prompt
from batchrun.core.request import tokens
from batchrun.core.request.worst_case import worst_case
from batchrun.core.settings.endpoint import Endpoint
from batchrun.errors import UnboundedError
from batchrun.records import Usage

LOW_SHARE, LIKELY_SHARE = 0.05, 0.40
"""The share of its limit that an answer takes: a prior, set by hand. The upper end is the limit."""
LIMIT_LIKELY = 2_000
"""Answers do not grow with a limit beyond this: the shares are of the smaller one of both."""
MESSAGE_TOKENS_MAX = 64
"""What frames an earlier answer that is sent along, at most."""
UNSTATED_HIGH = 4_000
"""The upper end where no limit is stated. It is no bound."""


@dataclass(slots=True)
class Range:
    """A sum with its lower and upper bound."""

    low: float = 0.0
    likely: float = 0.0
    high: float = 0.0

    def add(self, low: float, likely: float, high: float) -> None:
        """Add what goes together: all low, or all high."""
        self.low += low
        self.likely += likely
        self.high += high

    def plus(self, other: Range) -> None:
        """Add another sum."""
        self.add(other.low, other.likely, other.high)

    def whole(self) -> dict[str, int]:
        """For ``--json``, in whole units."""
        return {"low": round(self.low), "estimate": round(self.likely), "high": round(self.high)}

    def dollars(self) -> dict[str, float]:
        """For ``--json``, of picodollars."""
        return {
            "low": usd(round(self.low)),
            "estimate": usd(round(self.likely)),
            "high": usd(round(self.high)),
        }


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that are not there yet, in the prompt of another request: their tokens, and how many
    these are at most (None where nothing limits them).
    """

    tokens: Range
    most: int | None

    @property
    def most_tokens(self) -> int:
        """How many these are at most. Raises ``UnboundedError`` where nothing limits them."""
        if self.most is None:
            message = "nothing limits the answers that are shown in the prompt"
            raise UnboundedError(message)
        return self.most

    def times(self, count: int) -> Answers:
        """The same answers, shown so often."""
        low, likely, high = (
            count * end for end in (self.tokens.low, self.tokens.likely, self.tokens.high)
        )
        return Answers(Range(low, likely, high), None if self.most is None else count * self.most)


def answer_to(body: dict[str, Any]) -> Answers:
    """The answer to a request with this body, of which there is one choice to be shown."""
    tokens_, _ = output_of({**body, "n": 1})
    return Answers(tokens_, tokens.stated_limit(body))


@dataclass(slots=True)
class Bill:
    """What the requests of a model cost at one endpoint, in picodollars. ``most_pd`` is None where
    one of them has no bound; ``batch`` is the cost in the Batch API, if its price is known.
    """

    cost: Range = field(default_factory=Range)
    most_pd: int | None = 0
    batch: Range | None = None


@dataclass(slots=True)
class Sums:
    """What the requests of one model take. ``bills`` is by endpoint, and has None for those without
    a price; ``unstated`` counts requests that do not limit their answer, ``unbounded`` those that
    have no worst case, ``unread`` parts of prompts that are no text.
    """

    rows: int = 0
    prompt: Range = field(default_factory=Range)
    output: Range = field(default_factory=Range)
    bills: dict[str, Bill | None] = field(default_factory=dict)
    most_tokens: int = 0
    unstated: int = 0
    unbounded: int = 0
    unread: int = 0

    @property
    def tokens(self) -> Range:
        """Prompt and answers together."""
        both = Range()
        both.plus(self.prompt)
        both.plus(self.output)
        return both

    def cost(self, weights: dict[str, float]) -> Range | None:
        """The cost wherever the rows may go: likely by the endpoints' weights. None where one of
        them has no price.
        """
        known = {name: bill.cost for name, bill in self.bills.items() if bill is not None}
        if not known or len(known) < len(self.bills):
            return None
        whole = sum(weights[name] for name in known)
        likely = sum(weights[name] * cost.likely for name, cost in known.items()) / whole
        low = min(cost.low for cost in known.values())
        return Range(low, likely, max(cost.high for cost in known.values()))

    def batch_pd(self) -> Range | None:
        """The cost in the Batch API of the endpoint where that is cheapest; None where no such
        price is known.
        """
        known = [bill.batch for bill in self.bills.values() if bill is not None and bill.batch]
        return min(known, key=lambda cost: cost.likely, default=None)

    def most_pd(self) -> int | None:
        """The bound of the cost wherever the rows go; None where there is none."""
        bounds = [None if bill is None else bill.most_pd for bill in self.bills.values()]
        known = [bound for bound in bounds if bound is not None]
        return max(known) if known and len(known) == len(bounds) else None


class Adder:
    """Adds requests up by model."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prices: PriceBook,
        wall_us: int,
        batch: Callable[[str, str], Price | None] = lambda *_: None,
    ) -> None:
        """``batch`` gives the price of the Batch API, by endpoint and model."""
        self.endpoints = endpoints
        self._batch = batch
        self.models: dict[str, Sums] = {}
        self._prices = prices
        self._wall_us = wall_us
        self._names = {
            (endpoint.name, here): there
            for endpoint in endpoints
            for here, there in (endpoint.models or {}).items()
        }
        self._known: dict[tuple[str, str | None], list[tuple[str, Price | None]]] = {}

    def add(
        self,
        model: str,
        body: dict[str, Any],
        wire: bytes,
        prompt: Prompt,
        earlier: int = 0,
        *,
        shown: Answers | None = None,
        verdict: Range | None = None,
    ) -> None:
        """A request of this body, its bytes as they are sent, and what its prompt holds. So many
        ``earlier`` answers to the same row are sent along, and are in neither of them; nor are the
        answers ``shown`` to a judge. A ``verdict`` is how long its answer is, low and likely.
        """
        sums = self.models.get(model)
        if sums is None:
            sums = self.models[model] = Sums()
        output, stated = output_of(body)
        if verdict is not None:
            low, likely = (min(output.high, end) for end in (verdict.low, verdict.likely))
            output = Range(low, likely, output.high)
        if shown is not None:
            prompt = prompt._replace(
                low=prompt.low + shown.tokens.low,
                tokens=prompt.tokens + shown.tokens.likely,
                high=prompt.high + shown.tokens.high,
            )
        if earlier:
            prompt = prompt._replace(
                low=prompt.low + earlier * output.low,
                tokens=prompt.tokens + earlier * output.likely,
                high=prompt.high + earlier * output.high,
            )
        sums.rows += not earlier
        sums.unread += prompt.unread
        sums.prompt.add(prompt.low, prompt.tokens, prompt.high)
        sums.unstated += not stated
        sums.output.add(output.low, output.likely, output.high)
        try:
            most = worst_case(body, wire)
            more = earlier * (most.output_tokens + MESSAGE_TOKENS_MAX)
            if shown is not None:
                more += shown.most_tokens
            most = most._replace(input_tokens=most.input_tokens + more)
            sums.most_tokens += most.tokens
        except UnboundedError:
            most = None
            sums.unbounded += 1
        named = body.get("service_tier")
        for name, price in self._priced(model, named if isinstance(named, str) else None):
            bill = sums.bills.setdefault(name, Bill()) if price is not None else None
            if bill is None or price is None:
                sums.bills[name] = None
                continue
            ends = (
                (prompt.low, output.low),
                (prompt.tokens, output.likely),
                (prompt.high, output.high),
            )
            costs = _costs(price, ends)
            if costs is None:
                sums.bills[name] = None
                continue
            bill.cost.add(*costs)
            if (of_batch := self._batch(name, model)) is not None:
                bill.batch = bill.batch or Range()
                bill.batch.add(*(_costs(of_batch, ends) or costs))
            if most is None or bill.most_pd is None:
                bill.most_pd = None
            else:
                there = self._names.get((name, model), model)
                worst_pd = self._prices.most_pd(name, model, there, most, self._wall_us)
                bill.most_pd = None if worst_pd is None else bill.most_pd + worst_pd

    def _priced(self, model: str, tier: str | None) -> list[tuple[str, Price | None]]:
        """The price at each endpoint that serves the model."""
        found = self._known.get((model, tier))
        if found is None:
            found = [
                (e.name, self._prices.price_of(e.name, model, tier, self._wall_us))
                for e in self.endpoints
                if e.serves(model)
            ]
            if len(self._known) < KNOWN_MAX:
                self._known[model, tier] = found
        return found


KNOWN_MAX = 4096


def _costs(price: Price, ends: Sequence[tuple[float, float]]) -> list[int] | None:
    """What these tokens of prompt and answer cost; None where one cost cannot be told."""
    costs = [price.cost_pd(Usage(round(into), round(out))) for into, out in ends]
    known = [cost for cost in costs if cost is not None]
    return known if len(known) == len(costs) else None


def output_of(body: dict[str, Any]) -> tuple[Range, bool]:
    """The tokens of an answer by the prior, and whether the request limits them."""
    limit = tokens.stated_limit(body)
    given = body.get("n")
    choices = given if isinstance(given, int) and given > 1 else 1
    likely = min(limit or LIMIT_LIKELY, LIMIT_LIKELY) * choices
    high = (limit or max(UNSTATED_HIGH, likely)) * choices
    return Range(LOW_SHARE * likely, LIKELY_SHARE * likely, high), limit is not None
