"""How long this process did not run, as it can tell itself: by beats that came late.

A process stands still while it is stopped (Ctrl-Z, SIGSTOP, a batch system that suspends jobs, a
debugger) and while its machine sleeps. What servers sent meanwhile waits in the sockets, unread.
Nobody tells the process, so it watches two clocks from one beat to the next: the monotonic one runs
on while a process is stopped, and the other one while the machine sleeps too. An event loop that
was kept busy for long looks the same as a stopped process, and is meant to: nothing was read then
either.
"""

from __future__ import annotations

from typing import NamedTuple

LATE_S_MIN = 0.1
"""Beats come a little late all the time; so do those of short periods by more than a period."""


class Gap(NamedTuple):
    """Seconds in which the process did not run: while it was stopped, which the monotonic clock
    counts, and while the machine slept, which it does not.
    """

    missed_s: float
    slept_s: float


NO_GAP = Gap(0.0, 0.0)


class Pulse:
    """Finds gaps between beats that should come every ``period_s``.

    A gap shorter than a period, or than ``LATE_S_MIN``, is none: that is how loops and schedulers
    are.
    """

    def __init__(self, period_s: float, now_s: float, real_s: float) -> None:
        """``now_s`` is the monotonic clock, ``real_s`` one that also counts the machine's sleep."""
        self._period_s = period_s
        self._least_s = max(period_s, LATE_S_MIN)
        self._now_s = now_s
        self._real_s = real_s

    def beat(self, now_s: float, real_s: float) -> Gap:
        """The gap since the beat before this one."""
        took_s = now_s - self._now_s
        late_s = took_s - self._period_s
        slept_s = real_s - self._real_s - took_s
        self._now_s, self._real_s = now_s, real_s
        if late_s <= self._least_s and slept_s <= self._least_s:
            return NO_GAP
        return Gap(
            late_s if late_s > self._least_s else 0.0,
            slept_s if slept_s > self._least_s else 0.0,
        )
