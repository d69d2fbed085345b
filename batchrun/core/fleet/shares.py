"""A process's share of the limits that a fleet has together: fixed, by its place."""

from __future__ import annotations

from dataclasses import replace

from batchrun.core.fleet.board import Place
from batchrun.core.settings.endpoint import Endpoint
from batchrun.errors import UsageError


def share_of(endpoint: Endpoint, place: Place) -> Endpoint:
    """An endpoint with this process's share of its limits. All shares add up to the limits.

    Raises ``UsageError`` where there are more processes than requests may be in flight.
    """
    most = _part(endpoint.concurrency_max, place)
    if not most:
        message = (
            f"{place.count:,} processes cannot share {endpoint.concurrency_max:,} requests in "
            f"flight at {endpoint.name}: raise --concurrency (or --max-concurrency), or start fewer"
        )
        raise UsageError(message)
    bounds = endpoint.bounds
    if bounds is not None:
        bounds = max(1, min(bounds[0] // place.count, most)), most
    return replace(
        endpoint,
        concurrency=min(most, max(1, _part(endpoint.concurrency, place))),
        bounds=bounds,
        rpm=None if endpoint.rpm is None else endpoint.rpm / place.count,
        tpm=None if endpoint.tpm is None else endpoint.tpm / place.count,
    )


def _part(number: int, place: Place) -> int:
    """This place's part of a number: whole, and all parts together are the number."""
    return number * (place.index + 1) // place.count - number * place.index // place.count
