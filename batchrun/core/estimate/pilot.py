"""What a pilot tells of the whole run: tokens, money and time, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from batchrun.core.estimate.extrapolation import Interval, Sampled, total
from batchrun.core.estimate.least_time import (
    Capacity,
    connections,
    parts,
    requests_per_s,
    tokens_per_s,
)
from batchrun.core.estimate.strata import Stratum
from batchrun.core.settings.endpoint import Endpoint

DRIFT = 0.10
"""A server is never quite as fast for the whole run as it was for the pilot, and no limit is used
to its last: so much either way."""


@dataclass(slots=True)
class Seen:
    """What the attempts of a sampled row took together. ``cost_usd`` is None where an answer of
    its has no price. ``busy_s`` is how long its requests were under way.
    """

    model: str
    size: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    attempts: int = 0
    busy_s: float = 0.0
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Time:
    """How long the whole run takes, and what holds it back."""

    seconds: Interval
    held_by: str


@dataclass(frozen=True, slots=True)
class PilotFigures:
    """What the pilot tells of the whole input."""

    prompt_tokens: Interval
    completion_tokens: Interval
    cost_usd: Interval | None
    time: Time | None


_LIMITS: tuple[tuple[str, Capacity, Callable[[Seen], float]], ...] = (
    ("concurrency", connections, lambda seen: seen.busy_s),
    ("rpm", requests_per_s, lambda seen: float(seen.attempts)),
    ("tpm", tokens_per_s, lambda seen: float(seen.prompt_tokens + seen.completion_tokens)),
)


def extrapolate(
    strata: Sequence[Stratum], seen: Mapping[int, Seen], endpoints: Sequence[Endpoint]
) -> PilotFigures:
    """Extrapolate from the sampled rows, which are known by their tickets."""
    priced = all(row.cost_usd is not None for row in seen.values())
    return PilotFigures(
        _total(strata, seen, lambda row: float(row.prompt_tokens)),
        _total(strata, seen, lambda row: float(row.completion_tokens)),
        _total(strata, seen, lambda row: row.cost_usd or 0.0) if priced else None,
        _time(strata, seen, endpoints),
    )


def _total(
    strata: Sequence[Stratum], seen: Mapping[int, Seen], value: Callable[[Seen], float]
) -> Interval:
    return total(
        [
            Sampled(
                stratum.rows,
                stratum.size,
                [seen[ticket].size for ticket in stratum.tickets],
                [value(seen[ticket]) for ticket in stratum.tickets],
            )
            for stratum in strata
        ]
    )


def _time(
    strata: Sequence[Stratum], seen: Mapping[int, Seen], endpoints: Sequence[Endpoint]
) -> Time | None:
    """The longest of what each limit asks for, at each set of endpoints that some rows need. The
    last requests go out at the end of that, and take as long as the longest of the pilot at most.
    """
    models = sorted({row.model for row in seen.values()})
    found: list[tuple[Interval, str]] = []
    for name, capacity, value in _LIMITS:
        for inside, per_second in parts(endpoints, models, capacity):
            whole = _total(
                strata,
                seen,
                lambda row: value(row) if row.model in inside else 0.0,  # noqa: B023
            )
            scaled = (figure / per_second for figure in (whole.total, whole.low, whole.high))
            found.append((Interval(*scaled), name))
    if not found:
        return None
    longest, held_by = max(found, key=lambda item: item[0].total)
    last_s = max(row.longest_s for row in seen.values())
    low = max(interval.low for interval, _ in found)
    high = max(interval.high for interval, _ in found)
    if held_by == "concurrency":
        low *= 1 - DRIFT
    high = max(high, longest.total) * (1 + DRIFT) + last_s
    return Time(Interval(max(longest.total, last_s), low, high), held_by)
