"""The exam of the gate: what every ``ports.Gate`` promises, and what the endpoint's adds."""

import asyncio
import math
import random
from itertools import pairwise

import pytest

from batchrun.engine.pace.gate import EndpointGate
from batchrun.records import Reception, Reply
from batchrun.testing.fake_gate import FakeGate
from batchrun.testing.virtual import START_S, VirtualClock, run_virtual
from tests.harness.slow import rest_slow


def _endpoint(concurrency=4, *, rpm=None, tpm=None, seed=0):
    return EndpointGate(
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        clock=VirtualClock(),
        dice=random.Random(seed),
    )


class Watch:
    """Exchanges through a gate: who is in, how many at most, and when each came in."""

    def __init__(self, gate):
        self.gate = gate
        self.inside = 0
        self.inside_max = 0
        self.entered = []

    async def exchange(self, name, *, takes_s=1.0, tokens=1, used=None, at_s=0.0):
        """Wait for ``at_s``, then for the gate; stay inside for a while."""
        await asyncio.sleep(at_s)
        permit = await self.gate.enter(tokens)
        with permit:
            self.inside += 1
            self.inside_max = max(self.inside_max, self.inside)
            self.entered.append((name, asyncio.get_running_loop().time() - START_S))
            try:
                await asyncio.sleep(takes_s)
            finally:
                self.inside -= 1
            permit.settle(used)
        return permit

    @property
    def order(self):
        """Names in the order they came in."""
        return [name for name, _ in self.entered]

    @property
    def moments_s(self):
        """When they came in, from the start."""
        return [moment_s for _, moment_s in self.entered]


class GateContract:
    """What any gate promises. ``gate`` makes one with so many permits."""

    def gate(self, concurrency):
        """Make a gate with so many permits."""
        raise NotImplementedError

    def test_never_more_than_the_permits(self):
        """However many want in, no more are inside than there are permits, and all get in."""

        async def play():
            watch = Watch(self.gate(3))
            dice = random.Random(1)
            await asyncio.gather(
                *(watch.exchange(n, takes_s=dice.random(), at_s=dice.random()) for n in range(100))
            )
            return watch

        watch = run_virtual(play())
        assert watch.inside_max == 3 and len(watch.entered) == 100

    def test_fewer_permits_withhold_those_that_come_back(self):
        """Nobody is cancelled: whoever is inside stays, and nobody follows until there is room."""

        async def play():
            watch = Watch(self.gate(4))
            async with asyncio.TaskGroup() as group:
                for n in range(12):
                    group.create_task(watch.exchange(n, takes_s=1.0))
                await asyncio.sleep(0.5)
                assert watch.inside == 4
                watch.gate.resize(1)
                assert watch.gate.concurrency == 1
                assert watch.inside == watch.gate.in_flight == 4
                watch.inside_max = 0
                await asyncio.sleep(1.0)
                assert watch.inside == watch.inside_max == 1
            assert sorted(watch.order) == list(range(12))

        run_virtual(play())

    def test_more_permits_let_those_in_line_in(self):
        """They enter at once, in their order."""

        async def play():
            watch, told = Watch(self.gate(1)), []
            watch.gate.resized = told.append
            async with asyncio.TaskGroup() as group:
                for n in range(6):
                    group.create_task(watch.exchange(n, takes_s=10.0))
                await asyncio.sleep(1)
                watch.gate.resize(4)
                await asyncio.sleep(1)
                assert watch.order == [0, 1, 2, 3]
                assert watch.gate.ready_in_s > 0
            assert told == [4]

        run_virtual(play())

    def test_first_come_first_served(self):
        """Permits are given in the order they were asked for, whatever their size."""

        async def play():
            watch = Watch(self.gate(2))
            dice = random.Random(2)
            await asyncio.gather(
                *(
                    watch.exchange(n, takes_s=dice.random(), tokens=dice.randrange(1, 999))
                    for n in range(50)
                )
            )
            return watch

        assert run_virtual(play()).order == list(range(50))

    def test_permits_can_become_more_and_fewer(self):
        """Those who wait get new permits at once; where permits go, nobody who is in is sent away,
        and nobody enters until as many are back.
        """

        async def play():
            watch = Watch(self.gate(2))
            gate, tasks = watch.gate, []
            tasks = [asyncio.create_task(watch.exchange(n, takes_s=1.0)) for n in range(12)]
            await asyncio.sleep(0.5)
            seen = [watch.inside]
            gate.resize(6)
            await asyncio.sleep(0.1)
            seen.append(watch.inside)
            gate.resize(1)
            assert gate.concurrency == 1
            await asyncio.sleep(0.45)  # two are back, at 1.05
            seen.append(watch.inside)
            await asyncio.sleep(0.6)  # the others too, at 1.65
            seen.append((watch.inside, gate.in_flight))
            await asyncio.gather(*tasks)
            return seen, len(watch.entered), gate.in_flight

        seen, entered, left = run_virtual(play())
        assert seen == [2, 6, 4, (1, 1)]
        assert (entered, left) == (12, 0)

    def test_a_pause_lets_nobody_in(self):
        """Who is in comes out, who waits waits, also those who ask meanwhile and after a resize;
        then all go on.
        """

        async def play():
            watch = Watch(self.gate(3))
            gate = watch.gate
            tasks = [asyncio.create_task(watch.exchange(n, takes_s=1.0)) for n in range(6)]
            await asyncio.sleep(0.5)
            gate.pause()
            tasks.append(asyncio.create_task(watch.exchange(6, takes_s=1.0)))
            await asyncio.sleep(50)
            gate.resize(4)
            await asyncio.sleep(50)
            paused = len(watch.entered), gate.in_flight, gate.ready_in_s
            gate.go_on()
            await asyncio.gather(*tasks)
            return paused, watch

        paused, watch = run_virtual(play())
        assert paused == (3, 0, math.inf)
        assert watch.order == list(range(7))
        assert watch.inside_max == 4
        assert max(watch.moments_s) < 103

    def test_the_wait_is_told(self):
        """A permit knows how long it was waited for."""

        async def play():
            watch = Watch(self.gate(1))
            return await asyncio.gather(*(watch.exchange(n, takes_s=2.0) for n in range(3)))

        permits = run_virtual(play())
        assert [permit.queue_s for permit in permits] == pytest.approx([0, 2, 4])

    def test_settled_once(self):
        """Settling early and leaving afterwards gives one permit back, not two."""

        async def play():
            gate = self.gate(1)
            with await gate.enter(5) as permit:
                permit.settle(3)
                permit.settle(4)
            watch = Watch(gate)
            await asyncio.gather(*(watch.exchange(n) for n in range(4)))
            return watch

        assert run_virtual(play()).inside_max == 1

    def test_an_error_inside_gives_the_permit_back(self):
        """Whatever ends an exchange, its permit is free again."""

        async def play():
            gate = self.gate(1)
            for _ in range(3):
                with pytest.raises(ZeroDivisionError), await gate.enter(1):
                    raise ZeroDivisionError
            async with asyncio.timeout(1):
                with await gate.enter(1):
                    return True

        assert run_virtual(play())

    @pytest.mark.parametrize("seed", range(20))
    def test_cancelled_waiters_leave_no_trace(self, seed):
        """After any cancellations, waiting or inside, all permits are there and the order holds."""

        async def play():
            dice = random.Random(seed)
            watch = Watch(self.gate(3))
            tasks = [
                asyncio.create_task(watch.exchange(n, takes_s=dice.choice([0.0, 0.5, 1.0])))
                for n in range(40)
            ]
            for task in dice.sample(tasks, 25):
                await asyncio.sleep(dice.choice([0.0, 0.0, 0.25, 0.5]))
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert watch.order == sorted(watch.order)
            assert watch.inside_max <= 3
            again = Watch(watch.gate)
            await asyncio.gather(*(again.exchange(n) for n in range(6)))
            return again

        watch = run_virtual(play())
        assert watch.inside_max == 3 and watch.moments_s[3] - watch.moments_s[0] == 1.0

    def test_a_permit_handed_to_somebody_who_just_left(self):
        """A waiter that is cancelled in the turn in which it gets its permit passes it on."""

        async def play():
            gate = self.gate(1)
            permit = await gate.enter(1)
            waiting = asyncio.create_task(gate.enter(1))
            await asyncio.sleep(0)
            with permit:
                pass
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            async with asyncio.timeout(1):
                with await gate.enter(1):
                    return True

        assert run_virtual(play())

    def test_a_cool_down_holds_everybody(self):
        """Nobody gets in while the gate cools down, waiting already or not; then all do."""

        async def play():
            watch = Watch(self.gate(2))
            tasks = [asyncio.create_task(watch.exchange(n, at_s=n / 4)) for n in range(10)]
            await asyncio.sleep(0.6)
            assert watch.gate.cool_down(30.0, sent_at_s=START_S + 0.5)
            left_s = watch.gate.cooling_s
            await asyncio.gather(*tasks)
            return watch, left_s

        watch, left_s = run_virtual(play())
        assert left_s == pytest.approx(30)
        assert watch.order == list(range(10))
        assert all(moment_s < 0.6 or moment_s >= 30.6 - 1e-6 for moment_s in watch.moments_s)

    def test_the_longer_cool_down_counts(self):
        """A later reply that asks for less does not shorten the cool-down."""

        async def play():
            gate = self.gate(1)
            gate.cool_down(30.0, sent_at_s=START_S)
            gate.cool_down(5.0, sent_at_s=START_S)
            assert gate.cooling_s == pytest.approx(30)
            watch = Watch(gate)
            await watch.exchange("only")
            return watch

        assert run_virtual(play()).moments_s[0] >= 30

    def test_cancelled_during_a_cool_down(self):
        """Who gives up while the gate cools down leaves its permit to the next."""

        async def play():
            gate = self.gate(1)
            gate.cool_down(10.0, sent_at_s=START_S)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await gate.enter(1)
            watch = Watch(gate)
            await asyncio.gather(watch.exchange(0), watch.exchange(1))
            return watch

        assert run_virtual(play()).order == [0, 1]

    def test_one_probe_at_a_time_while_it_is_held(self):
        """An endpoint that is down is asked once after each wait, until it is back; then all of
        those who waited get in.
        """

        async def play():
            gate = self.gate(3)
            probes = []

            async def exchange(n):
                permit = await gate.enter(1)
                with permit:
                    await asyncio.sleep(0.5)
                if permit.probe:
                    probes.append((n, asyncio.get_running_loop().time() - START_S))
                    gate.open() if len(probes) == 3 else gate.hold(10.0)
                return permit.probe

            gate.hold(2.0)
            found = await asyncio.gather(*(exchange(n) for n in range(12)))
            return probes, found

        probes, found = run_virtual(play())
        assert [n for n, _ in probes] == [0, 1, 2]  # they take turns
        assert [at for _, at in probes] == pytest.approx([2.5, 13, 23.5], abs=0.2)
        assert sum(found) == 3

    def test_whatever_a_reply_says_of_limits_is_heard(self):
        """A reply, or none, whose headers tell nothing or junk is no error, and holds nobody."""

        async def play():
            gate = self.gate(4)
            junk = ("", "-1", "NaN", "9" * 400, "\udcff", "1, 2;w=0", '"a";q=1;w=1')
            names = ("x-ratelimit-limit-requests", "RateLimit", "x-ratelimit-reset", "server")
            replies = [None, *(Reply(200, dict.fromkeys(names, text), b"") for text in junk)]
            for reply in replies:
                gate.heard(reply, sent_at_s=asyncio.get_running_loop().time())
            watch = Watch(gate)
            await asyncio.gather(*(watch.exchange(n) for n in range(8)))
            return watch

        assert run_virtual(play()).moments_s == pytest.approx([0] * 4 + [1] * 4, abs=1e-3)

    def test_a_probe_that_is_given_up_makes_room_for_another(self):
        """A cancelled probe, or one that failed on our side, is not waited for."""

        async def play():
            gate = self.gate(2)

            async def exchange():
                with await gate.enter(1) as permit:
                    await asyncio.sleep(3600)
                    return permit.probe

            gate.hold(1.0)
            first = asyncio.create_task(exchange())
            await asyncio.sleep(2)
            first.cancel()
            with await asyncio.wait_for(gate.enter(1), 5) as permit:
                return permit.probe

        assert run_virtual(play())


class TestFakeGate(GateContract):
    def gate(self, concurrency):
        """The fake."""
        return FakeGate(concurrency)


class TestEndpointGate(GateContract):
    def gate(self, concurrency):
        """The endpoint's, without rates."""
        return _endpoint(concurrency)


class TestPacedGate(GateContract):
    """The same with rates that are too generous to be felt: another path through the gate."""

    def gate(self, concurrency):
        """The endpoint's, with rates."""
        return _endpoint(concurrency, rpm=1e7, tpm=1e9)


def _in_any_window(moments_s, window_s):
    """The most entries within any window of this length."""
    ordered = sorted(moments_s)
    most = first = 0
    for last, moment_s in enumerate(ordered):
        while moment_s - ordered[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


class TestRates:
    @pytest.mark.parametrize("rpm", rest_slow([3, 60, 500, 6000, 12000], 3))
    def test_the_request_rate_holds_in_every_window(self, rpm):
        """In any window there are at most its share of the rate and one tenth of a second's."""

        async def play():
            watch = Watch(_endpoint(64, rpm=rpm))
            count = min(600, max(8, rpm // 10))
            await asyncio.gather(*(watch.exchange(n, takes_s=0.05) for n in range(count)))
            return watch

        watch = run_virtual(play())
        burst = max(1, rpm / 600)
        for window_s in (0.0, 0.1, 1.0, 7.0, 60.0):
            most = _in_any_window(watch.moments_s, window_s)
            assert most <= burst + rpm / 60 * window_s + 1e-6, window_s
        took_s = watch.moments_s[-1]
        assert took_s <= (len(watch.moments_s) - burst) * 60 / rpm * 1.05 + 0.1
        assert watch.order == sorted(watch.order)

    def test_the_token_rate_holds(self):
        """In any window, tokens charged stay within the rate and one request; in the long run,
        all but a few per cent of the rate is used.
        """

        async def play():
            watch = Watch(_endpoint(64, tpm=6000))  # 100 a second
            await asyncio.gather(
                *(watch.exchange(n, takes_s=0.1, tokens=30, used=30) for n in range(60))
            )
            return watch

        watch = run_virtual(play())
        for window_s in (0.0, 1.0, 5.0, 10.0):
            most = _in_any_window(watch.moments_s, window_s)
            assert most * 30 <= 100 * window_s + 30
        assert watch.moments_s[-1] == pytest.approx(60 * 30 / 100, rel=0.02)

    def test_what_was_not_used_comes_back_and_wakes_who_waits(self):
        """A refund lets the next in line in at once, not when its estimate would have been due."""

        async def play():
            watch = Watch(_endpoint(8, tpm=60_000))  # 1,000 a second
            await asyncio.gather(
                watch.exchange("first", takes_s=1.0, tokens=3000, used=0),
                watch.exchange("next", tokens=900, used=900),
            )
            return watch

        assert run_virtual(play()).moments_s == pytest.approx([0, 1.0])

    def test_a_refund_comes_once(self):
        """Settling again changes nothing."""

        async def play():
            gate = _endpoint(8, tpm=60_000)
            with await gate.enter(1000) as permit:
                for _ in range(3):
                    permit.settle(0)
            watch = Watch(gate)
            await asyncio.gather(*(watch.exchange(n, tokens=1000) for n in range(2)))
            return watch

        assert run_virtual(play()).moments_s == pytest.approx([1, 2], rel=0.05)

    def test_more_than_estimated_is_a_debt(self):
        """Tokens used beyond the estimate are waited for by those who come after."""

        async def play():
            watch = Watch(_endpoint(1, tpm=60_000))
            await watch.exchange("greedy", takes_s=0.1, tokens=1000, used=5000)
            await watch.exchange("next", tokens=1000)
            return watch

        # 5,000 are owed and 1,000 wanted; some 1,000 a second come in.
        assert run_virtual(play()).moments_s[1] == pytest.approx(6.0, rel=0.05)

    def test_larger_than_the_limit_waits_for_a_full_budget(self):
        """A request beyond the limit goes out on a full balance, and nobody overtakes it."""

        async def play():
            watch = Watch(_endpoint(8, tpm=6000))
            sizes = [50, 400, 10, 10]
            await asyncio.gather(
                *(watch.exchange(n, tokens=size, used=size) for n, size in enumerate(sizes))
            )
            return watch

        watch = run_virtual(play())
        assert watch.order == [0, 1, 2, 3]
        assert watch.moments_s == pytest.approx([0, 1.5, 4.6, 4.7], rel=0.05)

    def test_cancelled_waiters_give_their_tokens_back(self):
        """Who gives up at the request rate had been charged tokens: they are there again."""

        async def play():
            watch = Watch(_endpoint(8, rpm=6, tpm=600))  # one in ten seconds, 10 a second
            await watch.exchange("first", takes_s=0, tokens=1, used=1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await watch.exchange("gone", tokens=1000)
            await watch.exchange("last", tokens=10)
            return watch

        assert run_virtual(play()).moments_s[1] == pytest.approx(10, abs=0.2)

    @pytest.mark.parametrize("kind", ["rpm", "tpm"])
    @pytest.mark.parametrize(("rate", "by_s"), [(6000, 31), (None, 31)])
    def test_a_rate_that_changes_counts_for_those_who_wait(self, kind, rate, by_s):
        """Three in a minute, then more, or as many as come: who waited for most of a minute
        enters when the rate changes.
        """

        async def play():
            watch = Watch(_endpoint(8, **{kind: 3}))
            tasks = [asyncio.create_task(watch.exchange(n, tokens=3)) for n in range(8)]
            await asyncio.sleep(30)
            before = len(watch.entered)
            getattr(watch.gate, f"set_{kind}")(5)
            getattr(watch.gate, f"set_{kind}")(rate)
            assert getattr(watch.gate, kind) == rate
            await asyncio.gather(*tasks)
            return before, watch

        before, watch = run_virtual(play())
        assert before <= 3
        assert max(watch.moments_s) < by_s

    @pytest.mark.parametrize("kind", ["rpm", "tpm"])
    def test_a_rate_can_be_set_where_there_was_none(self, kind):
        """60 a minute from now on: one a second; of tokens a little less."""

        async def play():
            watch = Watch(_endpoint(8))
            getattr(watch.gate, f"set_{kind}")(60)
            await asyncio.gather(*(watch.exchange(n, tokens=1, used=1) for n in range(8)))
            return watch

        moments_s = run_virtual(play()).moments_s
        assert 6.5 <= moments_s[-1] <= 8.5


def _told(gate, **parts):
    """Let the gate hear of a limit."""
    headers = {f"x-ratelimit-{part}": text for part, text in parts.items()}
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    gate.heard(Reply(200, headers, b""), sent_at_s=asyncio.get_running_loop().time())


class TestLimitsTold:
    def test_a_limit_of_requests_is_kept(self):
        """Without a rate of the user's, requests go out as the server wants them, in order."""

        async def play():
            watch = Watch(_endpoint(64))
            _told(watch.gate, limit_requests="600")
            await asyncio.gather(*(watch.exchange(n, takes_s=0.05) for n in range(100)))
            return watch

        watch = run_virtual(play())
        assert watch.moments_s[-1] == pytest.approx(99 / 9.8, abs=0.3)
        assert watch.order == sorted(watch.order)

    def test_a_limit_of_tokens_is_kept(self):
        """Tokens are charged by what estimates come to: 10 of 100 are used."""

        async def play():
            watch = Watch(_endpoint(16))
            for _ in range(40):
                await watch.exchange("earlier", takes_s=0, tokens=100, used=10)
                _told(watch.gate, limit_tokens="60000")
            began_s = asyncio.get_running_loop().time() - START_S
            tasks = [watch.exchange(n, takes_s=0.1, tokens=100, used=10) for n in range(1000)]
            await asyncio.gather(*tasks)
            return watch.moments_s[-1] - began_s

        assert run_virtual(play()) == pytest.approx(10, rel=0.1)

    def test_limits_of_a_day_or_of_nothing_known_hold_nobody(self):
        """What may be used up at once is not spread over a day."""

        async def play():
            watch = Watch(_endpoint(64))
            _told(watch.gate, limit_requests="200", remaining_requests="100", reset_requests="9h")
            _told(watch.gate, limit="3", remaining="1", reset="1")
            await asyncio.gather(*(watch.exchange(n) for n in range(64)))
            return watch.moments_s, watch.gate.limits.public()

        moments_s, public = run_virtual(play())
        assert moments_s == [0] * 64
        assert [window["per"] for window in public] == ["day"]

    def test_cancelled_waiters_leave_the_rate_as_it_is(self):
        """Who gives up while it waits for the server's limit is not charged."""

        async def play():
            watch = Watch(_endpoint(8))
            _told(watch.gate, limit_requests="60", limit_tokens="6000000")
            await watch.exchange("first", takes_s=0)
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await watch.exchange("gone")
            assert watch.gate.in_flight == 0
            await watch.exchange("last")
            return watch.moments_s

        assert run_virtual(play())[1] == pytest.approx(1 / 0.98, abs=0.1)

    def test_it_is_named_as_what_binds(self):
        """Requests that wait for the server's limits say so."""

        async def play():
            watch = Watch(_endpoint(8))
            _told(watch.gate, limit_requests="60")
            tasks = [asyncio.create_task(watch.exchange(n)) for n in range(3)]
            await asyncio.sleep(0.1)
            bound_by = watch.gate.bound_by
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return bound_by

        assert run_virtual(play()) == "limits"

    def test_headers_are_read_now_and_then(self):
        """Of answers one in a quarter of a second, of refusals each."""

        class Counted(dict):
            read = 0

            def items(self):
                Counted.read += 1
                return super().items()

        async def play():
            gate, headers = _endpoint(), Counted({"x-ratelimit-limit-requests": "600"})
            for n in range(1000):
                gate.heard(Reply(200, headers, b""), sent_at_s=START_S + n / 1000)
            answers, Counted.read = Counted.read, 0
            for _ in range(5):
                gate.heard(Reply(429, headers, b""), sent_at_s=START_S)
            return answers, Counted.read

        assert run_virtual(play()) == (4, 5)


class TestCoolDown:
    def test_guesses_grow_while_refusals_go_on(self):
        """Without advice of the server the wait doubles each time, up to a minute, and a success
        starts over.
        """

        async def play():
            gate, loop = _endpoint(), asyncio.get_running_loop()
            waits = []
            for _ in range(9):
                gate.cool_down(None, sent_at_s=loop.time())
                waits.append(gate.cooling_s)
                await asyncio.sleep(waits[-1] + 1)
            gate.settle(None, 1)
            gate.cool_down(None, sent_at_s=loop.time())
            waits.append(gate.cooling_s)
            return waits

        *waits, after_success = run_virtual(play())
        for n, wait_s in enumerate(waits):
            assert min(60, 2**n) / 2 <= wait_s <= min(60, 2**n)
        assert after_success <= 1

    def test_old_news_does_not_lengthen_it(self):
        """Requests that were out when the cool-down began are refused for the same reason."""

        async def play():
            gate = _endpoint()
            sent_at_s = asyncio.get_running_loop().time()
            await asyncio.sleep(0.1)
            waits = []
            for _ in range(21):
                gate.cool_down(None, sent_at_s=sent_at_s)
                waits.append(gate.cooling_s)
            return waits[0], waits[1:]

        first, others = run_virtual(play())
        assert others == pytest.approx([first] * 20)

    def test_the_release_is_spread(self):
        """After a cool-down requests go out one by one, not all in the same instant."""

        async def play():
            watch = Watch(_endpoint(16))
            watch.gate.cool_down(10.0, sent_at_s=START_S)
            await asyncio.gather(*(watch.exchange(n, takes_s=0.0) for n in range(16)))
            return watch

        watch = run_virtual(play())
        assert watch.order == list(range(16))
        assert watch.moments_s[0] >= 10 and watch.moments_s[-1] <= 12.1
        gaps = [later - earlier for earlier, later in pairwise(watch.moments_s)]
        assert all(gap > 0 for gap in gaps) and max(gaps) < 0.5

    def test_nobody_overtakes_during_the_release(self):
        """Who comes while others are let out one by one goes behind them."""

        async def play():
            watch = Watch(_endpoint(4))
            watch.gate.cool_down(10.0, sent_at_s=START_S)
            early = [watch.exchange(n, takes_s=0.0) for n in range(12)]
            late = [watch.exchange(12 + n, takes_s=0.0, at_s=10 + n / 100) for n in range(150)]
            await asyncio.gather(*early, *late)
            return watch

        watch = run_virtual(play())
        assert watch.order == sorted(watch.order)

    def test_a_cool_down_during_the_release(self):
        """Who is about to be let out when the server throttles again waits again."""

        async def play():
            watch = Watch(_endpoint(8))
            watch.gate.cool_down(10.0, sent_at_s=START_S)
            tasks = [asyncio.create_task(watch.exchange(n, takes_s=0.0)) for n in range(8)]
            await asyncio.sleep(10.3)
            watch.gate.cool_down(30.0, sent_at_s=START_S + 10.2)
            await asyncio.gather(*tasks)
            return watch.moments_s

        moments_s = run_virtual(play())
        assert 0 < sum(moment_s < 10.3 for moment_s in moments_s) < 8
        assert not [moment_s for moment_s in moments_s if 10.3 < moment_s < 40.3]

    @staticmethod
    def _replies(gate, replies, wait_s=5.0, **more):
        """Tell the gate of replies in a row, by letter: an answer or a refusal. Returns what it
        made of each refusal.
        """
        told = []
        for reply in replies:
            gate.settle(None, 1 if reply == "a" else 0)
            if reply == "r":
                now_s = asyncio.get_running_loop().time()
                told.append(gate.cool_down(wait_s, sent_at_s=now_s, **more))
        return told

    def test_a_sporadic_refusal_holds_nobody(self):
        """One refusal among many answers is its row's alone: the others go on."""

        async def play():
            gate = _endpoint()
            told = self._replies(gate, "a" * 40 + "r" + "a" * 19 + "r")
            watch = Watch(gate)
            await watch.exchange("next")
            return told, watch.moments_s

        told, moments_s = run_virtual(play())
        assert told == [False, False] and moments_s == [0]

    def test_refusals_in_a_row_are_a_storm(self):
        """After a few refusals in a row everybody waits, however well it went before."""

        async def play():
            gate = _endpoint()
            told = self._replies(gate, "a" * 400 + "r" * 8)
            watch = Watch(gate)
            await watch.exchange("next")
            return told, watch.moments_s

        told, moments_s = run_virtual(play())
        assert told == sorted(told) and 3 <= told.index(True) <= 5
        assert moments_s[0] >= 5

    def test_the_first_refusals_are_everybodys(self):
        """Before there are answers nothing tells a storm from bad luck: the server is believed."""

        async def play():
            return [self._replies(_endpoint(), answers + "r") for answers in ("", "a", "a" * 10)]

        assert run_virtual(play()) == [[True], [True], [True]]

    @pytest.mark.parametrize(("share", "held"), [(0.02, 0.0), (0.05, 0.03), (0.6, 1.0)])
    def test_refusals_at_random_are_told_from_a_storm_by_their_share(self, share, held):
        """One in twenty hardly ever holds everybody; more than half nearly always do."""

        async def play():
            dice, gate = random.Random(3), _endpoint()
            replies = ["r" if dice.random() < share else "a" for _ in range(5000)]
            told = self._replies(gate, ["a"] * 60 + replies)
            return sum(told) / len(told)

        assert run_virtual(play()) == pytest.approx(held, abs=0.04)

    def test_a_server_that_wants_everybody_slower_gets_it(self):
        """A refusal that is said to be everybody's is, whatever the share."""

        async def play():
            gate = _endpoint()
            return self._replies(gate, "a" * 100 + "r", for_all=True), gate.cooling_s

        told, cooling_s = run_virtual(play())
        assert told == [True] and cooling_s == pytest.approx(5)

    def test_short_waits_grow_in_a_storm(self):
        """A server that tells each row when there is room for one is asked ever less often, up to
        once a second, until answers come again.
        """

        async def play():
            gate = _endpoint()
            waits = []
            for replies in ("r",) * 8 + ("a" * 300 + "r" * 8,):
                self._replies(gate, replies, wait_s=0.01)
                waits.append(gate.cooling_s)
                await asyncio.sleep(gate.cooling_s + 0.001)
            return waits

        *waits, after_answers = run_virtual(play())
        assert waits == pytest.approx([0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1, 1])
        assert after_answers < 0.1

    def test_what_binds_is_named(self):
        """The gate tells what requests are waiting for."""

        async def play(gate, **exchange):
            watch = Watch(gate())
            tasks = [asyncio.create_task(watch.exchange(n, **exchange)) for n in range(9)]
            await asyncio.sleep(0.01)
            bound_by = watch.gate.bound_by
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert watch.gate.in_flight == 0
            return bound_by

        def cooling():
            gate = _endpoint()
            gate.cool_down(5, sent_at_s=START_S)
            return gate

        assert run_virtual(play(lambda: _endpoint(16))) is None
        assert run_virtual(play(lambda: _endpoint(2))) == "concurrency"
        assert run_virtual(play(lambda: _endpoint(16, rpm=60))) == "rpm"
        assert run_virtual(play(lambda: _endpoint(16, tpm=60), tokens=50)) == "tpm"
        assert run_virtual(play(cooling)) == "server"


def _answer(permit, *, latency_s=0.1, tokens=10, reception=Reception.ANSWERED):
    now_s = asyncio.get_running_loop().time()
    permit.observed(reception, sent_at_s=now_s - latency_s, latency_s=latency_s, tokens=tokens)


class TestAdaptiveGate:
    """What the endpoint's gate does with its climb and its rounds."""

    def test_the_window_follows_what_the_server_delivers(self):
        """A server that works on four at a time gets about as many, and no row waits for ever."""

        async def play():
            gate = EndpointGate(
                concurrency=64, bounds=(1, 1024), rpm=None, tpm=None,
                clock=VirtualClock(), dice=random.Random(1),
            )  # fmt: skip
            slots, sizes = asyncio.Semaphore(4), []
            gate.resized = sizes.append

            async def row():
                with await gate.enter(1) as permit:
                    began_s = asyncio.get_running_loop().time()
                    async with slots:
                        await asyncio.sleep(0.1)
                    now_s = asyncio.get_running_loop().time()
                    permit.observed(
                        Reception.ANSWERED,
                        sent_at_s=began_s, latency_s=now_s - began_s, tokens=10,
                    )  # fmt: skip

            await asyncio.gather(*(row() for _ in range(6000)))
            return gate, sizes

        gate, sizes = run_virtual(play())
        assert 3 <= gate.concurrency <= 5, sizes
        assert gate.in_flight == 0
        found = gate.window()
        assert found["rows_per_s"] == pytest.approx(40, rel=0.3)
        assert (found["low"], found["high"], found["pace_per_s"]) == (1, 1024, None)

    def test_refusals_without_a_limit_come_to_a_pace(self):
        """A bucket of twenty a second that tells nothing: it is used, and rarely exceeded."""

        async def play():
            loop = asyncio.get_running_loop()
            gate = _endpoint(64)
            level, last_s, taken, refused = 20.0, loop.time(), [], []

            async def row():
                nonlocal level, last_s
                while True:
                    with await gate.enter(1) as permit:
                        now_s = loop.time()
                        level, last_s = min(20.0, level + 20 * (now_s - last_s)), now_s
                        good = level >= 1
                        level -= good
                        await asyncio.sleep(0.3 if good else 0.03)
                        permit.settle(1 if good else 0)
                        _answer(
                            permit,
                            reception=Reception.ANSWERED if good else Reception.REFUSED,
                        )
                    (taken if good else refused).append(loop.time() - START_S)
                    if good:
                        return
                    gate.cool_down(None, sent_at_s=now_s)
                    await asyncio.sleep(1)

            await asyncio.gather(*(row() for _ in range(4000)))
            return gate, taken, refused

        gate, taken, refused = run_virtual(play())
        assert taken[-1] < 1.1 * 4000 / 20
        assert sum(at_s > 100 for at_s in refused) < 0.05 * len(taken)
        assert gate.window()["pace_per_s"] == pytest.approx(20, rel=0.15)

    def test_a_bound_on_what_is_in_flight_resizes_it(self):
        """A refusal that names it does so at once; bounds of the user hold all the same."""

        async def play(bounds, in_flight):
            gate = EndpointGate(
                concurrency=64, bounds=bounds, rpm=None, tpm=None,
                clock=VirtualClock(), dice=random.Random(1),
            )  # fmt: skip
            permits = [await gate.enter(1)]
            _answer(permits[0], reception=Reception.REFUSED)
            permits += [await gate.enter(1) for _ in range(in_flight - 1)]
            _answer(permits[-1], reception=Reception.REFUSED_AT_ONCE)
            return gate.concurrency

        assert run_virtual(play((1, 1024), 9)) == 8
        assert run_virtual(play(None, 9)) == 8
        assert run_virtual(play((20, 1024), 9)) == 20

    def test_a_request_that_is_given_up_does_not_hold_the_rounds(self):
        """A cancelled exchange leaves its round, which is judged without it."""

        async def play():
            gate = _endpoint(64)
            with await gate.enter(1) as permit:
                _answer(permit, reception=Reception.REFUSED)
            for _ in range(40):
                with await gate.enter(1):
                    await asyncio.sleep(0.05)
            return gate.rounds

        rounds = run_virtual(play())
        assert all(not of.over for of in rounds._open)

    def test_limits_that_are_told_take_precedence(self):
        """Where headers pace, refusals do not."""
        headers = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599",
                   "x-ratelimit-reset-requests": "100ms"}  # fmt: skip

        async def play():
            gate = _endpoint(64)
            for _ in range(3):
                with await gate.enter(1) as permit:
                    sent_at_s = asyncio.get_running_loop().time()
                    await asyncio.sleep(1)
                    _answer(permit)
                gate.heard(Reply(200, headers, b"", None), sent_at_s=sent_at_s)
            with await gate.enter(1) as permit:
                _answer(permit, reception=Reception.REFUSED)
            return gate

        gate = run_virtual(play())
        assert gate.rounds is None
