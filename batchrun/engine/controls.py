"""Changing a live run: what `batchrun ctl` asks for is applied here, and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchrun.core.cost.money import picodollars, usd
from batchrun.core.run.controls import ACTIONS, Values, checked_values, key_of
from batchrun.core.run.summary import moment
from batchrun.engine.lane import Lane
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.engine.session.spending import Spending
from batchrun.errors import UsageError
from batchrun.ports import Clock

KEPT_MAX = 1000
"""So many changes are remembered, the latest."""
DRAIN = "drain"


def drained() -> Stop:
    """The end of a session that was asked to finish what is in flight."""
    return Stop(DRAIN, "drained by `batchrun ctl drain`", patient=True)


class Controls:
    """What may be asked of one session. ``history`` begins with that of earlier ones."""

    def __init__(
        self,
        *,
        lanes: Sequence[Lane],
        spending: Spending | None,
        switch: StopSwitch,
        clock: Clock,
        lacking: Callable[[int], str | None],
        record: Callable[[list[dict[str, Any]]], None],
        history: Sequence[dict[str, Any]] = (),
    ) -> None:
        """``lacking`` says what is missing for so many more requests at once; ``record`` returns
        once the history is durable.
        """
        self._lanes = lanes
        self._spending = spending
        self._switch = switch
        self._clock = clock
        self._lacking = lacking
        self._record = record
        self.history = list(history)
        """When what was asked for, as the summary has it."""
        self.now: dict[str, Any] = {}
        """What was set in this session, the latest values."""
        self.paused = False

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked for; returns what holds now. Raises ``UsageError`` where it cannot be
        done, and then nothing was changed.
        """
        action = request.get("do")
        if not isinstance(action, str) or action not in ACTIONS:
            message = f"{action!r} is none of {', '.join(ACTIONS)}"
            raise UsageError(message)
        if self._switch.stopping and action != DRAIN:
            message = "the run is stopping: nothing more is sent"
            raise UsageError(message)
        if action == "set":
            done: dict[str, Any] = self._set(checked_values(request.get("values")))
        else:
            done = self._do(action)
        self.now |= done
        self.history.append({"at": moment(self._clock.wall_us()), "set": done})
        del self.history[:-KEPT_MAX]
        await asyncio.to_thread(self._record, list(self.history))
        return self.held()

    def follow(self, action: str, values: Values) -> str | None:
        """Do what was asked of all processes of a fleet, which also keep the record of it. Their
        limits are changed by whoever shares them out; here there is room made for more requests
        at once. Returns why there is none, if so.
        """
        self.now |= dict(values) if action == "set" else self._do(action)
        plan = [(key_of(name), name, value) for name, value in values.items()]
        try:
            self._require_files(plan)
        except UsageError as error:
            return str(error)
        for (endpoint, key), _, value in plan:
            if key == "concurrency" and value is not None:
                for lane in self._lanes:
                    if endpoint in (None, lane.name):
                        lane.transport.resize(int(value))
        return None

    def _do(self, action: str) -> dict[str, Any]:
        """Pause, go on, or stop; returns what is remembered of it."""
        if action == DRAIN:
            self._switch.stop(drained())
            return {DRAIN: True}
        self._pause(paused=action == "pause")
        return {"paused": action == "pause"}

    def held(self) -> dict[str, Any]:
        """What holds now."""
        state = "stopping" if self._switch.stopping else "paused" if self.paused else "running"
        cost = None if self._spending is None else self._spending.cost
        return {
            "state": state,
            "max_cost_usd": None if cost is None else usd(cost.cap),
            "endpoints": {
                lane.name: {
                    "concurrency": lane.gate.concurrency,
                    "rpm": lane.gate.rpm,
                    "tpm": lane.gate.tpm,
                }
                for lane in self._lanes
            },
        }

    def _set(self, values: Values) -> dict[str, Any]:
        """Apply the values, all of them or none."""
        plan = [(key_of(name), name, value) for name, value in values.items()]
        names = {lane.name for lane in self._lanes}
        for (endpoint, key), name, _ in plan:
            if endpoint is not None and endpoint not in names:
                message = f"{name}: no endpoint is called {endpoint}; there are {', '.join(names)}"
                raise UsageError(message)
            if key == "max_cost" and (self._spending is None or self._spending.cost is None):
                message = (
                    "max_cost can be changed where the run began with one: prices and the worst "
                    "case of every row are checked at the start. Stop the run, and start it again "
                    "with --max-cost"
                )
                raise UsageError(message)
        self._require_files(plan)
        for (endpoint, key), _, value in plan:
            if key == "max_cost":
                assert self._spending is not None
                assert self._spending.cost is not None
                assert value is not None
                self._spending.cost.change_cap(picodollars(value))
            for lane in self._lanes if key != "max_cost" else ():
                if endpoint in (None, lane.name):
                    _apply(lane, key, value)
        return dict(values)

    def _require_files(self, plan: Sequence[tuple[tuple[str | None, str], str, Any]]) -> None:
        """Raise ``UsageError`` where more requests at once have no room in this process."""
        more = 0
        for lane in self._lanes:
            wanted = lane.gate.concurrency
            for (endpoint, key), _, value in plan:
                if key == "concurrency" and endpoint in (None, lane.name):
                    wanted = value
            more += wanted - lane.gate.concurrency
        lacking = self._lacking(more) if more > 0 else None
        if lacking is not None:
            raise UsageError(lacking)

    def _pause(self, *, paused: bool) -> None:
        self.paused = paused
        for lane in self._lanes:
            if paused:
                lane.gate.pause()
            else:
                lane.gate.go_on()


def _apply(lane: Lane, key: str, value: float | None) -> None:
    if key == "rpm":
        lane.gate.set_rpm(value)
    elif key == "tpm":
        lane.gate.set_tpm(value)
    else:
        assert value is not None
        lane.transport.resize(int(value))
        lane.gate.resize(int(value))
