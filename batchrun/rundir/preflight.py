"""Checks the input before money is spent: each request has a bound, each model a price."""

from __future__ import annotations

from collections.abc import Callable

from batchrun.core.cost.price_book import PriceBook, table_of
from batchrun.core.settings.resolve import Settings
from batchrun.errors import InputError, InputLostError, RowError, UnboundedError, UsageError
from batchrun.records import Request, Row, WorstCase
from batchrun.rundir.open_run import RunDirectory

NONE_DONE: frozenset[int] = frozenset()


class Priced:
    """Checks that requests have a price wherever they may be sent."""

    def __init__(self, settings: Settings, prices: PriceBook, wall_us: int) -> None:
        fallback = settings.fallback_model
        self._fallback = () if fallback is None else (fallback,)
        self._endpoints = settings.endpoints
        self._prices = prices
        self._wall_us = wall_us
        self._known: set[tuple[str, str | None]] = set()

    def require(self, request: Request) -> None:
        """Raises ``UnboundedError`` if there is none."""
        worst = request.worst
        assert worst is not None
        if (request.model, worst.tier) in self._known:
            return
        for model in (request.model, *self._fallback):
            self._require(model, worst)
        self._known.add((request.model, worst.tier))

    def _require(self, model: str, worst: WorstCase) -> None:
        for endpoint in self._endpoints:
            if not endpoint.serves(model):
                continue
            named = (endpoint.models or {}).get(model, model)
            if self._prices.most_pd(endpoint.name, model, named, worst, self._wall_us) is None:
                message = (
                    f"no price is known for model {model!r} at {endpoint.name}, so its "
                    f"cost has no bound: set {table_of(model)} in the config file, or "
                    "bound the tokens with --max-total-tokens instead of --max-cost"
                )
                raise UnboundedError(message)


def require_bounds(
    opened: RunDirectory, settings: Settings, build: Callable[[Row], Request], priced: Priced | None
) -> None:
    """Check that every row to be sent has a worst case and, if ``priced`` requires it, a price.
    Reads the input; a pipe cannot be read twice, so its rows are checked as they arrive. Raises
    ``UsageError`` naming the first row without one; other bad rows pass.
    """
    if opened.looked_over:
        return
    try:
        for block in opened.reader.blocks(opened.spans, limit=settings.limit):
            known = opened.known.get(block.shard)
            done = NONE_DONE if known is None else known.done
            for row in block.rows:
                if row.number not in done:
                    _look(row, build, priced, opened.reader.where)
    except InputLostError as error:
        raise InputError(str(error)) from None


def _look(
    row: Row,
    build: Callable[[Row], Request],
    priced: Priced | None,
    where: Callable[[Row], str],
) -> None:
    try:
        request = build(row)
        if priced is not None:
            priced.require(request)
    except UnboundedError as error:
        message = f"{where(row)}: {error}. Nothing was sent"
        raise UsageError(message) from None
    except RowError:
        pass  # it is never sent
