"""The engine on virtual time, between fakes: what a hostile hour does to a run, in milliseconds."""

import asyncio
import random
from collections import Counter, defaultdict

import pytest

from batchrun.core.verdict.judge import answered
from batchrun.engine import engine
from batchrun.errors import InputLostError, StorageError
from batchrun.records import Attempt, Known, Outcome
from batchrun.testing.fake_gate import FakeGate
from batchrun.testing.fakes import (
    FakeJournal,
    FakePublisher,
    FakeSource,
    FakeTransport,
    script_of,
)
from batchrun.testing.samples import MODEL, bad_row, chat_row, fault, ok, refusal
from batchrun.testing.virtual import run_virtual
from tests.harness.rig import SIGNAL, Rig

PLANS = 200


def _session(check=None, **settings):
    """Run a rig to its end; ``check(rig)`` may go on with it on the same loop."""

    async def session():
        rig = Rig(**settings)
        await rig.run()
        if check is not None:
            await check(rig)
        return rig

    return run_virtual(session())


def _stopping(*moments, **settings):
    """Run a rig that is told to stop at each of the moments (seconds after its start)."""

    async def session():
        rig = Rig(**settings)
        loop = asyncio.get_running_loop()
        for moment_s in moments:
            loop.call_later(moment_s, rig.switch.stop, SIGNAL)
        began_s = loop.time()
        await rig.run()
        return rig, loop.time() - began_s

    return run_virtual(session())


def _account(rig):
    """Check what must hold after every session, however it ended."""
    transport, journal = rig.transport, rig.journal
    rows = [entry.row for entry in journal.durable if isinstance(entry, Outcome)]
    assert len(rows) == len(set(rows)), "an outcome twice"
    attempts = Counter(attempt.row for attempt in journal.attempts())
    assert attempts == transport.asked_of, "the ledger is not what the server was asked"
    numbers = sorted((attempt.row, attempt.number) for attempt in journal.attempts())
    counted = [(row, n + 1) for row in sorted(attempts) for n in range(attempts[row])]
    assert numbers == counted, "attempts are not numbered from 1 without gaps"
    for outcome in rig.outcomes.values():
        assert outcome.attempts == attempts[outcome.row]
    assert {row for row, _ in journal.notes} == set(transport.asked_of)
    assert rig.published_rows() == sorted(rig.outcomes), "parts hold what the journal holds"
    assert transport.in_flight == 0


class TestTrouble:
    def test_all_is_well(self):
        """Rows are asked once, in order; shards are published whole, in order."""
        rig = _session(rows=35, concurrency=4)
        _account(rig)
        assert rig.transport.asked == list(range(35))
        assert rig.publisher.published == [(0, True), (1, True), (2, True), (3, True)]
        assert rig.tally.ok == 35 and rig.transport.in_flight_max == 4

    def test_a_storm_of_429_charges_no_row(self):
        """Rows throttled more often than they may fail still end with an answer."""
        throttled = [refusal(429)] * 8
        script = script_of(dict.fromkeys(range(12), throttled))
        rig = _session(rows=12, transport=FakeTransport(script), max_attempts=2)
        _account(rig)
        assert rig.tally.ok == 12
        assert rig.tally.throttled == 12 * 8

    def test_a_storm_of_429_is_waited_out_together(self):
        """While the server asks for patience, nobody sends: a cool-down is everybody's."""
        script = script_of({0: [refusal(429, retry_after_s=60)]})
        transport = FakeTransport(script, latency_s=lambda request: 1.0 if request.row else 0.5)
        rig = _session(rows=40, transport=transport, concurrency=4)
        _account(rig)
        moments = [moment_s - 1000 for moment_s in transport.asked_at_s]
        assert moments[:4] == [0, 0, 0, 0]
        assert all(moment_s >= 60.5 for moment_s in moments[4:])

    @pytest.mark.slow
    def test_sporadic_429s_delay_their_rows_only(self):
        """One refusal in twenty, with a wait of 2 s each: the run takes as long as without, and
        each refused row waits as told.
        """
        dice = random.Random(5)
        told = {
            row: [refusal(429, retry_after_s=2.0)] for row in range(2000) if dice.random() < 0.05
        }
        took_s = {}
        for name, answers in (("well", {}), ("refused", told)):
            transport = FakeTransport(script_of(answers), latency_s=0.1)
            rig = _session(rows=2000, transport=transport, concurrency=16, shard_rows=1000)
            _account(rig)
            assert rig.tally.ok == 2000
            took_s[name] = max(transport.asked_at_s) - 1000
        assert len(told) > 80 and rig.tally.throttled == len(told)
        assert took_s["refused"] < took_s["well"] + 8
        asked = defaultdict(list)
        for row, moment_s in zip(transport.asked, transport.asked_at_s, strict=True):
            asked[row].append(moment_s)
        assert all(second - first >= 2.1 for first, second in (asked[row] for row in told))

    @pytest.mark.slow
    def test_a_limit_that_is_met_draws_few_refusals(self):
        """Against a server that lets 20 through each second and tells the rest to come back in
        50 ms, rows are refused about once, and the server's limit is made use of.
        """

        async def session():
            loop = asyncio.get_running_loop()
            bucket = {"level": 20.0, "at_s": loop.time()}

            def script(_request, _asked_before):
                now_s = loop.time()
                filled = bucket["level"] + (now_s - bucket["at_s"]) * 20
                bucket.update(level=min(20.0, filled), at_s=now_s)
                if bucket["level"] < 1:
                    return refusal(429, retry_after_s=0.05)
                bucket["level"] -= 1
                return ok()

            transport = FakeTransport(script, latency_s=0.05)
            rig = Rig(rows=1000, transport=transport, concurrency=64, shard_rows=1000)
            await rig.run()
            return rig, max(transport.asked_at_s) - 1000

        rig, took_s = run_virtual(session())
        _account(rig)
        assert rig.tally.ok == 1000
        assert rig.tally.throttled < 1500
        assert took_s < 60, "1,000 rows at 20 a second take 49 s"

    def test_refusals_for_ever_stop_the_run(self):
        """A server that refuses everything for an hour ends the run; its rows stay pending."""
        script = script_of({}, then=refusal(429, retry_after_s=60))
        rig = _session(rows=20, transport=FakeTransport(script), max_attempts=2)
        _account(rig)
        assert rig.switch.reason.by == "rate_limit" and rig.outcomes == {}
        assert 3600 < max(rig.transport.asked_at_s) - 1000 < 4000

    def test_the_runs_model_that_nobody_has_stops_it(self):
        """A model of the run that the server does not know ends it; a row's own fails the row."""
        known = ok()

        def script(request, _):
            return known if request.row % 2 else refusal(404, code="model_not_found")

        rig = _session(rows=10, transport=FakeTransport(script), model=MODEL)
        _account(rig)
        assert rig.switch.reason.by == "not_found" and "model" in rig.switch.reason.message
        rig = _session(rows=10, transport=FakeTransport(script), model="another")
        _account(rig)
        assert (rig.tally.ok, rig.tally.error) == (5, 5)

    def test_a_host_that_was_never_found_stops_the_run(self):
        """A misspelt host ends the run after a few tries rather than failing row by row."""
        rig = _session(rows=50, transport=FakeTransport(script_of({}, then=fault("dns"))),
                       max_attempts=6)  # fmt: skip
        _account(rig)
        assert rig.switch.reason.by == "connection" and rig.outcomes == {}
        assert "host" in rig.switch.reason.message

    def test_the_tokens_of_a_broken_off_answer_are_in_the_ledger(self):
        """An answer that the server broke off was billed, and is tried again."""
        choice = {"message": {"content": "The beg"}, "finish_reason": "network_error"}
        broken = ok(choices=[choice])
        rig = _session(rows=1, transport=FakeTransport(script_of({0: [broken]})))
        _account(rig)
        assert [a.usage.total_tokens for a in rig.journal.attempts()] == [12, 12]
        assert rig.outcomes[0].ok and rig.outcomes[0].attempts == 2

    def test_one_500_in_twenty_is_retried(self):
        """Server errors cost an attempt each and no answer."""
        dice = random.Random(5)
        answers = {row: [refusal(500)] for row in range(200) if dice.random() < 0.05}
        rig = _session(rows=200, transport=FakeTransport(script_of(answers)), concurrency=16)
        _account(rig)
        assert answers
        assert rig.tally.ok == 200 and rig.tally.retries == len(answers)
        assert all(rig.outcomes[row].attempts == 2 for row in answers)

    def test_a_stall_ends_with_the_clock(self):
        """An exchange that takes too long is a timeout, unanswered, and is tried again."""
        stalls = iter([10_000.0])

        def latency(request):
            return next(stalls, 0.1) if request.row == 3 else 0.1

        rig = _session(rows=8, transport=FakeTransport(latency_s=latency, timeout_s=30.0))
        _account(rig)
        first = next(a for a in rig.journal.attempts() if (a.row, a.number) == (3, 1))
        assert first.error_class == "timeout" and first.unanswered
        assert first.latency_s == pytest.approx(30)
        assert rig.outcomes[3].ok and rig.outcomes[3].attempts == 2

    @pytest.mark.parametrize(
        ("kind", "error_class", "attempts"),
        [
            ("timeout", "timeout", 3),
            ("connect", "connection", 3),
            ("cut", "connection", 3),
            ("reset", "connection", 4),  # a kept-alive connection's end is free, once
            ("too_large", "response_too_large", 1),
        ],
    )
    def test_faults_run_out_of_attempts(self, kind, error_class, attempts):
        """A row that only meets faults fails with their class after its attempts."""
        rig = _session(rows=1, transport=FakeTransport(script_of({}, then=fault(kind))))
        _account(rig)
        outcome = rig.outcomes[0]
        assert outcome.failure.error_class == error_class
        assert outcome.attempts == attempts

    def test_errors_run_out_of_attempts(self):
        """A row that is refused again and again fails with the class and the server's text."""
        script = script_of({1: [refusal(503)] * 9})
        rig = _session(rows=3, transport=FakeTransport(script), max_attempts=4)
        _account(rig)
        outcome = rig.outcomes[1]
        assert outcome.failure.error_class == "overloaded" and outcome.attempts == 4
        assert "on purpose" in outcome.response
        assert (rig.tally.ok, rig.tally.error) == (2, 1)

    def test_a_401_stops_the_run(self):
        """A refused key throws the switch; its row and the rows not sent stay pending."""
        script = script_of({}, then=refusal(401))
        rig = _session(rows=100, transport=FakeTransport(script), concurrency=4)
        _account(rig)
        assert rig.switch.reason.by == "auth" and rig.switch.reason.exit_code == 3
        assert rig.outcomes == {} and rig.transport.asked == [0, 1, 2, 3]

    def test_a_401_after_answers_is_tried_again(self):
        """A key that worked a moment ago gets two more chances."""
        script = script_of({20: [refusal(401)] * 2})
        rig = _session(rows=30, transport=FakeTransport(script))
        _account(rig)
        assert rig.tally.ok == 30 and not rig.switch.stopping

    def test_a_wait_beyond_the_limit_stops_the_run(self):
        """A server that asks for more patience than allowed ends the run, not the row."""
        script = script_of({0: [refusal(429, retry_after_s=3600)]})
        rig = _session(rows=50, transport=FakeTransport(script), max_wait_s=600)
        _account(rig)
        assert rig.switch.reason.by == "rate_limit"
        assert 0 not in rig.outcomes

    def test_bad_rows_become_failures_without_a_request(self):
        """A row that cannot be sent is an outcome like any other, and in its place."""
        rows = [bad_row(n) if n % 3 == 0 else chat_row(n) for n in range(25)]
        rig = _session(rows=rows)
        _account(rig)
        failed = {row for row, outcome in rig.outcomes.items() if not outcome.ok}
        assert failed == set(range(0, 25, 3)) and len(rig.outcomes) == 25
        assert rig.transport.asked == [n for n in range(25) if n % 3]

    def test_a_retry_takes_nobodys_place(self):
        """While a row waits for its next try, all permits are others'."""
        script = script_of({0: [refusal(503, retry_after_s=50), refusal(503, retry_after_s=50)]})
        rig = _session(rows=100, transport=FakeTransport(script, latency_s=1.0), concurrency=1)
        _account(rig)
        assert rig.transport.asked[1:49] == list(range(1, 49))

    def test_lost_input_is_said_after_what_was_read_is_published(self):
        """Rows read before the input was lost are answered and published first."""

        async def session():
            source = FakeSource([chat_row(n) for n in range(30)], shard_rows=10, lost_at=17)
            rig = Rig(rows=30, source=source)
            with pytest.raises(InputLostError):
                await rig.run()
            return rig

        rig = run_virtual(session())
        _account(rig)
        assert rig.publisher.published == [(0, True), (1, False)]
        assert rig.published_rows() == list(range(14))  # blocks of four rows, and shards of ten


class TestStop:
    def test_requests_in_flight_finish(self):
        """A stop sends nothing more, waits for what is out, and leaves the rest pending."""
        rig, _ = _stopping(
            1.5, rows=100, transport=FakeTransport(latency_s=1.0), concurrency=4, grace_s=30
        )
        _account(rig)
        assert rig.transport.asked == list(range(8)) == sorted(rig.outcomes)
        assert rig.transport.cancelled == 0
        assert (0, False) in rig.publisher.published

    def test_waiting_rows_are_left_pending_at_once(self):
        """A row in a long backoff does not hold a stop up; its attempts stay in the ledger."""
        script = script_of({0: [refusal(503, retry_after_s=500)]})
        rig, took_s = _stopping(
            5, rows=1, transport=FakeTransport(script, latency_s=1.0), grace_s=30
        )
        _account(rig)
        assert took_s < 6 and rig.outcomes == {}
        assert [a.http_status for a in rig.journal.attempts()] == [503]

    def test_a_second_stop_does_not_wait(self):
        """Asked twice, the run gives up what is out; the ledger says that it was sent."""
        rig, took_s = _stopping(
            5, 6, rows=100, transport=FakeTransport(latency_s=1000.0), concurrency=4
        )
        _account(rig)
        assert took_s < 7 and rig.transport.cancelled == 4
        assert [a.error_code for a in rig.journal.attempts()] == ["interrupted"] * 4
        assert all(a.unanswered for a in rig.journal.attempts())

    def test_the_grace_runs_out(self):
        """Requests that are still out after the grace are given up."""
        rig, took_s = _stopping(
            5, rows=100, transport=FakeTransport(latency_s=1000.0), concurrency=4, grace_s=30
        )
        _account(rig)
        assert 35 <= took_s < 36 and rig.transport.cancelled == 4

    def test_a_failure_during_a_stop_stays_pending(self):
        """A request that fails while the run stops is in the ledger and not tried again."""
        rig, _ = _stopping(
            0.5,
            rows=4,
            transport=FakeTransport(script_of({}, then=refusal(500)), latency_s=1.0),
        )
        _account(rig)
        assert rig.outcomes == {} and len(rig.journal.attempts()) == 4

    @pytest.mark.parametrize("max_attempts", [1, 3])
    @pytest.mark.parametrize("stops", [1, 2])
    @pytest.mark.parametrize("turns", range(16))
    def test_failures_a_few_turns_after_a_stop(self, turns, stops, max_attempts):
        """A failed try is in the ledger, and the run ends, at whichever turn of the loop the
        failure comes.
        """

        class LateTransport(FakeTransport):
            async def send(self, request):
                reply = await super().send(request)
                for _ in range(turns):
                    await asyncio.sleep(0)
                return reply

        transport = LateTransport(script_of({}, then=refusal(500)), latency_s=1.0)
        rig, _ = _stopping(
            *[1.0] * stops,
            rows=40,
            transport=transport,
            concurrency=8,
            max_attempts=max_attempts,
        )
        _account(rig)

    def test_bad_rows_on_their_way_to_the_disk(self):
        """Outcomes that wait for the disk when the stop comes are published all the same."""
        rows = [bad_row(n) for n in range(20)]
        rig, _ = _stopping(0.01, rows=rows, journal=FakeJournal(commit_s=1.0))
        _account(rig)
        assert len(rig.outcomes) == 20

    def test_a_stop_and_the_next_session(self):
        """What a stopped run left pending is what the next one sends."""

        async def session():
            first = Rig(rows=57, transport=FakeTransport(latency_s=1.0))
            asyncio.get_running_loop().call_later(3.5, first.switch.stop, SIGNAL)
            await first.run()
            _account(first)
            second = first.resumed(FakeTransport())
            await second.run()
            return second

        second = run_virtual(session())
        assert second.transport.asked == list(range(16, 57))
        assert second.published_rows() == list(range(57))
        assert [shard for shard, whole in second.publisher.published if whole] == list(range(6))


class TestStorage:
    @pytest.mark.parametrize("fails_after", range(0, 60, 7))
    def test_a_journal_that_fails_ends_the_run(self, fails_after):
        """A failed commit is raised, and nothing counts as done that is not durable."""

        async def session():
            journal = FakeJournal(fails_after=fails_after)
            rig = Rig(rows=100, journal=journal)
            with pytest.raises(StorageError, match="on purpose"):
                await rig.run()
            return rig

        rig = run_virtual(session())
        assert rig.tally.ok == len(rig.outcomes)
        assert rig.transport.in_flight == 0

    def test_a_journal_that_fails_during_a_stop(self):
        """A stop whose last commit fails ends with the failure, and does end."""

        async def session():
            rig = Rig(
                rows=100,
                transport=FakeTransport(latency_s=1.0),
            )

            def stop():
                rig.journal.fails_after = 0
                rig.switch.stop(SIGNAL)

            asyncio.get_running_loop().call_later(1.5, stop)
            with pytest.raises(StorageError, match="on purpose"):
                await rig.run()
            return rig, asyncio.get_running_loop().time()

        rig, now_s = run_virtual(session())
        assert rig.tally.ok == len(rig.outcomes)
        assert now_s < 1000 + 5, "it waited for the grace to run out"

    def test_a_part_that_cannot_be_written_ends_the_run(self):
        """What the publisher raises is what the run raises."""

        async def session():
            journal = FakeJournal()
            publisher = FakePublisher(journal, shard_rows=10, fails_at=1)
            rig = Rig(rows=100, journal=journal, publisher=publisher)
            with pytest.raises(StorageError, match="shard 1"):
                await rig.run()
            return rig

        rig = run_virtual(session())
        assert (0, True) in rig.publisher.published

    def test_a_shard_whose_rows_are_all_known(self):
        """A shard that was complete but not published when the last run was killed is published
        without a request, once its blocks are in the journal.
        """

        async def session():
            first = Rig(rows=30)
            await first.run()
            first.publisher.published.remove((1, True))
            del first.publisher.parts[1]
            second = first.resumed(FakeTransport())
            await second.run()
            return second

        rig = run_virtual(session())
        assert rig.transport.asked == []
        assert rig.publisher.published[-1] == (1, True)
        assert rig.published_rows() == list(range(30))

    def test_a_stop_behind_rows_that_were_done_before(self):
        """Their block is in the journal: a part takes it, so that no log is left behind."""
        known = {0: Known(frozenset(range(4)), {})}
        rows = [chat_row(number) for number in range(10)]
        source = FakeSource(rows, shard_rows=10, pause_s=1.0)
        rig, _ = _stopping(1.5, rows=rows, source=source, known=known, touched=())
        assert rig.transport.asked == [] and source.read == 4
        assert rig.publisher.published == [(0, False)]

    def test_a_full_journal_holds_the_input_back(self, monkeypatch):
        """While the journal is at its bound and shards are on their way out, nothing is read."""
        monkeypatch.setattr("batchrun.engine.engine.BACKLOG_BYTES_MAX", 100)

        ahead = []

        async def session():
            journal = FakeJournal()
            journal.backlog_bytes = 101
            publisher = FakePublisher(journal, shard_rows=10, takes_s=5.0)

            def script(request, _):
                ahead.append(request.row // 10 - len(publisher.published))
                return ok()

            transport = FakeTransport(script)
            rig = Rig(rows=100, transport=transport, journal=journal, publisher=publisher)
            await rig.run()
            return rig

        rig = run_virtual(session())
        _account(rig)
        assert max(ahead) == 0, "a shard was read before those in front of it were published"

    @pytest.mark.parametrize(
        ("shard_rows", "rows_max", "shards"), [(10, 80, 8), (10, 20, 3), (1, 80, 5)]
    )
    def test_whole_shards_hold_the_input_back(self, monkeypatch, shard_rows, rows_max, shards):
        """Only so many rows of whole shards, and so many shards, wait to be published; a few always
        may, and the rows that are open come on top of them.
        """
        monkeypatch.setattr(engine, "WHOLE_ROWS_MAX", rows_max)
        monkeypatch.setattr(engine, "WHOLE_SHARDS_MIN", 3)
        monkeypatch.setattr(engine, "WHOLE_SHARDS_MAX", 5 if shard_rows == 1 else 64)
        whole = []

        async def session():
            journal = FakeJournal()
            publisher = FakePublisher(journal, shard_rows=shard_rows, takes_s=1e4)

            def script(request, _):
                whole.append(request.row // shard_rows - len(publisher.published))
                return ok()

            transport = FakeTransport(script)
            rig = Rig(rows=200, transport=transport, journal=journal, publisher=publisher,
                      shard_rows=shard_rows, concurrency=1)  # fmt: skip
            await rig.run()
            return rig

        rig = run_virtual(session())
        _account(rig)
        assert shards <= max(whole) <= shards + 10 // shard_rows


def _random_plan(seed):
    """One plan: rows, faults, limits, and perhaps a stop or two."""
    dice = random.Random(seed)
    replies = (
        [ok()] * dice.randrange(2, 20)
        + [refusal(429), refusal(429, retry_after_s=dice.uniform(0, 20))]
        + [refusal(status) for status in (500, 503, 400, 404)]
        + [fault(kind) for kind in ("timeout", "connect", "reset", "cut")]
    )

    def script(request, asked_before):
        return random.Random(f"{seed} {request.row} {asked_before}").choice(replies)

    def latency(_):
        return dice.choice([0.0, 0.1, 0.1, 1.0, 40.0])

    size = dice.randrange(1, 80)
    return {
        "rows": [bad_row(n) if dice.random() < 0.05 else chat_row(n) for n in range(size)],
        "shard_rows": dice.randrange(1, 20),
        "concurrency": dice.randrange(1, 12),
        "max_attempts": dice.randrange(1, 5),
        "grace_s": dice.choice([0.0, 1.0, 30.0]),
        "seed": seed,
    }, [
        (FakeTransport(script, latency, timeout_s=30.0), dice.choice([0.0, 0.1, 1.0, 5.0, 40.0]))
        for _ in range(dice.randrange(3))
    ] + [(FakeTransport(script, latency, timeout_s=30.0), None)]


async def _sessions(plan, transports, own_gate):
    """Run the plan through its stops to its end; returns the last session's rig."""
    asked = Counter()
    rig = None
    for transport, stop_s in transports:
        settings = dict(plan)
        if own_gate:
            settings["gate"] = FakeGate(plan["concurrency"])
        if rig is None:
            rig = Rig(transport=transport, **settings)
        else:
            for taken in ("rows", "shard_rows"):
                del settings[taken]
            rig = rig.resumed(transport, **settings)
        if stop_s is not None:
            loop = asyncio.get_running_loop()
            for moment_s in (stop_s, stop_s + 20):
                loop.call_later(moment_s, rig.switch.stop, SIGNAL)
        await rig.run()
        asked += transport.asked_of
        transport.asked_of = asked
        if own_gate:
            assert rig.gate.held == 0 and rig.gate.held_max <= plan["concurrency"]
            assert all(len(permit.settled) == 1 for permit in rig.gate.permits)
        assert transport.in_flight_max <= plan["concurrency"]
        _account(rig)
    return rig


@pytest.mark.slow
@pytest.mark.parametrize("own_gate", [False, True], ids=["endpoint-gate", "fake-gate"])
def test_random_plans_account_for_everything(own_gate):
    """After every stop, and at the end, each row has one outcome, each request its line in the
    ledger, and no more were out than allowed.
    """
    for seed in range(PLANS):
        plan, transports = _random_plan(seed)
        try:
            rig = run_virtual(_sessions(plan, transports, own_gate))
            assert rig.published_rows() == list(range(len(plan["rows"])))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert isinstance(rig.journal.attempts()[0], Attempt)


def test_the_records_of_an_ordinary_answer_have_all_their_fields():
    """They are made by place, which no type checker counts."""
    requests = []

    def script(request, _):
        requests.append(request)
        return ok()

    rig = _session(rows=1, transport=FakeTransport(script))
    (outcome,) = rig.outcomes.values()
    said, verdict = outcome.completion, answered(ok())
    for record in (*requests, outcome, outcome.attempt, said, said.first, said.usage, verdict):
        assert len(record) == len(record._fields), record
