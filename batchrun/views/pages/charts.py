"""Charts of a run over time: as SVG, which needs no script, and as data for the script that makes
them interactive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batchrun.core.run.series import Point, Series
from batchrun.views.text import duration

WIDTH, HEIGHT = 720, 140
GAP = 1.5
"""After a pause of more than so many intervals another session began."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart: its name, and what it takes of a point (None: nothing)."""

    name: str
    value: Callable[[Point], float | None]


def _per_s(*names: str) -> Callable[[Point], float | None]:
    def value(point: Point) -> float | None:
        return sum(getattr(point, name) for name in names) / point.span_s if point.span_s else None

    return value


def _hourly(point: Point) -> float | None:
    return point.cost_usd / point.span_s * 3600 if point.span_s else None


CHARTS: tuple[tuple[str, str, tuple[Line, ...]], ...] = (
    (
        "throughput",
        "Requests per second",
        (
            Line("sent", _per_s("requests")),
            Line("answered", _per_s("answers")),
            Line("throttled", _per_s("refusals")),
            Line("failed", _per_s("failures")),
        ),
    ),
    (
        "in-flight",
        "Requests in flight",
        (
            Line("in flight", lambda point: point.in_flight),
            Line("the server takes", lambda point: point.window),
        ),
    ),
    (
        "tokens",
        "Tokens per second",
        (
            Line("prompt", _per_s("prompt_tokens")),
            Line("completion", _per_s("completion_tokens")),
        ),
    ),
    ("cost", "Dollars per hour", (Line("cost", _hourly),)),
)
"""Name, title and lines of every chart."""


def charts(series: Series) -> list[dict[str, Any]]:
    """The charts of a series for the template; none where nothing was recorded. A chart without
    anything but zeros is left out.
    """
    points = [point for point in series.points if point.span_s > 0]
    if not points:
        return []
    worked = _worked_s(points)
    breaks = _breaks(points, series.interval_s)
    found = []
    for name, title, lines in CHARTS:
        values = [(line.name, [line.value(point) for point in points]) for line in lines]
        kept = [(told, line) for told, line in values if any(line)]
        if not kept:
            continue
        high = max(value for _, line in kept for value in line if value is not None)
        found.append(
            {
                "name": name,
                "title": title,
                "high": number(high),
                "end": duration(worked[-1] + points[-1].span_s),
                "lines": [
                    {"name": told, "path": path(worked, line, high, breaks)} for told, line in kept
                ],
                "data": {
                    "x": [round(x, 1) for x in worked],
                    "lines": [[told, [_short(v) for v in line]] for told, line in kept],
                },
            }
        )
    return found


def held_back(series: Series) -> list[tuple[str, float]]:
    """What held the run back, and for which share of the time it worked; the most first."""
    whole_s = sum(point.span_s for point in series.points)
    by: dict[str, float] = {}
    for point in series.points:
        if point.bound_by is not None:
            by[point.bound_by] = by.get(point.bound_by, 0.0) + point.bound_s
    ordered = sorted(by.items(), key=lambda item: (-item[1], item[0]))
    return [(name, min(1.0, held_s / whole_s)) for name, held_s in ordered if whole_s > 0]


def path(
    xs: Sequence[float], values: Sequence[float | None], high: float, breaks: frozenset[int]
) -> str:
    """A line as the path of an SVG of ``WIDTH`` by ``HEIGHT``; it is broken where a value is
    missing, and where another session began.
    """
    first, last = xs[0], xs[-1]
    across = (WIDTH - 2) / (last - first) if last > first else 0.0
    up = (HEIGHT - 2) / high if high > 0 else 0.0
    out, pen = [], "M"
    for n, (x, value) in enumerate(zip(xs, values, strict=True)):
        if value is None:
            pen = "M"
            continue
        pen = "M" if n in breaks else pen
        place = f"{1 + (x - first) * across:.1f} {HEIGHT - 1 - value * up:.1f}"
        out.append(f"{pen}{place}{'h.1' if pen == 'M' else ''}")
        pen = "L"
    return "".join(out)


def number(value: float) -> str:
    """A figure of a chart in at most six characters or so."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _worked_s(points: Sequence[Point]) -> list[float]:
    """When each point began, in seconds of work: pauses between sessions take no room."""
    found, worked = [], 0.0
    for point in points:
        found.append(worked)
        worked += point.span_s
    return found


def _breaks(points: Sequence[Point], interval_s: float) -> frozenset[int]:
    """The points that begin another session."""
    return frozenset(
        n
        for n in range(1, len(points))
        if points[n].at_s - points[n - 1].at_s > points[n - 1].span_s + GAP * interval_s
    )
