"""The bounds on open rows, which follow the number of permits."""

import asyncio

import pytest

from batchrun.engine.session.row_window import OPEN_ROWS_MAX, Room
from tests.harness.slow import rest_slow


async def _opens(room, size_bytes=1):
    """How many rows may be opened at once."""
    opened = 0
    while True:
        try:
            async with asyncio.timeout(0.01):
                await room.enter(size_bytes)
        except TimeoutError:
            return opened
        opened += 1


@pytest.mark.parametrize("permits", rest_slow([1, 64, 10_000, 30_000], 3))
def test_there_is_room_for_every_permit(permits):
    """However many requests may be in flight, as many rows may be open, and some more."""
    assert asyncio.run(_opens(Room(permits))) >= min(2 * permits, permits + OPEN_ROWS_MAX)


def test_a_row_enters_at_once_while_there_is_room():
    """What fits need not be awaited; what does not is counted once it was waited for."""

    async def play():
        room = Room(2)
        entered = 0
        while room.try_enter(1):
            entered += 1
        waiting = asyncio.create_task(room.enter(1))
        await asyncio.sleep(0)
        held = not waiting.done() and room.full
        for _ in range(entered):
            room.ended(1, answered=False)
        await waiting
        return entered, held, room.full

    entered, held, full = asyncio.run(play())
    assert entered >= 2 * 2
    assert held and not full


def test_more_permits_make_room_at_once():
    """The feeder that waits goes on, and whoever hires is told."""

    async def play():
        room, told = Room(4), []
        room.resized = lambda: told.append(room.permits)
        first = await _opens(room)
        room.resize(100)
        return first, first + await _opens(room), told

    first, all_of_them, told = asyncio.run(play())
    assert first == 16
    assert all_of_them >= 200
    assert told == [100]
