"""Signals that stop a run. Only the command listens for them; a library must not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from batchrun.engine.guards import Stop, StopSwitch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_signals(switch: StopSwitch, say: Callable[[str], None]) -> None:
    """The first signal stops the dispatch, a second one does not wait for what is in flight."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if switch.stopping:
            say(f"{number.name}: stopping at once")
        else:
            say(f"{number.name}: requests in flight may finish; once more stops at once")
        switch.stop(Stop(number.name, f"stopped by {number.name}", 128 + number))

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
