"""The event loop of a run, and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from batchrun.adapters.system import platform
from batchrun.core.run.suspension import Pulse

BEAT_S = 0.5

real_s = platform.real_s
"""Seconds by a clock that nobody can set and that keeps running while the machine sleeps."""


class LoopClock:
    """``ports.Clock`` by the running event loop and the system's wall clock."""

    _latest_us = 0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now_s = self._loop.time
        self.sleep = asyncio.sleep
        self.missed_s = 0.0
        self.slept_s = 0.0

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Measure, until the block is left, how long the process does not run."""
        self._beat(Pulse(BEAT_S, self.now_s(), real_s()))
        try:
            yield
        finally:
            self._timer.cancel()

    def _beat(self, pulse: Pulse) -> None:
        gap = pulse.beat(self.now_s(), real_s())
        self.missed_s += gap.missed_s
        self.slept_s += gap.slept_s
        self._timer = self._loop.call_later(BEAT_S, self._beat, pulse)

    @staticmethod
    def wall_us() -> int:
        """See ``ports.Clock``."""
        return time.time_ns() // 1000

    @classmethod
    def onward_us(cls) -> int:
        """The wall clock, but never earlier than a time returned before: the order by these times
        is kept when the clock is set back.
        """
        cls._latest_us = max(cls._latest_us, cls.wall_us())
        return cls._latest_us


def new_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
