"""Outages on virtual time: an endpoint goes down and comes back, and no row pays for it."""

import asyncio
import random
from collections import Counter

import pytest

from batchrun.records import Attempt, Outcome
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import fault, ok, refusal
from batchrun.testing.virtual import START_S, run_virtual
from tests.harness.rig import SIGNAL, Rig
from tests.harness.slow import rest_slow

DEAD = {
    "refused": fault("connect"),
    "overloaded": refusal(503),
    "crashing": refusal(500),
    "silent": fault("timeout"),
    "cutting": fault("cut"),
}


def _now_s():
    return asyncio.get_running_loop().time() - START_S


def _down(start_s, end_s, answer, poison=()):
    """A server that gives this answer in between, and to poisonous rows always."""

    def script(request, _):
        down = start_s <= _now_s() < end_s
        return answer if down or request.row in poison else ok()

    return FakeTransport(script, latency_s=0.2)


def _run(transport, *, stop_at_s=None, **settings):
    async def session():
        rig = Rig(transport=transport, **settings)
        if stop_at_s is not None:
            asyncio.get_running_loop().call_later(stop_at_s, rig.switch.stop, SIGNAL)
        await rig.run()
        return rig, _now_s()

    return run_virtual(session())


def _asked_between(rig, start_s, end_s):
    return sum(start_s <= at_s - START_S < end_s for at_s in rig.transport.asked_at_s)


def _ledger_is_true(rig):
    counted = Counter(attempt.row for attempt in rig.journal.attempts())
    assert counted == rig.transport.asked_of


@pytest.mark.parametrize("concurrency", rest_slow([4, 1, 64]))
@pytest.mark.parametrize("how", DEAD)
def test_no_row_is_charged_for_an_outage(how, concurrency):
    """Ten minutes of it in mid-run: every row ends ok with two attempts allowed, the server is
    asked about once a minute meanwhile, and the user is told of both ends.
    """
    transport = _down(5, 605, DEAD[how])
    rig, took_s = _run(transport, rows=100 * concurrency, concurrency=concurrency, max_attempts=3)
    failed = [outcome.row for outcome in rig.outcomes.values() if not outcome.ok]
    assert not failed
    assert _asked_between(rig, 100, 600) <= 20
    assert took_s < 605 + 65 + 300
    told = list(rig.tally.notices)
    assert len(told) == 2 and "does not answer" in told[0] and "answers again" in told[1]
    _ledger_is_true(rig)


def test_a_poisonous_row_ends_although_nothing_else_is_left():
    """Rows that no server can digest gather at the end: they fail, and no outage is seen."""
    poison = set(range(0, 400, 4))
    transport = _down(-1, -1, refusal(500), poison)
    rig, took_s = _run(transport, rows=400, concurrency=16, max_attempts=4)
    assert {outcome.row for outcome in rig.outcomes.values() if not outcome.ok} == poison
    assert not rig.tally.notices
    assert took_s < 120


def test_poisonous_rows_that_begin_as_an_outage_end_some_day():
    """A whole stretch of them looks like an outage; their probes are charged, so it ends: by itself
    up to 30 rows, beyond that where repeated failures are no reason to stop.
    """
    for count, guarded in ((30, True), (60, False)):
        poison = set(range(100, 100 + count))
        transport = _down(-1, -1, refusal(500), poison)
        rig, _ = _run(
            transport, rows=100 + count, concurrency=16, max_attempts=3, repeated_failure=guarded
        )
        assert {outcome.row for outcome in rig.outcomes.values() if not outcome.ok} == poison


def test_a_long_stretch_of_poisonous_rows_stops_the_run():
    """More than 30 of them cannot be told from an endpoint that broke: they stay pending."""
    transport = _down(-1, -1, refusal(500), set(range(100, 160)))
    rig, _ = _run(transport, rows=160, concurrency=16, max_attempts=3)
    assert rig.switch.reason.by == "repeated_failure"
    assert all(outcome.ok for outcome in rig.outcomes.values()) and len(rig.outcomes) == 100


def test_what_never_answered_is_given_up_after_the_longest_wait():
    """A wrong port: after --max-wait the run stops, every row is pending, and it says why."""
    transport = _down(-1, 1e9, fault("connect"))
    rig, took_s = _run(transport, rows=200, concurrency=8, max_wait_s=600.0)
    assert rig.switch.reason.by == "connection"
    assert "has not answered once" in rig.switch.reason.message
    assert not rig.outcomes
    assert 600 <= took_s < 670


def test_a_slow_start_is_waited_for():
    """A server that is up only after five minutes costs no row, from the first one on."""
    rig, _ = _run(_down(-1, 300, fault("connect")), rows=200, concurrency=8, max_attempts=2)
    assert all(outcome.ok for outcome in rig.outcomes.values()) and len(rig.outcomes) == 200


def test_a_stop_ends_the_waiting():
    """Told to stop during an outage, the run ends at once; rows are pending, none has failed."""
    transport = _down(5, 1e9, fault("connect"))
    rig, took_s = _run(transport, rows=2000, concurrency=8, stop_at_s=200)
    assert took_s < 201
    assert all(outcome.ok for outcome in rig.outcomes.values())
    assert len(rig.outcomes) < 2000
    _ledger_is_true(rig)


@pytest.mark.parametrize("seed", rest_slow(range(60), 8))
def test_any_outage(seed):
    """Whatever fails for how long, between whatever else: each row ends once, the ledger is what
    the server counted, and where failures are not the rows' own none of them fails.
    """
    dice = random.Random(seed)
    spans = []
    at_s = dice.uniform(0, 5)
    for _ in range(dice.randrange(1, 5)):
        end_s = at_s + dice.choice([0.3, 5, 60, 1800])
        spans.append((at_s, end_s, dice.choice([fault("connect"), refusal(503), refusal(529)])))
        at_s = end_s + dice.uniform(2, 60)
    poison = set(dice.sample(range(600), dice.choice([0, 0, 3, 30])))

    def script(request, _):
        for start_s, end_s, answer in spans:
            if start_s <= _now_s() < end_s:
                return answer
        return refusal(400) if request.row in poison else ok()

    transport = FakeTransport(script, latency_s=lambda _: dice.uniform(0.01, 2))
    rig, _ = _run(
        transport, rows=600, concurrency=dice.choice([2, 8, 40]), max_attempts=5, max_wait_s=1e6
    )
    outcomes = [entry for entry in rig.journal.durable if isinstance(entry, Outcome)]
    assert sorted(outcome.row for outcome in outcomes) == list(range(600)), seed
    assert {outcome.row for outcome in outcomes if not outcome.ok} == poison, seed
    assert not any(isinstance(e, Attempt) and e.error_class is None for e in rig.journal.durable)
    _ledger_is_true(rig)
