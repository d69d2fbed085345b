"""Time as a run sees it: the event loop, and its clock."""

from __future__ import annotations

import asyncio
import time


class LoopClock:
    """``ports.Clock`` by the running event loop and the system's wall clock."""

    _latest_us = 0

    def __init__(self) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.sleep = asyncio.sleep

    @staticmethod
    def wall_us() -> int:
        """See ``ports.Clock``."""
        return time.time_ns() // 1000

    @classmethod
    def onward_us(cls) -> int:
        """The wall clock, but never before what this process was told here: what is ordered by such
        times stays in order when the clock is set back.
        """
        cls._latest_us = max(cls._latest_us, cls.wall_us())
        return cls._latest_us


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop of our own: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
