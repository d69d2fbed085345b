"""Time as a run sees it: the event loop, and its clock."""

from __future__ import annotations

import asyncio
import time


class LoopClock:
    """``ports.Clock`` by the running event loop and the system's wall clock."""

    def __init__(self) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.sleep = asyncio.sleep

    @staticmethod
    def wall_us() -> int:
        """See ``ports.Clock``."""
        return time.time_ns() // 1000


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop of our own: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
