"""One session over an opened run directory: wire the engine, run it, publish, sum up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchrun import __version__
from batchrun.adapters.environment import (
    control_socket,
    cpu_time,
    open_files,
    price_list,
    series_file,
)
from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.environment.series_file import SeriesFile
from batchrun.adapters.environment.signals import on_signals
from batchrun.adapters.environment.status_file import StatusFile
from batchrun.core.cost.money import format_picodollars
from batchrun.core.cost.projection import RowCosts
from batchrun.core.input.duplicates import Duplicates
from batchrun.core.run import summary
from batchrun.core.settings.bounds import Finished
from batchrun.core.settings.providers import cautions
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.table import LABELS
from batchrun.engine.attempt import AttemptLoop
from batchrun.engine.attempt_log import noted
from batchrun.engine.controls import Controls
from batchrun.engine.engine import Engine
from batchrun.engine.lane import Lane
from batchrun.engine.observe.monitor import Monitor, windows_found
from batchrun.engine.observe.watching import Watching
from batchrun.engine.outbox import EachAnswer, Outbox, PacedSource, TellingJournal
from batchrun.engine.request_keeping import RequestKeeping
from batchrun.engine.row_order import AHEAD_ROWS, Lengths
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.tally import Tally
from batchrun.errors import BatchrunError, InputLostError, RowError, StorageError
from batchrun.machinery import EndpointAccess, Machinery
from batchrun.ports import Answers, Journal, Observer, Publisher, Source
from batchrun.records import Request, Row
from batchrun.rundir import free_space, open_run
from batchrun.rundir.budget_account import ledger_sums
from batchrun.rundir.budgets import Budgets
from batchrun.rundir.compare import Changes
from batchrun.rundir.open_run import RunDirectory
from batchrun.rundir.preflight import Priced, require_bounds
from batchrun.rundir.spent import Spent, published, spent
from batchrun.wiring import attempts

if TYPE_CHECKING:  # loaded only by runs with scores, metrics, gates or judges
    from batchrun.rundir.evaluate.evaluator import Evaluator
    from batchrun.rundir.evaluate.figures import Figures
    from batchrun.rundir.judges.end_of_run import Judging


@dataclass(frozen=True, slots=True)
class Result:
    """How a session ended: the summary as written, what stopped it, and which observers failed."""

    summary: Mapping[str, Any]
    stop: Stop | None
    bound_by: str | None
    observer_failures: int
    sent_nothing: bool
    duplicate_id: str | None = None
    failed: BatchrunError | None = None
    """Why scores or metrics could not be computed, if the run itself ended as its summary says."""
    elsewhere: bool = False
    """Whether another process of a fleet sums up the run, and sends the notifications."""


class Session:
    """The parts of one session, and what happens around the engine."""

    def __init__(
        self,
        settings: Settings,
        opened: RunDirectory,
        changes: Changes,
        accesses: Sequence[EndpointAccess],
        observers: Sequence[Observer],
        say: Callable[[str], None],
        machinery: Machinery,
        answers: Answers | None = None,
        lengths: Lengths | None = None,
        evaluator: Evaluator | None = None,
        judging: Judging | None = None,
    ) -> None:
        self._machinery = machinery
        self._judging = judging
        self._evaluator = evaluator
        self._lengths = lengths
        self._answers = answers
        self._accesses = accesses
        self._say = say
        self._settings = settings
        self._opened = opened
        self._changes = changes
        self._build = opened.build
        self._tally = Tally(proved=opened.proved)
        self._finished = Finished(settings.bounds)
        self._room = Room(
            sum(access.endpoint.concurrency for access in accesses),
            ahead=0 if lengths is None else AHEAD_ROWS,
        )
        wall_us = machinery.clock.wall_us()
        self._prices = price_list.book(settings, self._tally.notices.append, wall_us)
        self._tally.notices.extend(cautions(each.provider for each in settings.endpoints))
        priced = settings.max_cost_pd is not None
        self._priced = Priced(settings, self._prices, wall_us) if priced else None
        if settings.has_budget:
            require_bounds(opened, settings, self._build, self._priced)
        self._duplicates = Duplicates()
        status = StatusFile(opened.checkpoint / open_run.STATUS)
        self._series = SeriesFile(opened.checkpoint / series_file.NAME)
        self._watching = Watching(
            (status, self._series, *observers),
            self._tally,
            say,
            machinery.sample_s,
            cpu_time.busy_s,
        )
        self._space = free_space.FreeSpace(
            settings,
            opened.journal,
            opened.parts,
            self._tally,
            sum(access.endpoint.concurrency_max for access in accesses),
        )
        self._space.require_room()
        self._controls: Controls | None = None
        self._lanes: Sequence[Lane] = ()
        self._ended = threading.Event()
        self._started_s = machinery.monotonic_s()

    @property
    def directory(self) -> RunDirectory:
        """The run directory, as it was opened."""
        return self._opened

    async def go(
        self,
        switch: StopSwitch,
        started_s: float,
        *,
        signals: bool = False,
        outbox: Outbox | None = None,
    ) -> Result:
        """Wire the engine, run it, sum up."""
        opened, tally, machinery = self._opened, self._tally, self._machinery
        clock = machinery.clock()
        if signals:
            on_signals(switch, self._say)
        switch.stop_at(self._settings.deadline_s, machinery.monotonic_s() - started_s, clock)
        journal = machinery.journal(opened.journal, opened.flights(machinery.flight_slots))
        sealer = machinery.sealer(opened.parts, opened.journal)
        before, states = self._count_resumed(), opened.journal.states
        ledger, say = ledger_sums(before), tally.notices.append
        budgets = Budgets(self._without_judges(), states, ledger, self._prices, switch, say)
        counting = asyncio.create_task(asyncio.to_thread(self._count_input, self._ended.is_set))
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(clock.beating())
                loop = await attempts(
                    stack,
                    self._settings,
                    self._accesses,
                    journal=noted(journal),
                    clock=clock,
                    dice=machinery.dice,
                    room=self._room,
                    tally=self._tally,
                    switch=switch,
                    prices=self._prices,
                    spending=budgets.spending,
                    models=opened.totals().models,
                    finished=self._finished,
                    answered=self._opened.turns() if self._settings.turns else {},
                    say=self._say,
                )
                engine = self._engine(loop, noted(journal), sealer, clock, switch, outbox)
                lanes = self._lanes = loop.pool.lanes
                controls = self._controls = self._controlled(lanes, budgets, switch, clock)
                steered = (
                    control_socket.listening(opened.checkpoint, controls.answer, say)
                    if machinery.sharing is None
                    else machinery.sharing(lanes, clock, budgets.spending, controls, say)
                )
                await stack.enter_async_context(steered)
                monitor = Monitor(
                    engine=engine,
                    lanes=lanes,
                    tally=tally,
                    switch=switch,
                    spending=budgets.spending,
                    controls=controls,
                )
                await stack.enter_async_context(self._space.watched(switch))
                watching = asyncio.create_task(self._watching.watch(monitor))
                fault: BatchrunError | None = None
                try:
                    await engine.run(opened.spans)
                except BatchrunError as error:
                    fault = error
                finally:
                    await self._watching.end(watching, monitor)
            await journal.close()
            await budgets.close()
            if isinstance(fault, StorageError):
                self._watching.tell()
                raise fault
            rows_input = await counting
            if rows_input is None:  # rows from an iterator are counted at their end
                rows_input = self._count_input(lambda: True)
            self._watching.tell()
            budgets.settle(ledger_sums(published(opened.totals())))
            return await self._sum_up(switch, rows_input, fault, budgets)
        finally:
            self._ended.set()
            await journal.close()
            await budgets.close()
            sealer.close()
            await asyncio.gather(counting, return_exceptions=True)

    def _controlled(
        self,
        lanes: Sequence[Lane],
        budgets: Budgets,
        switch: StopSwitch,
        clock: LoopClock,
    ) -> Controls:
        """The controls of this session for `batchrun ctl`."""
        states = self._opened.journal.states
        return Controls(
            lanes=lanes,
            spending=budgets.spending,
            switch=switch,
            clock=clock,
            lacking=open_files.lacking,
            record=lambda history: states.put(controls=history),
            history=states.get("controls") or (),
        )

    def _engine(
        self,
        loop: AttemptLoop,
        journal: Journal,
        sealer: Publisher,
        clock: LoopClock,
        switch: StopSwitch,
        outbox: Outbox | None,
    ) -> Engine:
        settings, opened = self._settings, self._opened
        source: Source = self._machinery.source(opened.reader, limit=settings.limit)
        entries, answers = journal, self._answers
        if outbox is not None:
            source, entries = PacedSource(source, outbox), TellingJournal(journal, outbox)
        if answers is not None and (outbox is not None or settings.turns is not None):
            answers = EachAnswer(answers)
        return Engine(
            source=source,
            loop=loop,
            journal=entries,
            publisher=sealer if self._evaluator is None else self._evaluator.following(sealer),
            prepare=self._prepare,
            clock=clock,
            tally=self._tally,
            switch=switch,
            shard_rows=settings.shard_rows,
            room=self._room,
            grace_s=settings.grace_s,
            known=opened.known,
            touched=opened.touched,
            limit=settings.limit,
            finished=self._finished,
            answers=answers,
            lengths=self._lengths,
            keeping=self._keeping(),
        )

    def _keeping(self) -> RequestKeeping | None:
        """Keeps the bodies of requests, if the settings require it."""
        which = self._settings.requests
        if which == "none":
            return None
        return RequestKeeping(which, [access.redacted for access in self._accesses])

    # Before

    def _prepare(self, row: Row) -> Request:
        """A row's request. Raises ``RowError`` with the place of the row."""
        if row.custom_id is not None and row.number % self._settings.repeat == 0:
            self._duplicates.watch(row.custom_id)
        try:
            request = self._build(row)
            if self._priced is not None:
                self._priced.require(request)
        except RowError as error:
            message = f"{self._opened.reader.where(row)}: {error}"
            raise RowError(message) from None
        return request

    def _count_resumed(self) -> Spent:
        """Rows that earlier sessions finished. Those sent again count once they have a new outcome.
        Returns what those sessions spent.
        """
        (ok, error), again = self._opened.done, self._opened.again
        self._tally.resumed_ok = ok - again.ok
        self._tally.resumed_error = error - again.errors.total()
        self._tally.resumed_errors = self._opened.errors - again.errors
        # An example of a class that is sent again may no longer be one.
        self._tally.first_failed = {
            name: (row, said)
            for name, (row, said) in (self._opened.journal.states.get("examples") or {}).items()
            if name in self._tally.resumed_errors and name not in again.errors
        }
        before = spent(self._opened.journal)
        self._tally.cost_pd, self._tally.wasted_pd = before.bill_pd, before.wasted_pd
        self._tally.row_costs = RowCosts.of(self._opened.journal.states.get("row_costs"))
        return before

    def _count_input(self, stop: Callable[[], bool]) -> int | None:
        """Rows of the input, counted in a thread unless an earlier session did. None if stopped, or
        if a file is damaged, which reading it will report.
        """
        rows: int | None = self._opened.journal.states.get("input_rows")
        if rows is None:
            with contextlib.suppress(InputLostError):
                rows = self._opened.reader.count(stop)
            if rows is not None:
                self._tally.notices.extend(self._opened.reader.remarks())
        if rows is not None:
            # Rows that an earlier run finished still exist, beyond the limit or the present end of
            # the input.
            if self._settings.limit is not None and self._settings.limit < rows:
                rows = self._settings.limit + self._opened.beyond
            rows = max(rows, sum(self._opened.done))
        self._tally.rows_input = rows
        return rows

    # After

    def judged_pd(self) -> int:
        """The part of the budget that the judges have spent, in picodollars."""
        if self._judging is None or self._settings.max_cost_pd is None:
            return 0
        return self._judging.charged_pd(self._opened.store)

    def _without_judges(self) -> Settings:
        """The settings with the part of the budget that the judges have not spent."""
        settings, judged_pd = self._settings, self.judged_pd()
        if settings.max_cost_pd is None:
            return settings
        if judged_pd:
            told = f"{format_picodollars(judged_pd)} of --max-cost was spent by its judges"
            self._tally.notices.append(told)
        return replace(settings, max_cost_pd=max(0, settings.max_cost_pd - judged_pd))

    async def _judge(
        self,
        switch: StopSwitch,
        fault: BatchrunError | None,
        rows_input: int | None,
        budgets: Budgets,
    ) -> BatchrunError | None:
        """Judge the answers of a complete run. Returns why a judge failed, if one did; the reason
        for a stop is in the judge's own summary.
        """
        totals = self._opened.totals()
        rows = totals.rows()
        if self._judging is None or fault is not None or switch.stopping or not rows[0]:
            return None
        if rows_input is None or rows_input > sum(rows):
            return None
        spending = budgets.spending
        cost = None if spending is None else spending.cost
        left_pd = None if cost is None else cost.cap - cost.charge.spent
        models = [self._settings.one_model, *totals.models]
        judged = await self._judging.run(self._opened.store, switch, left_pd, models)
        return judged.failed

    async def _evaluate(
        self,
        switch: StopSwitch,
        fault: BatchrunError | None,
        failed: BatchrunError | None,
    ) -> tuple[Figures, BatchrunError | None] | None:
        """Scores and metrics of the published results. A signal ends this at once; None if one came
        before, or the run failed.
        """
        by_signal = switch.reason is not None and switch.reason.is_signal
        if self._evaluator is None or fault is not None or by_signal:
            return None
        if failed is not None:
            return self._evaluator.without_judges(failed)

        async def signalled() -> None:
            if not (await switch.wait()).is_signal:  # a guard only stops requests, and none is left
                await switch.hurried()

        return await self._evaluator.finish(signalled, self._say)

    def _told(self) -> list[str]:
        """The notices of the latest session that sent something; for a fleet, of all processes."""
        states, told = self._opened.journal.states, self._tally.told
        before = states.get(open_run.NOTICES)
        if before and self._tally.requests:
            states.put(**{open_run.NOTICES: None})
            before = None
        return list(dict.fromkeys([*(before or ()), *told]))

    async def _sum_up(
        self,
        switch: StopSwitch,
        rows_input: int | None,
        fault: BatchrunError | None,
        budgets: Budgets,
    ) -> Result:
        unjudged = await self._judge(switch, fault, rows_input, budgets)
        evaluated = await self._evaluate(switch, fault, unjudged)
        stop = switch.reason
        opened, settings = self._opened, self._settings
        opened.journal.drop_idle()  # logs of shards that were read without sending anything
        totals = opened.totals()
        wall_s = opened.wall_s_before + self._machinery.monotonic_s() - self._started_s
        by, exit_code = (stop.by, stop.exit_code) if stop else (None, None)
        built = summary.build(
            totals=totals,
            rows_input=rows_input,
            stopped_by=by,
            stop_exit_code=exit_code,
            started_at_us=opened.started_at_us,
            ended_at_us=max(opened.started_at_us, self._machinery.clock.onward_us()),
            wall_s=wall_s,
            settings=settings.public() | opened.reading.public(),
            version=__version__,
            budget=budgets.public(),
            projected=self._tally.projection(),
            fault_exit_code=fault.exit_code if fault else BatchrunError.exit_code,
            reuses=bool(settings.reuse),
            run=opened.journal.states.get("run"),
            controls=self._controls.history if self._controls is not None else (),
            notices=self._told(),
            windows=windows_found(self._lanes),
            labels=opened.journal.states.get(LABELS),
            examples=self._tally.first_failed,
        )
        failed = None
        if self._evaluator is not None:
            built, failed = self._evaluator.judged(built, evaluated, exit_code)
        opened.write_summary(totals, built)
        whole = settings.limit is None or (rows_input or 0) < settings.limit
        opened.journal.states.put(
            wall_s=wall_s,
            input_rows=rows_input if whole else None,
            row_costs=self._tally.row_costs.recorded(),
            examples=self._tally.first_failed or None,
        )
        if whole and self._changes.resend_changed and stop is None and fault is None:
            opened.all_resent()
        elif stop is not None and opened.again.rows:
            self._say(
                "done rows that were not sent again so far keep the outcome they had; the same "
                "command sends them again"
            )
        if fault is not None:
            raise fault
        return Result(
            built,
            stop,
            self._tally.bound_by,
            self._watching.failures,
            sent_nothing=False,
            duplicate_id=self._duplicates.first,
            failed=failed,
        )
