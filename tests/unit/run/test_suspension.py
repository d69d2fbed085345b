"""How a process can tell that it did not run: beats against two clocks, both of them made up."""

import pytest

from batchrun.core.run.suspension import LATE_S_MIN, Gap, Pulse


@pytest.mark.parametrize(
    ("period_s", "took_s", "slept_s", "gap"),
    [
        (0.5, 0.5, 0.0, Gap(0.0, 0.0)),
        # Late as loops are late: by less than a period, or less than what scheduling may cost.
        (0.5, 0.99, 0.0, Gap(0.0, 0.0)),
        (0.01, 0.1, 0.0, Gap(0.0, 0.0)),
        (0.5, 0.5, 0.4, Gap(0.0, 0.0)),
        # Stopped: the monotonic clock ran on.
        (0.5, 3.5, 0.0, Gap(3.0, 0.0)),
        (0.01, 0.31, 0.0, Gap(0.3, 0.0)),
        # Asleep with the machine: it did not.
        (0.5, 0.5, 28_800.0, Gap(0.0, 28_800.0)),
        # One after the other between two beats.
        (0.5, 60.5, 28_800.0, Gap(60.0, 28_800.0)),
        # A beat that comes early, as timers of a coarse clock do.
        (0.5, 0.499, 0.0, Gap(0.0, 0.0)),
    ],
)
def test_a_gap_is_what_a_beat_is_late_by(period_s, took_s, slept_s, gap):
    """The time stopped is what the monotonic clock has too much, the time asleep what the other
    clock has beyond that.
    """
    pulse = Pulse(period_s, 1000.0, 5000.0)
    found = pulse.beat(1000.0 + took_s, 5000.0 + took_s + slept_s)
    assert found == pytest.approx(gap)


def test_each_gap_is_told_once():
    """After a long stop, beats are measured from the late one; the next is on time."""
    pulse = Pulse(0.5, 0.0, 0.0)
    gaps = [pulse.beat(at_s, at_s) for at_s in (0.5, 100.5, 101.0, 101.5, 201.5)]
    assert [gap.missed_s for gap in gaps] == [0.0, 99.5, 0.0, 0.0, 99.5]


def test_a_gap_shows_before_the_beat_comes():
    """What is read right after a stop, before any timer has run, can ask already."""
    pulse = Pulse(0.5, 0.0, 0.0)
    assert pulse.missed_s(0.5 + LATE_S_MIN) == 0.0
    assert pulse.missed_s(60.5) == 60.0
    assert pulse.beat(60.5, 60.5).missed_s == 60.0
    assert pulse.missed_s(60.6) == 0.0
