"""List prices: what providers publish, from the data of genai-prices.

The data comes with the package; nothing is fetched. Loading it takes a quarter of a second and 15
MB, so it is only loaded if a price may be found (docs/adr/0027).
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from batchrun.core.cost.price_book import (
    NAME_MAX,
    NEAR_RATIO,
    Listed,
    PriceBook,
    Quoted,
    own_quote,
    table_of,
)
from batchrun.core.cost.price_table import STANDARD_TIERS
from batchrun.core.cost.pricing import Quote, price
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import BUILT_IN
from batchrun.core.settings.urls import address

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from batchrun.core.settings.resolve import Settings

_PROVIDERS = {
    "openai": "openai",
    "azure": "azure",
    "deepseek": "deepseek",
    "openrouter": "openrouter",
    "groq": "groq",
    "together": "together",
    "gemini": "google",
    "mistral": "mistral",
}
"""Our presets by the provider names of the list."""

_ONE_MAKER = re.compile(
    r"(?:[\w.-]+/)?((?:gpt-(?!oss)|chatgpt-|o[134](?:-|$)|claude-|gemini-|grok-[3-9]).*)",
    re.IGNORECASE,
)
"""Models with closed weights: a reseller pays their maker's price. The cost of an open model
depends on who runs it.
"""


_BATCH = {"processing": "batch"}
"""The list's name for the tier of the Batch API."""
_DAY = re.compile(r"\b(?:verified|checked)(?: on)? (20\d\d-\d\d-\d\d)\b")


class PriceList:
    """``core.cost.price_book.Lookup``: prices by endpoint and model."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}

    def __call__(self, endpoint: str, model: str, tier: str | None, wall_us: int) -> Listed | None:
        """See ``core.cost.price_book.Lookup``."""
        place = self._place(endpoint, model)
        found = None if place is None else place.model()
        if place is None or found is None:
            return None
        listed = _listed(place.provider, found, tier, _moment(wall_us))
        if listed is None or not place.of_maker:
            return listed
        remark = (
            f"the cost of model {model[:NAME_MAX]!r} is counted at its maker's list price: "
            "what this endpoint asks is not known; if it is something else, set "
            f"{table_of(model)} in the config file"
        )
        return listed._replace(remark=remark)

    def quoted(self, endpoint: str, model: str, wall_us: int) -> Quoted | None:
        """The standard unit prices of a model, for short prompts; None if it is not listed."""
        place = self._place(endpoint, model)
        found = None if place is None else place.model()
        if place is None or found is None:
            return None
        when = _moment(wall_us)
        standard = _quotes(found.get_prices(when, None))
        if standard is None:
            return None
        batch = None
        own = any(found is one for one in place.provider.models)
        of_batch = _quotes(found.get_prices(when, _BATCH)) if own else None
        if of_batch is not None and _holds(found, _BATCH, when):
            batch = (of_batch[0][1].input, of_batch[0][1].output)
        return Quoted(standard[0][1], batch, _source(), _dated(when))

    def near(self, endpoint: str, model: str) -> list[str]:
        """See ``core.cost.price_book.Near``: models of the provider to which the endpoint, or the
        name, belongs.
        """
        place = self._place(endpoint, model)
        if place is None:
            return []
        names = [one.id for one in place.provider.models]
        return difflib.get_close_matches(place.name, names, n=1, cutoff=NEAR_RATIO)

    def _place(self, endpoint: str, model: str) -> _Place | None:
        """The provider whose price applies to a model at an endpoint; None if none is listed."""
        where = self._endpoints[endpoint]
        known, url = _PROVIDERS.get(where.provider or ""), None
        if known is None and where.provider is None:
            url = _public_url(where.base_url)
        named = _ONE_MAKER.fullmatch(model)
        if known is None and url is None and named is None:
            return None
        from genai_prices.data_snapshot import get_snapshot

        snapshot = get_snapshot()
        provider = None if known is None and url is None else _found(snapshot, None, known, url)
        if provider is not None:
            return _Place(snapshot, provider, model, of_maker=False)
        maker = None if named is None else _found(snapshot, named[1], None, None)
        if maker is None or named is None:
            return None
        return _Place(snapshot, maker, named[1], of_maker=True)


class _Place(NamedTuple):
    """The provider in the list whose price applies, and its name for the model. ``of_maker`` is
    whether the model's maker stands in for an endpoint that is not listed.
    """

    snapshot: DataSnapshot
    provider: Provider
    name: str
    of_maker: bool

    def model(self) -> ModelInfo | None:
        """The model, if it is listed."""
        return self.provider.find_model(self.name, all_providers=self.snapshot.providers)


def _moment(wall_us: int) -> datetime:
    return datetime.fromtimestamp(wall_us / 1e6, UTC)


def _source() -> str:
    from importlib import metadata

    return f"genai-prices {metadata.version('genai-prices')}"


@functools.cache
def _dated(when: datetime) -> str | None:
    """The latest day on which a price in the list was checked."""
    from genai_prices.data_snapshot import get_snapshot

    today = when.date().isoformat()
    texts = (m.price_comments for p in get_snapshot().providers for m in p.models)
    days = (day for text in texts if text for day in _DAY.findall(text))
    return max((day for day in days if day <= today), default=None)


def _found(
    snapshot: DataSnapshot, model: str | None, provider: str | None, url: str | None
) -> Provider | None:
    try:
        return snapshot.find_provider(model, provider, url)
    except LookupError:
        return None


def book(settings: Settings, say: Callable[[str], None], wall_us: int) -> PriceBook:
    """The prices of a run, loaded for its own model, since loading the list later would delay its
    answers.
    """
    listed = PriceList(settings.endpoints)
    free = [endpoint.name for endpoint in settings.endpoints if endpoint.provider in BUILT_IN]
    prices = PriceBook(settings.prices, listed, say, listed.near, free)
    if settings.one_model is not None:
        for endpoint in settings.endpoints:
            prices.expect(endpoint.name, settings.one_model, wall_us)
    return prices


def quotes(settings: Settings, model: str, wall_us: int) -> dict[str, Quoted | None]:
    """The unit prices of a model at each endpoint that serves it; None if none is known."""
    own = settings.prices.get(model)
    if own is not None:
        return {e.name: own_quote(own) for e in settings.endpoints if e.serves(model)}
    listed = PriceList(settings.endpoints)
    return {
        endpoint.name: listed.quoted(endpoint.name, model, wall_us)
        for endpoint in settings.endpoints
        if endpoint.serves(model)
    }


def _public_url(base_url: str) -> str | None:
    """The URL of an endpoint that is not on this machine or in a private network."""
    where = address(base_url)
    host = urlsplit(where.url).hostname or ""
    if where.socket is not None or "." not in host.rstrip("."):
        return None
    try:
        return where.url if ipaddress.ip_address(host).is_global else None
    except ValueError:
        return where.url


def _listed(
    provider: Provider, model: ModelInfo, tier: str | None, when: datetime
) -> Listed | None:
    context = None
    # A model that a provider resells is listed with its maker's standard price only.
    if tier is not None and any(model is own for own in provider.models):
        context = _BATCH if tier == "batch" else {"service_tier": tier}
    quoted = _quotes(model.get_prices(when, context))
    if quoted is None:
        return None
    tier_known = tier in STANDARD_TIERS or _holds(model, context, when)
    return Listed(price(quoted[0][1], quoted[1:]), tier_known)


def _holds(model: ModelInfo, context: Mapping[str, str] | None, when: datetime) -> bool:
    """Whether the model has separate prices for this tier at this time."""
    return any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(when))
        for variant in model.price_variants or ()
    )


def _quotes(prices: ModelPrice) -> list[tuple[int, Quote]] | None:
    """The quotes by the number of prompt tokens above which they apply, the lowest first. None if
    the price is not for text tokens.
    """
    kinds = [
        prices.input_mtok,
        prices.output_mtok,
        prices.cache_read_mtok,
        prices.output_reasoning_mtok,
        prices.cache_write_mtok,
    ]
    if kinds[0] is None or kinds[1] is None or prices.requests_kcount is not None:
        return None
    starts = {tier.start for kind in kinds for tier in getattr(kind, "tiers", ())}
    quotes = []
    for above in (-1, *sorted(starts)):
        given, output, cached, reasoning, written = (_at(kind, above) for kind in kinds)
        assert given is not None
        assert output is not None
        quotes.append((above, Quote(given, output, cached, reasoning, written)))
    return quotes


def _at(kind: object, above: int) -> Decimal | None:
    """A price for prompts above a number of tokens: it applies to all tokens of the exchange."""
    if kind is None or isinstance(kind, Decimal):
        return kind
    found: Decimal = kind.base  # type: ignore[attr-defined]
    for tier in kind.tiers:  # type: ignore[attr-defined]
        if above >= tier.start:
            found = tier.price
    return found
