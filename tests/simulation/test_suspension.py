"""A process that stands still, on virtual time: stopped by a signal, or asleep with its machine."""

import asyncio
import math
from types import SimpleNamespace

import pytest

from batchrun.adapters.http import connections
from batchrun.adapters.http.deadlines import Deadlines
from batchrun.core.verdict.outage import PROBE_S_MAX
from batchrun.core.verdict.rules import REFUSED_S_MAX
from batchrun.engine.session.guards import StopSwitch
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import fault, ok, refusal
from batchrun.testing.virtual import START_S, VirtualClock, run_virtual
from tests.harness.rig import SIGNAL, Rig


def _now_s():
    return asyncio.get_running_loop().time() - START_S


class Machine:
    """The clocks of a machine on the running virtual loop, and what makes a process stand still."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._slept_s = 0.0

    def real_s(self):
        """The clock that goes on while the machine sleeps."""
        return self._loop.time() + self._slept_s

    def sleep(self, for_s):
        """The machine sleeps now."""
        self._slept_s += for_s

    def stop(self, for_s):
        """The process is stopped now, in the middle of a turn of its loop."""
        self._loop._jumping.now_s += for_s


class Attempt:
    """One task under a deadline, which waits for an answer."""

    def __init__(self, deadlines):
        self.answer = asyncio.get_running_loop().create_future()
        self.ended_s = math.inf
        self.interrupted = None
        self.task = asyncio.create_task(self._run(deadlines))

    async def _run(self, deadlines):
        task = asyncio.current_task()
        deadlines.enter(task)
        try:
            return await self.answer
        except asyncio.CancelledError:
            if not deadlines.has_expired(task):
                raise
            return "timeout"
        finally:
            self.ended_s = _now_s()
            self.interrupted = deadlines.was_interrupted(task)
            deadlines.leave(task)


def _play(scene, timeout_s=10.0):
    async def go():
        machine = Machine()
        deadlines = Deadlines(timeout_s, clock=machine.real_s)
        await scene(machine, lambda: Attempt(deadlines))
        assert not deadlines._due and not deadlines._expired and not deadlines._interrupted

    run_virtual(go())


@pytest.mark.parametrize("timeout_s", [0.05, 0.5, 3.0, 10.0, 600.0])
def test_without_a_stop_a_timeout_is_on_time(timeout_s):
    """An attempt ends after its time, by a twentieth of it or a second too late at most."""

    async def scene(_, begin):
        attempt = begin()
        assert await attempt.task == "timeout"
        most_s = max(0.03, min(timeout_s / 20, 1.0))
        assert timeout_s <= attempt.ended_s <= timeout_s + most_s + 1e-6
        assert not attempt.interrupted

    _play(scene, timeout_s)


@pytest.mark.parametrize("stops", [1, 5])
@pytest.mark.parametrize("stop_s", [2.0, 9.0, 11.0, 3600.0])
def test_a_stop_gives_back_what_it_took(stop_s, stops):
    """However long the stop and however many there are, an attempt has its time awake, but for up
    to a fortieth at each.
    """

    async def scene(machine, begin):
        attempt = begin()
        for _ in range(stops):
            await asyncio.sleep(1.5)
            machine.stop(stop_s)
        assert await attempt.task == "timeout"
        assert 10.0 - stops * 0.25 <= attempt.ended_s - stops * stop_s <= 10.5
        assert attempt.interrupted

    _play(scene)


def test_an_answer_that_came_meanwhile_is_taken():
    """It is there in the very turn of the loop that finds the time over, for all attempts."""

    async def scene(machine, begin):
        attempts = [begin() for _ in range(50)]
        await asyncio.sleep(9.9)
        machine.stop(100.0)
        # What sockets hold is read when the loop polls again: in the turn of the late timers.
        for attempt in attempts:
            attempt.answer.set_result("answer")
        assert await asyncio.gather(*(attempt.task for attempt in attempts)) == ["answer"] * 50

    _play(scene)


def test_an_answer_in_the_last_moment_is_taken():
    """Without any stop, what arrives before the time is over counts, also if the loop gets to it
    in the turn that finds the time over, or is busy for a while.
    """

    async def scene(machine, begin):
        attempt = begin()
        loop = asyncio.get_running_loop()
        loop.call_later(9.9999, attempt.answer.set_result, "answer")
        await asyncio.sleep(9.6)
        machine.stop(0.45)  # the loop is busy for less than what counts as a stop
        assert await attempt.task == "answer"

    _play(scene)


def test_a_loop_that_is_always_late_still_ends_what_is_over():
    """On a machine under heavy load, where each turn of the loop takes longer than the timeout,
    answers have their chance, and a server that gives none does not hold the row for ever.
    """

    async def scene(machine, begin):
        attempt = begin()
        answered = begin()
        turns = 0
        while not attempt.task.done():
            machine.stop(12.0)
            turns += 1
            if turns == 3:
                answered.answer.set_result("answer")
            await asyncio.sleep(0.001)
        assert await answered.task == "answer"
        assert await attempt.task == "timeout"
        assert turns < 100

    _play(scene)


def test_nobody_gets_more_than_a_whole_time():
    """One that began after the stop, before it was noticed, gains nothing from it."""

    async def scene(machine, begin):
        first = begin()
        await asyncio.sleep(0.1)
        machine.stop(1000.0)
        late = begin()
        began_s = _now_s()
        assert await first.task == "timeout"
        assert await late.task == "timeout"
        assert late.ended_s - began_s <= 10.75

    _play(scene)


def test_a_machine_that_sleeps():
    """The timers stand still with it, so nothing is given back; that there was a break is known."""

    async def scene(machine, begin):
        attempt, later = begin(), None
        await asyncio.sleep(1.0)
        machine.sleep(28_800.0)
        await asyncio.sleep(1.0)
        later = begin()
        assert await attempt.task == "timeout"
        assert 10.0 <= attempt.ended_s <= 10.5
        assert attempt.interrupted
        assert await later.task == "timeout"
        assert not later.interrupted

    _play(scene)


def test_a_short_hold_up_excuses_nothing():
    """No server gives up a connection within less than a second."""

    async def scene(machine, begin):
        attempt = begin()
        await asyncio.sleep(1.0)
        machine.stop(0.9)
        attempt.answer.set_result("answer")
        await attempt.task
        assert not attempt.interrupted

    _play(scene, timeout_s=2.0)


def test_connections_that_a_sleep_has_spoilt_are_not_used_again(monkeypatch):
    """What lay idle while the machine slept is closed, although the loop's clock stood still."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(connections, "real_s", lambda: now.s)
    closed = []

    async def go():
        kept = connections.Connections.__new__(connections.Connections)
        idle = SimpleNamespace(idle_from_s=now.s, close=lambda: closed.append(True))
        kept._idle = connections.deque([idle])
        kept._open = 1
        now.s += 1.0
        kept._close_old()
        assert not closed
        now.s += 3600.0
        kept._close_old()
        assert closed and not kept._idle

    run_virtual(go())


def _stopped_at(rig, at_s, for_s):
    """The process is stopped then. The rig's clock knows, as that of a run does by its beats."""
    loop = asyncio.get_running_loop()

    def stop():
        loop._jumping.now_s += for_s
        rig.clock.missed_s += for_s

    loop.call_later(at_s, stop)


def test_the_grace_is_time_awake():
    """After Ctrl-C, then Ctrl-Z and fg, what is in flight still has its grace to finish in."""

    async def go():
        rig = Rig(8, transport=FakeTransport(latency_s=20.0), concurrency=8, grace_s=30.0)
        asyncio.get_running_loop().call_later(1.0, rig.switch.stop, SIGNAL)
        # The answers come after the stop, which is longer than the grace.
        _stopped_at(rig, 2.0, 100.0)
        rig.transport.latency_s = 120.0
        await rig.run()
        assert len(rig.outcomes) == 8

    run_virtual(go())


def test_latency_is_time_awake():
    """The time in which this process was stopped is not in the latency of an attempt."""

    async def go():
        rig = Rig(1, transport=FakeTransport(latency_s=105.0))
        _stopped_at(rig, 2.0, 100.0)
        await rig.run()
        (outcome,) = rig.outcomes.values()
        assert outcome.attempt.latency_s == pytest.approx(5.0)

    run_virtual(go())


def test_a_stop_is_no_silence_of_the_endpoint():
    """An endpoint that never answered yet is waited for as long as --max-wait says, awake."""

    async def go():
        up_s = 900.0 + 2 * PROBE_S_MAX
        transport = FakeTransport(
            lambda *_: ok() if _now_s() > up_s else fault("connect"), latency_s=0.1
        )
        rig = Rig(40, transport=transport, concurrency=40, max_wait_s=600.0)
        _stopped_at(rig, 100.0, 800.0)
        await rig.run()
        assert rig.switch.reason is None
        assert all(outcome.ok for outcome in rig.outcomes.values())

    run_virtual(go())


@pytest.mark.slow
def test_a_stop_is_no_hour_of_refusals():
    """A run that was stopped while the server throttled it goes on when it wakes."""

    async def go():
        away_s = 3 * REFUSED_S_MAX
        transport = FakeTransport(
            lambda *_: ok() if _now_s() > away_s + 200.0 else refusal(429), latency_s=0.1
        )
        rig = Rig(4, transport=transport, max_wait_s=600.0)
        _stopped_at(rig, 100.0, away_s)
        await rig.run()
        assert rig.switch.reason is None
        assert all(outcome.ok for outcome in rig.outcomes.values())

    run_virtual(go())


@pytest.mark.parametrize("how", ["awake", "stopped", "asleep"])
def test_a_deadline_counts_all_time(how):
    """It is over after its time however that was spent, also where no clock of the loop shows."""

    async def go():
        clock, switch = VirtualClock(), StopSwitch()
        switch.stop_at(100.0, 10.0, clock)
        if how == "stopped":
            asyncio.get_running_loop().call_later(
                20.0, lambda: setattr(asyncio.get_running_loop()._jumping, "now_s", START_S + 500)
            )
        if how == "asleep":
            asyncio.get_running_loop().call_later(20.0, setattr, clock, "slept_s", 500.0)
        assert (await switch.wait()).by == "deadline"
        after_s = {"awake": 90.0, "stopped": 500.0, "asleep": 25.0}[how]
        assert after_s - 5.0 <= _now_s() <= after_s + 0.01

    run_virtual(go())


@pytest.mark.parametrize("attempts", [1, 3])
def test_no_row_fails_for_being_suspended(attempts):
    """Connections that broke meanwhile cost a row nothing, time and again; in the end there is a
    bound, for a server that breaks them in any case.
    """

    async def go(times):
        transport = FakeTransport(
            lambda _, nth: fault("suspended") if nth < times else ok(), latency_s=0.1
        )
        rig = Rig(1, transport=transport, max_attempts=attempts)
        await rig.run()
        (outcome,) = rig.outcomes.values()
        return outcome.ok, outcome.attempts

    assert run_virtual(go(20)) == (True, 21)
    assert run_virtual(go(1000)) == (False, 20 + attempts)
