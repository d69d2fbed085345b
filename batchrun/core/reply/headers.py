"""Reading reply headers: how long to wait, whether to try again, what the exchange is called."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from batchrun.core.text.storable import storable_text

WAIT_S_MAX = 7 * 24 * 3600.0
"""Longer waits are read as a week: long enough to stop any run."""

RESET_S_MAX = 60.0
"""The most that a reset of one of several limits is waited for (see ``reset_s``)."""

TEXT_MAX = 100
"""Characters of the longest text that can be a moment or a duration."""

_EPOCH_S = 1e9  # 2001: what is larger is a moment rather than a duration
_EPOCH_MS = 1e12
_EPOCH_MS_MAX = 1e14  # the year 5138: what is larger is junk

_NUMBER = re.compile(r"\d{0,30}\.?\d{1,30}(?:[eE][+-]?\d{1,3})?", re.ASCII)
_UNITS_S: Mapping[str, float] = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
}
_UNIT = r"(?:ns|us|µs|ms|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:ours?)?|d(?:ays?)?)"
_PIECE = re.compile(rf"(\d{{0,15}}\.?\d{{1,15}}) ?({_UNIT})(?![a-z])[ ,]*", re.ASCII)
DURATION = rf"(?:\d{{0,15}}\.?\d{{1,15}} ?{_UNIT}(?![a-z])[ ,]*)+"
"""A duration in a text, as a regular expression: ``1m30s``, ``5.289s``, ``37 seconds``."""
_CLOCK = re.compile(r"(?:(\d{1,3})\.)?(\d{1,2}):(\d{2}):(\d{2})", re.ASCII)


def wait_s(text: str | None, *, wall_s: float) -> float | None:
    """Seconds from now that a text names, from 0 to ``WAIT_S_MAX``; None where it names none.

    Understood are seconds (``7``, ``0.25``), durations (``12ms``, ``1m30s``, ``1h2m3s``), HTTP
    dates in their three formats, RFC 3339, and seconds or milliseconds since the epoch, told by
    their magnitude. Moments are compared with ``wall_s`` (seconds since the epoch); one that has
    passed is no wait. Negative numbers and junk are None.
    """
    if text is None:
        return None
    text = text.strip()
    if not text or len(text) > TEXT_MAX:
        return None
    if _NUMBER.fullmatch(text):
        return number_s(float(text), wall_s=wall_s)
    seconds = duration_s(text)
    if seconds is not None:
        return _clamp(seconds)
    moment_s = _moment_s(text)
    return None if moment_s is None else _clamp(moment_s - wall_s)


def number_s(value: float, *, wall_s: float) -> float | None:
    """The same for a bare number."""
    if not math.isfinite(value) or not 0 <= value <= _EPOCH_MS_MAX:
        return None
    if value >= _EPOCH_MS:
        return _clamp(value / 1000 - wall_s)
    if value >= _EPOCH_S:
        return _clamp(value - wall_s)
    return _clamp(value)


def duration_s(text: str) -> float | None:
    """Seconds of ``12ms``, ``6m0s``, ``1h2m3s``, ``37 seconds`` or ``00:12:34``; else None."""
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, seconds = (int(group or 0) for group in clock.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
    total, at = 0.0, 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return None
        unit = piece[2]
        total += float(piece[1]) * _UNITS_S[unit if unit in _UNITS_S else unit.rstrip("s")]
        at = piece.end()
    return total if text else None


def retry_after_s(headers: Mapping[str, str], *, wall_s: float) -> float | None:
    """Seconds the server asks to wait, or None where it does not say or writes junk.

    ``retry-after-ms`` (milliseconds) wins over ``retry-after`` (anything that ``wait_s`` reads).
    """
    text = (headers.get("retry-after-ms") or "").strip()
    if text and len(text) <= TEXT_MAX and _NUMBER.fullmatch(text):
        milliseconds = float(text)
        if math.isfinite(milliseconds):
            return _clamp(milliseconds / 1000)
    return wait_s(headers.get("retry-after"), wall_s=wall_s)


def reset_s(headers: Mapping[str, str], *, wall_s: float) -> float | None:
    """Seconds until a used-up limit is renewed, by the ``*ratelimit*reset*`` headers; None where
    no limit is used up, or they are junk.

    For refusals that name no wait. ``x-ratelimit-reset`` alone is the end of the window. Where
    several limits are told apart, a reset is when the bucket is *full* (OpenAI), and some are of a
    day (Groq): it bounds the wait from above, so no more than ``RESET_S_MAX`` is made of it.
    """
    whole: float | None = None
    parts: list[float] = []
    for name, text, remaining in _resets(headers):
        if remaining is not None and remaining > 0:
            continue
        found = wait_s(text, wall_s=wall_s)
        if found is None:
            continue
        if name in ("x-ratelimit-reset", "ratelimit-reset"):
            whole = found
        elif remaining == 0:
            parts.append(min(found, RESET_S_MAX))
    return whole if whole is not None else max(parts, default=None)


def _resets(headers: Mapping[str, str]) -> Iterator[tuple[str, str, float | None]]:
    """Name and text of each reset header, and what its limit has left (None: not told)."""
    lowered = {name.lower(): value for name, value in headers.items()}
    for name, text in lowered.items():
        # x-ratelimit-reset-tokens, anthropic-ratelimit-tokens-reset, x-tokenlimit-reset
        if ("ratelimit" in name or "tokenlimit" in name) and "reset" in name:
            left = lowered.get(name.replace("reset", "remaining"), "").strip()
            # Azure says -1 where it does not know.
            known = len(left) <= TEXT_MAX and _NUMBER.fullmatch(left) is not None
            yield name, text, float(left) if known else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """What ``x-should-retry`` says; None where it says nothing."""
    text = headers.get("x-should-retry")
    if text is None:
        return None
    return {"true": True, "false": False}.get(text.strip().lower())


def request_id(headers: Mapping[str, str]) -> str | None:
    """The server's name for the exchange, for its support to find it."""
    get = headers.get
    found = (
        get("x-request-id") or get("request-id") or get("apim-request-id") or get("x-generation-id")
    )
    return storable_text(found, 200) if found else None


def _moment_s(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 or HTTP date. A date without a zone is UTC."""
    try:
        when = datetime.fromisoformat(text) if text[:4].isdecimal() else parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _clamp(seconds: float) -> float:
    return min(max(seconds, 0.0), WAIT_S_MAX)
