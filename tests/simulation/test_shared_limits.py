"""Several processes share a limit, on virtual time: the sum of what they send never exceeds it, and
nearly all of it is used, whoever dies, joins, sleeps or cannot reach the store.
"""

import asyncio
import random
from bisect import bisect_left
from collections import deque

import pytest

from batchrun.core.fleet import quota
from batchrun.core.fleet.quota import Limit
from batchrun.engine.pace.gate import EndpointGate
from batchrun.errors import StorageError
from batchrun.fleet import sharing as sharing_module
from batchrun.fleet.sharing import Sharing
from batchrun.testing.claims import FakeClaims
from batchrun.testing.virtual import START_S, VirtualClock, run_virtual
from tests.harness.slow import rest_slow

BUCKET_S = 0.1
LATENCY_S = 0.5


class Server:
    """It counts: when requests came, and how many it had at once."""

    def __init__(self):
        self.came, self.tokens, self.most, self.busy = [], [], 0, 0

    async def answer(self, clock, dice, tokens):
        """Take a request, for as long as an answer takes."""
        self.came.append(clock.now_s())
        self.tokens.append(tokens)
        self.busy += 1
        self.most = max(self.most, self.busy)
        await clock.sleep(LATENCY_S * dice.uniform(0.6, 1.4))
        self.busy -= 1

    def most_in(self, span_s):
        """Most requests that came within any span of so many seconds."""
        recent, most = deque(), 0
        for at in self.came:
            recent.append(at)
            while recent[0] <= at - span_s:
                recent.popleft()
            most = max(most, len(recent))
        return most

    def rate(self, from_s, to_s):
        """Requests a second in this time."""
        return (bisect_left(self.came, to_s) - bisect_left(self.came, from_s)) / (to_s - from_s)


class Store(FakeClaims):
    """It takes its time, and may be out of reach of some."""

    def __init__(self, now_s):
        super().__init__(now_s)
        self.cut = set()


class Fleet:
    """Workers that send as much as they may."""

    def __init__(self, seed, clock, limits, total, concurrency=64):
        self.dice, self.clock = random.Random(seed), clock
        self.server, self.total = Server(), total
        skew_s = 3600.0  # the store's clock is not that of the workers
        self.store = Store(lambda: clock.now_s() + skew_s)
        self.limits, self.concurrency = limits, concurrency
        self.tasks = {}

    async def _ask(self, name, question):
        if name in self.store.cut:
            await self.clock.sleep(1.0)
            message = "out of reach"
            raise StorageError(message)
        await self.clock.sleep(self.dice.uniform(0.005, 0.08))
        answer = question()
        await self.clock.sleep(self.dice.uniform(0.005, 0.08))
        return answer

    def join(self, name, rpm=None, demand_s=0.0):
        """A worker begins; it waits for ``demand_s`` between two requests."""
        gate = EndpointGate(
            concurrency=self.concurrency, rpm=rpm, tpm=None, clock=self.clock, dice=self.dice
        )
        sharing = Sharing(
            store=self.store, worker=name, gates={"e": gate}, limits=self.limits, clock=self.clock,
            ask=lambda question: self._ask(name, question),
        )  # fmt: skip
        self.tasks[name] = (asyncio.ensure_future(self._work(gate, sharing, demand_s)), sharing)

    async def _work(self, gate, sharing, demand_s):
        keeping = asyncio.ensure_future(sharing.keep())
        keeping.add_done_callback(lambda task: task.cancelled() or task.result())
        try:
            async with asyncio.TaskGroup() as rows:
                while True:
                    permit = await gate.enter(10)
                    rows.create_task(self._send(permit))
                    if demand_s:
                        await self.clock.sleep(demand_s)
        finally:
            keeping.cancel()  # the dead renew nothing

    async def _send(self, permit):
        with permit:
            await self.server.answer(self.clock, self.dice, 10)

    def kill(self, name):
        """The process is gone; its requests go on at the server."""
        self.tasks.pop(name)[0].cancel()

    def end(self):
        """Stop everything."""
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()


def fleet_of(body, limits, total, seed=1, concurrency=64):
    """Run ``body(fleet, clock)`` on virtual time; gives the server."""

    async def run():
        clock = VirtualClock()
        fleet = Fleet(seed, clock, limits, total, concurrency)
        await body(fleet, clock)
        fleet.end()
        return fleet

    return run_virtual(run())


RPM = (Limit("e", quota.RPM, 1200.0),)
PER_S = 20


@pytest.mark.parametrize("seed", rest_slow([1, 2]))
def test_a_rate_is_used_and_never_exceeded(seed):
    """One of four is killed, and one comes late: 95 % of the rate is used, and no second has more
    of it than the rate and a bucket.
    """
    marks = {}

    async def body(fleet, clock):
        marks["began"] = clock.now_s()
        for name in ("a", "b", "c"):
            fleet.join(name)
        await clock.sleep(20)
        fleet.join("d")
        await clock.sleep(30)
        fleet.kill("b")
        await clock.sleep(60)

    server = fleet_of(body, RPM, PER_S, seed).server
    began_s = marks["began"]
    assert server.most_in(1.0) <= PER_S * 1.1 + 4
    assert server.rate(began_s + 8, began_s + 50) >= 0.95 * PER_S
    assert server.rate(began_s + 82, began_s + 110) >= 0.95 * PER_S
    assert server.rate(began_s + 50, began_s + 82) >= 0.75 * PER_S, "one in four is missed"


def test_who_cannot_reach_the_store_falls_back_and_then_stops():
    """For the lease it goes on, then with a safe share, then not at all; the others take over what
    it gave up, and it comes back. The rate is never exceeded.
    """
    marks = {}

    async def body(fleet, clock):
        for name in ("a", "b"):
            fleet.join(name)
        await clock.sleep(20)
        marks["cut"] = clock.now_s()
        fleet.store.cut.add("a")
        await clock.sleep(60)
        fleet.store.cut.clear()
        await clock.sleep(20)
        marks["end"] = clock.now_s()

    server = fleet_of(body, RPM, PER_S).server
    cut_s = marks["cut"]
    assert server.most_in(1.0) <= PER_S * 1.1 + 2
    assert server.rate(cut_s + 35, cut_s + 60) >= 0.95 * PER_S, "the other one has it all"
    assert server.rate(marks["end"] - 10, marks["end"]) >= 0.95 * PER_S


def test_nobody_sends_without_the_store():
    """The store is gone for good: what the leases allowed is sent, and then nothing."""
    marks = {}

    async def body(fleet, clock):
        for name in ("a", "b", "c"):
            fleet.join(name)
        await clock.sleep(10)
        fleet.store.cut |= {"a", "b", "c"}
        marks["cut"] = clock.now_s()
        await clock.sleep(60)

    server = fleet_of(body, RPM, PER_S).server
    cut_s = marks["cut"]
    assert server.rate(cut_s, cut_s + 12) >= 0.95 * PER_S
    assert 0 < server.rate(cut_s + 16, cut_s + 27) <= 0.6 * PER_S
    assert server.rate(cut_s + 31, cut_s + 60) == 0


def test_requests_in_flight_are_shared():
    """Of ten at once, all are used and never more, while processes come and go; a process that
    wants few leaves the others the rest.
    """
    marks = {}

    async def body(fleet, clock):
        fleet.join("a")
        await clock.sleep(15)
        fleet.join("b")
        fleet.join("c", demand_s=2.0)
        marks["three"] = clock.now_s()
        await clock.sleep(40)
        marks["end"] = clock.now_s()

    server = fleet_of(body, (Limit("e", quota.CONCURRENCY, 10.0),), 10, concurrency=10).server
    assert server.most <= 10
    assert server.rate(marks["three"] + 20, marks["end"]) >= 0.8 * 10 / LATENCY_S, "c keeps one"


def test_requests_that_wait_for_the_rate_do_not_block_the_others():
    """Two at once are shared by four, and a rate that makes requests wait with a permit: those are
    sent although their process has no part of the two any more.
    """

    async def body(fleet, clock):
        for name in "abcd":
            fleet.join(name)
        await clock.sleep(120)

    limits = (Limit("e", quota.CONCURRENCY, 2.0), Limit("e", quota.RPM, 60.0))
    server = fleet_of(body, limits, 1, concurrency=2).server
    assert server.most <= 2
    assert server.rate(START_S + 30, START_S + 119) >= 0.7


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_low_rate_is_kept_while_its_parts_change(seed):
    """Five share one request a second: a part that changes lets no further request through."""

    async def body(fleet, clock):
        for name in "abcde":
            fleet.join(name, demand_s=fleet.dice.uniform(0.5, 8))
        await clock.sleep(300)

    server = fleet_of(body, (Limit("e", quota.RPM, 60.0),), 1, seed).server
    # Each of the five begins with one that it may send at once.
    assert server.most_in(60.0) <= 60 * 1.02 + 5
    assert server.most_in(10.0) <= 10 * 1.02 + 5
    assert server.rate(START_S + 30, START_S + 299) >= 0.6


def test_a_lease_that_ends_during_a_renewal_is_noticed():
    """The store does not answer for longer than the lease lasts: meanwhile the others have its
    share, and it sends nothing.
    """

    async def body(fleet, clock):
        fleet.join("a")
        await clock.sleep(10)
        asked = fleet._ask

        async def stuck(name, question):
            await clock.sleep(300 if name == "a" else 0)
            return await asked(name, question)

        fleet._ask = stuck
        began_s = clock.now_s() + quota.RENEW_S
        await clock.sleep(200)
        late = [at for at in fleet.server.came if at > began_s + quota.SAFE_S]
        assert not late

    fleet_of(body, RPM, PER_S)


@pytest.mark.slow
@pytest.mark.parametrize("call_s", [1.0, 2.0, 3.0])
def test_a_slow_store_slows_renewals_and_stops_nobody(call_s):
    """Each renewal takes nine calls of an object store, one after the other: longer than a share is
    whole, and not longer than a safe one lasts. The limit holds all the same.
    """

    async def body(fleet, clock):
        calls = 0

        def counted(method, cost):
            def ask(*given):
                nonlocal calls
                calls += cost
                return method(*given)

            return ask

        # A put is followed by a look at its time, a record by one at whether the launch is over.
        for name, cost in (("put", 2), ("create", 2), ("read", 1), ("names", 1), ("remove", 1)):
            setattr(fleet.store, name, counted(getattr(fleet.store, name), cost))

        async def slow(_name, question):
            nonlocal calls
            calls = 0
            answer = question()
            await clock.sleep(call_s * calls)
            return answer

        fleet._ask = slow
        fleet.join("a")
        fleet.join("b")
        await clock.sleep(200)

    server = fleet_of(body, RPM, PER_S).server
    assert server.most_in(1.0) <= PER_S * (1 + BUCKET_S) + 2
    assert server.rate(START_S + 60, START_S + 200) >= PER_S / 8


def test_a_process_that_the_others_went_on_without_ends():
    """It gets no share any more, and so has nothing in flight whose answer could tell."""

    async def body(fleet, clock):
        gate = EndpointGate(concurrency=4, rpm=None, tpm=None, clock=clock, dice=fleet.dice)
        over = []

        async def ask(question):
            if over and question is not told:
                message = "no such folder"
                raise StorageError(message)
            return question()

        def told():
            return StorageError("taken over") if over else None

        sharing = Sharing(
            store=fleet.store, worker="a", gates={"e": gate}, limits=RPM, clock=clock, ask=ask,
            fence=told,
        )  # fmt: skip

        async def work():
            async with sharing.kept():
                await clock.sleep(5)
                over.append(1)
                await clock.sleep(3600)

        with pytest.raises(StorageError, match="taken over"):
            await asyncio.create_task(work())
        assert clock.now_s() < START_S + 100

    fleet_of(body, RPM, PER_S)


def test_a_process_that_slept_uses_nothing_of_an_old_lease(monkeypatch):
    """Suspended in the middle of a renewal for longer than the lease, it has no share when it
    wakes, until it has renewed once more.
    """
    monkeypatch.setattr(sharing_module, "TRIES", 1)

    async def body(fleet, clock):
        slept = []

        async def sleepy(question):
            if len(slept) == 3:
                await clock.sleep(100)
            slept.append(1)
            return question()

        moved = []

        class Gate:
            in_flight, bound_by = 0, None

            pace = window_found = None

            def climb_together(self):
                pass

            def confine(self, _kind, most, **_):
                moved.append((clock.now_s(), most))

        sharing = Sharing(
            store=fleet.store, worker="a", gates={"e": Gate()}, limits=RPM, clock=clock, ask=sleepy
        )
        assert await sharing.renew()
        assert moved[-1][1] == 1200
        assert not await sharing.renew()
        assert moved[-1][1] == 0
        assert await sharing.renew()
        assert moved[-1][1] == 1200

    fleet_of(body, RPM, PER_S)
