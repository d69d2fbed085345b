"""Signals that stop a run. Only the command listens for them; a library must not.

A signal that was ignored when the process began stays ignored: that is how ``nohup`` keeps a run
alive when its terminal is closed, and how a shell without job control protects its background
processes from Ctrl-C. The end of the parent process is not a signal and stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from batchrun.engine.session.guards import Stop, StopSwitch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalledError(KeyboardInterrupt):
    """A signal other than Ctrl-C arrived while no run listened for it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def on_signals(switch: StopSwitch, say: Callable[[str], None]) -> None:
    """The first signal stops sending requests; after a second one, requests in flight are not
    awaited.
    """
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if switch.stopping:
            say(f"{number.name}: stopping immediately")
        else:
            say(f"{number.name}: requests in flight may finish; another one stops immediately")
        switch.stop(Stop(number.name, f"stopped by {number.name}", 128 + number))

    for number in heeded():
        loop.add_signal_handler(number, stop, number)


def heeded() -> list[signal.Signals]:
    """The signals that stop this process."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Raise ``SignalledError`` if a signal arrives while no run listens, as Ctrl-C raises
    ``KeyboardInterrupt``: locks are released, and the exit code is the signal's.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise SignalledError(signal.Signals(number))

    before = {n: signal.signal(n, end) for n in heeded() if n != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
