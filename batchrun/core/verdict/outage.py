"""When failing exchanges are an outage of the endpoint rather than trouble with rows.

One row's request can be what a server cannot digest, and rows like that gather at the end of a run,
where nothing is left but their retries. So evidence are rows, not exchanges: a row counts once, and
where its own request may be the cause, only by its first exchange.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from batchrun.core.verdict.rules import Health

WINDOW = 32
ROWS = 20
SHARE = 0.9
"""An outage: at least this share of the last ``WINDOW`` exchanges failed, of ``ROWS`` rows. A
server that fails every second time looks like one once in ten million exchanges."""

ROWS_DARK = 5
"""Fewer rows do where nothing at all was answered and a row is about to end for it."""

PROBE_S = 1.0
PROBE_S_MAX = 60.0
PROBES_FREE = 3
"""A row that was so often the probe is charged where its own request may be the cause."""


class Evidence:
    """The latest exchanges with one endpoint, as far as they tell of its health.

    A ``period`` is a time of failures. Exchanges of one period stand or fall together: if it turns
    out to be an outage, none of them was the row's fault.
    """

    def __init__(self) -> None:
        self.period = 0
        self._window: deque[int | None] = deque(maxlen=WINDOW)  # the row that failed, or an answer

    @property
    def clean(self) -> bool:
        """Whether there is nothing to forget: ``answered`` need not be called."""
        return not self._window

    def answered(self) -> None:
        """The endpoint answered. The period is over once it does so half of the time."""
        self._window.append(None)
        if self._window.count(None) * 2 > len(self._window):
            self.forget()

    def shows_outage(self, row: int, health: Health, *, first: bool, last: bool = False) -> bool:
        """Whether an exchange that just failed shows, with those before it, that the endpoint is
        down. ``first`` says that it was the row's first exchange, ``last`` that the row ends with
        it, after failures of this period only. Changes nothing: ``failed`` takes note.
        """
        window = self._window
        if not last and len(window) - window.count(None) + 1 < SHARE * WINDOW:
            return False
        if first or health is Health.DOWN:
            window = deque(window, WINDOW)
            window.append(row)
        if last:
            dark = set(takewhile(lambda row: row is not None, reversed(window)))
            if len(dark) >= ROWS_DARK:
                return True
        failures = len(window) - window.count(None)
        return failures >= SHARE * WINDOW and len({*window} - {None}) >= ROWS

    def failed(self, row: int, health: Health, *, first: bool) -> None:
        """An exchange failed; ``first`` says that it was the row's first one."""
        if first or health is Health.DOWN:
            self._window.append(row)

    def forget(self) -> None:
        """A new period begins."""
        self.period += 1
        self._window.clear()


def probe_wait_s(probes: int, asked_s: float | None, dice: float) -> float:
    """Seconds until the next probe, after so many in vain; ``asked_s`` is what the server asked
    for, ``dice`` a random number from 0 to 1.
    """
    longest_s = min(PROBE_S_MAX, PROBE_S * 2.0 ** min(probes, 10))
    return max(longest_s * (0.5 + 0.5 * dice), asked_s or 0.0)
