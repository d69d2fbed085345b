"""The price of every exchange: what the reply says, the user's own price, or a list of prices.

A price is looked up once per endpoint, model and service tier, and again every quarter of an hour,
since lists have prices by date and by time of day; then it is multiplications.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from batchrun.core.cost.billing import PARTS, REPORTED, Billed, adds_up, discrepancy, read
from batchrun.core.cost.price_table import STANDARD_TIERS, OwnPrice
from batchrun.core.cost.pricing import Price, Quote, price
from batchrun.core.cost.reported_cost import reported_pd
from batchrun.records import NO_USAGE, Usage, WorstCase

PERIOD_US = 15 * 60 * 10**6
AHEAD_US = 3600 * 10**6
"""A request may wait so long after its price was looked up, and its answer be billed then."""
TOLD_MAX = 10
"""Models that are told of; behind a server that makes names up they would never end."""
KNOWN_MAX = 1024
NAME_MAX = 200
NEAR_RATIO = 0.8
NEAR_MAX = 2
"""How alike a suggested name is to the one without a price (``difflib``), and how many at most."""


_TIERS_CHOSEN: Mapping[str | None, tuple[str | None, ...]] = {
    None: ("priority", "flex"),
    "auto": (None, "priority", "flex"),
}
"""Tiers in which a request may be answered that asks for this one; any other may be ignored."""


class Listed(NamedTuple):
    """A price of a list. ``tier_known`` says that it is the one of the service tier asked about;
    ``remark`` is what the user should know of where it is from.
    """

    price: Price
    tier_known: bool = True
    remark: str | None = None


class Quoted(NamedTuple):
    """The unit prices of a model at an endpoint, in USD per million tokens, and where they are
    from. ``batch`` has those of input and output in the Batch API, if they are known; ``dated`` is
    a day, if the source has one.
    """

    quote: Quote
    batch: tuple[Decimal, Decimal] | None
    source: str
    dated: str | None = None


Near = Callable[[str, str], Sequence[str]]
"""By endpoint and model: names of models with a price that are spelled alike, the nearest first."""

Lookup = Callable[[str, str, str | None, int], Listed | None]
"""By endpoint, model, service tier and time (microseconds since the epoch); None: not listed."""


def own_quote(own: OwnPrice) -> Quoted:
    """The user's own price as it is shown."""
    batch = own.quote("batch")
    known = (batch.input, batch.output) if own.knows("batch") else None
    return Quoted(own.quote(None), known, "the config file")


def table_of(model: str) -> str:
    """The TOML table header for a model's own price."""
    return f"[prices.{json.dumps(model[:NAME_MAX])}]"


class PriceBook:
    """Says what exchanges cost."""

    def __init__(
        self,
        own: Mapping[str, OwnPrice],
        look_up: Lookup,
        say: Callable[[str], None],
        near: Near = lambda *_: (),
        free: Collection[str] = (),
    ) -> None:
        """``own`` wins over what ``look_up`` finds; ``say`` gets news for the user, each once.
        ``near`` finds names for a model without a price. ``free`` names endpoints that cost
        nothing: a missing price there is not reported.
        """
        self._free = frozenset(free)
        self._own = own
        self._near = near
        self._look_up = look_up
        self._say = say
        self._known: dict[tuple[str, str, str | None, str | None], tuple[int, Price | None]] = {}
        self._dearest: dict[tuple[str, str, str, str | None], tuple[int, tuple[Price, ...]]] = {}
        self._told: set[tuple[str, str | None]] = set()
        self._discrepancy_told = False

    def bill(
        self,
        endpoint: str,
        asked: str,
        answered: str | None,
        tier: str | None,
        usage: Usage,
        usage_raw: str | None,
        headers: Mapping[str, str],
        wall_us: int,
    ) -> tuple[int | None, str | None]:
        """The cost of an exchange in picodollars, None where it is not known, never 0 instead; and
        which reading of its usage priced it (``core.cost.billing``).

        ``asked`` and ``answered`` are the models; the latter's price counts if there is one.
        ``usage_raw`` is the usage as the server sent it, ``headers`` are those of its reply.
        """
        cost_pd = reported_pd(usage_raw, headers)
        if cost_pd is not None:
            return cost_pd, REPORTED
        if usage == NO_USAGE:
            return None, None
        found = self._price(endpoint, asked, answered, tier, wall_us)
        if found is None:
            return None, None
        if adds_up(usage):
            cost_pd, source = found.plain_pd(usage), PARTS
        else:
            billed = read(usage, usage_raw)
            if billed is None:
                return None, None
            cost_pd, source = found.bill_pd(billed), billed.source
            if billed.odd:
                self._note_discrepancy(usage, billed)
        return cost_pd, None if cost_pd is None else source

    def _note_discrepancy(self, usage: Usage, billed: Billed) -> None:
        """Say so once, however many answers there are."""
        if not self._discrepancy_told:
            self._discrepancy_told = True
            self._say(discrepancy(usage, billed))

    def _price(
        self, endpoint: str, asked: str, answered: str | None, tier: str | None, wall_us: int
    ) -> Price | None:
        key = (endpoint, asked, answered, tier)
        known = self._known.get(key)
        if known is None or known[0] != wall_us // PERIOD_US:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = (wall_us // PERIOD_US, self._found(endpoint, asked, answered, tier, wall_us))
            self._known[key] = known
        return known[1]

    def price_of(self, endpoint: str, model: str, tier: str | None, wall_us: int) -> Price | None:
        """The price of what a request asks for, before it is answered; None where none is known."""
        return self._price(endpoint, model, None, tier, wall_us)

    def most_pd(
        self, endpoint: str, asked: str, named: str, worst: WorstCase, wall_us: int
    ) -> int | None:
        """What a request costs at most, by the dearest price that may count for it: of both names
        of its model (``named`` is the one it has at this endpoint), in the service tier that it
        asks for and in those that the server may choose, now and in an hour. None where no price is
        known.
        """
        key = (endpoint, asked, named, worst.tier)
        known = self._dearest.get(key)
        if known is None or known[0] != wall_us // PERIOD_US:
            if len(self._dearest) >= KNOWN_MAX:
                self._dearest.clear()
            found = {
                found
                for model in {asked, named}
                for tier in (worst.tier, *_TIERS_CHOSEN.get(worst.tier, (None,)))
                for when_us in (wall_us, wall_us + AHEAD_US)
                if (found := self._found(endpoint, model, None, tier, when_us, tell=False))
            }
            known = self._dearest[key] = (wall_us // PERIOD_US, tuple(found))
        costs = [price.most_pd(worst.input_tokens, worst.output_tokens) for price in known[1]]
        return max(costs, default=None)

    def expect(self, endpoint: str, model: str, wall_us: int) -> None:
        """Look a model's price up before the first answer needs it: loading a list takes time."""
        if model not in self._own:
            self._look_up(endpoint, model, None, wall_us)

    def _found(
        self,
        endpoint: str,
        asked: str,
        answered: str | None,
        tier: str | None,
        wall_us: int,
        *,
        tell: bool = True,
    ) -> Price | None:
        tier = tier if tier is None else tier.lower()
        models = dict.fromkeys(model for model in (answered, asked) if model)
        for model in models:
            own = self._own.get(model)
            if own is not None:
                self._note_tier(model, tier, known=not tell or own.knows(tier))
                return price(own.quote(tier))
        for model in models:
            listed = self._look_up(endpoint, model, tier, wall_us)
            if listed is not None:
                if listed.remark is not None and tell:
                    self._tell(model, None, listed.remark)
                self._note_tier(model, tier, known=not tell or listed.tier_known)
                return listed.price
        if not tell or endpoint in self._free:
            return None
        model = answered or asked
        self._tell(
            model,
            None,
            f"no price is known for model {model[:NAME_MAX]!r}{self._meant(endpoint, model)}: its "
            f"cost is not counted; set {table_of(model)} in the config file",
        )
        return None

    def _meant(self, endpoint: str, model: str) -> str:
        """The names that may have been meant, as part of a sentence."""
        names = dict.fromkeys(
            (
                *difflib.get_close_matches(model, self._own, n=1, cutoff=NEAR_RATIO),
                *self._near(endpoint, model),
            )
        )
        return f" (did you mean {' or '.join([*names][:NEAR_MAX])}?)" if names else ""

    def _note_tier(self, model: str, tier: str | None, *, known: bool) -> None:
        if not known and tier not in STANDARD_TIERS:
            self._tell(
                model,
                tier,
                f"model {model[:NAME_MAX]!r} answers in the service tier {tier!r}, whose price is "
                "not known: the standard price is counted",
            )

    def _tell(self, model: str, tier: str | None, news: str) -> None:
        if (model, tier) in self._told or len(self._told) >= TOLD_MAX:
            return
        self._told.add((model, tier))
        last = "; further models are not reported" if len(self._told) == TOLD_MAX else ""
        self._say(f"{news}{last}")
