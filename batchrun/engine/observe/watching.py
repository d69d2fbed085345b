"""Showing a run to its observers while it goes on, and telling its user what is new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from batchrun.engine.observe.monitor import Monitor, Snapshot
from batchrun.engine.session.tally import TOLD_MAX, Tally
from batchrun.ports import Observer

SAMPLE_S = 0.5


class Watching:
    """Takes snapshots and shows them, in a thread: a blocked terminal or a slow disk holds nothing
    up.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        tally: Tally,
        say: Callable[[str], None],
        every_s: float = SAMPLE_S,
        busy_s: Callable[[], float] = time.process_time,
    ) -> None:
        """``busy_s`` is the CPU time that this process had, and waited for."""
        self._observers = observers
        self._tally = tally
        self._say = say
        self._every_s = every_s
        self._busy_s = busy_s
        self.failures = 0
        """How often an observer broke."""

    async def watch(self, monitor: Monitor) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="observers") as thread:
            while True:
                snapshot = monitor.sample(loop.time(), self._busy_s())
                await loop.run_in_executor(thread, self._show, snapshot)
                await asyncio.sleep(self._every_s)

    async def end(self, watching: asyncio.Task[None], monitor: Monitor) -> None:
        """Cancel ``watch`` and show how the session ended, also to observers that write rarely."""
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        loop = asyncio.get_running_loop()
        snapshot = replace(monitor.sample(loop.time(), time.process_time()), last=True)
        with ThreadPoolExecutor(1, thread_name_prefix="observers") as thread:
            await loop.run_in_executor(thread, self._show, snapshot)

    def tell(self) -> None:
        """Say what is new and was not said yet."""
        told = self._tally.told
        while self._tally.notices:
            notice = self._tally.notices.popleft()
            if notice not in told and len(told) < TOLD_MAX:
                told.append(notice)
            self._say(notice)

    def _show(self, snapshot: Snapshot) -> None:
        self.tell()
        for observer in self._observers:
            try:
                observer(snapshot)
            except Exception:  # noqa: BLE001 - an observer never breaks a run; it is counted
                self.failures += 1
