"""One climb for several processes, on virtual time: what the server takes is found once for all."""

import asyncio
import random

import pytest

from batchrun.core.fleet import quota
from batchrun.core.fleet.quota import Limit
from batchrun.engine.pace.gate import EndpointGate
from batchrun.fleet.sharing import Sharing
from batchrun.records import Reception
from batchrun.testing.claims import FakeClaims
from batchrun.testing.virtual import VirtualClock, run_virtual

WORKERS = ("a", "b", "c", "d")


class Server:
    """So many at once; the others wait in its queue."""

    def __init__(self, clock, dice, slots, latency_s):
        self.clock, self.dice, self.latency_s = clock, dice, latency_s
        self.slots, self.done, self.busy, self.seen = asyncio.Semaphore(slots), [], 0, []

    async def answer(self):
        """An answer, when it is its turn."""
        self.busy += 1
        self.seen.append((self.clock.now_s(), self.busy))
        async with self.slots:
            await self.clock.sleep(self.latency_s * self.dice.uniform(0.7, 1.3))
        self.busy -= 1
        self.done.append(self.clock.now_s())


async def work(gate, server, clock):
    """Send as much as the gate lets through."""

    async def send(permit):
        with permit:
            sent_s = clock.now_s()
            await server.answer()
            took_s = clock.now_s() - sent_s
            permit.observed(Reception.ANSWERED, sent_at_s=sent_s, latency_s=took_s, tokens=None)

    async with asyncio.TaskGroup() as rows:
        while True:
            rows.create_task(send(await gate.enter(1)))


async def fleet(slots, for_s, latency_s=0.5):
    """Four workers at one server, for so long; gives the server, and when it began."""
    clock, dice = VirtualClock(), random.Random(1)
    server, store = Server(clock, dice, slots, latency_s), FakeClaims(clock.now_s)
    limits = (Limit("e", quota.CONCURRENCY, 1024.0),)
    began_s, tasks = clock.now_s(), []

    async def ask(question):
        await clock.sleep(0.05)
        return question()

    for name in WORKERS:
        gate = EndpointGate(
            concurrency=16, rpm=None, tpm=None, clock=clock, dice=dice, bounds=(1, 1024)
        )
        sharing = Sharing(
            store=store, worker=name, gates={"e": gate}, limits=limits, clock=clock, ask=ask
        )
        tasks.append(asyncio.ensure_future(sharing.keep()))
        tasks[-1].add_done_callback(lambda task: task.cancelled() or task.result())
        tasks.append(asyncio.ensure_future(work(gate, server, clock)))
    await clock.sleep(for_s)
    for task in tasks:
        task.cancel()
    return server, began_s


@pytest.mark.parametrize("slots", [8, 40])
def test_a_queue_inside_the_server_is_not_filled(slots):
    """What the server can do is used, and no more than that is sent: four climbs of their own
    would have hundreds in flight.
    """
    for_s = 500
    server, began_s = run_virtual(fleet(slots, for_s))
    late = [at for at in server.done if at >= began_s + for_s / 2]
    assert len(late) >= 0.9 * slots / 0.5 * for_s / 2
    busy = sorted(busy for at, busy in server.seen if at >= began_s + for_s / 2)
    assert busy[len(busy) // 2] <= 2 * slots
