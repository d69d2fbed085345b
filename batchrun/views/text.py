"""How figures read on a terminal: plain ASCII, narrow, never ambiguous."""

from __future__ import annotations

import re
from collections.abc import Mapping

from batchrun.core.text.legible import legible

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def duration(seconds: float | None) -> str:
    """Seconds as ``42s``, ``3m07s``, ``5h02m`` or ``2d03h``; ``?`` where not known."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def rate(per_second: float) -> str:
    """A rate in at most five characters before its unit."""
    if per_second >= 10_000:
        return f"{per_second / 1000:.0f}k/s"
    if per_second >= 10:
        return f"{per_second:.0f}/s"
    return f"{per_second:.1f}/s"


def safe(text: str) -> str:
    """Text from servers and data without what could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", legible(text))


def share(part: int, whole: int | None) -> str:
    """A share in whole percent that says 100 only when it is all."""
    if not whole:
        return ""
    return f"{100 * part // whole}%"


def percent(part: int, whole: int) -> str:
    """A share of a total that is not 0, in percent; ``<1%`` for a part that would read as none."""
    return "<1%" if 0 < 100 * part < whole else share(part, whole)


VERDICTS: Mapping[str, str] = {
    "complete:": "green",
    "complete, ": "yellow",
    "stopped by": "red",
    "interrupted by": "red",
    "killed:": "red",
    "running:": "cyan",
    "paused:": "yellow",
    "stopping:": "yellow",
    "failed by class:": "red",
    "of the ok rows,": "yellow",
    "warning:": "yellow",
    "notice:": "yellow",
    "batchrun:": "red",
    "verified:": "green",
    "NOT verified": "red",
}
"""How the lines begin that carry a verdict, and its colour."""


def verdict(line: str) -> tuple[str, str, str | None]:
    """The part of a line that is a verdict (up to its first colon), the rest, and the verdict's
    colour, None without one.
    """
    for start, colour in VERDICTS.items():
        if line.startswith(start):
            label, colon, rest = line.partition(":")
            return label + colon, rest, colour
    return "", line, None


BOUND = {
    "pause": "a pause (batchrun ctl DIR resume ends it)",
    "concurrency": "concurrency",
    "rpm": "the request limit (--rpm)",
    "tpm": "the token limit (--tpm)",
    "limits": "the server's limits",
    "server": "the server's throttling",
    "budget": "the budget, which is nearly used up",
    "outage": "an endpoint that is down",
    "memory": "the memory for open rows",
    "source": "reading the input",
    "cpu": "this machine's CPU",
}
"""What holds a run back, in words."""

WAITS = {
    "rpm": "--rpm",
    "tpm": "--tpm",
    "limits": "the server's limits",
    "server": "the throttling server",
    "outage": "the endpoint to come back",
    "pause": "the end of the pause",
}
"""What rows wait for that could be in flight, in few words."""


def in_flight(number: int, waiting: int, waiting_for: str | None) -> str:
    """How many requests are at the server, and how many rows may not be sent yet."""
    if not waiting:
        return f"in flight {number:,}"
    why = f" for {WAITS[waiting_for]}" if waiting_for in WAITS else ""
    return f"in flight {number:,}, {waiting:,} waiting{why}"


HEALTH = {
    "up": "up",
    "throttled": "throttled by the server",
    "down": "down, probed",
    "closed": "left out",
}
"""How an endpoint is, in words."""
