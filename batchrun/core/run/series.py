"""What a run did over time, in bounded space.

A series has at most ``POINTS_MAX`` points, one for each interval. When it is full, neighbours are
merged two by two, and intervals are twice as long from then on: a run of seconds has a point a
second, a run of days one every few minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

POINTS_MAX = 512
INTERVAL_S = 1.0
"""Seconds of a point at first."""
FORMAT = 1


class Reading(NamedTuple):
    """A run at one moment: counters of the session so far, and what holds at this moment."""

    requests: int
    answers: int
    refusals: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    in_flight: int
    window: int | None
    bound_by: str | None


COUNTERS = (
    *("requests", "answers", "refusals", "failures"),
    *("prompt_tokens", "completion_tokens", "cost_usd"),
)


@dataclass(slots=True)
class Point:
    """An interval: when it began (seconds since the epoch), how long a session worked in it, and
    what happened. ``in_flight`` is a mean, ``window`` (how many requests the server was found to
    take) the last one, ``bound_by`` what held the run back longest.
    """

    at_s: float
    span_s: float = 0.0
    requests: int = 0
    answers: int = 0
    refusals: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    in_flight: float = 0.0
    window: int | None = None
    bound_by: str | None = None
    bound_s: float = 0.0
    """How long ``bound_by`` held."""

    def add(self, then: Point) -> None:
        """Take in the interval that follows."""
        span_s = self.span_s + then.span_s
        if span_s > 0:
            weighed = self.in_flight * self.span_s + then.in_flight * then.span_s
            self.in_flight = weighed / span_s
        self.span_s = span_s
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(then, name))
        self.window = self.window if then.window is None else then.window
        if then.bound_by == self.bound_by:
            self.bound_s += then.bound_s
        elif then.bound_s > self.bound_s:
            self.bound_by, self.bound_s = then.bound_by, then.bound_s


KEYS: Mapping[str, str] = {
    "at_s": "When the interval began, in seconds since the epoch.",
    "span_s": "Seconds of it in which a session worked.",
    "requests": "Requests sent in it.",
    "answers": "Replies with a completion.",
    "refusals": "Replies that asked to slow down.",
    "failures": "Exchanges that ended in another way.",
    "prompt_tokens": "Prompt tokens of the rows that were finished in it.",
    "completion_tokens": "Their completion tokens.",
    "cost_usd": "What was spent in it, as far as it is known.",
    "in_flight": "Requests in flight, on average.",
    "window": "Requests in flight that the server was found to take; null while nothing was found.",
    "bound_by": "What held the run back longest, as in `status --json`; null if nothing did.",
    "bound_s": "For how many seconds.",
}
"""What the columns of a recorded series mean."""


class Series:
    """A series while it grows."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.interval_s = INTERVAL_S
        self._last: tuple[float, Reading] | None = None

    def add(self, at_s: float, now: Reading) -> None:
        """Take in a moment; ``at_s`` in seconds since the epoch. The first one of a session counts
        from nothing; a clock that is set back makes an interval without length.
        """
        then_s, then = self._last or (at_s, Reading(0, 0, 0, 0, 0, 0, now.cost_usd, 0, None, None))
        self._last = (at_s, now)
        span_s = max(0.0, at_s - then_s)
        step = Point(then_s, span_s, in_flight=float(now.in_flight), window=now.window)
        for name in COUNTERS:
            setattr(step, name, max(0, getattr(now, name) - getattr(then, name)))
        if now.bound_by is not None:
            step.bound_by, step.bound_s = now.bound_by, span_s
        points = self.points
        if points and self._goes_on(points[-1], then_s):
            points[-1].add(step)
            return
        points.append(step)
        if len(points) > POINTS_MAX:
            self._coarsen()

    def _goes_on(self, latest: Point, at_s: float) -> bool:
        """Whether a moment belongs to the latest interval."""
        return 0 <= at_s - latest.at_s < self.interval_s

    def _coarsen(self) -> None:
        self.interval_s *= 2
        pairs = [self.points[n : n + 2] for n in range(0, len(self.points), 2)]
        for first, *then in pairs:
            for other in then:
                first.add(other)
        self.points = [first for first, *_ in pairs]

    @classmethod
    def together(cls, several: Iterable[Series]) -> Self:
        """One series of what happened at the same time in several, one after the other, or both."""
        found = cls()
        given = [series for series in several if series.points]
        found.interval_s = max((series.interval_s for series in given), default=INTERVAL_S)
        while True:
            bins: dict[int, list[Point]] = {}
            for series in given:
                for number, point in series.by_interval(found.interval_s).items():
                    bins.setdefault(number, []).append(point)
            if len(bins) <= POINTS_MAX:
                break
            found.interval_s *= 2
        found.points = [_at_once(bins[number]) for number in sorted(bins)]
        return found

    def by_interval(self, interval_s: float) -> dict[int, Point]:
        """Its points by the number of the interval in which they began."""
        found: dict[int, Point] = {}
        for point in self.points:
            number = int(point.at_s // interval_s)
            if number in found:
                found[number].add(point)
            else:
                found[number] = replace(point)
        return found

    def recorded(self) -> dict[str, Any]:
        """The series as JSON values, a list for each column."""
        rows = [asdict(point) for point in self.points]
        digits = {"at_s": 3, "span_s": 3, "in_flight": 2, "bound_s": 2, "cost_usd": 9}
        columns = {
            field.name: [
                row[field.name]
                if field.name not in digits
                else round(row[field.name], digits[field.name])
                for row in rows
            ]
            for field in fields(Point)
        }
        return {"format": FORMAT, "interval_s": self.interval_s, "points": columns}

    @classmethod
    def of(cls, recorded: object) -> Self:
        """A series as it was recorded; an empty one for what is none, or of another version."""
        series = cls()
        if not isinstance(recorded, Mapping) or recorded.get("format") != FORMAT:
            return series
        columns, names = recorded.get("points"), [field.name for field in fields(Point)]
        interval_s = recorded.get("interval_s")
        if not (isinstance(columns, Mapping) and isinstance(interval_s, (int, float))):
            return series
        lists = [columns.get(name) for name in names]
        if not all(isinstance(each, list) for each in lists) or len(set(map(len, lists))) != 1:  # type: ignore[arg-type]
            return series
        points = [Point(*values) for values in zip(*lists, strict=True)][:POINTS_MAX]
        if all(_is_sound(point) for point in points):
            series.points, series.interval_s = points, max(INTERVAL_S, float(interval_s))
        return series


def _at_once(points: Sequence[Point]) -> Point:
    """What happened in one interval in several processes."""
    longest = max(points, key=lambda point: point.bound_s)
    windows = [point.window for point in points if point.window is not None]
    span_s = max(point.span_s for point in points)
    busy_s = sum(point.in_flight * point.span_s for point in points)
    sums = {name: sum(getattr(point, name) for point in points) for name in COUNTERS}
    return Point(
        min(point.at_s for point in points),
        span_s,
        **sums,
        in_flight=busy_s / span_s if span_s else 0.0,
        window=sum(windows) if windows else None,
        bound_by=longest.bound_by,
        bound_s=longest.bound_s,
    )


def _is_sound(point: Point) -> bool:
    """Whether what was recorded are numbers."""
    numbers = [
        getattr(point, name) for name in ("at_s", "span_s", "in_flight", "bound_s", *COUNTERS)
    ]
    return all(isinstance(n, (int, float)) and n >= 0 for n in numbers)
