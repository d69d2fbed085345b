"""List prices: what providers ask in public, from the data of genai-prices.

The data comes with the package; nothing is fetched. Loading it takes a quarter of a second and
15 MB, so it is loaded only where a price may be found (docs/adr/0027).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchrun.core.endpoints import Endpoint
from batchrun.core.price_book import NAME_MAX, Listed, PriceBook, table_of
from batchrun.core.price_table import STANDARD_TIERS
from batchrun.core.pricing import Quote, price
from batchrun.core.urls import address

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

    from batchrun.core.settings import Settings

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
"""Our presets by the names of the list."""

_ONE_MAKER = re.compile(
    r"(?:[\w.-]+/)?((?:gpt-(?!oss)|chatgpt-|o[134](?:-|$)|claude-|gemini-|grok-[3-9]).*)",
    re.IGNORECASE,
)
"""Models whose weights nobody else has: whoever passes them on pays their maker's price. What an
open model costs is up to whose machine it runs on."""


class PriceList:
    """``core.price_book.Lookup``: prices by endpoint and model."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}

    def __call__(self, endpoint: str, model: str, tier: str | None, wall_us: int) -> Listed | None:
        """See ``core.price_book.Lookup``."""
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
        asked, remark = model, None
        if provider is None and named is not None:
            model = named[1]
            provider = _found(snapshot, model, None, None)
            remark = (
                f"the cost of model {asked[:NAME_MAX]!r} is counted at its maker's list price: "
                "what this endpoint asks is not known; if it is something else, set "
                f"{table_of(asked)} in the config file"
            )
        if provider is None:
            return None
        found = provider.find_model(model, all_providers=snapshot.providers)
        if found is None:
            return None
        listed = _listed(provider, found, tier, datetime.fromtimestamp(wall_us / 1e6, UTC))
        return None if listed is None else listed._replace(remark=remark)


def _found(
    snapshot: DataSnapshot, model: str | None, provider: str | None, url: str | None
) -> Provider | None:
    try:
        return snapshot.find_provider(model, provider, url)
    except LookupError:
        return None


def book(settings: Settings, say: Callable[[str], None], wall_us: int) -> PriceBook:
    """The prices of a run, ready for its own model: loading the list would hold up its answers."""
    prices = PriceBook(settings.prices, PriceList(settings.endpoints), say)
    if settings.one_model is not None:
        for endpoint in settings.endpoints:
            prices.expect(endpoint.name, settings.one_model, wall_us)
    return prices


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
    # A model that a provider passes on for another is listed with the other's standard price only.
    if tier is not None and any(model is own for own in provider.models):
        context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
    quoted = _quotes(model.get_prices(when, context))
    if quoted is None:
        return None
    tier_known = tier in STANDARD_TIERS or any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(when))
        for variant in model.price_variants or ()
    )
    return Listed(price(quoted[0][1], quoted[1:]), tier_known)


def _quotes(prices: ModelPrice) -> list[tuple[int, Quote]] | None:
    """The quotes by the number of prompt tokens above which they hold, the lowest first. None
    where the price is for something else than tokens of text.
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
    """A price for prompts of more than so many tokens: it holds for all tokens of the exchange."""
    if kind is None or isinstance(kind, Decimal):
        return kind
    found: Decimal = kind.base  # type: ignore[attr-defined]
    for tier in kind.tiers:  # type: ignore[attr-defined]
        if above >= tier.start:
            found = tier.price
    return found
