"""What two reports of a server's load in a row advise, and what the climb makes of it."""

import pytest

from batchrun.core.reply.server_load import Load
from batchrun.engine.pace.climb import Climb, State
from batchrun.engine.pace.reported_load import Advice, Hint, ReportedLoad

REPORTS = {
    # reports, requests in flight, the advice after the last of them
    "a queue": ([Load(4, 60), Load(4, 59)], 64, Advice(Hint.QUEUE, 5)),
    "a queue once": ([Load(4, 60)], 64, None),
    "a queue, and none": ([Load(4, 60), Load(64, 0)], 64, None),
    "a server that is starting up": ([Load(8, 56), Load(24, 40)], 64, None),
    "a few on their way in": ([Load(60, 4), Load(61, 3)], 64, None),
    "a queue in front of nothing": ([Load(None, 60), Load(None, 60)], 64, None),
    "room": ([Load(64, 0), Load(63, 0)], 64, Advice(Hint.ROOM, 79)),
    "a server that sees little of it": ([Load(3, 0), Load(3, 0)], 64, None),
    "a report is missing between two": ([Load(4, 60), None, Load(4, 60)], 64, None),
}


@pytest.mark.parametrize("name", REPORTS)
def test_two_reports_have_to_agree(name):
    """One of them may be of a moment; a server that does not report what it runs gets no advice."""
    reports, out, advice = REPORTS[name]
    load = ReportedLoad()
    told = [load.heard(report, out) for report in reports]
    assert told[-1] == advice
    assert told[:-1] == [None] * (len(told) - 1)
    assert load.latest == reports[-1]


def test_reports_of_before_a_move_do_not_count():
    """The load they tell of is that of another window."""
    load = ReportedLoad()
    load.heard(Load(64, 0), 64)
    load.moved()
    assert load.heard(Load(128, 0), 128) is None


def test_room_doubles_once_without_being_judged():
    """It does after a doubling has paid; the next one has to be earned, so that the window is
    never run away with.
    """
    climb = Climb(64, 1, 1024)
    room = Advice(Hint.ROOM, 80)
    assert not climb.hurried(room, 0.0), "nothing is known yet"
    now = 0.0
    while climb.window < 256:  # an answer takes a second, however many there are
        now += 1 / climb.window
        climb.answered(now - 1, now, 1.0, 100, climb.window)
    assert climb.hurried(room, now)
    assert climb.window == 512
    assert not climb.hurried(room, now + 2)
    assert climb.window == 512


def test_a_queue_is_not_fed():
    """The window comes down to what runs and some more, within its bounds, and is judged there."""
    climb = Climb(64, 8, 1024)
    assert climb.hurried(Advice(Hint.QUEUE, 5), 1.0)
    assert (climb.window, climb.state) == (8, State.HOLDING)
    assert not climb.hurried(Advice(Hint.QUEUE, 50), 2.0), "it is lower already"
    assert climb.window == 8
