"""The least time that work takes under the limits of several endpoints.

Rows of a model may go to every endpoint that serves it. Whatever a set of models needs has to pass
through the endpoints that serve any of them; so each set gives a bound, and the largest of them is
the time of the best division of the work (by max-flow min-cut).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from batchrun.core.settings.endpoint import Endpoint

SETS_OF = 8
"""Up to so many different sets of endpoints every union is looked at; beyond, each and all."""

Capacity = Callable[[Endpoint], float | None]
"""What an endpoint takes in a second; None: any amount."""


def parts(
    endpoints: Sequence[Endpoint], models: Sequence[str], capacity: Capacity
) -> Iterator[tuple[frozenset[str], float]]:
    """Sets of models with what their endpoints take in a second together; those without a limit are
    left out.
    """
    serving = {
        model: frozenset(place for place, e in enumerate(endpoints) if e.serves(model))
        for model in models
    }
    kinds = sorted(set(serving.values()), key=sorted)
    several = range(1, len(kinds) + 1) if len(kinds) <= SETS_OF else (1, len(kinds))
    for union in {
        frozenset().union(*chosen) for count in several for chosen in combinations(kinds, count)
    }:
        limits = [capacity(endpoints[place]) for place in union]
        known = [limit for limit in limits if limit is not None]
        if known and len(known) == len(limits):
            inside = frozenset(model for model, served in serving.items() if served <= union)
            yield inside, sum(known)


def least_s(
    endpoints: Sequence[Endpoint], loads: Mapping[str, float], capacity: Capacity
) -> float | None:
    """The seconds that the loads of the models take at least; None where nothing limits them."""
    return max(
        (
            sum(loads[model] for model in inside) / per_second
            for inside, per_second in parts(endpoints, list(loads), capacity)
        ),
        default=None,
    )


def requests_per_s(endpoint: Endpoint) -> float | None:
    """By ``rpm``."""
    return None if endpoint.rpm is None else endpoint.rpm / 60


def tokens_per_s(endpoint: Endpoint) -> float | None:
    """By ``tpm``."""
    return None if endpoint.tpm is None else endpoint.tpm / 60


def connections(endpoint: Endpoint) -> float:
    """Seconds of requests in flight in a second: by ``concurrency``."""
    return float(endpoint.concurrency)
