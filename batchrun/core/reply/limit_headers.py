"""Reads the rate limits that a server reports in response headers.

Every number is a hint of a stranger: what cannot be true (negative, not finite, more left than the
limit, a limit of nothing) is as good as not said. Nothing here raises, whatever the headers hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from batchrun.core.reply import headers as header
from batchrun.core.reply.limit_dialects import (
    DAY_S,
    IETF,
    IETF_POLICY,
    MINUTE_S,
    PERIODS_S,
    REQUESTS,
    SPELLINGS,
    TOKENS,
    Spelling,
)

LIMIT_MAX = 1e13
"""A larger limit is none: it stands for "unlimited", or is junk."""

RESET_S_MAX = 2 * DAY_S
"""A reset further ahead tells nothing about a window of a day or less."""

HEADERS_MAX = 64
"""Headers about limits that are looked at, and members of a list; a reply has 20 at most."""

_NUMBER = re.compile(r"\d{1,16}(?:\.\d{1,9})?", re.ASCII)
_FULL_TOLERANCE = 0.02
"""How well a bucket's reset must fit its length: Groq's own example is 0.3 % off."""


class Window(NamedTuple):
    """One limit: so many requests or tokens in so many seconds.

    ``kind`` is ``requests``, ``tokens``, ``input_tokens`` or ``output_tokens``; ``per_s`` the
    length of the window, None where it is not known; ``remaining`` what is left now;
    ``reset_s`` the seconds until the window ends or, at some servers, until the bucket is full
    again. What was not said is None; one of ``limit`` and ``remaining`` was. ``source`` names the
    headers.
    """

    kind: str
    per_s: float | None
    limit: float | None
    remaining: float | None
    reset_s: float | None
    source: str

    @property
    def per(self) -> str:
        """``second``, ``minute``, ``hour``, ``day``, ``month`` or ``unknown``."""
        names = (name for name, seconds in PERIODS_S.items() if seconds == self.per_s)
        return next(names, "unknown")

    def public(self) -> dict[str, Any]:
        """The window as data."""
        told = {
            "kind": self.kind,
            "per": self.per,
            "per_s": self.per_s,
            "limit": self.limit,
            "remaining": self.remaining,
            "reset_s": self.reset_s,
            "source": self.source,
        }
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in told.items()
        }


Limits = tuple[Window, ...]
"""What one reply said: its windows, requests first."""


def read(headers: Mapping[str, str], *, wall_s: float, host: str = "") -> Limits:
    """The limits that a reply's headers tell; empty where they tell none.

    ``wall_s`` (seconds since the epoch) is what moments are compared with. ``host`` is the
    server's: the same header counts by the day at one and by the minute at another.
    """
    found = _about_limits(headers)
    if not found:
        return ()
    host = host.lower()
    windows = [
        window
        for spelling, limit, remaining, reset in _NAMES
        if (limit in found or remaining in found)
        and (
            window := _window(
                spelling, found.get(limit), found.get(remaining), found.get(reset), wall_s, host
            )
        )
    ]
    if IETF in found or IETF_POLICY in found:
        windows += _ietf(found)
    return tuple(sorted(windows, key=lambda window: window.kind != REQUESTS))


def used_up_s(headers: Mapping[str, str], *, wall_s: float) -> float | None:
    """Seconds until a used-up window of a day or longer is renewed; None where none is used up.

    For refusals. A bucket of a day (Groq) is refilled all the time: it is waited for one request's
    worth. A reset that may be either is taken for the shorter.
    """
    waits = []
    for window in read(headers, wall_s=wall_s):
        per_s, limit, reset_s = window.per_s, window.limit, window.reset_s
        if per_s is None or per_s < DAY_S or window.remaining != 0 or reset_s is None:
            continue
        if abs(reset_s / per_s - 1) <= _FULL_TOLERANCE:
            if limit is None or window.kind != REQUESTS:
                continue
            reset_s = per_s / limit
        waits.append(reset_s)
    return max(waits, default=None)


def _about_limits(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if ("ratelimit" in lowered or "tokenlimit" in lowered) and len(found) < HEADERS_MAX:
            found.setdefault(lowered, value)
    return found


_NAMES = tuple(
    (spelling, spelling.name("limit"), spelling.name("remaining"), spelling.name("reset"))
    for spelling in SPELLINGS
)


def _window(
    spelling: Spelling,
    limit_text: str | None,
    remaining_text: str | None,
    reset_text: str | None,
    wall_s: float,
    host: str,
) -> Window | None:
    limit, listed_s = _limit(limit_text)
    remaining = _count(remaining_text)
    if not _credible(limit, remaining):
        return None
    per_s = spelling.length_s(host) or listed_s
    reset_s = _reset_s(header.wait_s(reset_text, wall_s=wall_s), per_s)
    if per_s is None:
        per_s = _seen_s(limit, remaining, reset_s, spelling.usual_s)
    return Window(spelling.kind, per_s, limit, remaining, reset_s, spelling.names)


def _reset_s(told_s: float | None, per_s: float | None) -> float | None:
    """A reset, where it can be one of such a window."""
    if told_s is None or told_s > max(RESET_S_MAX, per_s or 0) or told_s >= header.WAIT_S_MAX:
        return None
    return told_s


def _credible(limit: float | None, remaining: float | None) -> bool:
    if limit is None:
        return remaining is not None
    return 0 < limit <= LIMIT_MAX and (remaining is None or remaining <= limit)


def _seen_s(
    limit: float | None, remaining: float | None, reset_s: float | None, usual_s: float | None
) -> float | None:
    """A window's length by its reset.

    A bucket that is full in ``reset_s`` refills what is missing in that time, and all of it in the
    window's length. Else a reset within the usual window says nothing against it.
    """
    if reset_s is None:
        return usual_s
    if limit is not None and remaining is not None and remaining < limit:
        whole_s = reset_s * limit / (limit - remaining)
        for per_s in (DAY_S, MINUTE_S):
            if abs(whole_s / per_s - 1) <= _FULL_TOLERANCE:
                return per_s
    if usual_s is not None and reset_s <= usual_s * (1 + _FULL_TOLERANCE):
        return usual_s
    if reset_s > PERIODS_S["hour"]:
        return DAY_S
    # Without a usual window, one of a second and one of a minute's last second look alike.
    return MINUTE_S if usual_s is None and 2 < reset_s <= MINUTE_S else None


def _count(text: str | None) -> float | None:
    """A plain number that is not negative, or None."""
    text = "" if text is None or len(text) > header.TEXT_MAX else text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _limit(text: str | None) -> tuple[float | None, float | None]:
    """A limit, and the window's length where it is written behind it (``100, 100;window=60``)."""
    if text is None or len(text) > 10 * header.TEXT_MAX:
        return None, None
    if "," not in text and ";" not in text:
        return _count(text), None
    members = list(_members(text))
    limit = _count(members[0][0]) if members else None
    lengths = (
        _count(fields.get("window", fields.get("w")))
        for head, fields in members
        if fields and _count(head) == limit
    )
    return limit, next(lengths, None) or None


# The IETF draft


def _ietf(found: Mapping[str, str]) -> Iterator[Window]:
    """``RateLimit`` and ``RateLimit-Policy``: named policies (version 8 on), or one limit (7)."""
    named: dict[str, dict[str, str]] = {}
    lengths: dict[float | None, float | None] = {}
    for head, fields in _members(found.get(IETF_POLICY, "")):
        if "q" in fields:
            named[head] = fields
        else:
            lengths[_count(head)] = _count(fields.get("w"))
    left: dict[str, tuple[float | None, float | None]] = {}
    pairs: dict[str, float | None] = {}
    for head, fields in _members(found.get(IETF, "")):
        if "r" in fields:
            left[head] = _count(fields["r"]), _count(fields.get("t"))
        name, _, value = head.partition("=")
        pairs[name.strip()] = _count(value)
    if pairs.get("remaining") is not None:
        limit = pairs.get("limit")
        yield from _policy(
            "", {}, limit, lengths.get(limit), (pairs["remaining"], pairs.get("reset"))
        )
    for name in dict.fromkeys((*named, *left)):
        fields = named.get(name, {})
        yield from _policy(
            name, fields, _count(fields.get("q")), _count(fields.get("w")), left.get(name)
        )


def _policy(
    name: str,
    fields: Mapping[str, str],
    limit: float | None,
    per_s: float | None,
    left: tuple[float | None, float | None] | None,
) -> Iterator[Window]:
    remaining, reset_s = left or (None, None)
    unit = fields.get("qu", REQUESTS).strip('"')
    if unit in (REQUESTS, TOKENS) and _credible(limit, remaining):
        reset_s = _reset_s(reset_s, per_s)
        yield Window(unit, per_s or None, limit, remaining, reset_s, f"{IETF} {name}".strip())


def _members(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The members of a list, each with its parameters; quotes around names are taken off."""
    for member in text[: 10 * header.TEXT_MAX].split(",")[:HEADERS_MAX]:
        head, *fields = member.split(";")
        pairs = (field.partition("=") for field in fields)
        yield (
            head.strip().strip('"'),
            {name.strip().lower(): value.strip() for name, _, value in pairs},
        )
