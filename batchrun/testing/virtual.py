"""An event loop on virtual time: nothing sleeps, and an hour of waiting takes no time.

The loop is asyncio's own; only its selector and its clock are replaced. Instead of sleeping until
the next timer, the clock jumps there. Without a timer nothing can ever happen again: that is a
deadlock, which raises an error instead of hanging the test.

Everything must happen on the loop: a thread's work takes no virtual time and is not awaited.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

START_S = 1000.0
"""The loop's time when it is made; not zero, so that nothing mistakes it for "never"."""

EPOCH_US = 1_767_225_600_000_000
"""The wall clock when the loop is made: 2026-01-01, UTC."""

PATIENT_TURNS = 1000
CREEP_S = 1e-6
"""After this many turns without any time passing, each takes this long. A real clock never stands
still, and code that waits for a rounding error to pass relies on that (aiolimiter does).
"""

IDLE_TURNS_MAX = 200_000
"""Turns of the loop without a wait, after which it counts as spinning."""

T = TypeVar("T")


class DeadlockError(RuntimeError):
    """Every task waits for something that no timer and no task will bring."""


class SpinError(RuntimeError):
    """Tasks keep each other busy and never wait."""


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that moves the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self.on_turn: Callable[[], None] | None = None
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; if nothing is, time moves on by ``timeout`` seconds."""
        if self.on_turn is not None:
            self.on_turn()
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise DeadlockError("nothing is ready and no timer is set: every task waits for ever")
        if timeout > 0:
            self.now_s += timeout
            self._turns = 0
            return ready
        self._turns += 1
        if self._turns > PATIENT_TURNS:
            self.now_s += CREEP_S
        if self._turns > IDLE_TURNS_MAX:
            message = f"{IDLE_TURNS_MAX:,} turns without a wait at {self.now_s:g} s"
            raise SpinError(message)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's selector loop with a clock that jumps from timer to timer."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds; ``START_S`` when the loop is made."""
        return self._jumping.now_s

    def watch_turns(self, watch: Callable[[], None] | None) -> None:
        """Call ``watch`` at every turn of the loop; an exception in it ends the loop."""
        self._jumping.on_turn = watch


class VirtualClock:
    """``ports.Clock`` by the running virtual loop; the wall clock advances with it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.missed_s = self.slept_s = 0.0

    def now_s(self) -> float:
        """See ``ports.Clock``."""
        return self._loop.time()

    def wall_us(self) -> int:
        """See ``ports.Clock``."""
        return EPOCH_US + round((self._loop.time() - START_S) * 1e6)

    async def sleep(self, delay_s: float) -> None:
        """See ``ports.Clock``."""
        await asyncio.sleep(delay_s)


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of the coroutine, run to its end on a new virtual loop. Raises ``DeadlockError``
    if all tasks wait forever, and ``SpinError`` if they keep each other busy forever.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
