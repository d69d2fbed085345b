"""Stopping a run: who asked for it first, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import NamedTuple

from batchrun.ports import Clock

LOOK_S = 5.0
"""The deadline is looked at so often, since no timer goes on while a machine sleeps."""
_LOG = logging.getLogger("batchrun.run")


class Cause(NamedTuple):
    """The failure that stopped a run: its class, the server's words, and the rule that judged it
    (see ``core.verdict.rules``; empty where it is not known any more).
    """

    error_class: str
    message: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run stops before its rows are done.

    ``by`` is a guard's name (an error class such as ``auth``) or a signal's name; ``message`` says
    what happened and what to do; ``exit_code`` is 3 for a guard and 128 + n for a signal.
    """

    by: str
    message: str
    exit_code: int = 3
    patient: bool = False
    """Whether requests in flight get all the time they need, rather than the grace."""
    cause: Cause | None = None
    """The failure behind it, if a failure stopped the run."""
    needs: int | None = None
    """What the next request may use at most, of a budget that has no room for it: picodollars or
    tokens."""

    @property
    def is_signal(self) -> bool:
        """Whether a person or the system asked, rather than a guard."""
        return self.exit_code > 128


class LeftPendingError(Exception):
    """The run stops, or stopped, before a row had an outcome. It is not an error of the row."""


class StopSwitch:
    """The one place where a stop is asked for. The first reason stays."""

    def __init__(self) -> None:
        self.reason: Stop | None = None
        self._event = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self, reason: Stop) -> None:
        """Send nothing more; let requests in flight finish. Asking a second time, by a signal,
        does not wait for them.
        """
        if self.reason is None:
            self.reason = reason
            _LOG.info("stopping, by %s: %s", reason.by, reason.message)
            self._event.set()
        elif reason.is_signal:
            self._hurry.set()

    def stop_at(self, deadline_s: float | None, elapsed_s: float, clock: Clock) -> None:
        """Stop once the deadline is over, of which this much has passed; None: there is none. All
        time counts, also that for which the process was stopped or the machine slept.
        """
        if deadline_s is None:
            return
        reason = Stop(
            "deadline",
            f"the deadline of {deadline_s:g} s, from this start on, is over (--deadline)",
        )
        due_s = clock.now_s() + max(0.0, deadline_s - elapsed_s)
        loop = asyncio.get_running_loop()

        def look() -> None:
            left_s = due_s - clock.now_s() - clock.slept_s
            if left_s > 0:
                loop.call_later(min(left_s, LOOK_S), look)
            else:
                self.stop(reason)

        loop.call_later(min(due_s - clock.now_s(), LOOK_S), look)

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self.reason is not None

    async def wait(self) -> Stop:
        """Return when a stop is asked for."""
        await self._event.wait()
        assert self.reason is not None
        return self.reason

    async def hurried(self) -> None:
        """Return when somebody asks a second time."""
        await self._hurry.wait()
