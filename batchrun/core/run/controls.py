"""What `batchrun ctl` may change of a live run, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from batchrun.core.cost.money import format_cost
from batchrun.errors import UsageError

ACTIONS: Mapping[str, str] = {
    "set": "change limits: rpm=N, tpm=N, concurrency=N, max_cost=USD",
    "pause": "send nothing more for now",
    "resume": "send again after a pause",
    "drain": "send nothing more, let the requests in flight finish, and stop",
}
"""What a run can be asked to do."""

RANGES: Mapping[str, tuple[float, float]] = {
    "rpm": (0.001, 1e9),
    "tpm": (0.001, 1e12),
    "concurrency": (1, 100_000),
    "max_cost": (0.000001, 1e12),
}
"""The keys of `set`, with the least and the most that their values may be."""

_LIFTED = ("rpm", "tpm")
"""These may be `none`."""

Values = dict[str, float | None]
"""By key; None lifts a limit. With an endpoint's name and a dot before it, a key is that
endpoint's."""


def key_of(name: str) -> tuple[str | None, str]:
    """The endpoint, None for all, and the key itself."""
    endpoint, dot, key = name.rpartition(".")
    return (endpoint if dot else None), key


def parse_values(words: Sequence[str]) -> Values:
    """Read `KEY=VALUE` words. Raises ``UsageError`` that names the one that cannot be."""
    values: Values = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().removeprefix("--")
        endpoint, key = key_of(name)
        key = key.replace("-", "_").removesuffix("_usd")
        if not equals or key not in RANGES or (endpoint is not None and key == "max_cost"):
            message = (
                f"{word!r} is none of {', '.join(f'{k}=...' for k in RANGES)}; for one of several "
                "endpoints put its name before the key: NAME.rpm=600"
            )
            raise UsageError(message)
        name = key if endpoint is None else f"{endpoint}.{key}"
        if name in values:
            message = f"{name} is set twice"
            raise UsageError(message)
        values[name] = _number(word, key, text.strip())
    if not values:
        message = f"set needs at least one of {', '.join(f'{key}=...' for key in RANGES)}"
        raise UsageError(message)
    return values


def _number(word: str, key: str, text: str) -> float | None:
    if key in _LIFTED and text.lower() == "none":
        return None
    least, most = RANGES[key]
    try:
        value = float(text.replace("_", "").removeprefix("$"))
    except ValueError:
        value = math.nan
    whole = key == "concurrency"
    if not least <= value <= most or (whole and not value.is_integer()):
        kind = "a whole number" if whole else "a number"
        lifted = ", or none" if key in _LIFTED else ""
        message = f"{word!r}: {key} must be {kind} between {least:g} and {most:g}{lifted}"
        raise UsageError(message)
    return int(value) if whole else value


def checked_values(given: object) -> Values:
    """The values of a request that came over the socket. Raises ``UsageError``."""
    if not isinstance(given, dict):
        message = "the values to set must be an object"
        raise UsageError(message)
    return parse_values(
        [f"{key}={'none' if value is None else value}" for key, value in given.items()]
    )


def lines(held: Mapping[str, object]) -> list[str]:
    """What holds now, for people."""
    endpoints = held["endpoints"]
    assert isinstance(endpoints, dict)
    out = [f"{held['state']}" + _budget(held.get("max_cost_usd"))]
    for name, limits in endpoints.items():
        told = ", ".join(
            f"{key} {'none' if value is None else f'{value:,.15g}'}"
            for key, value in limits.items()
        )
        out.append(told if len(endpoints) == 1 else f"{name}: {told}")
    return out


def _budget(cap_usd: object) -> str:
    return f", max_cost {format_cost(cap_usd)}" if isinstance(cap_usd, float) else ""
