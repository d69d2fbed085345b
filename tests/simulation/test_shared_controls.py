"""`batchrun ctl` on several processes, on virtual time: each follows at its next renewal, and the
sum of what they send never exceeds the new limit.
"""

import asyncio
import itertools
import random

import pytest

from batchrun.core.fleet import controls, quota
from batchrun.core.fleet.controls import Control
from batchrun.core.fleet.quota import Limit
from batchrun.engine.pace.gate import EndpointGate
from batchrun.errors import StorageError
from batchrun.fleet.sharing import Sharing
from batchrun.testing.claims import FakeClaims
from batchrun.testing.virtual import VirtualClock, run_virtual
from tests.harness.slow import rest_slow

LATENCY_S = 0.4
FOLLOWED_S = 5.0
"""By then every process has renewed its lease twice."""


class Stage:
    """Processes that send as much as they may, at a server that counts."""

    def __init__(self, seed, limits, concurrency=16, bounds=None):
        self.clock, self.dice = VirtualClock(), random.Random(seed)
        self.store = FakeClaims(lambda: self.clock.now_s() + 1000.0)
        self.limits, self.concurrency, self.bounds = limits, concurrency, bounds
        self.came, self.busy, self.most = [], 0, 0
        self.followed, self.gates, self.cut = {}, {}, set()
        self._ids = itertools.count()

    def join(self, name):
        """A process begins."""
        gate = EndpointGate(
            concurrency=self.concurrency, rpm=None, tpm=None, clock=self.clock, dice=self.dice,
            bounds=self.bounds,
        )  # fmt: skip
        done = self.followed[name] = []

        def follow(control):
            done.append(control.do)
            if control.do in ("pause", "resume"):
                (gate.pause if control.do == "pause" else gate.go_on)()

        sharing = Sharing(
            store=self.store, worker=name, gates={"e": gate}, limits=self.limits, follow=follow,
            clock=self.clock, ask=lambda question: self._ask(name, question),
        )  # fmt: skip
        self.gates[name] = gate
        asyncio.ensure_future(sharing.keep())  # noqa: RUF006 - cancelled at the end
        asyncio.ensure_future(self._work(gate))  # noqa: RUF006

    async def _ask(self, name, question):
        await self.clock.sleep(self.dice.uniform(0.01, 0.1))
        if name in self.cut:
            message = "out of reach"
            raise StorageError(message)
        return question()

    async def _work(self, gate):
        async with asyncio.TaskGroup() as rows:
            while True:
                rows.create_task(self._send(await gate.enter(10)))

    async def _send(self, permit):
        with permit:
            self.came.append(self.clock.now_s())
            self.busy += 1
            self.most = max(self.most, self.busy)
            await self.clock.sleep(LATENCY_S * self.dice.uniform(0.6, 1.4))
            self.busy -= 1

    def ctl(self, do, **values):
        """Ask all of them for something."""
        wanted = Control(1, do, values, "now", f"ctl-{next(self._ids)}")
        return controls.added(self.store, wanted).number

    def rate(self, from_s, to_s):
        """Requests a second in this time."""
        return sum(from_s <= at < to_s for at in self.came) / (to_s - from_s)

    def most_in_a_second(self, from_s):
        """Most requests within any second from then on."""
        later = [at for at in self.came if at >= from_s]
        return max((sum(at <= other < at + 1 for other in later) for at in later), default=0)

    def book(self):
        """The latest book."""
        return quota.latest(self.store)


def played(body, *given, **more):
    """Run ``body(stage)`` on virtual time."""

    async def run():
        stage = Stage(*given, **more)
        await body(stage)
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    run_virtual(run())


RPM = (Limit("e", quota.CONCURRENCY, 64.0), Limit("e", quota.RPM, 1200.0))


@pytest.mark.parametrize("seed", rest_slow([1, 2, 3]))
def test_a_rate_is_lowered_and_raised_for_all(seed):
    """Four processes: once they have followed, no second has more than the new sum, and nearly all
    of it is used.
    """

    async def body(stage):
        for name in "abcd":
            stage.join(name)
        await stage.clock.sleep(15)
        number = stage.ctl("set", rpm=300.0)
        await stage.clock.sleep(FOLLOWED_S)
        lowered_s = stage.clock.now_s()
        assert all(one.controls == number for one in stage.book().holdings.values())
        assert stage.book().limits["rpm:e"] == 300
        await stage.clock.sleep(20)
        raised_s = stage.clock.now_s()
        assert stage.most_in_a_second(lowered_s) <= 5 * 1.1 + 4, seed
        assert stage.rate(lowered_s, raised_s) >= 0.9 * 5
        stage.ctl("set", rpm=2400.0)
        await stage.clock.sleep(2 * FOLLOWED_S)
        now_s = stage.clock.now_s()
        await stage.clock.sleep(15)
        assert stage.rate(now_s, now_s + 15) >= 0.9 * 40, seed

    played(body, seed, RPM)


def test_a_limit_that_was_not_there_is_set_and_lifted():
    """Of processes that had none: they keep to it together, also one that joins later."""

    async def body(stage):
        for name in "abc":
            stage.join(name)
        await stage.clock.sleep(10)
        stage.ctl("set", rpm=120.0)
        await stage.clock.sleep(FOLLOWED_S)
        set_s = stage.clock.now_s()
        stage.join("d")
        await stage.clock.sleep(30)
        assert stage.most_in_a_second(set_s + 1) <= 2 * 1.1 + 4
        stage.ctl("set", rpm=None)
        await stage.clock.sleep(FOLLOWED_S)
        free_s = stage.clock.now_s()
        await stage.clock.sleep(5)
        assert stage.rate(free_s, free_s + 5) > 50
        assert "rpm:e" not in stage.book().limits

    played(body, 1, (Limit("e", quota.CONCURRENCY, 64.0),), concurrency=64)


@pytest.mark.parametrize("bounds", [None, (1, 64)])
def test_requests_in_flight_are_changed_for_all(bounds):
    """Up and down, whether the number was given or is being found."""

    async def body(stage):
        for name in "abcd":
            stage.join(name)
        await stage.clock.sleep(15)
        stage.ctl("set", concurrency=8)
        await stage.clock.sleep(2 * FOLLOWED_S)
        stage.most = 0
        await stage.clock.sleep(10)
        assert 6 <= stage.most <= 8
        stage.ctl("set", concurrency=40)
        await stage.clock.sleep(2 * FOLLOWED_S)
        stage.most = 0
        await stage.clock.sleep(10)
        assert 36 <= stage.most <= 40

    limits = (Limit("e", quota.CONCURRENCY, 64.0),)
    played(body, 1, limits, concurrency=16, bounds=bounds)


def test_a_pause_holds_all_also_who_joins_until_they_resume():
    """Nothing is sent meanwhile, and everybody goes on afterwards."""

    async def body(stage):
        for name in "abc":
            stage.join(name)
        await stage.clock.sleep(10)
        stage.ctl("pause")
        await stage.clock.sleep(FOLLOWED_S)
        paused_s = stage.clock.now_s()
        stage.join("d")
        await stage.clock.sleep(60)
        assert stage.rate(paused_s, paused_s + 60) == 0
        stage.ctl("resume")
        await stage.clock.sleep(FOLLOWED_S)
        resumed_s = stage.clock.now_s()
        await stage.clock.sleep(10)
        assert stage.rate(resumed_s, resumed_s + 10) >= 0.9 * 20
        assert all(done == ["pause", "resume"] for done in stage.followed.values())

    played(body, 1, RPM)


def test_who_cannot_see_a_change_stops_rather_than_exceed_it():
    """One of three is cut off before the limit is lowered: it uses its old share until its lease is
    over, the others leave that alone, and once it can be seen that it has nothing left, they have
    the new limit. When it is back, it follows.
    """

    async def body(stage):
        for name in "abc":
            stage.join(name)
        await stage.clock.sleep(15)
        stage.cut.add("a")
        number = stage.ctl("set", rpm=600.0)
        await stage.clock.sleep(quota.SAFE_S + FOLLOWED_S)
        over_s = stage.clock.now_s()
        await stage.clock.sleep(20)
        assert stage.most_in_a_second(over_s) <= 10 * 1.1 + 4
        assert stage.rate(over_s, over_s + 20) >= 0.9 * 10
        stage.cut.clear()
        await stage.clock.sleep(2 * FOLLOWED_S)
        back_s = stage.clock.now_s()
        assert stage.book().holdings["a"].controls == number
        await stage.clock.sleep(20)
        assert stage.most_in_a_second(back_s) <= 10 * 1.1 + 4

    played(body, 1, RPM)
