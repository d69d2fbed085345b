"""How many rows may be open: enough to keep every permit busy, few enough to stay in the cache.

Its bounds follow the number of permits, which may change during a run.

Rows that wait for their next try, or for the disk, do not take the place of rows that could be
sent; they are bounded on their own. Feeding far ahead of the permits costs more than memory: rows
that lie around for long are cold when their turn comes (measured: 10 % of all CPU).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

OPEN_ROWS_MAX = 8192
OPEN_BYTES_MAX = 64 * 2**20
BYTES_PER_PERMIT = 2**14
"""The bounds above are for some thousand requests in flight; for more they grow with them: four
times as many rows may be open, and each has so many bytes.
"""
OPEN_ROWS_PER_PERMIT = 4
LARGE_REPLY = 2**16
"""Characters from which on a reply counts towards the bytes of open rows."""


class Room:
    """Counts open rows by what they wait for, and lets the feeder wait until there is room."""

    def __init__(self, permits: int, *, ahead: int = 0) -> None:
        """``permits`` is how many rows can be sent at once; ``ahead``, if it is more than these
        need, how many rows are to be ready.
        """
        self._ahead = ahead
        self._ready = 0
        self._open = 0
        self._bytes = 0
        self._changed = asyncio.Event()
        self.full = False
        """Whether the feeder waits for room."""
        self.held_up: Callable[[], None] | None = None
        """Called when it begins to wait."""
        self.resized: Callable[[], None] | None = None
        """Called when the number of permits has changed."""
        self.resize(permits)

    def resize(self, permits: int) -> None:
        """So many rows can be sent at once from now on."""
        self.permits = permits
        self._ready_max = max(2 * permits + 8, self._ahead)
        self._refill_at = max(permits + permits // 2 + 4, self._ahead * 3 // 4)
        self._open_max = max(OPEN_ROWS_MAX, OPEN_ROWS_PER_PERMIT * permits)
        self._bytes_max = max(OPEN_BYTES_MAX, BYTES_PER_PERMIT * permits)
        self._changed.set()
        if self.resized is not None:
            self.resized()

    def try_enter(self, size_bytes: int) -> bool:
        """Open another row, and count it, if there is room for it now."""
        if (
            self._ready >= self._ready_max
            or self._open >= self._open_max
            or self._bytes + size_bytes > self._bytes_max
        ):
            return False
        self._ready += 1
        self._open += 1
        self._bytes += size_bytes
        return True

    async def enter(self, size_bytes: int) -> None:
        """Wait until another row may be opened, and count it. A row larger than all bounds is let
        in once nothing else is open.
        """
        if self.try_enter(size_bytes):
            return
        while self._open and (
            self._ready > self._refill_at
            or self._open >= self._open_max
            or self._bytes + size_bytes > self._bytes_max
        ):
            self._changed.clear()
            self.full = True
            if self.held_up is not None:
                self.held_up()
            await self._changed.wait()
        self.full = False
        self._ready += 1
        self._open += 1
        self._bytes += size_bytes

    def answered(self, reply: str | None = None) -> int:
        """A row has its outcome and only waits for the disk. Returns what its reply adds to the
        bytes of the row: the disk may be slower than the network, and what waits for it is bounded
        as input is.
        """
        self._ready -= 1
        if self.full and self._ready <= self._refill_at:
            self._changed.set()
        if reply is None or len(reply) <= LARGE_REPLY:
            return 0
        self._bytes += len(reply)
        return len(reply)

    def ended(self, size_bytes: int, *, answered: bool) -> None:
        """A row is not open any more."""
        self._open -= 1
        self._bytes -= size_bytes
        self._ready -= not answered
        if self.full:
            self._changed.set()

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """A row waits for its next try."""
        self._ready -= 1
        self._changed.set()
        try:
            yield
        finally:
            self._ready += 1
