"""The timeout of exchanges, not counting the time in which this process did not run.

Two rules keep an answer that has arrived from being treated as late:

- A task ends at the tick after the one that found its time over. Between the two ticks the loop
  has run, and has read what had arrived.
- A tick that comes late by much shows that the process was stopped, or busy. The delay, less one
  tick, is added to every task's time: without this exception, a loop that is always late would
  never end anything. So a stop costs an attempt a fortieth of its time, or half a second, at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from batchrun.adapters.environment.clock import real_s
from batchrun.core.run.suspension import Gap, Pulse

AWAY_S_MIN = 1.0
"""Servers and networks do not drop a connection for a shorter stop."""


class Deadlines:
    """One timer for many tasks with the same timeout.

    Since the timeout is the same for all, the task that entered first is due first, and it is
    enough to check the front of a queue. A separate timer for every exchange costs 10 %.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = real_s) -> None:
        """``clock`` includes the machine's sleep. A task ends at most two ticks late."""
        self._timeout_s = timeout_s
        self._tick_s = min(0.5, max(0.01, timeout_s / 40))
        self._loop = asyncio.get_running_loop()
        self._real_s = clock
        self._due: dict[asyncio.Task[object], float] = {}
        self._expired: set[asyncio.Task[object]] = set()
        self._interrupted: set[asyncio.Task[object]] = set()
        self._looked_s = 0.0
        self._missed_s = 0.0
        self._pulse: Pulse | None = None

    def enter(self, task: asyncio.Task[object]) -> None:
        """The task's time starts."""
        now_s = self._loop.time()
        self._due[task] = now_s + self._timeout_s
        if self._pulse is None:
            self._looked_s = now_s
            self._pulse = Pulse(self._tick_s, now_s, self._real_s())
            self._loop.call_later(self._tick_s, self._tick, self._pulse)

    def awake_s(self) -> float:
        """Seconds of the monotonic clock, minus those in which the process did not run."""
        now_s = time.monotonic()
        late_s = 0.0 if self._pulse is None else self._pulse.missed_s(now_s)
        return now_s - self._missed_s - late_s

    def has_expired(self, task: asyncio.Task[object]) -> bool:
        """Whether the task was cancelled because its time ran out."""
        return task in self._expired

    def was_interrupted(self, task: asyncio.Task[object]) -> bool:
        """Whether the process did not run for a while during the task's time: stopped, or asleep
        with its machine.
        """
        return task in self._interrupted

    def leave(self, task: asyncio.Task[object]) -> None:
        """The task's time ends."""
        self._due.pop(task, None)
        if self._expired or self._interrupted:
            self._expired.discard(task)
            self._interrupted.discard(task)

    def _tick(self, pulse: Pulse) -> None:
        now_s = self._loop.time()
        gap = pulse.beat(now_s, self._real_s())
        if any(gap):
            self._resume(gap, now_s)
        over = []
        for task, due_s in self._due.items():
            if due_s > self._looked_s:
                break
            over.append(task)
        for task in over:
            del self._due[task]
            self._expired.add(task)
            task.cancel()
        self._looked_s = now_s
        if self._due:
            self._loop.call_later(self._tick_s, self._tick, pulse)
        else:
            self._pulse = None

    def _resume(self, gap: Gap, now_s: float) -> None:
        """Give back the missed time; no task gets more than its whole timeout from now on."""
        self._missed_s += gap.missed_s
        if sum(gap) >= AWAY_S_MIN:
            self._interrupted.update(self._due)
        latest_s = now_s + self._timeout_s
        for task, due_s in self._due.items():
            self._due[task] = min(due_s + gap.missed_s, latest_s)
