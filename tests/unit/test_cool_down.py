"""Cool-downs after refusals, and the hold with its probes: state machines without a clock."""

import pytest

from batchrun.engine.pace.cool_down import (
    GUESSED_WAIT_S,
    GUESSED_WAIT_S_MAX,
    STORM_WAIT_S,
    STORM_WAIT_S_MAX,
    CoolDown,
)
from batchrun.engine.pace.probing import Probing


def _refused(cooling, now_s, wait_s=None, *, sent_at_s=None, for_all=False):
    """An exchange is refused; ``storm`` has to say before what comes of it."""
    expected = cooling.storm or for_all
    cooling.replied(answered=False)
    sent_at_s = now_s if sent_at_s is None else sent_at_s
    told = cooling.refused(wait_s, sent_at_s=sent_at_s, now_s=now_s, dice=1.0, for_all=for_all)
    assert told == expected
    return told


def _answered(cooling, times):
    for _ in range(times):
        if cooling.restless:
            cooling.replied(answered=True)


def test_the_first_refusal_is_everybodys():
    """Nothing was answered yet: the endpoint may be used up, so all wait as long as it asks."""
    cooling = CoolDown(4)
    assert _refused(cooling, 100.0, 7.0)
    assert (cooling.until_s, cooling.left_s(101.0), cooling.left_s(200.0)) == (107.0, 6.0, 0.0)
    assert cooling.spread_left == 4


def test_one_refusal_among_answers_is_its_rows_alone():
    """After a hundred answers the first refusal holds nobody else; the fifth in a row does."""
    cooling = CoolDown(4)
    _answered(cooling, 100)
    assert [_refused(cooling, 100.0 + n, 7.0) for n in range(6)] == [False] * 4 + [True] * 2
    assert cooling.until_s == 112.0


def test_what_is_said_for_all_holds_all():
    """A server that says so itself is believed, whatever the share."""
    cooling = CoolDown(4)
    _answered(cooling, 100)
    assert _refused(cooling, 100.0, 3.0, for_all=True) and cooling.until_s == 103.0


def test_guessed_waits_double_and_an_answer_ends_that():
    """Without a wait from the server: from one second to a minute; old news lengthens nothing."""
    cooling, now_s, waits = CoolDown(4), 0.0, []
    for _ in range(9):
        _refused(cooling, now_s)
        waits.append(cooling.until_s - now_s)
        until_s = cooling.until_s
        _refused(cooling, now_s + 0.1, sent_at_s=now_s - 1)
        assert cooling.until_s == until_s
        now_s = until_s + 1
    assert waits[:3] == [GUESSED_WAIT_S, 2 * GUESSED_WAIT_S, 4 * GUESSED_WAIT_S]
    assert waits[-1] == pytest.approx(GUESSED_WAIT_S_MAX)
    cooling.replied(answered=True)
    _refused(cooling, now_s, for_all=True)
    assert cooling.until_s - now_s == pytest.approx(GUESSED_WAIT_S)


def test_short_waits_grow_in_a_storm():
    """Told 10 ms by turns, everybody soon waits for longer, up to a bound."""
    cooling, now_s, waits = CoolDown(4), 0.0, []
    for _ in range(9):
        _refused(cooling, now_s, 0.01)
        waits.append(cooling.until_s - now_s)
        now_s = cooling.until_s + 1
    assert waits == sorted(waits) and waits[1] == pytest.approx(STORM_WAIT_S)
    assert waits[-1] == pytest.approx(STORM_WAIT_S_MAX)


def test_in_quiet_times_there_is_nothing_to_forget():
    """After enough answers a reply need not be noted; a refusal wakes it."""
    cooling = CoolDown(4)
    _answered(cooling, 300)
    assert not cooling.restless and not cooling.storm
    _refused(cooling, 0.0, 1.0)
    assert cooling.restless
    for now_s in range(1, 6):
        _refused(cooling, float(now_s), 1.0)
    assert cooling.storm


def test_those_who_waited_start_one_by_one():
    """Their turns are spread over the seconds given, and there is one for each permit."""
    cooling = CoolDown(4)
    cooling.spread(2.0)
    assert [cooling.next_turn_s(0.5) for _ in range(4)] == [0.5] * 4
    assert cooling.spread_left == 0


def test_one_probe_at_a_time():
    """While it is held, the first to ask in time is the probe, and nobody until it is back."""
    probing = Probing()
    assert not probing.held and probing.next_s == float("-inf")
    probing.hold(10.0)
    assert probing.held and probing.next_s == 10.0
    assert not probing.try_probe(9.0) and probing.left_s(9.0) == 1.0
    assert probing.try_probe(10.0) and not probing.try_probe(11.0)
    assert probing.left_s(11.0) is None
    probing.hold(30.0)
    probing.over()
    assert not probing.try_probe(29.0) and probing.left_s(40.0) == 0.0
    assert probing.try_probe(30.0)
    probing.open()
    probing.over()
    assert not probing.held
