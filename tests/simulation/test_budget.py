"""The budget on virtual time: never above its cap, and used to the end of it."""

import asyncio
import random

import pytest

from batchrun.core.cost.charged import Charge
from batchrun.engine.session.budget import Budget
from batchrun.engine.session.guards import StopSwitch
from batchrun.testing.virtual import run_virtual


class World:
    """A budget, and the disk that its mark is on."""

    def __init__(self, cap, before=0, write_s=0.01, fails_at=None):
        self.marks = []
        self.switch = StopSwitch()
        self._write_s = write_s
        self._fails_at = fails_at
        self.budget = Budget(
            guard="max_cost",
            cap=cap,
            before=Charge(before),
            commit=self._commit,
            switch=self.switch,
            used_up=lambda budget, amount: f"{budget.charge.spent} of {budget.cap}; next {amount}",
        )

    async def _commit(self, mark, _):
        await asyncio.sleep(self._write_s)
        if self._fails_at is not None and mark >= self._fails_at:
            raise OSError("no space left")
        self.marks.append(mark)


@pytest.mark.parametrize("seed", range(20))
def test_a_charge_is_never_above_its_mark_nor_the_mark_above_the_cap(seed):
    """256 at once, any costs and latencies, a tenth without an answer: at every moment what may
    have been spent is on the disk, and at least 95 % of the cap is used.
    """
    dice = random.Random(seed)
    cap, worst = 1_000_000, 2_000

    async def session():
        world = World(cap)
        budget = world.budget

        def look():
            mark = world.marks[-1] if world.marks else 0
            assert budget.charge.spent + budget.reserved <= mark <= cap

        async def row():
            amount = dice.randint(1, worst)
            await budget.reserve(amount)
            look()
            await asyncio.sleep(dice.expovariate(1))
            answered = dice.random() > 0.1
            budget.settle(amount, dice.randint(0, amount) if answered else None)
            look()

        async def worker():
            while not world.switch.stopping:
                await row()

        workers = [asyncio.create_task(worker()) for _ in range(256)]
        await world.switch.wait()
        assert budget.reserved == 0  # those in flight had settled
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await budget.close()
        look()
        return world

    world = run_virtual(session())
    assert world.budget.reserved == 0
    assert world.budget.charge.spent >= 0.95 * cap
    assert world.budget.charge.held > 0
    assert world.switch.reason.by == "max_cost"
    assert len(world.marks) < 2_000


def test_a_request_that_never_fits_stops_at_once():
    """Nothing is out that could give something back."""

    async def session():
        world = World(100, before=95)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await world.budget.reserve(6)
        return world

    world = run_virtual(session())
    assert world.switch.reason.message == "95 of 100; next 6"
    assert world.budget.reserved == 0


def test_nobody_overtakes_a_large_request():
    """It waits for those that are out, and smaller ones behind it wait too."""

    async def session():
        world = World(100)
        budget = world.budget
        await budget.reserve(60)
        order = []

        async def row(amount):
            await budget.reserve(amount)
            order.append(amount)

        rows = [asyncio.create_task(row(amount)) for amount in (90, 10)]
        await asyncio.sleep(1)
        assert order == [] and budget.full
        budget.settle(60, 0)
        await asyncio.gather(*rows)
        assert not budget.full
        return order

    assert run_virtual(session()) == [90, 10]


def test_a_cancelled_waiter_leaves_no_trace():
    """Before its turn and in the moment of it."""

    async def session():
        world = World(100)
        budget = world.budget
        await budget.reserve(60)
        first, second = (asyncio.create_task(budget.reserve(amount)) for amount in (90, 40))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(1)
        assert second.done()
        assert budget.reserved == 100
        third = asyncio.create_task(budget.reserve(50))
        await asyncio.sleep(1)
        budget.settle(60, 0)  # hands it over
        third.cancel()
        await asyncio.gather(first, third, return_exceptions=True)
        return budget

    assert run_virtual(session()).reserved == 40


def test_a_mark_that_cannot_be_written_reaches_those_who_wait():
    """Nothing is sent that is not on the disk."""

    async def session():
        world = World(100, fails_at=1)
        with pytest.raises(OSError, match="no space"):
            await world.budget.reserve(1)
        return world.budget

    assert run_virtual(session()).reserved == 0
