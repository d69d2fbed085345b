"""The attempt loop: one row's request, from the gate to its outcome. The only loop there is.

The first exchange is sent bare; tenacity's machinery is entered only after a first failure, since
most rows never have one. Its first call raises the failure already known, so that it waits before
sending again. The permit is given back before any wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tenacity import AsyncRetrying, retry_if_exception_type

from batchrun.core.reply import completion as reading
from batchrun.core.settings.bounds import Finished
from batchrun.core.verdict import answer_checks
from batchrun.core.verdict.judge import Action, Circumstances, Verdict, answered, judge
from batchrun.core.verdict.rules import HEALTH
from batchrun.core.verdict.stop_message import stop_message
from batchrun.engine.attempt_record import given_up, ledger_line, tokens_used
from batchrun.engine.holding_back import HoldingBack
from batchrun.engine.lane import Lane, Way, lanes_of
from batchrun.engine.open_row import AgainError, LaterError, RowRun, WithheldError, failed
from batchrun.engine.outage import forgive
from batchrun.engine.pace.gate import Dice
from batchrun.engine.policy import Policy
from batchrun.engine.pool import Pool
from batchrun.engine.resending import fallback_of, raise_limit, wait_s
from batchrun.engine.session.guards import LeftPendingError, Stop, StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.spending import Reserved, Spending
from batchrun.engine.session.tally import Tally
from batchrun.engine.withholding import Withholding
from batchrun.errors import TransportFault
from batchrun.ports import Clock, Journal, Permit
from batchrun.records import Attempt, Outcome, Reply

_DONE = Action.DONE  # a name of the module is found sooner than a member of an enumeration


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
        lanes = lanes_of(
            ways, journal=journal, clock=clock, dice=dice, tally=tally, switch=switch, policy=policy
        )
        self.pool = Pool(lanes, room=room, tally=tally, switch=switch)
        self._fallback = fallback_of(policy, self.pool, journal=journal, tally=tally)
        self.withholding: Withholding | None = None
        if finished is not None:
            self.withholding = Withholding(
                self.pool, journal=journal, room=room, tally=tally, finished=finished
            )

    async def first(self, run: RowRun) -> Outcome:
        """Send a row's request for the first time.

        Raises ``LaterError`` where another try is worth it, or the first one must wait for an
        endpoint of its own, for ``again`` to make; and ``LeftPendingError`` where the run stops
        before there is an outcome.
        """
        if self.pool.must_wait(run):
            raise LaterError
        if self._holding_back.failed_first:
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
        request = run.request
        self._check_going(run)
        pool = self.pool
        lane, permit = (
            await pool.enter(run)
            if pool.only is None
            else (pool.only, await pool.only.gate.enter(request.tokens))
        )
        with permit:
            self._check_going(run)
            reserved = None
            if self._spending is not None:
                reserved = await self._reserved(self._spending, lane, permit, run)
            wall_us = self._sending(lane, run)
            key = lane.renewal.generation
            sent_at_s, missed_s = self._clock.now_s(), self._clock.missed_s
            exchange: Reply | TransportFault
            try:
                exchange = await lane.transport.send(lane.worded(request))
            except TransportFault as fault:
                # Its frames hold what had arrived: a whole bomb, until cycles are collected.
                exchange = fault.with_traceback(None)
            except asyncio.CancelledError:
                latency_s = self._clock.now_s() - sent_at_s - (self._clock.missed_s - missed_s)
                lane.out.discard(run.sent)
                given_up(self._journal, run, lane.name, wall_us, permit.queue_s, latency_s)
                if reserved is not None and self._spending is not None:
                    self._spending.settle(reserved)
                raise
            lane.out.discard(run.sent)
            latency_s = self._clock.now_s() - sent_at_s - (self._clock.missed_s - missed_s)
            if run.doubts:
                forgive(run)
            verdict = judged = answered(exchange) or judge(
                exchange, self._circumstances(lane, run, wall_us)
            )
            attempt = ledger_line(
                run,
                lane.name,
                exchange,
                verdict,
                wall_us,
                permit.queue_s,
                latency_s,
                self._policy.prices,
            )
            if reserved is not None and self._spending is not None:
                self._spending.answered(reserved, attempt, exchange, verdict)
            permit.settle(tokens_used(request, exchange, verdict))
        if verdict.error_class == "auth":
            verdict = await lane.renewal.bend(verdict, key, run, attempt)
        elif verdict.action is _DONE:
            lane.renewal.proved = key
            lane.exchanges.answered += 1
        verdict = self._ruled(lane, run, verdict, permit.probe, sent_at_s)
        if verdict is not judged:
            attempt = attempt._replace(error_class=verdict.error_class, error_code=verdict.code)
        if attempt.cost_pd is not None:
            run.cost_pd += attempt.cost_pd
            self._tally.spend(attempt.cost_pd, kept=verdict.action is _DONE)
        reply = exchange if isinstance(exchange, Reply) else exchange.partial
        lane.gate.heard(reply, sent_at_s=sent_at_s)
        if verdict.action is _DONE:
            return self._done(lane, run, attempt, verdict, reply)
        return self._act(lane, run, attempt, verdict, reply, sent_at_s)

    def _sending(self, lane: Lane, run: RowRun) -> int:
        """Note that the row's request goes out now; returns when that is (wall clock)."""
        run.phase = "sending"
        run.number += 1
        wall_us = self._clock.wall_us()
        self._journal.sending(run.request.row, run.number, lane.number, wall_us)
        run.sent = self._tally.requests = self._tally.requests + 1
        lane.out.add(run.sent)
        lane.exchanges.sent += 1
        return wall_us

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

    def _ruled(
        self,
        lane: Lane,
        run: RowRun,
        verdict: Verdict,
        probe: bool,  # noqa: FBT001 - asked for every exchange
        sent_at_s: float,
    ) -> Verdict:
        """The verdict, bent by what was asked of the answer and by how the endpoint is; and what
        it costs the row.
        """
        asked, wanted = run.request.expected, self._policy.output
        if (asked is not None or wanted is not None) and verdict.completion is not None:
            lane.refused_from_s = None
            verdict = answer_checks.held_against(verdict, asked, wanted)
        if verdict.action is _DONE:
            if not lane.outage.clean:
                lane.outage.answered()
            return verdict
        health = HEALTH.get(verdict.rule)
        if health is not None:
            elsewhere = self.pool.elsewhere(run, lane)
            verdict = lane.outage.ruled(
                run,
                verdict,
                health,
                probe=probe,
                sent_at_s=sent_at_s,
                elsewhere=elsewhere,
                alone=not self.pool.others(run, lane),
            )
        elif not lane.outage.clean:
            lane.outage.answered()
        if verdict.completion is None and verdict.action is not Action.THROTTLE:
            lane.exchanges.failed += 1
            if verdict.error_class == "not_found" and verdict.action is Action.FAIL:
                # Another endpoint may have what this one has not.
                elsewhere = self.pool.known_elsewhere(run, lane)
                verdict = verdict._replace(action=Action.HOLD) if elsewhere else verdict
        if verdict.charged or verdict.action is Action.HOLD:
            kind = "health" if health is not None else verdict.error_class
            run.failed_as(kind, lane.repeated.answered_sent)
        if verdict.action is not Action.HOLD:
            run.rulings[verdict.rule] = run.rulings.get(verdict.rule, 0) + 1
            run.charged += verdict.charged
        return verdict

    def _circumstances(self, lane: Lane, run: RowRun, wall_us: int) -> Circumstances:
        policy, clock, refused_from_s = self._policy, self._clock, lane.refused_from_s
        # Of several endpoints, what another one answered says nothing of this one.
        return Circumstances(
            run.rulings,
            self._tally.succeeded if self.pool.only is not None else lane.exchanges.answered > 0,
            wall_us / 1e6,
            policy.wait_s_max,
            run.request.model == policy.model,
            run.charged + 1 >= policy.max_attempts,
            0.0 if refused_from_s is None else clock.now_s() - clock.missed_s - refused_from_s,
            lane.url,
        )

    def _act(
        self,
        lane: Lane,
        run: RowRun,
        attempt: Attempt,
        verdict: Verdict,
        reply: Reply | None,
        sent_at_s: float,
    ) -> Outcome:
        """Do what the verdict says about an exchange that gave no answer."""
        at_gate = False
        match verdict.action:
            case Action.FAIL:
                lane.refused_from_s = None
                return self._failed(lane, run, attempt, verdict, reply)
            case Action.STOP:
                if self._fallback is not None and self._fallback.given_up(run, verdict):
                    return self._failed(lane, run, attempt, verdict, reply)
                self._stop(lane, run, attempt, verdict)
                at_gate = True
            case Action.THROTTLE:
                self._tally.throttled += 1
                lane.exchanges.refused += 1
                if lane.refused_from_s is None:
                    lane.refused_from_s = self._clock.now_s() - self._clock.missed_s
                at_gate = lane.gate.cool_down(
                    verdict.wait_s, sent_at_s=sent_at_s, for_all=verdict.rule == "slow_down"
                )
                at_gate = at_gate or self.pool.elsewhere(run, lane, now=True)
            case Action.HOLD:
                at_gate = True
            case _:
                pass
        if run.charged >= self._policy.max_attempts:
            return self._failed(lane, run, attempt, verdict, reply)
        if at_gate:
            if len(lane.repeated) and self.withholding is not None:
                self.withholding.take_back(lane)
            run.shun(lane.number)
        else:
            run.shunned = 0
        run.failed_at = lane.number
        self._holding_back.failed(run.charged, verdict)
        # It decides nothing: it goes to the ledger by itself, whatever becomes of the row.
        self._tally.retries += 1
        self._journal.post(attempt)
        run.phase = "waiting"
        raise_limit(run, verdict, self._policy.output)
        raise AgainError(verdict, at_gate=at_gate)

    def _stop(self, lane: Lane, run: RowRun, attempt: Attempt, verdict: Verdict) -> None:
        """Stop the run, or leave the endpoint out where others serve the row."""
        message = stop_message(verdict, attempt.http_status, self._policy.wait_s_max)
        stop = Stop(verdict.error_class or "", message)
        if not self.pool.close(lane, stop, run.request.model):
            self._journal.post(attempt)
            self.pool.stop(lane, stop)
            raise LeftPendingError

    def _done(
        self, lane: Lane, run: RowRun, attempt: Attempt, verdict: Verdict, reply: Reply | None
    ) -> Outcome:
        lane.refused_from_s = None
        if self._holding_back.failed_first:
            self._holding_back.answered()
        if not lane.repeated.clean and self.withholding is not None:
            self.withholding.answered(lane, run.sent)
        elif run.sent > lane.repeated.answered_sent:
            lane.repeated.answered_sent = run.sent
        run.phase = "settled"
        completion, request = verdict.completion, run.request
        assert completion is not None
        if news := lane.drift.note(request.model, completion, request.row):
            self._tally.notices.append(news)
        kept = reply is not None and self._policy.raw == "all"
        response = reply.body.decode("utf-8", "replace") if reply and kept else None
        outcome = Outcome(  # by place: naming the fields of each row's records costs 2 µs
            request.row,
            request.custom_id,
            completion,
            None,
            run.number,
            attempt,
            request.hash,
            response,
            request.model,
        )
        if self._fallback is None:
            return outcome
        return self._fallback.instead(run, outcome, verdict) or outcome

    def _failed(
        self, lane: Lane, run: RowRun, attempt: Attempt, verdict: Verdict, reply: Reply | None
    ) -> Outcome:
        run.phase = "settled"
        kept = None
        if reply is not None and self._policy.raw != "none":
            kept = reading.text_of(reply.body, reading.ERROR_TEXT_MAX)
        outcome = failed(run, attempt, verdict, kept)
        if self._fallback is not None:
            instead = self._fallback.instead(run, outcome, verdict)
            if instead is not None:
                return instead
        held = self.withholding
        return outcome if held is None else held.failed(lane, run, outcome, verdict)

    def _check_going(self, run: RowRun) -> None:
        if self._switch.stopping:
            run.phase = "settled"
            raise LeftPendingError

    async def _pause(self, run: RowRun, delay_s: float) -> None:
        self._check_going(run)
        if delay_s > 0:
            with self._room.asleep():
                await self._clock.sleep(delay_s)
