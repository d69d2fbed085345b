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
"""Any beat comes a little late, and one of a short period by more than a period."""


class Gap(NamedTuple):
    """Seconds in which the process did not run: while it was stopped, which the monotonic clock
    counts, and while the machine slept, which it does not.
    """

    missed_s: float
    slept_s: float


class Pulse:
    """Finds gaps between beats that should come every ``period_s``.

    What is shorter than a period, or than ``LATE_S_MIN``, is no gap: a loop with work to do is as
    late as that.
    """

    def __init__(self, period_s: float, now_s: float, real_s: float) -> None:
        """``now_s`` is the monotonic clock, ``real_s`` one that also counts the machine's sleep."""
        self._period_s = period_s
        self._least_s = max(period_s, LATE_S_MIN)
        self._now_s = now_s
        self._real_s = real_s

    def beat(self, now_s: float, real_s: float) -> Gap:
        """The gap since the beat before this one."""
        missed_s = self.missed_s(now_s)
        slept_s = real_s - self._real_s - (now_s - self._now_s)
        self._now_s, self._real_s = now_s, real_s
        return Gap(missed_s, slept_s if slept_s > self._least_s else 0.0)

    def missed_s(self, now_s: float) -> float:
        """What was missed of the monotonic clock by now, where the next beat is still to come."""
        late_s = now_s - self._now_s - self._period_s
        return late_s if late_s > self._least_s else 0.0
