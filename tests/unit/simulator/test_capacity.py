import asyncio
import contextlib

import pytest

from batchrun.simulator.capacity import Batching, Knee, Slots, parse_capacity
from batchrun.simulator.changes import parse_change
from batchrun.simulator.scheduler import QueueFullError, Scheduler, Timed
from batchrun.testing.virtual import run_virtual


def _ends(capacity, jobs, *, apart_s=0.0, watch=None):
    """When each of these requests (seconds alone, tokens, prompt tokens) ends on an idle server."""

    async def run():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(capacity)
        began_s = loop.time()

        async def one(number, job):
            await asyncio.sleep(number * apart_s)
            with scheduler.job(*job) as served:
                await served.reach(1)
            return loop.time() - began_s

        async def look():
            while watch is not None:
                await asyncio.sleep(0.01)
                watch(scheduler)

        looking = asyncio.create_task(look())
        ends = await asyncio.gather(*(one(number, job) for number, job in enumerate(jobs)))
        looking.cancel()
        assert (scheduler.running, scheduler.waiting) == (0, 0)
        return ends, scheduler

    return run_virtual(run())


def test_slots_serve_so_many_at_once_in_turn():
    """Five requests of a second on two slots end after 1, 1, 2, 2 and 3 seconds."""
    ends, _ = _ends(Slots(2, 10), [(1.0, 0, 0)] * 5)
    assert ends == pytest.approx([1, 1, 2, 2, 3], abs=1e-3)


def test_slots_refuse_what_can_neither_run_nor_wait():
    """With two slots and a queue of one, the fourth request is refused, and the next one is not."""

    async def run():
        scheduler = Scheduler(Slots(2, 1))
        with contextlib.ExitStack() as others:
            with scheduler.job(1.0, 0, 0):
                for _ in range(2):
                    scheduler.require_room()
                    others.enter_context(scheduler.job(1.0, 0, 0))
                with pytest.raises(QueueFullError) as full:
                    scheduler.require_room()
                assert (full.value.running, full.value.waiting) == (2, 1)
            scheduler.require_room()

    run_virtual(run())


def test_a_queue_of_none_refuses_at_once():
    """slots:1:0 serves one request and refuses every other meanwhile."""

    async def run():
        scheduler = Scheduler(parse_capacity("slots:1:0"))
        scheduler.require_room()
        with scheduler.job(1.0, 0, 0), pytest.raises(QueueFullError):
            scheduler.require_room()
        scheduler.require_room()

    run_virtual(run())


@pytest.mark.parametrize(("running", "takes_s"), [(1, 1.0), (4, 1.0), (8, 4.0), (12, 9.0)])
def test_a_knee_slows_down_by_its_power(running, takes_s):
    """Past four requests, twice as many take four times as long: knee:4:2."""
    ends, _ = _ends(parse_capacity("knee:4:2"), [(1.0, 0, 0)] * running)
    assert ends == pytest.approx([takes_s] * running, abs=1e-3)


def test_a_knee_counts_what_runs_at_each_moment():
    """Two requests on knee:1:1 share the time for as long as both run: the shorter one ends at
    1, and the longer one then has the server to itself.
    """
    ends, _ = _ends(Knee(1, 1.0), [(0.5, 0, 0), (1.0, 0, 0)])
    assert ends == pytest.approx([1.0, 1.5], abs=1e-3)


def test_batching_takes_longer_for_a_token_the_more_is_running():
    """T0 + C * running: 10 tokens take 10 * 21 ms alone and 10 * 30 ms among ten."""
    alone, _ = _ends(Batching(20, 1, 1e6), [(0.0, 10, 100)])
    among, _ = _ends(Batching(20, 1, 1e6), [(0.0, 10, 100)] * 10)
    assert alone == pytest.approx([0.21], abs=1e-3)
    assert among == pytest.approx([0.3] * 10, abs=1e-3)


def test_batching_lets_nothing_in_that_has_no_room():
    """Prompts of 500 tokens in a cache of 1,200: two run, the third one waits for an end."""
    seen = []
    ends, scheduler = _ends(
        Batching(10, 0, 1200),
        [(0.0, 50, 500)] * 3,
        watch=lambda scheduler: seen.append((scheduler.running, scheduler.waiting)),
    )
    assert ends == pytest.approx([0.5, 0.5, 1.0], abs=1e-3)
    assert max(seen) == (2, 1)
    assert scheduler.preemptions == 0


def test_batching_preempts_the_youngest_when_the_cache_is_full():
    """Two answers that outgrow the cache together: the younger one starts over once there is
    room, and nothing is lost for good.
    """
    usages = []
    ends, scheduler = _ends(
        Batching(10, 0, 260),
        [(0.0, 100, 100)] * 2,
        watch=lambda scheduler: usages.append(scheduler.kv_usage),
    )
    assert scheduler.preemptions == 1
    assert ends == pytest.approx([1.0, 2.0], abs=0.02)
    assert 0.9 < max(usages) <= 1.0


def test_a_request_larger_than_the_cache_runs_alone():
    """It is neither refused nor preempted for ever."""
    ends, scheduler = _ends(Batching(10, 0, 50), [(0.0, 100, 100)] * 2)
    assert ends == pytest.approx([1.0, 2.0], abs=0.02)
    assert scheduler.preemptions == 0


def test_more_load_than_the_cache_holds_costs_little():
    """200 requests at once into room for about 20: the server still does 85 % of the work that it
    does when just as many come as fit.
    """
    jobs = [(0.0, 100 + 37 * number % 300, 200) for number in range(200)]
    flooded, scheduler = _ends(Batching(20, 0.1, 8000), jobs)
    roomy, _ = _ends(Slots(20, 1000), [(tokens * 0.022, 0, 0) for _, tokens, _ in jobs])
    assert scheduler.preemptions > 0
    assert max(flooded) < max(roomy) / 0.85


def test_a_request_that_is_given_up_makes_room():
    """A client that leaves takes its request out of the queue, or off its slot."""

    async def run():
        scheduler = Scheduler(Slots(1, 5))

        async def one():
            with scheduler.job(10.0, 0, 0) as job:
                await job.reach(1)

        tasks = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(1)
        assert (scheduler.running, scheduler.waiting) == (1, 2)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.sleep(1)
        assert (scheduler.running, scheduler.waiting) == (1, 0)
        await tasks[2]
        return asyncio.get_running_loop().time()

    assert run_virtual(run()) == pytest.approx(1011, abs=0.01)


def test_shares_of_an_answer_are_reached_in_their_time():
    """A stream on batching:20:0:KV has a quarter of its 100 tokens after half a second."""

    async def run():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Batching(20, 0, 1000))
        began_s = loop.time()
        with scheduler.job(0.0, 100, 10) as job:
            times = []
            for share in (0, 0.25, 0.5, 0.25, 1):
                await job.reach(share)
                times.append(loop.time() - began_s)
        return times

    assert run_virtual(run()) == pytest.approx([0, 0.5, 1.0, 1.0, 2.0], abs=1e-3)


def test_without_a_capacity_time_passes_by_the_latency():
    """A timed request begins and ends when its latency says."""

    async def run():
        loop = asyncio.get_running_loop()
        began_s, timed = loop.time(), Timed(0.5, 2.5)
        times = []
        for share in (0, 0.5, 1):
            await timed.reach(share)
            times.append(loop.time() - began_s)
        assert timed.lasts
        assert not Timed(0.5, 0.5).lasts
        return times

    assert run_virtual(run()) == pytest.approx([0.5, 1.5, 2.5], abs=1e-3)


@pytest.mark.parametrize(
    ("after", "ends"),
    [
        (Slots(4, 9), [1, 1, 1.5, 1.5]),
        (Slots(1, 9), [1, 1, 2, 3]),
        (None, [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_a_capacity_can_change_while_requests_run(after, ends):
    """Slots that are added serve those who wait at once, slots that go finish what they serve, and
    without a capacity nothing takes any more time.
    """

    async def run():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Slots(2, 9))
        began_s = loop.time()
        loop.call_later(0.5, scheduler.change, after)

        async def one():
            with scheduler.job(1.0, 0, 0) as job:
                await job.reach(1)
            return loop.time() - began_s

        return await asyncio.gather(*(one() for _ in range(4)))

    assert run_virtual(run()) == pytest.approx(ends, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "capacity"),
    [
        ("slots:4:1000", Slots(4, 1000)),
        ("slots:1:0", Slots(1, 0)),
        ("knee:64:1.5", Knee(64, 1.5)),
        ("batching:20:0.08:300000", Batching(20, 0.08, 300_000)),
        ("batching:20:0.08:3e5", Batching(20, 0.08, 300_000)),
    ],
)
def test_capacities_are_read_as_they_are_written(text, capacity):
    """Each model is read from its figures."""
    assert parse_capacity(text) == capacity


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not understood; write batching:T0:C:KV"),
        ("slots", "is not understood"),
        ("slots:4", "is not understood"),
        ("slots:4:5:6", "is not understood"),
        ("sluts:4:5", "is not understood"),
        ("slots:four:5", "has a part that is not a number"),
        ("slots:0:5", "slots K must be between 1"),
        ("slots:2.5:5", "slots K must be a whole number, not 2.5"),
        ("slots:4:-1", "slots Q must be between 0"),
        ("slots:4:inf", "slots Q must be a whole number, not inf"),
        ("slots:nan:1", "slots K must be a whole number, not nan"),
        ("knee:0:1", "knee N must be between 1"),
        ("knee:4:-1", "knee P must be between 0"),
        ("knee:4:nan", "knee P must be between 0"),
        ("batching:-1:0:10", "batching T0 must be between 0"),
        ("batching:1:inf:10", "batching C must be between 0"),
        ("batching:1:0:0", "batching KV must be between 1"),
    ],
)
def test_a_capacity_that_cannot_be_is_named(text, said):
    """What is no capacity is refused with the figure, or the forms there are."""
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        parse_capacity(text)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("30:rpm=600", (30, "rpm", 600, None)),
        ("0:tpm=none", (0, "tpm", None, None)),
        ("1.5:capacity=slots:2:100", (1.5, "capacity", None, Slots(2, 100))),
        ("2:capacity=none", (2, "capacity", None, None)),
    ],
)
def test_changes_are_read_as_they_are_written(text, change):
    """Seconds, what changes, and what it is from then on."""
    assert parse_change(text) == change


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rpm=600", "is no change of capacity, rpm or tpm"),
        ("30:rps=600", "is no change of capacity, rpm or tpm"),
        ("30:rpm", "is no change of"),
        ("soon:rpm=600", "must begin with seconds"),
        ("-1:rpm=600", "must begin with seconds"),
        ("nan:rpm=600", "must begin with seconds"),
        ("30:rpm=0", "rpm must be a number above 0"),
        ("30:tpm=many", "tpm must be a number above 0"),
        ("30:capacity=slots", "is not understood"),
    ],
)
def test_a_change_that_cannot_be_is_named(text, said):
    """What is no change is refused with what is wrong about it."""
    with pytest.raises(ValueError, match=said):
        parse_change(text)
