"""Watching a run: turns the tally into rates, an estimate of the time left, and what binds it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrun.core.cost.money import usd
from batchrun.core.run.summary import format_examples
from batchrun.engine.controls import Controls
from batchrun.engine.engine import Engine
from batchrun.engine.lane import Lane
from batchrun.engine.observe.funds import Funds, MoneySnapshot
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.spending import Spending
from batchrun.engine.session.tally import Tally

WINDOW_S = 15.0
BUSY = 0.95
"""Share of one core above which our own CPU is what binds the run."""
WITHHELD = frozenset({"pause", "rpm", "tpm", "limits", "server", "outage"})
"""What holds requests back however much CPU there is. Time in which the process waits for a core
counts as CPU that it lacks, and beside other work there is always some.
"""


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """One endpoint at one moment. ``state`` is ``up``, ``throttled``, ``down`` (probes alone go
    there) or ``closed`` (nothing does, for ``why``); the counters are of exchanges.
    ``limits`` are those that it told last (see ``core.reply.limit_headers.Window``).
    """

    name: str
    state: str
    in_flight: int
    requests: int
    answers: int
    refusals: int
    failures: int
    requests_per_s: float
    bound_by: str | None
    why: str | None
    limits: list[dict[str, Any]]
    waiting: int = 0
    """Rows that wait for ``bound_by``, and would otherwise be in flight."""
    window: dict[str, Any] | None = None
    """What was found of the concurrency and rate that the server takes (``Gate.window``)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment. Rates are over the last ``WINDOW_S`` seconds; ``eta_s`` is None while
    it cannot be known. ``bound_by`` is one of ``pause``, ``concurrency``, ``rpm``, ``tpm``,
    ``limits``, ``server``, ``outage``, ``budget``, ``memory``, ``source``, ``cpu``, or None. The
    costs are of
    all sessions, None while none is known; ``money`` is None where besides there is no budget.
    """

    state: str
    elapsed_s: float
    rows_input: int | None
    ok: int
    error: int
    resumed: int
    retries: int
    throttled: int
    requests: int
    in_flight: int
    prompt_tokens: int
    completion_tokens: int
    requests_per_s: float
    tokens_per_s: float
    eta_s: float | None
    bound_by: str | None
    cost_usd: float | None = None
    wasted_cost_usd: float | None = None
    money: MoneySnapshot | None = None
    endpoints: tuple[EndpointSnapshot, ...] = ()
    reused: int = 0
    """Rows of this session that took an answer of another run; they are among ``ok``."""
    controls: dict[str, Any] | None = None
    """What ``batchrun ctl`` set in this session, the latest values."""
    notices: tuple[str, ...] = ()
    """Notices shown to the user so far."""
    errors: dict[str, int] = field(default_factory=dict)
    """Failed rows by error class; the class with most rows first."""
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By error class a failed row: ``row`` and ``message``."""
    waiting: int = 0
    """Rows that would be in flight if the endpoint, or a limit, let them."""
    waiting_for: str | None = None
    """What most of these wait for, in the words of ``bound_by``."""
    outputs: dict[str, int] = field(default_factory=dict)
    """``answers`` of this session, and those of them that are ``truncated`` or ``empty``."""
    last: bool = False
    """Whether it is the last one of its session: nothing is in flight any more."""

    @property
    def done(self) -> int:
        """Rows with a durable outcome."""
        return self.ok + self.error


class Monitor:
    """Takes snapshots of a running engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        lanes: Sequence[Lane],
        tally: Tally,
        switch: StopSwitch,
        spending: Spending | None = None,
        controls: Controls | None = None,
    ) -> None:
        self._controls = controls
        self._engine = engine
        self._lanes = lanes
        self._tally = tally
        self._switch = switch
        self._funds = Funds(tally, spending)
        self._samples: deque[tuple[float, ...]] = deque()
        self._started_s: float | None = None

    def sample(self, now_s: float, cpu_s: float) -> Snapshot:
        """A snapshot at ``now_s`` (monotonic); ``cpu_s`` is the CPU time that this process had, and
        waited for.
        """
        tally = self._tally
        if self._started_s is None:
            self._started_s = now_s
        tokens = tally.prompt_tokens + tally.completion_tokens
        sent = (lane.exchanges.sent for lane in self._lanes)
        rows, spent_pd = tally.ok + tally.error + tally.reused, tally.cost_pd or 0
        here = (now_s, cpu_s, tally.requests, tokens, rows, spent_pd, *sent)
        before = self._samples[-1] if self._samples else here
        self._samples.append(here)
        while now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        first = self._samples[0]
        span_s = now_s - first[0]
        requests_per_s, tokens_per_s, rows_per_s, _, *each_per_s = (
            (now - then) / span_s if span_s > 0 else 0.0
            for now, then in zip(here[2:], first[2:], strict=True)
        )
        bound_by = self._bound_by(now_s - before[0], cpu_s - before[1])
        if bound_by is not None:
            held_s = tally.bound_s.get(bound_by, 0.0)
            tally.bound_s[bound_by] = held_s + now_s - before[0]
        waiting = sum(lane.gate.waiting for lane in self._lanes)
        in_flight = sum(lane.gate.in_flight for lane in self._lanes) - waiting
        slowest = max((lane.gate for lane in self._lanes), key=lambda g: g.waiting, default=None)
        left = None if tally.rows_input is None else tally.rows_input - tally.done
        controls = self._controls
        paused = controls is not None and controls.paused
        return Snapshot(
            state="stopping" if self._switch.stopping else "paused" if paused else "running",
            controls=None if controls is None or not controls.now else dict(controls.now),
            elapsed_s=now_s - self._started_s,
            rows_input=tally.rows_input,
            ok=tally.ok + tally.reused + tally.resumed_ok,
            error=tally.error + tally.resumed_error,
            resumed=tally.resumed_ok + tally.resumed_error,
            reused=tally.reused,
            retries=tally.retries,
            throttled=tally.throttled,
            requests=tally.requests,
            in_flight=in_flight,
            waiting=waiting,
            waiting_for=slowest.bound_by if slowest is not None and slowest.waiting else None,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            requests_per_s=requests_per_s,
            tokens_per_s=tokens_per_s,
            eta_s=left / rows_per_s if left is not None and rows_per_s > 0 else None,
            bound_by=bound_by,
            cost_usd=None if tally.cost_pd is None else usd(tally.cost_pd),
            wasted_cost_usd=None if tally.cost_pd is None else usd(tally.wasted_pd),
            money=self._funds.snapshot(
                spent_pd - int(first[5]),
                span_s,
                in_flight=in_flight,
                stopping=self._switch.stopping,
            ),
            endpoints=tuple(map(_look, self._lanes, each_per_s)),
            notices=tuple(tally.told),
            errors=tally.failed_by_class,
            examples=format_examples(tally.first_failed, tally.failed_by_class),
            outputs={
                "answers": tally.ok,
                "truncated": tally.truncated,
                "empty": tally.empty,
            },
        )

    def _bound_by(self, wall_s: float, cpu_s: float) -> str | None:
        held = self._held_by()
        if held not in WITHHELD and wall_s > 0 and cpu_s / wall_s >= BUSY:
            return "cpu"
        if self._funds.full:
            return "budget"
        if held is None and self._engine.is_full:
            return "memory"
        if held is None and self._engine.waiting_for_input:
            return "source"
        return held

    def _held_by(self) -> str | None:
        """What holds requests back: None while an endpoint in service would take more."""
        found = [lane.gate.bound_by for lane in self._lanes if lane.in_service]
        if not found:
            return "outage"
        return None if None in found else found[0]


FOUND = ("rows_per_s", "pace_per_s")
"""What a window has once something was found: how much is delivered, or at which rate."""


def windows_found(lanes: Sequence[Lane]) -> dict[str, dict[str, Any]]:
    """What was found of the concurrency and rate that endpoints take, by their names; without those
    of which nothing was found.
    """
    windows = ((lane.name, lane.gate.window()) for lane in lanes)
    return {
        name: window
        for name, window in windows
        if window is not None and any(window[key] is not None for key in FOUND)
    }


def _look(lane: Lane, requests_per_s: float) -> EndpointSnapshot:
    exchanges = lane.exchanges
    return EndpointSnapshot(
        name=lane.name,
        state=lane.state,
        in_flight=lane.gate.in_flight - lane.gate.waiting,
        waiting=lane.gate.waiting,
        requests=exchanges.sent,
        answers=exchanges.answered,
        refusals=exchanges.refused,
        failures=exchanges.failed,
        requests_per_s=requests_per_s,
        bound_by=lane.gate.bound_by,
        why=None if lane.closed is None else lane.closed.message,
        limits=lane.gate.limits_told(),
        window=lane.gate.window(),
    )
