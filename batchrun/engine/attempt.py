"""The attempt loop: one row's request, from the gate to its outcome. The only loop there is.

``_attempt`` sends a request, has ``core.verdict.decide`` decide about the exchange, and acts on
what it decided; nothing here judges.

The first exchange is sent bare; tenacity's machinery is entered only after a first failure, since
most rows never have one. Its first call raises the failure already known, so that it waits before
sending again. The permit is given back before any wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from batchrun.core.reply import completion as reading
from batchrun.core.settings.bounds import Finished
from batchrun.core.verdict.decide import Decision, Key, Sign, decide, failing_as
from batchrun.core.verdict.rules import HEALTH, Action
from batchrun.core.verdict.stop_message import stop_message
from batchrun.engine.attempt_record import given_up, ledger_line, tokens_used
from batchrun.engine.holding_back import HoldingBack
from batchrun.engine.lane import Lane, Way, lanes_of
from batchrun.engine.lane_view import Scene, Seen
from batchrun.engine.open_row import AgainError, LaterError, Phase, RowRun, WithheldError, failed
from batchrun.engine.pace.gate import Dice
from batchrun.engine.pace.reception import reception_of
from batchrun.engine.policy import Policy
from batchrun.engine.pool import Pool
from batchrun.engine.resending import fallback_of, raise_limit, wait_s
from batchrun.engine.session.guards import Cause, LeftPendingError, Stop, StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.spending import Reserved, Spending
from batchrun.engine.session.tally import Tally
from batchrun.engine.withholding import Withholding
from batchrun.errors import LocalServerError, TransportFault
from batchrun.ports import Clock, Journal, Permit
from batchrun.records import Attempt, Outcome, Reception, Reply

_DONE = Action.DONE  # a name of the module is found sooner than a member of an enumeration
_SENDING, _SETTLED = Phase.SENDING, Phase.SETTLED
_ANSWERED, _RECEIVED = Sign.ANSWERED, Reception.ANSWERED
_new = tuple.__new__  # half the time of a named tuple's own ways


class AttemptLoop:
    """Sends rows' requests until each has an outcome."""

    def __init__(
        self,
        ways: Sequence[Way],
        *,
        journal: Journal,
        clock: Clock,
        dice: Dice,
        room: Room,
        tally: Tally,
        switch: StopSwitch,
        policy: Policy,
        spending: Spending | None = None,
        finished: Finished | None = None,
    ) -> None:
        """``ways`` are the endpoints, in the order of the settings; ``spending`` are the budgets,
        where there are any; without ``finished`` every failure ends its row at once.
        """
        self._spending = spending
        self._journal = journal
        self._clock = clock
        self._dice = dice
        self._room = room
        self._tally = tally
        self._switch = switch
        self._policy, self._holding_back = policy, HoldingBack()
        lanes = lanes_of(ways, clock=clock, dice=dice, tally=tally, switch=switch)
        self.pool = Pool(lanes, room=room, tally=tally, switch=switch)
        self._fallback = fallback_of(policy, self.pool, journal=journal, tally=tally)
        self._plain = policy.output is None and self._fallback is None
        self.withholding: Withholding | None = None
        if finished is not None:
            self.withholding = Withholding(
                self.pool, journal=journal, room=room, tally=tally, finished=finished
            )
        self._scene = Scene(self.pool, policy, clock, tally, self._fallback, self.withholding)

    def first(self, run: RowRun) -> Coroutine[Any, Any, Outcome]:
        """Send a row's request for the first time.

        Raises ``LaterError`` where another try is worth it, or the first one must wait for an
        endpoint of its own, for ``again`` to make; and ``LeftPendingError`` where the run stops
        before there is an outcome.
        """
        if self.pool.only is None and self.pool.must_wait(run):
            raise LaterError
        # Awaiting it here would be another frame to wake with every reply.
        return self._held_back(run) if self._holding_back.failed_first else self._attempt(run)

    async def _held_back(self, run: RowRun) -> Outcome:
        await self._holding_back.room()
        return await self._attempt(run)

    async def again(self, run: RowRun, later: LaterError) -> Outcome:
        """Try until there is an outcome. Raises ``LeftPendingError`` where the run stops before;
        attempts made until then are in the journal's hands.
        """
        while True:
            try:
                if isinstance(later, WithheldError):
                    self._check_going(run)
                    assert self.withholding is not None
                    return await self.withholding.ruled(run, later.withheld)
                return await self._until_ended(run, later)
            except (WithheldError, AgainError) as still:
                later = still

    async def _until_ended(self, run: RowRun, later: LaterError) -> Outcome:
        from tenacity import AsyncRetrying, retry_if_exception_type  # 5 ms, for runs that need it

        first = later if isinstance(later, AgainError) else None

        async def attempt() -> Outcome:
            nonlocal first
            if first is not None:
                known, first = first, None
                raise known
            return await self._attempt(run)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(AgainError),
            wait=lambda state: wait_s(state, self._dice),
            sleep=lambda delay_s: self._pause(run, delay_s),
            reraise=True,
        )
        with self._holding_back.trying_again():
            return await retrying(attempt)

    async def _attempt(self, run: RowRun) -> Outcome:
        """Send the row's request once, decide about the exchange, and act on the decision."""
        switch, pool, clock = self._switch, self.pool, self._clock
        if switch.reason is not None:
            self._check_going(run)
        lane, permit = (
            await pool.enter(run)
            if pool.only is None
            else (pool.only, await pool.only.gate.enter(run.request.tokens, run.request))
        )
        with permit:
            if switch.reason is not None:
                self._check_going(run)
            reserved = None
            if self._spending is not None:
                reserved = await self._reserved(self._spending, lane, permit, run)
            self._sending(lane, run)
            exchange: Reply | TransportFault
            try:
                exchange = await lane.transport.send(lane.worded(run.request))
            except TransportFault as fault:
                # Its frames hold what had arrived: a whole bomb, until cycles are collected.
                exchange = fault.with_traceback(None)
            except LocalServerError as ended:
                self._given_up(lane, run, permit, reserved)
                self._switch.stop(Stop("local_server", str(ended)))
                raise LeftPendingError from None
            except asyncio.CancelledError:
                self._given_up(lane, run, permit, reserved)
                raise
            lane.out.discard(run.sent)
            if run.doubts:
                run.forgive()
            seen = _new(Seen, (lane, run, self._scene, self._plain, permit.probe, None))
            decision = decide(exchange, run, seen)
            verdict = decision.verdict
            latency_s = clock.now_s() - clock.missed_s - run.awake_s
            prices = self._policy.prices
            attempt = ledger_line(
                run, lane.name, exchange, decision, permit.queue_s, latency_s, prices
            )
            if reserved is not None and self._spending is not None:
                self._spending.answered(reserved, attempt, exchange, verdict)
            permit.settle(tokens_used(exchange, verdict), verdict.usage)
            permit.observed(
                _RECEIVED if decision.action is _DONE else reception_of(decision),
                sent_at_s=run.sent_at_s,
                latency_s=latency_s,
                tokens=attempt.usage.completion_tokens,
            )
        if decision.error_class == "auth" and lane.renewal.may_help(run, decision):
            seen = seen._replace(key=await self._other_key(lane, run, attempt))
            decision = decide(exchange, run, seen)
            attempt = attempt._replace(error_class=decision.error_class, decided_by=decision.trail)
        return self._act(lane, run, exchange, decision, attempt)

    def _sending(self, lane: Lane, run: RowRun) -> None:
        """Note that the row's request goes out now."""
        clock = self._clock
        run.phase = _SENDING
        run.number += 1
        run.wall_us = wall_us = clock.wall_us()
        self._journal.sending(run.request.row, run.number, lane.number, wall_us)
        run.sent = self._tally.requests = self._tally.requests + 1
        lane.out.add(run.sent)
        lane.exchanges.sent += 1
        run.key = lane.renewal.generation
        run.sent_at_s = sent_at_s = clock.now_s()
        run.awake_s = sent_at_s - clock.missed_s

    async def _reserved(
        self, spending: Spending, lane: Lane, permit: Permit, run: RowRun
    ) -> Reserved:
        """What the row's exchange may cost, once the budgets have it."""
        try:
            named = lane.name_of(run.request.model)
            beside = self._fallback.beside(run.request) if self._fallback is not None else ()
            reserved = await spending.reserve(
                lane.name, named, run.request, self._clock.wall_us(), beside
            )
        except BaseException:
            permit.settle(0)
            raise
        if self._switch.stopping:
            spending.settle(reserved, 0, 0)
            permit.settle(0)
        self._check_going(run)
        return reserved

    def _given_up(self, lane: Lane, run: RowRun, permit: Permit, reserved: Reserved | None) -> None:
        """The request is given up while it is out."""
        lane.out.discard(run.sent)
        latency_s = self._clock.now_s() - self._clock.missed_s - run.awake_s
        given_up(self._journal, run, lane.name, permit.queue_s, latency_s)
        if reserved is not None and self._spending is not None:
            self._spending.settle(reserved)

    async def _other_key(self, lane: Lane, run: RowRun, attempt: Attempt) -> Key:
        """Ask for another key. Cancelled, it leaves the attempt in the ledger: it was sent."""
        run.phase = Phase.WAITING
        try:
            return await lane.renewal.renew(run.key)
        except asyncio.CancelledError:
            self._journal.post(attempt)
            run.phase = _SETTLED
            raise

    def _act(
        self,
        lane: Lane,
        run: RowRun,
        exchange: Reply | TransportFault,
        decision: Decision,
        attempt: Attempt,
    ) -> Outcome:
        """Do what was decided: the outcome of the row. Raises ``LaterError`` where it has none
        yet, and ``LeftPendingError`` where the run stops.
        """
        done = decision.action is _DONE
        if decision.sign is not _ANSWERED or not lane.outage.clean:
            self._note_health(lane, run, decision)
        if decision.verdict.completion is not None:
            lane.renewal.proved = run.key
            lane.exchanges.answered += 1
            lane.refused_from_s = None
        if not done:
            self._note(lane, run, decision)
        if attempt.cost_pd is not None:
            run.cost_pd += attempt.cost_pd
            self._tally.spend(attempt.cost_pd, kept=done)
        reply = exchange if isinstance(exchange, Reply) else exchange.partial
        lane.gate.heard(reply, sent_at_s=run.sent_at_s)
        if done:
            return self._done(lane, run, decision, attempt, reply)
        match decision.action:
            case Action.FAIL | Action.WITHHOLD:
                return self._failed(lane, run, decision, attempt, reply)
            case Action.SWITCH:
                self._switch_model(lane, run, decision, attempt, reply)
            case Action.STOP | Action.LEAVE:
                self._stop(lane, decision, attempt)
            case Action.THROTTLE:
                self._throttled(lane, run, decision)
            case _:
                pass
        self._again(lane, run, decision, attempt)
        raise AgainError(decision)

    def _note(self, lane: Lane, run: RowRun, decision: Decision) -> None:
        """Note an exchange that was no answer, or not the row's last one, in the row's history."""
        action, verdict = decision.action, decision.verdict
        if verdict.completion is None and action is not Action.THROTTLE:
            lane.exchanges.failed += 1
        if decision.lacks and self.pool.only is None:
            run.lack(lane.number)
        if decision.charged or action is Action.HOLD:
            run.failed_as(failing_as(decision), lane.repeated.answered_sent)
        if action is not Action.HOLD:
            run.rulings[verdict.rule] = run.rulings.get(verdict.rule, 0) + 1
            run.charged += decision.charged

    def _note_health(self, lane: Lane, run: RowRun, decision: Decision) -> None:
        """Note what the exchange showed of the endpoint."""
        outage = lane.outage
        match decision.sign:
            case Sign.ANSWERED:
                outage.answered()
            case Sign.FAILED:
                health = HEALTH[decision.verdict.rule]
                outage.failed(run.request.row, health, first=not run.rulings)
                if decision.action is not Action.HOLD:
                    run.doubts.append(outage.doubt(decision.verdict.rule))
            case Sign.OUTAGE:
                elsewhere = self.pool.elsewhere(run, lane)
                outage.begins(decision, run.sent_at_s, elsewhere=elsewhere)
            case Sign.PROBED | Sign.SILENT:
                run.probes += 1
                outage.probed(decision)
                if decision.sign is Sign.SILENT:
                    outage.give_up(decision)
            case _:
                pass

    def _done(
        self, lane: Lane, run: RowRun, decision: Decision, attempt: Attempt, reply: Reply | None
    ) -> Outcome:
        """The outcome of a row that was answered."""
        if self._holding_back.failed_first:
            self._holding_back.answered()
        if not lane.repeated.clean and self.withholding is not None:
            self.withholding.answered(lane, run.sent)
        elif run.sent > lane.repeated.answered_sent:
            lane.repeated.answered_sent = run.sent
        run.phase = _SETTLED
        completion, request = decision.verdict.completion, run.request
        assert completion is not None
        if news := lane.drift.note(request.model, completion, request.row):
            self._tally.notices.append(news)
        kept = reply is not None and self._policy.raw == "all"
        response = reply.body.decode("utf-8", "replace") if reply and kept else None
        ended = (
            request.row,
            request.custom_id,
            completion,
            None,
            run.number,
            attempt,
            request.hash,
            response,
            request.model,
            None,
            None,
            None,
        )
        return _new(Outcome, ended)

    def _ended(
        self, run: RowRun, decision: Decision, attempt: Attempt, reply: Reply | None
    ) -> Outcome:
        """The outcome of a row that failed for good."""
        run.phase = _SETTLED
        kept = None
        if reply is not None and self._policy.raw != "none":
            kept = reading.text_of(reply.body, reading.ERROR_TEXT_MAX)
        return failed(run, attempt, decision, kept)

    def _failed(
        self, lane: Lane, run: RowRun, decision: Decision, attempt: Attempt, reply: Reply | None
    ) -> Outcome:
        """The same, unless it ended in another way before, or is withheld."""
        if decision.verdict.action is Action.FAIL:
            lane.refused_from_s = None
        outcome = self._ended(run, decision, attempt, reply)
        if run.before is not None:
            assert self._fallback is not None
            return self._fallback.first_stands(run, attempt)
        if decision.action is Action.WITHHOLD:
            assert self.withholding is not None
            self.withholding.withhold(lane, run, outcome, decision)
        return outcome

    def _switch_model(
        self, lane: Lane, run: RowRun, decision: Decision, attempt: Attempt, reply: Reply | None
    ) -> None:
        """Have the fallback model asked for the row. Raises ``AgainError``."""
        assert self._fallback is not None
        if decision.error_class is None:
            outcome = self._done(lane, run, decision, attempt, reply)
        else:
            if decision.verdict.action is Action.FAIL:
                lane.refused_from_s = None
            outcome = self._ended(run, decision, attempt, reply)
        self._fallback.switch(run, outcome)
        raise AgainError(decision)

    def _stop(self, lane: Lane, decision: Decision, attempt: Attempt) -> None:
        """Stop the run, or leave the endpoint out where others serve the row."""
        message = stop_message(
            decision.verdict,
            decision.http_status,
            self._policy.wait_s_max,
            self._clock.wall_us(),
        )
        cause = Cause(decision.error_class or "", decision.verdict.message, decision.verdict.rule)
        stop = Stop(cause.error_class, message, cause=cause)
        if decision.action is Action.LEAVE:
            self.pool.leave(lane, stop)
            return
        self._journal.post(attempt)
        self.pool.stop(lane, stop)
        raise LeftPendingError

    def _throttled(self, lane: Lane, run: RowRun, decision: Decision) -> None:
        """The server refused the request for now."""
        self._tally.throttled += 1
        lane.exchanges.refused += 1
        if lane.refused_from_s is None:
            lane.refused_from_s = self._clock.now_s() - self._clock.missed_s
        slow_down = decision.verdict.rule == "slow_down"
        lane.gate.cool_down(decision.wait_s, sent_at_s=run.sent_at_s, for_all=slow_down)

    def _again(self, lane: Lane, run: RowRun, decision: Decision, attempt: Attempt) -> None:
        """Have the row sent again, here or elsewhere."""
        if decision.avoid:
            if len(lane.repeated) and self.withholding is not None:
                self.withholding.take_back(lane)
            run.shun(lane.number)
        else:
            run.shunned = 0
        run.failed_at = lane.number
        self._holding_back.failed(run.charged, decision.action)
        # It decides nothing: it goes to the ledger by itself, whatever becomes of the row.
        self._tally.retries += 1
        self._journal.post(attempt)
        run.phase = Phase.WAITING
        raise_limit(run, decision, self._policy.output)

    def _check_going(self, run: RowRun) -> None:
        if self._switch.stopping:
            run.phase = _SETTLED
            raise LeftPendingError

    async def _pause(self, run: RowRun, delay_s: float) -> None:
        self._check_going(run)
        if delay_s > 0:
            with self._room.asleep():
                await self._clock.sleep(delay_s)
