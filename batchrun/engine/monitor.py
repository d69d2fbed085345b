"""Watching a run: turns the tally into rates, an estimate of the time left, and what binds it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from batchrun.engine.engine import Engine
from batchrun.engine.gate import EndpointGate
from batchrun.engine.guards import StopSwitch
from batchrun.engine.tally import Tally

WINDOW_S = 15.0
BUSY = 0.95
"""Share of one core above which our own CPU is what binds the run."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment. Rates are over the last ``WINDOW_S`` seconds; ``eta_s`` is None while
    it cannot be known. ``bound_by`` is one of ``concurrency``, ``rpm``, ``tpm``, ``limits``,
    ``server``, ``outage``, ``source``, ``cpu``, or None. ``limits`` are those that the server told
    last; see ``core.limit_headers.Window``.
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
    limits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Rows with a durable outcome."""
        return self.ok + self.error


class Monitor:
    """Takes snapshots of a running engine."""

    def __init__(
        self, *, engine: Engine, gate: EndpointGate, tally: Tally, switch: StopSwitch
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._tally = tally
        self._switch = switch
        self._samples: deque[tuple[float, float, int, int, int]] = deque()
        self._started_s: float | None = None

    def sample(self, now_s: float, cpu_s: float) -> Snapshot:
        """A snapshot at ``now_s`` (monotonic); ``cpu_s`` is the CPU time of this process."""
        tally = self._tally
        if self._started_s is None:
            self._started_s = now_s
        tokens = tally.prompt_tokens + tally.completion_tokens
        here = (now_s, cpu_s, tally.requests, tokens, tally.ok + tally.error)
        before = self._samples[-1] if self._samples else here
        self._samples.append(here)
        while now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        first = self._samples[0]
        span_s = now_s - first[0]
        requests_per_s, tokens_per_s, rows_per_s = (
            (here[i] - first[i]) / span_s if span_s > 0 else 0.0 for i in (2, 3, 4)
        )
        bound_by = self._bound_by(now_s - before[0], cpu_s - before[1])
        if bound_by is not None:
            held_s = tally.bound_s.get(bound_by, 0.0)
            tally.bound_s[bound_by] = held_s + now_s - before[0]
        left = None if tally.rows_input is None else tally.rows_input - tally.done
        return Snapshot(
            state="stopping" if self._switch.stopping else "running",
            elapsed_s=now_s - self._started_s,
            rows_input=tally.rows_input,
            ok=tally.ok + tally.resumed_ok,
            error=tally.error + tally.resumed_error,
            resumed=tally.resumed_ok + tally.resumed_error,
            retries=tally.retries,
            throttled=tally.throttled,
            requests=tally.requests,
            in_flight=self._gate.in_flight,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            requests_per_s=requests_per_s,
            tokens_per_s=tokens_per_s,
            eta_s=left / rows_per_s if left is not None and rows_per_s > 0 else None,
            bound_by=bound_by,
            limits=self._gate.limits.public(),
        )

    def _bound_by(self, wall_s: float, cpu_s: float) -> str | None:
        if wall_s > 0 and cpu_s / wall_s >= BUSY:
            return "cpu"
        held = self._gate.bound_by
        if held is None and self._engine.waiting_for_input:
            return "source"
        return held
