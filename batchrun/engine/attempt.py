"""The attempt loop: one row's request, from the gate to its outcome. The only loop there is.

The first exchange is sent bare; tenacity's machinery is entered only after a first failure, since
most rows never have one. Its first call raises the failure already known, so that it waits before
sending again. The permit is given back before any wait.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from batchrun.core import output
from batchrun.core import reply as reading
from batchrun.core.drift import Drift
from batchrun.core.rules import HEALTH
from batchrun.core.stop_message import stop_message
from batchrun.core.verdict import Action, Circumstances, Verdict, judge
from batchrun.engine.gate import Dice
from batchrun.engine.guards import Stop, StopSwitch
from batchrun.engine.ledger import ledger_line, tokens_used
from batchrun.engine.outage import Outage
from batchrun.engine.renewal import Renewal
from batchrun.engine.room import Room
from batchrun.engine.tally import Tally
from batchrun.errors import TransportFault
from batchrun.ports import Clock, Credentials, Gate, Journal, Transport
from batchrun.records import Attempt, Outcome, Reply, Request

BACKOFF_S = 0.5
BACKOFF_S_MAX = 30.0
REFUSED_BACKOFF_S = 1.0
REFUSED_BACKOFF_S_MAX = 60.0
KEPT_RESPONSE_BYTES = 2**20


class LeftPendingError(Exception):
    """The run stops, or stopped, before this row had an outcome. It is not an error of the row."""


class AgainError(Exception):
    """An exchange failed in a way that is worth another try.

    ``at_gate`` says that the gate does the waiting, for all rows together.
    """

    def __init__(self, verdict: Verdict, *, at_gate: bool = False) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict
        self.at_gate = at_gate


@dataclass(slots=True)
class RowRun:
    """One open row: where it is, and what it has been through.

    ``phase`` is ``waiting`` (at the gate or in a backoff: may be given up when the run stops),
    ``sending`` or ``settled``. ``rulings`` counts its failures by rule; ``doubts`` are those that
    may turn out to be the endpoint's alone: the time of trouble (see core/outage.py) and the rule.
    """

    request: Request
    number: int
    phase: str = "waiting"
    charged: int = 0
    rulings: dict[str, int] = field(default_factory=dict)
    doubts: list[tuple[int, str]] = field(default_factory=list)
    probes: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What the loop may do. ``raw`` is the setting of that name, ``model`` the run's model, None
    where each row brings its own; ``output`` what is asked of every answer, None for nothing.
    """

    max_attempts: int
    wait_s_max: float
    raw: str
    endpoint: str
    model: str | None = None
    output: output.Policy | None = None


class AttemptLoop:
    """Sends rows' requests until each has an outcome."""

    def __init__(
        self,
        *,
        transport: Transport,
        gate: Gate,
        journal: Journal,
        clock: Clock,
        dice: Dice,
        room: Room,
        tally: Tally,
        switch: StopSwitch,
        policy: Policy,
        credentials: Credentials | None = None,
        drift: Drift | None = None,
    ) -> None:
        """``drift`` says which models answered in earlier sessions."""
        self._transport = transport
        self._renewal = Renewal(credentials, journal)
        self._gate = gate
        self._journal = journal
        self._clock = clock
        self._dice = dice
        self._room = room
        self._tally = tally
        self._switch = switch
        self._policy = policy
        self._drift = drift or Drift()
        self._outage = Outage(
            endpoint=policy.endpoint,
            gate=gate,
            clock=clock,
            dice=dice,
            tally=tally,
            switch=switch,
            attempts_max=policy.max_attempts,
            silence_s_max=policy.wait_s_max,
        )
        self._refused_from_s: float | None = None

    async def first(self, run: RowRun) -> Outcome:
        """Send a row's request for the first time.

        Raises ``AgainError`` where another try is worth it, for ``again`` to make, and
        ``LeftPendingError`` where the run stops before there is an outcome.
        """
        return await self._attempt(run)

    async def again(self, run: RowRun, failed: AgainError) -> Outcome:
        """Try until there is an outcome. Raises ``LeftPendingError`` where the run stops before;
        attempts made until then are in the journal's hands.
        """
        first: AgainError | None = failed

        async def attempt() -> Outcome:
            nonlocal first
            if first is not None:
                known, first = first, None
                raise known
            return await self._attempt(run)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(AgainError),
            wait=self._wait_s,
            sleep=lambda delay_s: self._pause(run, delay_s),
            reraise=True,
        )
        return await retrying(attempt)

    async def _attempt(self, run: RowRun) -> Outcome:
        request = run.request
        self._check_going(run)
        permit = await self._gate.enter(request.tokens)
        with permit:
            self._check_going(run)
            run.phase = "sending"
            run.number += 1
            wall_us = self._clock.wall_us()
            self._journal.sending(request.row, run.number, 0, wall_us)
            self._tally.requests += 1
            key = self._renewal.generation
            sent_at_s = self._clock.now_s()
            exchange: Reply | TransportFault
            try:
                exchange = await self._transport.send(request)
            except TransportFault as fault:
                # Its frames hold what had arrived: a whole bomb, until cycles are collected.
                exchange = fault.with_traceback(None)
            except asyncio.CancelledError:
                latency_s = self._clock.now_s() - sent_at_s
                self._interrupted(run, wall_us, permit.queue_s, latency_s)
                raise
            latency_s = self._clock.now_s() - sent_at_s
            if run.doubts:
                self._outage.forgive(run)
            verdict = judge(exchange, self._circumstances(run, wall_us, sent_at_s + latency_s))
            permit.settle(tokens_used(request, exchange, verdict))
        if verdict.error_class == "auth":
            line = ledger_line(
                run, self._policy.endpoint, exchange, verdict, wall_us, permit.queue_s, latency_s
            )
            verdict = await self._renewal.bend(verdict, key, run, line)
        elif verdict.action is Action.DONE:
            self._renewal.proved = key
        asked, wanted = request.expected, self._policy.output
        if (asked is not None or wanted is not None) and verdict.completion is not None:
            self._refused_from_s = None
            verdict = output.held_against(verdict, asked, wanted)
        health = HEALTH.get(verdict.rule)
        if health is not None:
            verdict = self._outage.ruled(
                run, verdict, health, probe=permit.probe, sent_at_s=sent_at_s
            )
        elif not self._outage.clean:
            self._outage.answered()
        if verdict.action is not Action.HOLD:
            run.rulings[verdict.rule] = run.rulings.get(verdict.rule, 0) + 1
            run.charged += verdict.charged
        attempt = ledger_line(
            run, self._policy.endpoint, exchange, verdict, wall_us, permit.queue_s, latency_s
        )
        reply = exchange if isinstance(exchange, Reply) else exchange.partial
        self._gate.heard(reply, sent_at_s=sent_at_s)
        return self._act(run, attempt, verdict, reply, sent_at_s)

    def _circumstances(self, run: RowRun, wall_us: int, now_s: float) -> Circumstances:
        policy, refused_from_s = self._policy, self._refused_from_s
        return Circumstances(
            run.rulings,
            self._tally.succeeded,
            wall_us / 1e6,
            policy.wait_s_max,
            run.request.model == policy.model,
            run.charged + 1 >= policy.max_attempts,
            0.0 if refused_from_s is None else now_s - refused_from_s,
        )

    def _act(
        self,
        run: RowRun,
        attempt: Attempt,
        verdict: Verdict,
        reply: Reply | None,
        sent_at_s: float,
    ) -> Outcome:
        """Do what the verdict says."""
        at_gate = False
        match verdict.action:
            case Action.DONE:
                self._refused_from_s = None
                run.phase = "settled"
                completion = verdict.completion
                assert completion is not None
                if news := self._drift.note(run.request.model, completion, run.request.row):
                    self._tally.notices.append(news)
                return Outcome(
                    row=run.request.row,
                    custom_id=run.request.custom_id,
                    completion=completion,
                    failure=None,
                    attempts=run.number,
                    attempt=attempt,
                    request_hash=run.request.hash,
                    response=self._kept(reply) if self._policy.raw == "all" else None,
                )
            case Action.FAIL:
                self._refused_from_s = None
                return self._failed(run, attempt, verdict, reply)
            case Action.STOP:
                self._journal.post(attempt)
                self._switch.stop(
                    Stop(
                        verdict.error_class or "",
                        stop_message(verdict, attempt.http_status, self._policy.wait_s_max),
                    )
                )
                raise LeftPendingError
            case Action.THROTTLE:
                self._tally.throttled += 1
                if self._refused_from_s is None:
                    self._refused_from_s = self._clock.now_s()
                at_gate = self._gate.cool_down(
                    verdict.wait_s, sent_at_s=sent_at_s, for_all=verdict.rule == "slow_down"
                )
            case Action.HOLD:
                at_gate = True
            case _:
                pass
        if run.charged >= self._policy.max_attempts:
            return self._failed(run, attempt, verdict, reply)
        # It decides nothing: it goes to the ledger by itself, whatever becomes of the row.
        self._tally.retries += 1
        self._journal.post(attempt)
        run.phase = "waiting"
        raise AgainError(verdict, at_gate=at_gate)

    def _failed(
        self, run: RowRun, attempt: Attempt, verdict: Verdict, reply: Reply | None
    ) -> Outcome:
        run.phase = "settled"
        kept = None
        if reply is not None and self._policy.raw != "none":
            kept = reading.text_of(reply.body, reading.ERROR_TEXT_MAX)
        return Outcome(
            row=run.request.row,
            custom_id=run.request.custom_id,
            completion=None,
            failure=reading.failure(
                verdict.error_class or "server_error", verdict.code, verdict.message
            ),
            attempts=run.number,
            attempt=attempt,
            request_hash=run.request.hash,
            response=kept,
        )

    @staticmethod
    def _kept(reply: Reply | None) -> str | None:
        if reply is None or len(reply.body) > KEPT_RESPONSE_BYTES:
            return None
        return reading.text_of(reply.body, KEPT_RESPONSE_BYTES)

    def _check_going(self, run: RowRun) -> None:
        if self._switch.stopping:
            run.phase = "settled"
            raise LeftPendingError

    async def _pause(self, run: RowRun, delay_s: float) -> None:
        self._check_going(run)
        if delay_s > 0:
            with self._room.asleep():
                await self._clock.sleep(delay_s)

    def _wait_s(self, state: RetryCallState) -> float:
        """Full jitter on an exponential backoff, or what the server asked for and a little.

        A refused row waits at the gate, where the cool-down holds everybody, or here, where it
        alone was refused.
        """
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, AgainError)
        verdict = error.verdict
        if error.at_gate or verdict.action is Action.FREE:
            return 0.0
        tries: int = min(state.attempt_number - 1, 20)
        if verdict.action is Action.THROTTLE:
            longest_s: float = min(REFUSED_BACKOFF_S_MAX, REFUSED_BACKOFF_S * 2**tries)
            if verdict.wait_s is None:
                return longest_s * (0.5 + 0.5 * self._dice.random())
            return verdict.wait_s + min(verdict.wait_s, 1.0) * 0.5 * self._dice.random()
        first_s = BACKOFF_S if verdict.backoff_s is None else verdict.backoff_s
        backoff_s: float = min(BACKOFF_S_MAX, first_s * 2**tries) * self._dice.random()
        if verdict.wait_s is not None:
            return verdict.wait_s + min(backoff_s, 1.0)
        return backoff_s

    def _interrupted(self, run: RowRun, wall_us: int, queue_s: float, latency_s: float) -> None:
        """A request in flight was given up: the server may answer, and bill, it all the same."""
        fault = TransportFault("the run was stopped", kind="interrupted", sent=True)
        verdict = Verdict(Action.AGAIN, "interrupted", None, "connection", "interrupted")
        self._journal.post(
            ledger_line(run, self._policy.endpoint, fault, verdict, wall_us, queue_s, latency_s)
        )
        run.phase = "settled"
