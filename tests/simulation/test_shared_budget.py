"""Several processes share a budget, on virtual time: by the server's own count it is never
exceeded, nearly all of it is used, and everybody stops once nothing fits any more.
"""

import asyncio
import random

import pytest

from batchrun.core.cost.charged import Charge
from batchrun.core.fleet import quota
from batchrun.engine.session.budget import Budget
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.tasks import cancelled
from batchrun.errors import StorageError
from batchrun.fleet.sharing import Sharing
from batchrun.testing.claims import FakeClaims
from batchrun.testing.virtual import VirtualClock, run_virtual

CAP, WORST = 1_000_000, 2_000
BUDGET = "cost"


class Server:
    """It counts what it bills, also for requests that nobody waits for any more."""

    def __init__(self, dice):
        self.billed = self.answered = 0
        self._dice = dice

    async def answer(self, clock, most):
        """Take a request that costs ``most`` at worst; gives what it cost."""
        cost = self._dice.randint(most // 10, most)
        self.billed += cost
        await clock.sleep(self._dice.expovariate(2))
        self.answered += 1
        return cost


class Worker:
    """A process with its part of the budget, and requests that it sends while it may."""

    def __init__(self, fleet, name, rows=10**9, at_once=16):
        self.fleet, self.name, self.rows = fleet, name, rows
        self.switch, self.dead = StopSwitch(), False
        self.budget = Budget(
            guard="max_cost",
            cap=fleet.cap,
            before=Charge(0),
            commit=self._never,
            switch=self.switch,
            used_up=lambda budget, amount: f"{budget.whole.spent} of {budget.cap}; next {amount}",
        )
        self.sharing = Sharing(
            store=fleet.store,
            worker=name,
            gates={},
            limits=(),
            clock=fleet.clock,
            ask=self._ask,
            budgets={BUDGET: self.budget},
            charged={BUDGET: Charge(fleet.before)},
        )
        self.task = asyncio.ensure_future(self._run(at_once))

    async def _never(self, _mark, _charge):
        raise AssertionError("a budget that is shared has no mark of its own")

    async def _ask(self, question):
        clock, dice = self.fleet.clock, self.fleet.dice
        if self.dead or self.name in self.fleet.cut:
            await clock.sleep(1.0)
            message = "out of reach"
            raise StorageError(message)
        await clock.sleep(dice.uniform(0.002, 0.05))
        answer = question()
        await clock.sleep(dice.uniform(0.002, 0.05))
        return answer

    async def _run(self, at_once):
        senders = []
        try:
            async with self.sharing.kept():
                senders += [asyncio.create_task(self._send()) for _ in range(at_once)]
                stopped = asyncio.create_task(self.switch.wait())
                done = asyncio.gather(*senders)
                senders += [stopped, done]
                await asyncio.wait((stopped, done), return_when=asyncio.FIRST_COMPLETED)
                await cancelled(senders)
        finally:
            for task in senders:
                task.cancel()

    async def _send(self):
        dice, budget = self.fleet.dice, self.budget
        while self.rows > 0:
            self.rows -= 1
            most = dice.randint(WORST // 4, WORST)
            await budget.reserve(most)
            answer = asyncio.ensure_future(self.fleet.server.answer(self.fleet.clock, most))
            self.fleet.requests.add(answer)
            answered = False
            try:
                cost = await asyncio.shield(answer)
                answered = dice.random() > 0.05
            finally:
                budget.settle(most, cost if answered else None)

    def kill(self):
        """It is gone at once; what it has out goes on at the server."""
        self.dead = True
        self.task.cancel()


class Fleet:
    """Workers, the store that they share, and the server."""

    def __init__(self, seed, clock, cap=CAP, before=0):
        self.clock, self.dice, self.cap, self.before = clock, random.Random(seed), cap, before
        self.store = FakeClaims(lambda: clock.now_s() + 3600)
        self.server = Server(self.dice)
        self.cut, self.requests = set(), set()

    def book(self):
        """The latest book."""
        latest = max(map(quota.number_of, self.store.names(quota.FOLDER)))
        return quota.parse(self.store.read(quota.record_name(latest)))

    def total(self):
        """What the book has charged."""
        return self.book().accounts[BUDGET].total

    async def ended(self, *workers):
        """Return once these have ended, and nothing is out any more."""
        await asyncio.gather(*(worker.task for worker in workers))
        await asyncio.gather(*self.requests)


def play(body, seed=1, **given):
    """Run ``body(fleet)`` on virtual time; gives the fleet."""

    async def run():
        fleet = Fleet(seed, VirtualClock(), **given)
        await body(fleet)
        return fleet

    return run_virtual(run())


@pytest.mark.parametrize("seed", range(6))
def test_all_of_a_budget_is_used_and_nothing_beyond_it(seed):
    """Four processes stop with less than the next request's worst case left, as one would: with the
    message of one, that names what is charged to all of them.
    """

    async def body(fleet):
        workers = [Worker(fleet, name) for name in "abcd"]
        await fleet.ended(*workers)
        reasons = [worker.switch.reason for worker in workers]
        assert {reason.by for reason in reasons} == {"max_cost"}
        assert any(f"{fleet.total().spent} of {CAP}" in reason.message for reason in reasons)

    fleet = play(body, seed, before=100_000)
    total = fleet.total()
    assert CAP - WORST < total.spent <= CAP, f"seed {seed}"
    assert 100_000 + fleet.server.billed <= total.spent, f"seed {seed}"
    assert total.spent - total.held <= 100_000 + fleet.server.billed
    assert not fleet.book().accounts[BUDGET].open


@pytest.mark.parametrize("seed", range(6))
def test_what_the_dead_may_have_spent_stays_charged(seed):
    """Two of five are killed in the middle, one cannot reach the store for a while, and one comes
    late: the server never bills more than the budget, and the rest of it is used.
    """
    left_open = []

    async def body(fleet):
        workers = [Worker(fleet, name) for name in "abcd"]
        await fleet.clock.sleep(3)
        workers[0].kill()
        fleet.cut.add("b")
        await fleet.clock.sleep(2)
        late = Worker(fleet, "e")
        workers[2].kill()
        await fleet.clock.sleep(5)
        fleet.cut.clear()
        await fleet.ended(workers[1], workers[3], late)
        left_open.extend(fleet.book().accounts[BUDGET].open.values())

    fleet = play(body, seed)
    total = fleet.total()
    assert fleet.server.billed <= total.spent <= CAP, f"seed {seed}"
    assert total.spent > CAP - WORST, f"seed {seed}"
    assert len(left_open) == 2
    lost = sum(account.mark - account.charge.spent for account in left_open)
    assert fleet.server.billed + total.held + lost >= CAP - WORST, f"seed {seed}"


def test_a_budget_smaller_than_what_is_in_flight_is_used_by_all():
    """There is room for six requests at once, and four processes with sixteen each."""

    async def body(fleet):
        await fleet.ended(*(Worker(fleet, name) for name in "abcd"))

    fleet = play(body, cap=6 * WORST)
    assert 5 * WORST < fleet.total().spent <= 6 * WORST


def test_what_idle_processes_hold_comes_back():
    """One has all the work that is left, and may spend all that is left of the budget."""

    async def body(fleet):
        idle = [Worker(fleet, name, rows=5) for name in "abc"]
        busy = Worker(fleet, "d")
        await fleet.ended(busy, *idle)
        assert busy.switch.reason is not None
        assert not any(worker.switch.stopping for worker in idle)

    fleet = play(body, cap=100_000)
    assert 100_000 - WORST < fleet.total().spent <= 100_000


def test_a_fleet_that_needs_less_gives_the_rest_back():
    """Its rows end before its budget: what is charged is what was billed, or may have been."""

    async def body(fleet):
        await fleet.ended(*(Worker(fleet, name, rows=50) for name in "abc"))

    fleet = play(body)
    total = fleet.total()
    assert total.spent - total.held <= fleet.server.billed <= total.spent < CAP / 2
    assert not fleet.book().accounts[BUDGET].open
