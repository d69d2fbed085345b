"""The rate limit headers, in the spellings of real servers.

Their values are the simulator's own: its buckets, per minute. If a server reports another window,
the limit is converted: the same rate for a second, a hundred minutes' worth for a day.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

SECONDS_PER_DAY = 86400.0
DAY_MINUTES = 100.0
"""A day's limit, in minutes of the limit per minute: vendors allow much less than 1,440."""


class Standing(NamedTuple):
    """One limit at one moment. ``used_today`` counts what was admitted, less what a bucket of a day
    has got back since.
    """

    kind: str  # "requests" or "tokens"
    rate_per_min: float
    left: float
    full_in_s: float
    used_today: float

    @property
    def remaining(self) -> str:
        """What is left, whole."""
        return str(max(0, int(self.left)))


Writer = Callable[[Standing, float], Iterable[tuple[str, str]]]
"""Writes the headers of one limit; the number is the wall clock, in seconds since the epoch."""


def write_duration(seconds: float) -> str:
    """A duration as Go prints it, to the millisecond, rounded up: `12ms`, `7.66s`, `6m0s`."""
    millis = math.ceil(seconds * 1000 - 1e-9)
    if millis == 0:
        return "0s"
    if millis < 1000:
        return f"{millis}ms"
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{millis / 1000:.15g}s"
    if hours:
        return f"{hours}h{minutes}m{rest}"
    return f"{minutes}m{rest}" if minutes else rest


def _three(names: str, limit: str, remaining: str, reset: str) -> list[tuple[str, str]]:
    """The headers of a pattern: `*` is `limit`, `remaining` and `reset` in turn."""
    told = (("limit", limit), ("remaining", remaining), ("reset", reset))
    return [(names.replace("*", part), text) for part, text in told]


def _plain(value: float) -> str:
    return f"{value:.15g}"


def _of_day(limit: Standing, names: str, write: Callable[[float], str]) -> list[tuple[str, str]]:
    whole = limit.rate_per_min * DAY_MINUTES
    left = str(max(0, int(whole - limit.used_today)))
    return _three(names, _plain(whole), left, write(limit.used_today * SECONDS_PER_DAY / whole))


def _openai(limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    return _three(
        f"x-ratelimit-*-{limit.kind}",
        _plain(limit.rate_per_min),
        limit.remaining,
        write_duration(limit.full_in_s),
    )


def _azure(limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    reset = str(math.ceil(limit.full_in_s))
    names = f"x-ratelimit-*-{limit.kind}"
    return _three(names, _plain(limit.rate_per_min), limit.remaining, reset)


def _groq(limit: Standing, wall_s: float) -> list[tuple[str, str]]:
    if limit.kind == "tokens":
        return _openai(limit, wall_s)
    return _of_day(limit, "x-ratelimit-*-requests", write_duration)


def _cerebras(limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    if limit.kind == "requests":
        return _of_day(limit, "x-ratelimit-*-requests-day", lambda seconds: f"{seconds:.6f}")
    return _three(
        "x-ratelimit-*-tokens-minute",
        _plain(limit.rate_per_min),
        limit.remaining,
        f"{limit.full_in_s:.6f}",
    )


def _mistral(limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    word = "req" if limit.kind == "requests" else "tokens"
    names = f"x-ratelimit-*-{word}-minute"
    return _three(names, _plain(limit.rate_per_min), limit.remaining, "")[:2]


def _together(limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    names = "x-ratelimit-*" if limit.kind == "requests" else "x-tokenlimit-*"
    per_s = limit.rate_per_min / 60
    left = str(max(0, int(min(limit.left, per_s))))
    return _three(names, _plain(per_s), left, "1")


def _anthropic(limit: Standing, wall_s: float) -> list[tuple[str, str]]:
    full = datetime.fromtimestamp(math.ceil(wall_s + limit.full_in_s), UTC)
    names = f"anthropic-ratelimit-{limit.kind}-*"
    reset = full.strftime("%Y-%m-%dT%H:%M:%SZ")
    return _three(names, _plain(limit.rate_per_min), limit.remaining, reset)


def _openrouter(limit: Standing, wall_s: float) -> list[tuple[str, str]]:
    if limit.kind == "tokens":
        return []
    reset = str(math.ceil((wall_s + limit.full_in_s) * 1000))
    return _three("X-RateLimit-*", _plain(limit.rate_per_min), limit.remaining, reset)


def _ietf(limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    reset = math.ceil(limit.full_in_s)
    unit = "" if limit.kind == "requests" else f';qu="{limit.kind}"'
    return [
        ("RateLimit-Policy", f'"{limit.kind}";q={math.ceil(limit.rate_per_min)}{unit};w=60'),
        ("RateLimit", f'"{limit.kind}";r={limit.remaining};t={reset}'),
    ]


def _none(_limit: Standing, _wall_s: float) -> list[tuple[str, str]]:
    return []


DIALECTS: Mapping[str, Writer] = {
    "openai": _openai,
    "azure": _azure,
    "groq": _groq,
    "cerebras": _cerebras,
    "mistral": _mistral,
    "together": _together,
    "anthropic": _anthropic,
    "openrouter": _openrouter,
    "ietf": _ietf,
    "none": _none,
}
"""The dialects by name; `none` reports nothing."""


def write(dialect: str, limits: Iterable[Standing], wall_s: float) -> dict[str, str]:
    """The headers of all limits. Of one name there is one, with a list in it (IETF)."""
    headers: dict[str, str] = {}
    for limit in limits:
        for name, text in DIALECTS[dialect](limit, wall_s):
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers
