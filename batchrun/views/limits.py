"""The limits that a server reports, in a line for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KINDS = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
}
PERIODS = {"second": "/s", "minute": "/min", "hour": "/hour", "day": "/day", "month": "/month"}


def format_limits(windows: Iterable[Mapping[str, Any]]) -> str | None:
    """One line of the limits in a status (see ``limit_headers.Window.public``), such as ``limits
    told by the server: 10,000 requests/min (9,990 left), 2,000,000 tokens/min``; None if the server
    reports none. The same limit under two names is shown once.
    """
    parts = dict.fromkeys(part for window in windows if (part := _window(window)))
    return f"limits reported by the server: {', '.join(parts)}" if parts else None


def _window(window: Mapping[str, Any]) -> str:
    kind = KINDS.get(str(window.get("kind")))
    if kind is None:
        return ""
    period = PERIODS.get(str(window.get("per")), "")
    limit, left = window.get("limit"), window.get("remaining")
    if limit is None:
        return "" if left is None else f"{left:,} {kind} left"
    if not period and window.get("per_s"):
        period = f" in {window['per_s']:g} s"
    whole = f"{limit:,} {kind}{period}"
    return whole if left is None else f"{whole} ({left:,} left)"
