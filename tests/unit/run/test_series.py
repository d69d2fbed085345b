"""Time series in bounded space."""

import json
import random

import pytest

from batchrun.core.run.series import COUNTERS, FORMAT, INTERVAL_S, POINTS_MAX, Reading, Series
from tests.harness.slow import rest_slow


def played(series, start_s, seconds, *, step_s=0.5, seed=1):
    """A session of so many seconds; returns its counters at the end."""
    dice, counts, at_s = random.Random(seed), [0, 0, 0, 0, 0, 0, 0.0], start_s
    while at_s <= start_s + seconds:
        series.add(at_s, Reading(*counts, 8, 16, dice.choice(["rpm", None])))
        counts = [n + dice.randrange(5) for n in counts]
        at_s += step_s
    series.add(at_s, Reading(*counts, 8, 16, None))
    return counts


@pytest.mark.parametrize("seconds", rest_slow([0, 3, 500, 5_000, 100_000], 4))
def test_a_series_is_bounded_and_loses_nothing(seconds):
    """However long the run: at most so many points, which sum to the counters, and are in order."""
    series = Series()
    counts = played(series, 1_000_000.0, seconds)
    points = series.points
    assert len(points) <= POINTS_MAX
    assert len(points) >= min(seconds, POINTS_MAX // 2 - 1)
    for name, count in zip(COUNTERS, counts, strict=True):
        assert sum(getattr(p, name) for p in points) == pytest.approx(count), name
    assert [p.at_s for p in points] == sorted(p.at_s for p in points)
    assert sum(p.span_s for p in points) == pytest.approx(seconds, abs=1.1)
    assert all(p.in_flight == pytest.approx(8) for p in points if p.span_s)
    assert all(p.span_s <= series.interval_s + 0.6 for p in points)
    assert len(json.dumps(series.recorded())) < 100_000


def test_the_next_session_goes_on():
    """What is recorded reads back, and the next session's points come behind a gap."""
    first = Series()
    before = played(first, 1_000.0, 700)
    again = Series.of(json.loads(json.dumps(first.recorded())))
    assert (again.interval_s, len(again.points)) == (first.interval_s, len(first.points))
    after = played(again, 9_000.0, 300, seed=2)
    assert sum(p.requests for p in again.points) == before[0] + after[0]
    gaps = [
        b.at_s - a.at_s - a.span_s for a, b in zip(again.points, again.points[1:], strict=False)
    ]
    assert sum(gap > 1_000 for gap in gaps) == 1


def test_a_cost_that_was_known_before_is_not_spent_again():
    """The bill is of all sessions: the next one counts from what it found."""
    series = Series()
    for at_s, cost in ((10.0, 5.0), (11.0, 5.0), (12.0, 7.5)):
        series.add(at_s, Reading(0, 0, 0, 0, 0, 0, cost, 0, None, None))
    assert sum(p.cost_usd for p in series.points) == 2.5


def test_a_clock_that_is_set_back_breaks_nothing():
    """An interval without length takes what happened; nothing is negative."""
    series = Series()
    for n, at_s in enumerate((100.0, 101.0, 50.0, 51.0)):
        series.add(at_s, Reading(n, n, 0, 0, 0, 0, 0.0, 1, None, None))
    assert sum(p.requests for p in series.points) == 3
    assert all(p.span_s >= 0 for p in series.points)


@pytest.mark.parametrize(
    "recorded",
    [
        None,
        [],
        {"format": FORMAT + 1, "interval_s": 1, "points": {}},
        {"format": FORMAT, "interval_s": "x", "points": {}},
        {"format": FORMAT, "interval_s": 1, "points": {"at_s": [1]}},
        {"format": FORMAT, "interval_s": 1, "points": None},
    ],
)
def test_what_is_no_series_begins_one(recorded):
    """A file that is damaged or of another version costs its history, never the run."""
    series = Series.of(recorded)
    assert series.points == [] and series.interval_s == INTERVAL_S


def test_series_of_several_processes_are_one():
    """What happened at the same time is added up, what came one after the other follows, and
    nothing is lost where intervals differ in length or there are too many.
    """
    begun = (1_000_000.0, 1_000_000.4, 1_005_000.0)
    lengths = (30, 2_000, 700)
    several, counts = [], []
    for seed, (start_s, seconds) in enumerate(zip(begun, lengths, strict=True)):
        several.append(Series())
        counts.append(played(several[-1], start_s, seconds, seed=seed))
    whole = Series.together([*several, Series()])
    assert len(whole.points) <= POINTS_MAX
    for name, sums in zip(COUNTERS, zip(*counts, strict=True), strict=True):
        assert sum(getattr(p, name) for p in whole.points) == pytest.approx(sum(sums)), name
    assert [p.at_s for p in whole.points] == sorted(p.at_s for p in whole.points)
    first = whole.points[0]
    assert (first.in_flight > 8, first.window) == (True, 32)
    assert Series.of(json.loads(json.dumps(whole.recorded()))).points
    assert Series.together([]).points == []
