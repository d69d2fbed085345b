"""The endpoints of a run together: which of them a row's request goes to.

Each attempt picks anew, among the endpoints that serve the row's model: the one with the smallest
share of its permits in use. An endpoint that is down is picked when its next probe is due. A row
that finds none to take it waits here and not at one gate, so that the first that can takes it.
Rows that may go to the same endpoints wait in one line; of all lines, who came first goes first.

With a single endpoint there is nothing to pick, and ``only`` leads past all this.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from batchrun.engine.lane import Lane
from batchrun.engine.open_row import RowRun
from batchrun.engine.session.guards import LeftPendingError, Stop, StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.tally import Tally
from batchrun.ports import Permit

PATIENCE_S = 5.0
"""So long a row waits for the rate of one endpoint, while others serve it too."""

Route = tuple[Lane, ...]


class _Line(NamedTuple):
    """What rows have in common that may go to the same endpoints: see ``RowRun``."""

    route: Route
    shunned: int
    lacking: int

    @property
    def open_to(self) -> Route:
        """The endpoints that its rows would go to, if they were free: those that neither turned
        them away nor lack what they ask for, as long as there is one in service.
        """
        if not self.shunned | self.lacking:
            return self.route
        for bits in (self.shunned | self.lacking, self.lacking):
            left = tuple(lane for lane in self.route if not bits >> lane.number & 1)
            if any(lane.in_service for lane in left):
                return left
        return self.route


class _Turn(NamedTuple):
    """A row that waits for an endpoint; the lowest ``number`` came first."""

    number: int
    run: RowRun
    lane: asyncio.Future[Lane]


class Pool:
    """Picks an endpoint for every attempt."""

    def __init__(
        self, lanes: Sequence[Lane], *, room: Room, tally: Tally, switch: StopSwitch
    ) -> None:
        self.lanes = tuple(lanes)
        self.only = lanes[0] if len(lanes) == 1 else None
        self._room = room
        self._tally = tally
        self._switch = switch
        self._anything = tuple(lane for lane in lanes if lane.models is None)
        self._by_model = {
            model: tuple(lane for lane in lanes if lane.serves(model))
            for model in {name for lane in lanes for name in lane.models or ()}
        }
        self._turns: dict[_Line, deque[_Turn]] = {}
        self._numbers = itertools.count()
        self._serving: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        if self.only is None:
            for lane in lanes:
                lane.gate.changed = self._changed

    def route(self, model: str) -> Route:
        """The endpoints that serve a model."""
        return self._by_model.get(model, self._anything)

    def must_wait(self, run: RowRun) -> bool:
        """Whether the row would wait for endpoints of its own, while others may be idle."""
        if self.only is not None:
            return False
        line = self._line(run)
        return len(line.route) < len(self.lanes) and self._free(line, run) is None

    async def enter(self, run: RowRun) -> tuple[Lane, Permit]:
        """Return when the row's request may be sent, and where, of several."""
        request = run.request
        tokens = request.tokens
        while True:
            line = self._line(run)
            self._check_open(line.route)
            lane = self._free(line, run)
            if lane is None:
                lane = await self._turn(line, run)
            if not (lane.gate.paced and self.others(run, lane)):
                return lane, await lane.gate.enter(tokens, request)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    return lane, await lane.gate.enter(tokens, request)
            run.shun(lane.number)

    def elsewhere(self, run: RowRun, lane: Lane, *, now: bool = False) -> bool:
        """Whether the row may go on at another endpoint, one in service that has not turned it away
        of late; ``now``: one that would take it at once.
        """
        if self.only is not None:
            return False
        return any(
            other is not lane
            and other.in_service
            and not run.shuns(other.number)
            and not run.lacks(other.number)
            and (not now or other.gate.ready_in_s <= 0)
            for other in self.route(run.request.model)
        )

    def known_elsewhere(self, run: RowRun, lane: Lane) -> bool:
        """Whether another endpoint in service may have what the row asks for and this one lacks."""
        if self.only is not None:
            return False
        return any(
            other is not lane and other.in_service and not run.lacks(other.number)
            for other in self.route(run.request.model)
        )

    def others(self, run: RowRun, lane: Lane) -> bool:
        """Whether another endpoint in service serves the row's model."""
        if self.only is not None:
            return False
        return any(o is not lane and o.in_service for o in self.route(run.request.model))

    def replaceable(self, lane: Lane, model: str) -> bool:
        """Whether another endpoint that was not left out serves this model."""
        if self.only is not None:
            return False
        return any(o is not lane and o.closed is None for o in self.route(model))

    def leave(self, lane: Lane, stop: Stop) -> None:
        """Send nothing more to an endpoint in this session, for this reason."""
        if lane.closed is None:
            lane.closed = stop
            self._tally.notices.append(
                f"{lane.name} is left out from now on: {stop.message}. The other endpoints continue"
            )
            for line in self._turns:
                self._check_closed(line.route)

    def stop(self, lane: Lane, why: Stop | None) -> None:
        """Stop the run for what an endpoint did; of several, the reason names it."""
        assert why is not None
        named = (
            why if self.only is not None else replace(why, message=f"{lane.name}: {why.message}")
        )
        self._switch.stop(named)

    def _check_closed(self, route: Route) -> None:
        """Stop the run where rows wait for endpoints that are all left out."""
        if route and all(lane.closed is not None for lane in route):
            self.stop(route[0], route[0].closed)

    def _check_open(self, route: Route) -> None:
        self._check_closed(route)
        if self._switch.stopping:
            raise LeftPendingError

    def _line(self, run: RowRun) -> _Line:
        return _Line(self.route(run.request.model), run.shunned, run.lacking)

    def _free(self, line: _Line, run: RowRun) -> Lane | None:
        """The endpoint that takes a row now, and that nobody waits for."""
        lane = self._pick(line, run)
        if lane is None or any(lane in waiting.open_to for waiting in self._turns):
            return None
        return lane

    @staticmethod
    def _pick(line: _Line, run: RowRun) -> Lane | None:
        """The endpoint that takes a row now, None where all are at their limits."""
        best, least = None, math.inf
        open_to = line.open_to
        for lane in line.route:
            if lane.closed is not None or lane.promised or lane.gate.ready_in_s > 0:
                continue
            if lane.outage.down:
                return lane  # its probe is due
            if open_to is not line.route and lane not in open_to:
                continue
            load = lane.load + (lane.number == run.failed_at)
            if load < least:
                best, least = lane, load
        return best

    async def _turn(self, line: _Line, run: RowRun) -> Lane:
        """Wait in line for an endpoint."""
        found = asyncio.get_running_loop().create_future()
        turn = _Turn(next(self._numbers), run, found)
        self._turns.setdefault(line, deque()).append(turn)
        self._changed()
        # A row that waits for endpoints of its own leaves its place to rows for the others.
        apart = line.shunned or line.lacking or len(line.route) < len(self.lanes)
        try:
            with self._room.asleep() if apart else contextlib.nullcontext():
                lane: Lane = await found
        except asyncio.CancelledError:
            if found.done() and not found.cancelled():
                found.result().promised = False  # it was given a moment ago
                self._changed()
            raise
        lane.promised = False
        self._changed()
        return lane

    def _changed(self) -> None:
        """A gate may have room. Check once the code that changed it has finished."""
        if self._serving is None and self._turns:
            self._serving = asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Give those that wait their turn, and look again when the next gate opens."""
        self._serving = None
        heads = [(turns[0].number, line) for line, turns in self._turns.items()]
        heapq.heapify(heads)
        while heads:
            _, line = heapq.heappop(heads)
            turns = self._turns[line]
            turn = turns[0]
            if not turn.lane.done():  # else it was cancelled
                lane = self._pick(line, turn.run)
                if lane is None:
                    continue  # nobody in this line gets one: what is promised stays so
                lane.promised = True
                turn.lane.set_result(lane)
            turns.popleft()
            if turns:
                heapq.heappush(heads, (turns[0].number, line))
            else:
                del self._turns[line]
        waits = (
            lane.gate.ready_in_s
            for lane in {lane for line in self._turns for lane in line.route}
            if lane.closed is None
        )
        soonest_s = min((wait_s for wait_s in waits if wait_s > 0), default=math.inf)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if soonest_s < math.inf:
            self._alarm = asyncio.get_running_loop().call_later(soonest_s, self._changed)
