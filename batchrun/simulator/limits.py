"""Requests and tokens per minute, enforced by buckets that refill continuously.

A bucket holds one window's worth of its rate (by default one second's) and at least one unit: a
client at the right pace never meets it empty, and one that sends a minute's worth at once does, as
with vendors that enforce a limit per minute in shorter slices. Refused requests cost nothing.

A request that costs more than its bucket can hold waits for a full one and leaves a debt. One that
costs more than a whole minute's tokens can never pass, and is told so.
"""

import math
from dataclasses import dataclass

from batchrun.simulator.limit_headers import DAY_MINUTES, SECONDS_PER_DAY, Standing, write

SECONDS_PER_MINUTE = 60.0
DAY_SHARE = DAY_MINUTES * SECONDS_PER_MINUTE / SECONDS_PER_DAY
# Levels are sums of floats: a wait told to a client must be enough when it has passed.
_ROUNDING = 1e-9


class Bucket:
    """A signed balance that refills at `rate_per_min` up to one window's worth."""

    __slots__ = ("_at_s", "_level", "_per_s", "capacity", "rate_per_min")

    def __init__(self, rate_per_min: float, window_s: float, now_s: float) -> None:
        self.rate_per_min = rate_per_min
        self.capacity = max(1.0, rate_per_min * window_s / SECONDS_PER_MINUTE)
        self._per_s = rate_per_min / SECONDS_PER_MINUTE
        self._level = self.capacity
        self._at_s = now_s

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

    def take(self, cost: float) -> None:
        """Charge an admitted request."""
        self._level -= cost


@dataclass(frozen=True, slots=True)
class OverLimit:
    """Why a request was refused. `wait_s` is None when no wait will do."""

    kind: str  # "requests" or "tokens"
    limit_per_min: float
    requested: int
    wait_s: float | None


class Limits:
    """Both limits of the endpoint; either may be absent. Times come from one monotonic clock."""

    __slots__ = ("_buckets", "_dialect")

    def __init__(
        self,
        *,
        rpm: float | None,
        tpm: float | None,
        rpm_window_s: float,
        tpm_window_s: float,
        now_s: float,
        dialect: str = "openai",
    ) -> None:
        asked = (("requests", rpm, rpm_window_s), ("tokens", tpm, tpm_window_s))
        self._dialect = dialect
        # The bucket of a day is told by some, and enforced by nobody.
        self._buckets = [
            (kind, Bucket(rate, window_s, now_s), Bucket(rate * DAY_SHARE, SECONDS_PER_DAY, now_s))
            for kind, rate, window_s in asked
            if rate is not None
        ]

    def admit(self, tokens: int, now_s: float) -> OverLimit | None:
        """Charge a request of so many tokens to both buckets, or refuse it and charge neither."""
        costs = {"requests": 1, "tokens": tokens}
        for kind, bucket, _ in self._buckets:
            cost = costs[kind]
            if kind == "tokens" and cost > bucket.rate_per_min:
                return OverLimit(kind, bucket.rate_per_min, cost, wait_s=None)
            wait_s = bucket.wait_s(cost, now_s)
            if wait_s > 0:
                return OverLimit(kind, bucket.rate_per_min, cost, wait_s)
        for kind, bucket, day in self._buckets:
            bucket.take(costs[kind])
            day.take(costs[kind])
        return None

    def headers(self, now_s: float, wall_s: float = 0.0) -> dict[str, str]:
        """What is told of the limits that are set, in the dialect asked for. `wall_s` is the wall
        clock, in seconds since the epoch, for resets that are moments.
        """
        if not self._buckets:
            return {}
        standings = (
            Standing(
                kind,
                bucket.rate_per_min,
                bucket.level(now_s),
                bucket.full_in_s(now_s),
                day.capacity - day.level(now_s),
            )
            for kind, bucket, day in self._buckets
        )
        return write(self._dialect, standings, wall_s)


def write_seconds(seconds: float) -> str:
    """Seconds for `Retry-After`, to the millisecond, rounded up: `0.2`, `3`."""
    return f"{math.ceil(seconds * 1000 - _ROUNDING) / 1000:.15g}"
