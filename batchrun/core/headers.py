"""Reading reply headers: how long to wait, and what the server calls the exchange."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

WAIT_S_MAX = 7 * 24 * 3600.0
"""Longer waits are read as a week: long enough to stop any run."""


def retry_after_s(headers: Mapping[str, str], *, wall_s: float) -> float | None:
    """Seconds the server asks to wait, or None where it does not say or writes junk.

    ``retry-after-ms`` (milliseconds) wins over ``retry-after`` (seconds, possibly with a fraction,
    or an HTTP date, compared with ``wall_s``, seconds since the epoch).
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamp(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _clamp(seconds)
    if not text:
        return None
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return _clamp(when.timestamp() - wall_s)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def request_id(headers: Mapping[str, str]) -> str | None:
    """The server's name for the exchange, for its support to find it."""
    found = headers.get("x-request-id") or headers.get("request-id")
    return found[:200] if found else None


def _number(text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _clamp(seconds: float) -> float:
    return min(max(seconds, 0.0), WAIT_S_MAX)
