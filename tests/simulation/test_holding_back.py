"""Fresh rows are held back while many others are tried again and none is answered."""

import asyncio

import pytest

from batchrun.engine.holding_back import ROWS
from batchrun.records import Reply
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import ok
from batchrun.testing.virtual import run_virtual
from tests.harness.rig import SIGNAL, Rig

PAGE = Reply(200, {}, b"<!DOCTYPE html><p>Please sign in.</p>")
ANSWERED = 50


def _run(script, rows=5000, stop_at_s=None, **settings):
    async def session():
        rig = Rig(rows, transport=FakeTransport(script, latency_s=0.001), **settings)
        if stop_at_s is not None:
            asyncio.get_running_loop().call_later(stop_at_s, rig.switch.stop, SIGNAL)
        await rig.run()
        return rig

    return run_virtual(session())


@pytest.mark.parametrize("concurrency", [1, 8, 64, 512])
def test_a_page_in_place_of_every_answer_does_not_reach_all_rows(concurrency):
    """However quickly it comes: about a hundred rows are asked, their tries included, and no more
    than were out.
    """
    rig = _run(lambda row, _: ok() if row.row < ANSWERED else PAGE, concurrency=concurrency)
    assert rig.switch.reason.by == "repeated_failure"
    asked = {row for row in rig.transport.asked if row >= ANSWERED}
    assert len(asked) <= ROWS + 2 * concurrency
    assert [row for row, end in sorted(rig.outcomes.items()) if end.ok] == list(range(ANSWERED))


def test_the_rest_is_sent_once_an_answer_comes():
    """A page for everybody, for a moment: few rows use their tries up in it, and none is left."""
    began = {}

    def script(*_):
        now_s = asyncio.get_running_loop().time()
        start_s = began.setdefault("at", now_s)
        return PAGE if 0.5 <= now_s - start_s < 0.7 else ok()

    rig = _run(script, concurrency=8, max_attempts=6)
    assert rig.switch.reason is None and len(rig.outcomes) == 5000
    assert rig.tally.error <= 30


def test_the_rest_is_sent_where_nothing_is_to_stop_it():
    """Without the guard every row is asked, and fails."""
    rig = _run(
        lambda row, _: ok() if row.row < ANSWERED else PAGE,
        rows=400,
        concurrency=16,
        repeated_failure=False,
    )
    assert len(rig.outcomes) == 400 and rig.tally.error == 400 - ANSWERED


def test_a_stop_ends_rows_that_are_held_back():
    """They are pending at once."""
    rig = _run(
        lambda row, _: ok() if row.row < ANSWERED else PAGE,
        concurrency=16,
        stop_at_s=0.6,
        repeated_failure=False,
    )
    assert rig.switch.reason is SIGNAL
    assert len(rig.outcomes) < 5000
