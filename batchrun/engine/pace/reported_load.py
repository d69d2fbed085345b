"""What an inference server's own figures say about the window: they hurry the climb, and no more.

A queue at the server shows, sooner than replies can, that more requests in flight only wait longer;
no queue shows that the server has room. What either is worth is judged by goodput all the same.

It has no clock of its own: it is told the load every few seconds.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from batchrun.core.reply.server_load import Load

QUEUE_MIN, QUEUE_SHARE = 8, 0.5
"""So many requests that wait, and such a share of those that run, are a queue. Engines always have
a few that are on their way in.
"""
STEADY_SHARE = 0.1
"""Between two looks the number of running requests differs by no more, once a server is as busy as
it gets: one that is still starting up has a queue, too.
"""
ROOM = 1.25
"""A window of so many times the running requests keeps a short queue at the server, and is close
enough for the climb to find the rest.
"""
IN_USE_MIN = 0.8
"""A server that runs less of what is in flight says nothing about room for more."""


class Hint(StrEnum):
    """What two reports in a row have in common."""

    QUEUE = "queue"
    ROOM = "room"


class Advice(NamedTuple):
    """A hint, and the window that the running requests need."""

    hint: Hint
    window: int


class ReportedLoad:
    """Compares each report with the one before it."""

    def __init__(self) -> None:
        self.latest: Load | None = None
        """What the server reported last; None: nothing of late."""
        self._hint: Hint | None = None

    def heard(self, load: Load | None, out: int) -> Advice | None:
        """A report came while ``out`` requests were in flight; None: none came. Returns what it
        and the one before it agree on.
        """
        before, self.latest = self.latest, load
        last, self._hint = self._hint, None if load is None else _hint(load, out)
        if load is None or self._hint is None or self._hint is not last:
            return None
        running = load.running
        if running is None:
            return None
        if self._hint is Hint.QUEUE and (
            before is None
            or before.running is None
            or abs(running - before.running) > STEADY_SHARE * max(running, before.running)
        ):
            return None
        return Advice(self._hint, math.ceil(running * ROOM))

    def moved(self) -> None:
        """The window was changed: reports of before do not count."""
        self._hint = None


def _hint(load: Load, out: int) -> Hint | None:
    running = load.running or 0
    if load.waiting > max(QUEUE_MIN, QUEUE_SHARE * running):
        return Hint.QUEUE
    if not load.waiting and running >= IN_USE_MIN * out:
        return Hint.ROOM
    return None
