"""Long rows first: which row is sent next, and how much sooner a run ends."""

import asyncio
import random

import pytest

from batchrun.engine.open_shard import NOTHING_KNOWN, Open, Shard
from batchrun.engine.row_order import AHEAD_ROWS, OVERTAKEN_MAX, LongestFirst
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.virtual import run_virtual
from tests.harness.rig import SIGNAL, Rig

SHARD = Shard(0, NOTHING_KNOWN)


def _open(number):
    return Open(number, 10, SHARD, None)


def _queue(lengths, **options):
    queue = LongestFirst(**options)
    queue.expect({number: length for number, length in enumerate(lengths) if length is not None})
    for number in range(len(lengths)):
        queue.append(_open(number))
    return queue


def _order(queue):
    return [queue.popleft().number for _ in range(len(queue))]


class Known:
    """Lengths from a table."""

    def __init__(self, lengths):
        self.lengths = lengths

    async def known(self, requests):
        """See ``row_order.Lengths``."""
        return {r.row: self.lengths[r.row] for r in requests if r.row in self.lengths}


def test_the_longest_goes_first_and_equals_go_in_order():
    """By length, then in the order in which they were read."""
    assert _order(_queue([5, 9, 5, 1, 9])) == [1, 4, 0, 2, 3]


def test_a_row_that_nobody_knows_is_taken_for_the_average():
    """It goes neither before all others nor behind them."""
    assert _order(_queue([1, None, 9, 4, None])) == [2, 1, 4, 3, 0]


def test_without_any_length_rows_go_in_input_order():
    """Nothing known is no reason to shuffle."""
    assert _order(_queue([None] * 5)) == [0, 1, 2, 3, 4]


def test_no_row_is_overtaken_for_ever():
    """The shortest row goes once so many were read behind it, though longer ones keep coming."""
    queue = _queue([1] + [5] * 4, overtaken_max=8)
    sent = []
    for number in range(5, 20):
        sent.append(queue.popleft().number)
        queue.expect({number: 10})
        queue.append(_open(number))
    assert 0 in sent
    assert sent.index(0) <= 8
    assert sorted(sent + _order(queue)) == list(range(20))


@pytest.mark.parametrize("seed", range(20))
def test_every_row_comes_out_once_and_none_too_late(seed):
    """Whatever is put in and taken out, in whatever order: nothing is lost or doubled, the number
    of rows is right, and no row is overtaken by more than the bound.
    """
    dice = random.Random(seed)
    bound = dice.choice([1, 3, 10, 50])
    queue = LongestFirst(overtaken_max=bound)
    read, out = 0, []
    while len(out) < 300:
        if read < 300 and (not queue or dice.random() < 0.55):
            if dice.random() < 0.8:
                queue.expect({read: dice.randrange(5)})
            queue.append(_open(read))
            read += 1
        elif queue:
            waiting = set(range(read)) - set(out)
            number = queue.popleft().number
            if read - 1 - min(waiting) >= bound:
                assert number == min(waiting), f"seed {seed}"
            out.append(number)
        assert len(queue) == read - len(out), f"seed {seed}"
    assert sorted(out) == list(range(300)), f"seed {seed}"
    assert not queue._gone or len(queue._gone) <= len(queue._heap) + len(queue._line)


def test_nothing_is_left_after_a_stop():
    """A queue that was emptied takes rows anew."""
    queue = _queue([1, 2, 3])
    queue.popleft()
    queue.clear()
    assert len(queue) == 0
    queue.append(_open(7))
    assert _order(queue) == [7]


def _makespan(seconds, known, *, in_flight, **options):
    async def run():
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        transport = FakeTransport(latency_s=lambda request: seconds[request.row])
        rig = Rig(
            len(seconds),
            transport=transport,
            concurrency=in_flight,
            shard_rows=100,
            lengths=None if known is None else Known(known),
            **options,
        )
        await rig.run()
        return loop.time() - began_s, rig

    return run_virtual(run())


def test_a_run_that_knows_its_lengths_ends_sooner():
    """1,000 rows, 64 in flight, lognormal lengths: with last night's lengths the run takes at most
    1.05 times what it must, without them more than 1.1 times; the parts are in input order.
    """
    dice = random.Random(3)
    seconds = [dice.lognormvariate(2, 0.9) for _ in range(1000)]
    ideal = max(sum(seconds) / 64, *seconds)
    without, _ = _makespan(seconds, None, in_flight=64)
    known, rig = _makespan(seconds, dict(enumerate(seconds)), in_flight=64)
    assert known <= 1.05 * ideal
    assert without >= 1.1 * ideal
    assert rig.published_rows() == list(range(1000))
    assert rig.transport.in_flight_max == 64


@pytest.mark.slow
def test_rows_are_read_ahead_no_further_than_the_bound():
    """20,000 short rows behind a slow server: so many are open, and no more."""
    open_max = 0

    async def run():
        nonlocal open_max
        rig = Rig(
            20_000,
            transport=FakeTransport(latency_s=1.0),
            concurrency=8,
            shard_rows=1000,
            lengths=Known({}),
        )
        running = asyncio.create_task(rig.run())
        for _ in range(50):
            await asyncio.sleep(0.5)
            open_max = max(open_max, len(rig.engine._rows))
        rig.switch.stop(SIGNAL)
        await running

    run_virtual(run())
    assert AHEAD_ROWS // 2 < open_max <= AHEAD_ROWS + 8
    assert OVERTAKEN_MAX >= AHEAD_ROWS
