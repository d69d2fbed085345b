"""Repeated failures on virtual time: rows that are withheld, and what becomes of them."""

import asyncio
import os
import random
from collections import Counter

import pytest

from batchrun.engine.lane import Way
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.session.guards import Stop
from batchrun.records import Attempt, Outcome
from batchrun.testing.fakes import FakeJournal, FakePublisher, FakeSource, FakeTransport
from batchrun.testing.samples import chat_row, ok, refusal
from batchrun.testing.virtual import START_S, VirtualClock, run_virtual
from tests.harness.repeating import BROKEN, GUARD, HEALTHY, play
from tests.harness.rig import SIGNAL, Rig
from tests.harness.slow import EVERYTHING, rest_slow

SEEDS = int(os.environ.get("BATCHRUN_REPEATED_SEEDS", "6" if EVERYTHING else "2"))
BAD = refusal(400, code="odd_value")


def _now_s():
    return asyncio.get_running_loop().time() - START_S


def _run(rows, script, *, stop_at_s=None, stop=SIGNAL, latency_s=0.1, **settings):
    """A session of a run that has answers; returns its rig and how long it took."""

    async def session():
        rig = Rig(rows, transport=FakeTransport(script, latency_s), **settings)
        rig.tally.resumed_ok = 1
        if stop_at_s is not None:
            asyncio.get_running_loop().call_later(stop_at_s, rig.switch.stop, stop)
        await rig.run()
        assert len(asyncio.all_tasks()) == 1
        return rig, _now_s()

    return run_virtual(session())


def _bad(rows):
    """A server that cannot do with these rows."""
    return lambda request, _: BAD if request.row in rows else ok()


def _failed(rig):
    return {row for row, outcome in rig.outcomes.items() if not outcome.ok}


def _accounted(rig):
    """Each request has its line in the ledger, numbered on; no row has two outcomes; totals are
    what is durable; and the parts hold every outcome.
    """
    numbers = {}
    for attempt in rig.journal.attempts():
        numbers.setdefault(attempt.row, []).append(attempt.number)
    assert {row: len(own) for row, own in numbers.items()} == rig.transport.asked_of
    assert all(sorted(own) == list(range(1, len(own) + 1)) for own in numbers.values())
    ended = [entry.row for entry in rig.journal.durable if isinstance(entry, Outcome)]
    assert len(ended) == len(set(ended))
    assert rig.published_rows() == sorted(ended)
    assert all(outcome.attempts == len(numbers[row]) for row, outcome in rig.outcomes.items())


class TestWithheldRows:
    @pytest.mark.parametrize("concurrency", [1, 4, 64])
    @pytest.mark.parametrize("first", [0, 40, 170])
    def test_end_when_an_answer_comes_or_nothing_else_is_left(self, concurrency, first):
        """Thirty bad rows in a row are error rows, wherever they are."""
        bad = set(range(first, first + 30))
        rig, _ = _run(200, _bad(bad), concurrency=concurrency)
        assert rig.switch.reason is None
        assert _failed(rig) == bad and len(rig.outcomes) == 200
        assert rig.tally.ok == 170 and rig.tally.errors == {"invalid_request": 30}
        _accounted(rig)

    def test_are_in_the_ledger_before_they_end(self):
        """The attempt that failed is durable at once; the outcome only when it is known."""
        rig, _ = _run(
            30, lambda request, _: BAD if request.row < 5 else ok(), concurrency=1, latency_s=10.0
        )
        places = {}
        for place, entry in enumerate(rig.journal.durable):
            if isinstance(entry, Attempt | Outcome):
                places.setdefault((type(entry).__name__, entry.row), place)
        first_answer = places["Outcome", 5]
        for row in range(5):
            assert places["Attempt", row] < first_answer <= places["Outcome", row] + 5

    def test_one_more_than_thirty_stops_the_run(self):
        """The rows are pending, nothing of them is counted, and their attempts are in the ledger;
        the next session sends them again.
        """

        async def sessions():
            down = FakeTransport(lambda request, _: ok() if request.row < 40 else BAD)
            first = Rig(200, transport=down, concurrency=4)
            await first.run()
            assert first.switch.reason.by == GUARD and first.switch.reason.exit_code == 3
            assert not _failed(first) and first.tally.error == 0
            assert sorted(first.outcomes) == list(range(40))
            _accounted(first)
            assert 31 <= len(down.asked) - 40 <= 31 + 4
            second = first.resumed(FakeTransport(), concurrency=4)
            await second.run()
            return first, second, down.asked_of

        first, second, before = run_virtual(sessions())
        assert len(second.outcomes) == 200 and not _failed(second)
        assert second.transport.asked_of.keys() == set(range(40, 200))
        assert second.outcomes[40].attempts == before[40] + 1 == 2
        assert "--no-repeated-failure" in first.switch.reason.message

    def test_the_setting_turns_it_off(self):
        """Every row fails by itself then."""
        rig, _ = _run(200, _bad(range(40, 200)), repeated_failure=False)
        assert rig.switch.reason is None
        assert _failed(rig) == set(range(40, 200))
        _accounted(rig)

    @pytest.mark.parametrize("concurrency", [1, 2, 8])
    @pytest.mark.parametrize("megabytes", [1, 20, 40, 65])
    def test_do_not_hold_up_the_input(self, concurrency, megabytes):
        """Rows so large that nothing fits beside those withheld: they end, and the run goes on."""
        rows = [chat_row(n)._replace(size_bytes=megabytes * 2**20) for n in range(60)]
        bad = set(range(5, 34)) | {40, 41}
        rig, _ = _run(rows, _bad(bad), concurrency=concurrency)
        assert rig.switch.reason is None and _failed(rig) == bad and len(rig.outcomes) == 60
        _accounted(rig)

    @pytest.mark.parametrize("megabytes", [1, 20, 65])
    def test_that_had_to_end_count_on(self, megabytes):
        """The 31st still stops the run."""
        rows = [chat_row(n)._replace(size_bytes=megabytes * 2**20) for n in range(200)]
        rig, _ = _run(rows, _bad(range(10, 200)), concurrency=4)
        assert rig.switch.reason.by == GUARD
        assert len(_failed(rig)) <= 30 and len(rig.transport.asked) <= 10 + 31 + 8
        _accounted(rig)

    def test_do_not_hold_up_a_full_journal(self, monkeypatch):
        """The journal waits for a shard to be whole, and the shard for rows that are withheld."""
        monkeypatch.setattr("batchrun.engine.engine.BACKLOG_BYTES_MAX", 100)
        monkeypatch.setattr("batchrun.engine.engine.WHOLE_SHARDS_MIN", 1)
        bad = set(range(15, 40))

        async def session():
            journal = FakeJournal()
            journal.backlog_bytes = 101
            publisher = FakePublisher(journal, shard_rows=10, takes_s=5.0)
            rig = Rig(
                100, transport=FakeTransport(_bad(bad)), journal=journal, publisher=publisher,
                concurrency=4,
            )  # fmt: skip
            rig.tally.resumed_ok = 1
            await rig.run()
            return rig

        rig = run_virtual(session())
        assert _failed(rig) == bad and len(rig.outcomes) == 100

    @pytest.mark.parametrize("by", [SIGNAL, Stop("deadline", "over, on purpose")])
    @pytest.mark.parametrize("in_flight", ["fails", "is answered", "is retried"])
    def test_stay_pending_when_the_run_is_stopped(self, by, in_flight):
        """They are rows without an outcome, whatever comes of what is in flight; nobody waits."""
        last = {"fails": BAD, "is answered": ok(), "is retried": refusal(500)}[in_flight]

        async def sessions():
            transport = FakeTransport(
                lambda request, _: BAD if request.row < 20 else last,
                lambda request: 0.1 if request.row < 20 else 20.0,
            )
            rig = Rig(60, transport=transport, concurrency=4, grace_s=100.0)
            rig.tally.resumed_ok = 1
            asyncio.get_running_loop().call_later(10, rig.switch.stop, by)
            await rig.run()
            assert _now_s() < 25 and rig.switch.reason == by
            _accounted(rig)
            again = rig.resumed(FakeTransport())
            await again.run()
            assert len(again.outcomes) == 60 and not _failed(again)
            assert all(again.outcomes[row].attempts == 2 for row in range(20))
            return rig

        run_virtual(sessions())

    def test_a_retry_that_fails_while_the_run_stops_is_not_waited_for(self):
        """It would be withheld, and nothing comes any more that could free it."""
        rig, took_s = _run(
            1,
            lambda _, before: BAD if before else refusal(500),
            latency_s=lambda _: 30.0 if _now_s() else 0.1,
            stop_at_s=10,
            grace_s=500.0,
        )
        assert took_s < 40 and not rig.outcomes
        _accounted(rig)

    def test_rows_that_come_slowly_are_no_reason_to_wait(self):
        """The input pauses for minutes: what is withheld then waits, and ends with it at last."""
        rows = [chat_row(n) for n in range(20)]
        source = FakeSource(rows, shard_rows=10, pause_s=300.0)
        rig, _ = _run(rows, _bad(range(6, 20)), source=source)
        assert _failed(rig) == set(range(6, 20))
        _accounted(rig)

    def test_rows_throttled_before_everything_broke_are_not_to_blame(self):
        """A refusal is no failure: what waited for its turn when the endpoint broke stays pending,
        though others were answered since its first request.
        """

        def script(request, before):
            if _now_s() >= 20:
                return BAD
            return refusal(429) if not before and request.row % 3 == 0 else ok()

        rig, _ = _run(1000, script, concurrency=16, latency_s=lambda _: 0.5)
        assert rig.switch.reason.by == GUARD and not _failed(rig)
        _accounted(rig)

    def test_what_failed_in_time_that_led_to_an_outage_is_sent_again(self):
        """Rows that had used up their attempts before it showed are not charged for it."""
        rig, _ = _run(
            300,
            lambda *_: refusal(503) if 5 <= _now_s() < 600 else ok(),
            concurrency=16,
            max_attempts=1,
        )
        assert not _failed(rig) and len(rig.outcomes) == 300
        _accounted(rig)


def _several(rows, scripts, models=None, **settings):
    """A run over one endpoint for each script."""

    async def session():
        clock = VirtualClock()
        transports = [FakeTransport(script, 0.1) for script in scripts]
        ways = [
            Way(
                f"e{n}",
                transport,
                EndpointGate(concurrency=4, rpm=None, tpm=None, clock=clock, dice=random.Random(n)),
                models=None if models is None else models[n],
            )
            for n, transport in enumerate(transports)
        ]
        rig = Rig(rows, only=ways, concurrency=4, **settings)
        rig.tally.resumed_ok = 1
        await rig.run()
        asked = sum((transport.asked_of for transport in transports), Counter())
        ledger = Counter(attempt.row for attempt in rig.journal.attempts())
        assert ledger == asked
        return rig, transports

    return run_virtual(session())


class TestSeveralEndpoints:
    @pytest.mark.parametrize("after", [0, 40])
    @pytest.mark.parametrize("attempts", [1, 3])
    @pytest.mark.parametrize("answer", [BAD, ok()._replace(body=b"{}"), refusal(422)])
    def test_one_that_fails_everything_alike_is_left_out(self, answer, attempts, after):
        """Its rows are answered elsewhere, none fails, and the user is told once."""

        def broken(*_):
            nonlocal count
            count += 1
            return answer if count > after else ok()

        count = 0
        rig, transports = _several(400, [broken, lambda *_: ok()], max_attempts=attempts)
        assert rig.switch.reason is None
        assert len(rig.outcomes) == 400 and not _failed(rig)
        told = [said for said in rig.tally.notices if "e0 is left out from now on" in said]
        # What is sent again goes to the other one at once: it may never fail for good.
        assert len(told) == 1 or (attempts > 1 and answer.status == 200)
        assert rig.tally.requests == 400 + rig.tally.retries
        assert len(transports[0].asked) < after + 110 or not told

    def test_kinds_that_come_in_when_it_is_left_out_already(self):
        """What was in flight there and fails in another way goes elsewhere too."""
        answers = {n: refusal(400, code="another") for n in range(0, 400, 7)}
        rig, _ = _several(400, [lambda request, _: answers.get(request.row, BAD), lambda *_: ok()])
        assert len(rig.outcomes) == 400 and not _failed(rig)

    def test_the_run_stops_once_all_of_them_fail_alike(self):
        """Bad rows are bad everywhere: they are pending, and the reason is this guard."""
        rig, _ = _several(400, [_bad(range(40, 400))] * 2)
        assert rig.switch.reason.by == GUARD and not _failed(rig)

    def test_rows_that_nobody_else_serves_stop_the_run(self):
        """The endpoint of one model broke; the other one does not have it."""
        rows = [
            chat_row(n)._replace(body=chat_row(n).body | {"model": "ab"[n % 2]}) for n in range(300)
        ]
        scripts = [lambda request, _: BAD if request.row > 100 else ok(), lambda *_: ok()]
        rig, _ = _several(rows, scripts, models=[{"a": "a"}, {"b": "b"}])
        assert rig.switch.reason.by == GUARD and not _failed(rig)

    def test_what_is_withheld_where_the_key_is_refused_goes_elsewhere(self):
        """An endpoint is left out for another reason: its withheld rows have others."""

        def broken(request, _):
            return refusal(401) if len(seen) > 12 else seen.append(request.row) or BAD

        seen = []
        rig, _ = _several(300, [broken, lambda *_: ok()])
        assert seen and len(rig.outcomes) == 300 and not _failed(rig)


@pytest.mark.parametrize("kind", rest_slow(HEALTHY, 3))
def test_healthy_worlds_are_not_stopped(kind):
    """Whatever fails in a row without being a reason to stop: bad rows end as error rows, good
    ones do not.
    """
    for seed in range(SEEDS):
        played = play(HEALTHY[kind](random.Random(f"{kind} {seed}")), seed)
        assert (played.stopped_by, played.missing) == (None, 0), f"seed {seed}: {played}"
        assert played.wronged == 0, f"seed {seed}: {played}"


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_worlds_are_stopped(kind):
    """Nothing is answered from some moment on: the run stops soon, and no good row fails."""
    for seed in range(SEEDS):
        world = BROKEN[kind](random.Random(f"{kind} {seed}"))
        played = play(world, seed)
        assert played.stopped_by == GUARD, f"seed {seed}: {played}"
        assert played.wronged == 0, f"seed {seed}: {played}"
        # Rows that are retried for seconds wait for that while others are sent.
        assert played.late <= 200 + 8 * world.concurrency, f"seed {seed}: {played}"
