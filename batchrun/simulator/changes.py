"""Changes while the server works: a capacity or a limit that is removed, or restored."""

import math
from typing import NamedTuple

from batchrun.simulator.capacity import Capacity, parse_capacity

NAMES = ("capacity", "rpm", "tpm")
_FORM = "SECONDS:NAME=VALUE, such as 30:rpm=600, 60:capacity=slots:2:100 or 90:tpm=none"


class Change(NamedTuple):
    """``name`` (one of NAMES) has another value from ``at_s`` seconds after the first request on: a
    capacity, or a rate per minute. None removes the limit.
    """

    at_s: float
    name: str
    rate: float | None = None
    capacity: Capacity | None = None


def parse_change(text: str) -> Change:
    """Read a change as the command line writes it. Raises ValueError for an invalid one."""
    at, colon, rest = text.partition(":")
    name, equals, written = rest.partition("=")
    if not colon or not equals or name not in NAMES:
        raise ValueError(
            f"{text!r} is no change of {', '.join(NAMES[:-1])} or {NAMES[-1]}; write {_FORM}"
        )
    try:
        at_s = float(at)
    except ValueError:
        at_s = math.nan
    if not 0 <= at_s <= 86400:
        raise ValueError(f"{text!r} must begin with seconds between 0 and 86400; write {_FORM}")
    if written == "none":
        return Change(at_s, name)
    if name == "capacity":
        return Change(at_s, name, capacity=parse_capacity(written))
    try:
        rate = float(written)
    except ValueError:
        rate = math.nan
    if not 0.001 <= rate <= 1e12:
        raise ValueError(f"{text!r}: {name} must be a number above 0, or none; write {_FORM}")
    return Change(at_s, name, rate=rate)
