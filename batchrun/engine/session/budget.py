"""A budget that is not overshot: what requests may cost at most is set aside before they are sent.

An exchange's worst case is reserved, and settled when its answer says what it cost; one without an
answer stays charged with its worst case, since the server may bill it. Near the cap a request that
does not fit waits for those that are out: they give back what they did not use. Only when nothing
is out and the next one still does not fit is the budget used up.

The charge outlives the process. It may only grow up to a mark that is on the disk, which is moved
ahead in steps; a session that ended without a word has spent no more than its mark.

Where several processes have one budget together, ``fleet/sharing.py`` moves the mark, by what the
fleet's book says (``core/fleet/accounts.py``), and only that knows when the budget is used up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from batchrun.core.cost.charged import Charge, Need
from batchrun.engine.session.guards import Stop, StopSwitch

STEPS = 200
"""The mark moves ahead by this share of the cap; a crash costs up to one step of it."""


class _Turn(NamedTuple):
    amount: int
    told: asyncio.Future[None]


class Budget:
    """One cap on a whole number of units, over all sessions of a run directory."""

    def __init__(
        self,
        *,
        guard: str,
        cap: int,
        before: Charge,
        commit: Callable[[int, Charge], Awaitable[None]],
        switch: StopSwitch,
        used_up: Callable[[Budget, int], str],
    ) -> None:
        """``before`` is what earlier sessions left charged. ``commit`` returns once a mark, and
        the charge below it, would survive a power cut. ``guard`` names the stop, ``used_up`` words
        it: given the amount of the request that does not fit any more.
        """
        self.cap = cap
        self.charge = before
        self.reserved = 0
        self._guard = guard
        self._mark = before.spent
        self._step = max(1, cap // STEPS)
        self._commit = commit
        self._switch = switch
        self._used_up = used_up
        self._line: deque[_Turn] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._ask: Callable[[], None] | None = None
        self.whole: Charge | None = None
        """What all processes together are charged, of a budget that is shared and used up."""

    @property
    def is_shared(self) -> bool:
        """Whether this is a part of a budget that several processes have."""
        return self._ask is not None

    def share(self, ask: Callable[[], None]) -> None:
        """Be a part of a budget that several processes have: nothing is charged to it so far, and
        nothing granted. ``ask`` is called when more is needed; ``grant`` and ``end`` answer it.
        """
        self.charge, self._mark, self._ask = Charge(0), 0, ask

    def need(self) -> Need:
        """What was spent, and what is needed, of a budget that is shared."""
        line = [turn.amount for turn in self._line if not turn.told.done()]
        first = line[0] if line else 0
        return Need(self.cap, self.charge, self.reserved, first, sum(line))

    def lower(self, mark: int) -> None:
        """Keep to this mark from now on, if it is a lower one."""
        self._mark = min(self._mark, mark)

    def grant(self, mark: int) -> None:
        """Keep to this mark from now on."""
        self._mark = mark
        self._move()

    def end(self, whole: Charge) -> None:
        """The budget is used up: nothing is out in any process, the next request does not fit."""
        self.whole = whole
        first = next((turn.amount for turn in self._line if not turn.told.done()), None)
        if first is not None:
            self._stop(first)

    async def reserve(self, amount: int) -> None:
        """Return when the amount is set aside, first come, first served. A cancelled waiter leaves
        no trace. Raises what kept the mark from being written.
        """
        if not self._line and self._within(self._mark, amount):
            self.reserved += amount
            return
        turn = _Turn(amount, asyncio.get_running_loop().create_future())
        self._line.append(turn)
        self._move()
        try:
            await turn.told
        except asyncio.CancelledError:
            if turn.told.done() and not turn.told.cancelled():
                self.settle(amount, 0)  # it was set aside a moment ago
            else:
                self._move()  # the next one may fit
            raise

    def change_cap(self, cap: int) -> None:
        """Allow so much from now on. What is charged stays charged: below that, nothing more is
        sent, and the run stops once nothing is out.
        """
        self.cap = cap
        self._step = max(1, cap // STEPS)
        self._mark = min(self._mark, max(cap, self.charge.spent + self.reserved))
        self._move()

    @property
    def full(self) -> bool:
        """Whether requests wait for those that are out to give back what they do not use."""
        return bool(self._line) and self._committing is None

    def settle(self, amount: int, cost: int | None) -> None:
        """An exchange that this amount was reserved for is over and cost so much; None: nobody
        knows, and the whole amount stays charged.
        """
        self.reserved -= amount
        spent, held, unanswered = self.charge
        if cost is None:
            self.charge = Charge(spent + amount, held + amount, unanswered + 1)
        else:
            self.charge = Charge(spent + cost, held, unanswered)
        if self._line:
            self._move()

    async def close(self) -> None:
        """See a mark that is being written to its end."""
        if self._committing is not None:
            await asyncio.wait((self._committing,))

    def _within(self, bound: int, amount: int) -> bool:
        return self.charge.spent + self.reserved + amount <= bound

    def _move(self) -> None:
        """Let those in line through, as far as they fit."""
        while self._line:
            turn = self._line[0]
            if turn.told.done():  # cancelled
                self._line.popleft()
            elif self._within(self._mark, turn.amount):
                self._line.popleft()
                self.reserved += turn.amount
                turn.told.set_result(None)
            elif self._ask is not None:
                self._ask()
                return
            elif self._within(self.cap, turn.amount):
                self._advance(turn.amount)
                return
            else:
                if not self.reserved:
                    self._stop(turn.amount)
                return

    def _stop(self, amount: int) -> None:
        """Stop the run: nothing is out, and a request of this amount does not fit."""
        self._switch.stop(Stop(self._guard, self._used_up(self, amount), needs=amount))

    def _advance(self, amount: int) -> None:
        """Move the mark ahead, so that this amount fits and some more."""
        if self._committing is None:
            needed = self.charge.spent + self.reserved + amount
            mark = min(self.cap, needed + self._step)
            self._committing = asyncio.create_task(self._write(mark), name="budget")
            self._committing.add_done_callback(self._written)

    async def _write(self, mark: int) -> None:
        await self._commit(mark, self.charge)
        self._mark = mark

    def _written(self, task: asyncio.Task[None]) -> None:
        self._committing = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._move()
            return
        while self._line:
            turn = self._line.popleft()
            if not turn.told.done():
                turn.told.set_exception(error)
