"""Requests and tokens per minute, enforced in one of three ways (``COUNTINGS``).

A bucket refills continuously. It holds one window's worth of its rate (by default one second's) and
at least one unit: a client at the right pace never meets it empty, and one that sends a minute's
worth at once does, as with vendors that enforce a limit per minute in shorter slices. A sliding
window counts what was admitted in the last so many seconds (by default 60), a fixed one what was
admitted since the window began. Refused requests cost nothing.

A request that costs more than a window's worth waits until nothing else counts, and leaves a debt.
One that costs more than a whole minute's tokens can never pass, and the reply says so.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from batchrun.simulator.limit_headers import DAY_MINUTES, SECONDS_PER_DAY, Standing, write

SECONDS_PER_MINUTE = 60.0
DAY_SHARE = DAY_MINUTES * SECONDS_PER_MINUTE / SECONDS_PER_DAY
# Levels are sums of floats: a wait sent to a client must be long enough.
_ROUNDING = 1e-9


class Counter(Protocol):
    """One limit, and what counts against it."""

    rate_per_min: float
    capacity: float

    def level(self, now_s: float) -> float:
        """What is left; below 0 after a request larger than the capacity."""

    def wait_s(self, cost: float, now_s: float) -> float:
        """Seconds until a request of this cost may pass; 0 if it may pass now."""

    def full_in_s(self, now_s: float) -> float:
        """Seconds until nothing is missing."""

    def take(self, cost: float, now_s: float) -> None:
        """Charge an admitted request."""

    def set_rate(self, rate_per_min: float, now_s: float) -> None:
        """Enforce another rate from now on; admitted requests still count."""


class Bucket:
    """A signed balance that refills at `rate_per_min` up to one window's worth."""

    __slots__ = ("_at_s", "_level", "_per_s", "_window_s", "capacity", "rate_per_min")

    def __init__(self, rate_per_min: float, window_s: float, now_s: float) -> None:
        self._window_s = window_s
        self._set(rate_per_min)
        self._level = self.capacity
        self._at_s = now_s

    def _set(self, rate_per_min: float) -> None:
        self.rate_per_min = rate_per_min
        self.capacity = _worth(rate_per_min, self._window_s)
        self._per_s = rate_per_min / SECONDS_PER_MINUTE

    def set_rate(self, rate_per_min: float, now_s: float) -> None:
        """See ``Counter``."""
        missing = self.capacity - self.level(now_s)
        self._set(rate_per_min)
        self._level = self.capacity - missing

    def level(self, now_s: float) -> float:
        """What the bucket holds; below 0 after a request larger than its capacity."""
        self._level = min(self.capacity, self._level + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._level

    def wait_s(self, cost: float, now_s: float) -> float:
        """Seconds until a request of this cost may pass; 0 if it may pass now."""
        missing = min(cost, self.capacity) - self.level(now_s)
        return 0.0 if missing <= _ROUNDING else missing / self._per_s

    def full_in_s(self, now_s: float) -> float:
        """Seconds until nothing is missing."""
        return (self.capacity - self.level(now_s)) / self._per_s

    def take(self, cost: float, now_s: float) -> None:
        """Charge an admitted request."""
        del now_s
        self._level -= cost


class SlidingWindow:
    """At most one window's worth may be admitted in any `window_s` seconds."""

    __slots__ = ("_admitted", "_used", "_window_s", "capacity", "rate_per_min")

    def __init__(self, rate_per_min: float, window_s: float, now_s: float) -> None:
        self._window_s = window_s
        self._admitted: deque[tuple[float, float]] = deque()  # when, and what it cost
        self._used = 0.0
        self.set_rate(rate_per_min, now_s)

    def set_rate(self, rate_per_min: float, now_s: float) -> None:
        """See ``Counter``."""
        del now_s
        self.rate_per_min = rate_per_min
        self.capacity = _worth(rate_per_min, self._window_s)

    def level(self, now_s: float) -> float:
        """What may still be admitted now."""
        while self._admitted and self._admitted[0][0] + self._window_s <= now_s + _ROUNDING:
            self._used -= self._admitted.popleft()[1]
        return self.capacity - (self._used if self._admitted else 0.0)

    def wait_s(self, cost: float, now_s: float) -> float:
        """Seconds until enough of what was admitted is a whole window ago."""
        missing = min(cost, self.capacity) - self.level(now_s)
        if missing <= _ROUNDING:
            return 0.0
        for at_s, freed in self._admitted:
            missing -= freed
            if missing <= _ROUNDING:
                return at_s + self._window_s - now_s
        return self._window_s

    def full_in_s(self, now_s: float) -> float:
        """Seconds until the last one admitted is a whole window ago."""
        self.level(now_s)
        return self._admitted[-1][0] + self._window_s - now_s if self._admitted else 0.0

    def take(self, cost: float, now_s: float) -> None:
        """Charge an admitted request."""
        if not self._admitted:
            self._used = 0.0  # sums of floats drift
        self._admitted.append((now_s, cost))
        self._used += cost


class FixedWindow:
    """A count that begins anew every `window_s` seconds, as Azure's does each minute."""

    __slots__ = ("_from_s", "_used", "_window_s", "capacity", "rate_per_min")

    def __init__(self, rate_per_min: float, window_s: float, now_s: float) -> None:
        self._window_s = window_s
        self._from_s = now_s
        self._used = 0.0
        self.set_rate(rate_per_min, now_s)

    def set_rate(self, rate_per_min: float, now_s: float) -> None:
        """See ``Counter``."""
        del now_s
        self.rate_per_min = rate_per_min
        self.capacity = _worth(rate_per_min, self._window_s)

    def level(self, now_s: float) -> float:
        """What may still be admitted in this window. A debt goes along into the next one."""
        passed = int((now_s - self._from_s + _ROUNDING) / self._window_s)
        if passed > 0:
            self._from_s += passed * self._window_s
            self._used = max(0.0, self._used - passed * self.capacity)
        return self.capacity - self._used

    def wait_s(self, cost: float, now_s: float) -> float:
        """Seconds until the window begins in which it may pass."""
        missing = min(cost, self.capacity) - self.level(now_s)
        if missing <= _ROUNDING:
            return 0.0
        windows = math.ceil(missing / self.capacity - _ROUNDING)
        return self._from_s + windows * self._window_s - now_s

    def full_in_s(self, now_s: float) -> float:
        """Seconds until nothing is missing."""
        return self.wait_s(self.capacity, now_s)

    def take(self, cost: float, now_s: float) -> None:
        """Charge an admitted request."""
        del now_s
        self._used += cost


def _worth(rate_per_min: float, window_s: float) -> float:
    return max(1.0, rate_per_min * window_s / SECONDS_PER_MINUTE)


COUNTINGS: Mapping[str, tuple[Callable[[float, float, float], Counter], float]] = {
    "bucket": (Bucket, 1.0),
    "sliding": (SlidingWindow, 60.0),
    "fixed": (FixedWindow, 60.0),
}
"""By name: what enforces a rate, and its window in seconds where none is set."""


@dataclass(frozen=True, slots=True)
class OverLimit:
    """Why a request was refused. `wait_s` is None when no wait will do."""

    kind: str  # "requests" or "tokens"
    limit_per_min: float
    requested: int
    wait_s: float | None


class Limits:
    """Both limits of the endpoint; either may be absent. Times come from one monotonic clock."""

    __slots__ = ("_counters", "_counting", "_dialect", "_windows_s")

    def __init__(
        self,
        *,
        rpm: float | None,
        tpm: float | None,
        rpm_window_s: float | None,
        tpm_window_s: float | None,
        now_s: float,
        dialect: str = "openai",
        counting: str = "bucket",
    ) -> None:
        """``counting`` is one of COUNTINGS; a window of None is the one it has by itself."""
        self._dialect = dialect
        self._counting, window_s = COUNTINGS[counting]
        self._windows_s = {
            "requests": window_s if rpm_window_s is None else rpm_window_s,
            "tokens": window_s if tpm_window_s is None else tpm_window_s,
        }
        # Some dialects report a daily bucket, which is not enforced.
        self._counters: dict[str, tuple[Counter, Bucket]] = {}
        self.set_rate("requests", rpm, now_s)
        self.set_rate("tokens", tpm, now_s)

    def set_rate(self, kind: str, rate: float | None, now_s: float) -> None:
        """Enforce another rate from now on, or none."""
        if rate is None:
            self._counters.pop(kind, None)
        elif kind in self._counters:
            counter, day = self._counters[kind]
            counter.set_rate(rate, now_s)
            day.set_rate(rate * DAY_SHARE, now_s)
        else:
            counter = self._counting(rate, self._windows_s[kind], now_s)
            self._counters[kind] = counter, Bucket(rate * DAY_SHARE, SECONDS_PER_DAY, now_s)

    def admit(self, tokens: int, now_s: float) -> OverLimit | None:
        """Charge a request to both limits, or refuse it and charge neither."""
        costs = {"requests": 1, "tokens": tokens}
        for kind, (counter, _) in self._counters.items():
            cost = costs[kind]
            if kind == "tokens" and cost > counter.rate_per_min:
                return OverLimit(kind, counter.rate_per_min, cost, wait_s=None)
            wait_s = counter.wait_s(cost, now_s)
            if wait_s > 0:
                return OverLimit(kind, counter.rate_per_min, cost, wait_s)
        for kind, (counter, day) in self._counters.items():
            counter.take(costs[kind], now_s)
            day.take(costs[kind], now_s)
        return None

    def headers(self, now_s: float, wall_s: float = 0.0) -> dict[str, str]:
        """The headers for the limits that are set, in the chosen dialect. `wall_s` is the wall
        clock, in seconds since the epoch, for resets that are moments.
        """
        if not self._counters:
            return {}
        standings = (
            Standing(
                kind,
                counter.rate_per_min,
                counter.level(now_s),
                counter.full_in_s(now_s),
                day.capacity - day.level(now_s),
            )
            for kind, (counter, day) in self._counters.items()
        )
        return write(self._dialect, standings, wall_s)


def write_seconds(seconds: float) -> str:
    """Seconds for `Retry-After`, to the millisecond, rounded up: `0.2`, `3`."""
    return f"{math.ceil(seconds * 1000 - _ROUNDING) / 1000:.15g}"
