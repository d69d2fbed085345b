"""The engine: feeds rows to a pool of workers, follows shards to their end, and drains.

Rows enter in input order, across shard borders. A worker takes a row through its first exchange;
a row that needs another try goes on in a task of its own, so that its wait takes no worker's
place; a row with an outcome waits for the disk as plain data. ``Room`` bounds all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from functools import partial

from batchrun.core.settings.bounds import Finished
from batchrun.engine.attempt import AttemptLoop
from batchrun.engine.open_row import LaterError, Phase, RowRun, never_sent
from batchrun.engine.open_shard import NOTHING_KNOWN, Open, Shard, taken
from batchrun.engine.request_keeping import RequestKeeping
from batchrun.engine.row_order import Lengths, LongestFirst
from batchrun.engine.session.guards import Cause, LeftPendingError, Stop, StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.tally import Tally
from batchrun.engine.tasks import cancelled
from batchrun.errors import InputLostError, RowError
from batchrun.ports import Answers, Clock, Journal, Publisher, Source
from batchrun.records import (
    Attempt,
    Block,
    Entry,
    Known,
    Outcome,
    Request,
    ReusedRows,
    Row,
    Span,
)

BACKLOG_BYTES_MAX = 4 * 2**30
BACKLOG_POLL_S = 0.1
REUSED_OPEN_MAX = 128
BEHIND_POLL_S = 0.005
"""Reused answers wait while more of them wait for the disk, or so much is on its way into drafts.
"""
WHOLE_ROWS_MAX, WHOLE_SHARDS_MIN, WHOLE_SHARDS_MAX = 2**16, 4, 64
"""Rows of whole shards that wait to be published, and such shards: their logs' index is in memory.
"""
_OF_ROWS = (Outcome, Attempt)
"""Entries that decide what becomes of a row, for now at least."""


class Engine:
    """One session of a run. ``run`` returns when every row read has an outcome or is pending."""

    def __init__(
        self,
        *,
        source: Source,
        loop: AttemptLoop,
        journal: Journal,
        publisher: Publisher,
        prepare: Callable[[Row], Request],
        clock: Clock,
        room: Room,
        tally: Tally,
        switch: StopSwitch,
        shard_rows: int,
        grace_s: float,
        known: MutableMapping[int, Known],
        touched: Collection[int] = (),
        limit: int | None = None,
        finished: Finished | None = None,
        answers: Answers | None = None,
        lengths: Lengths | None = None,
        keeping: RequestKeeping | None = None,
    ) -> None:
        """``prepare`` makes a row's request or raises ``RowError``; ``known`` holds the shards
        that earlier sessions began, and may be filled while the source reads: a shard is taken
        out of it with its first block. ``touched`` are those with records no part holds yet;
        ``limit`` is the row below which the source stops; ``finished`` says when there are too
        many bad rows to go on; ``answers`` has those that rows need not ask for, ``lengths`` says
        which rows are to start early; ``keeping`` gives outcomes the bodies of their requests.
        """
        self._source = source
        self._loop = loop
        self._journal = journal
        self._publisher = publisher
        self._prepare = prepare
        self._clock = clock
        self._room = room
        self._tally = tally
        self._switch = switch
        self._shard_rows = shard_rows
        self._grace_s = grace_s
        self._known = known
        self._touched = set(touched)
        self._limit = limit
        self._finished = finished or Finished()
        self._answers = answers
        self._keeping = keeping
        self._reusing = 0
        self._shards: dict[int, Shard] = {}
        self._rows: dict[int, Open] = {}
        self._no_rows = asyncio.Event()
        self._lengths = lengths
        self._longest = None if lengths is None else LongestFirst()
        self._queue: deque[Open] | LongestFirst = (
            deque() if self._longest is None else self._longest
        )
        self._idle: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._retrying: set[asyncio.Task[None]] = set()
        self._publishing: set[asyncio.Task[None]] = set()
        at_most = min(WHOLE_ROWS_MAX // shard_rows, WHOLE_SHARDS_MAX)
        self._publishing_max = max(at_most, WHOLE_SHARDS_MIN)
        self._fault: BaseException | None = None
        self._faulted = asyncio.Event()
        self._input_fault: InputLostError | None = None
        self.waiting_for_input = False
        self._fed = self._behind = False
        room.held_up = self._end_withheld
        self._withholding = loop.withholding
        if self._withholding is not None:
            self._withholding.one_more = self._end_withheld

    async def run(self, spans: Iterable[Span]) -> None:
        """Read the spans, answer their rows, publish their shards.

        Returns normally when the input is done or the switch was thrown; every outcome there is
        is then published. Raises what broke the storage or the input.
        """
        self._room.resized = self._hire
        feeding = asyncio.create_task(self._feed(spans), name="feed")
        feeding.add_done_callback(self._feed_ended)
        stopping = asyncio.create_task(self._switch.wait(), name="stop")
        broken = asyncio.create_task(self._faulted.wait(), name="fault")
        ending = asyncio.create_task(self._all_ended(feeding), name="rows")
        try:
            await asyncio.wait((ending, stopping, broken), return_when="FIRST_COMPLETED")
            if self._fault is None and self._switch.stopping:
                await cancelled((feeding,))
                await self._drain()
            await self._finish()
        finally:
            mine = (feeding, stopping, broken, ending)
            await cancelled((*mine, *self._workers, *self._retrying, *self._publishing))

    @property
    def is_full(self) -> bool:
        """Whether no further row may be opened: as many are as memory is set aside for."""
        return self._room.full

    # The feed

    async def _feed(self, spans: Iterable[Span]) -> None:
        blocks = self._source.blocks(spans)
        while True:
            self.waiting_for_input = True
            block = await anext(blocks, None)
            self.waiting_for_input = False
            if block is None:
                break
            await self._backlog(block.shard)
            await self._take(block)
        for number, shard in list(self._shards.items()):
            # A limit inside a shard is not the input's end: the shard stays open.
            at_limit = number * self._shard_rows + shard.read == self._limit
            shard.read_whole = shard.read_whole or not at_limit
            self._seal_if_done(shard)

    def _end_withheld(self) -> None:
        """Rows that are withheld wait for others to be answered. Where there are no others, and
        none can come, they end.
        """
        withholding = self._withholding
        stuck = self._fed or self._behind or self._room.full
        if not withholding or not stuck or self._switch.stopping:
            return
        if len(withholding) == len(self._rows):
            withholding.end_all()

    def _feed_ended(self, feeding: asyncio.Task[None]) -> None:
        self._fed = True
        self._end_withheld()
        error = None if feeding.cancelled() else feeding.exception()
        if isinstance(error, InputLostError):
            # What was read is answered and published before the error is raised.
            self._input_fault = error
        elif error is not None:
            self._break(error)

    async def _take(self, block: Block) -> None:
        """Dispatch the rows of a block that have no outcome yet."""
        shard = self._shards.get(block.shard)
        if shard is None:
            known = self._known.pop(block.shard, NOTHING_KNOWN)
            shard = self._shards[block.shard] = Shard(block.shard, known)
        done = shard.known.done
        rows = [row for row in block.rows if row.number not in done]
        shard.read += len(block.rows)
        shard.done += len(block.rows) - len(rows)
        shard.read_whole = shard.read == self._shard_rows
        if rows or not shard.known.recorded:
            shard.touched = True
            self._journal.post(block, self._noted)
        # All bodies of a block in one go: interleaved with the exchanges they cost twice as much.
        made = [Open(row.number, row.size_bytes, shard, self._request(row, shard)) for row in rows]
        if self._answers is not None:
            made = await self._reuse(made, shard, self._answers)
        if self._lengths is not None:
            await self._look_up_lengths(made, self._lengths)
        for opened in made:
            if not self._room.try_enter(opened.size_bytes):
                await self._room.enter(opened.size_bytes)
            self._rows[opened.number] = opened
            self._queue.append(opened)
            if self._idle:
                self._idle.popleft().set_result(None)
            elif len(self._workers) < self._room.permits:
                self._hire_one()
        if not rows:
            self._seal_if_done(shard)

    async def _look_up_lengths(self, made: list[Open], lengths: Lengths) -> None:
        """Find out which of these rows are to start early."""
        requests = [each.request for each in made if isinstance(each.request, Request)]
        if requests and self._longest is not None:
            self._longest.expect(await lengths.known(requests))

    async def _reuse(self, made: list[Open], shard: Shard, answers: Answers) -> list[Open]:
        """Settle the rows whose answer is known from another run; returns the others. Rows that
        are sent again for an answer that was kept need a better one.
        """
        kept = shard.known.kept
        requests = [
            opened.request
            for opened in made
            if isinstance(opened.request, Request) and opened.number not in kept
        ]
        attempts, keeping = shard.known.attempts, self._keeping
        known: Mapping[int, Outcome] | ReusedRows = {}
        if requests:
            bodies = keeping is not None and keeping.every
            known = await answers.known(requests, together=not attempts and not bodies)
        if not known:
            return made
        # Faster than parts are written, answers would pile up in memory.
        while self._fault is None and self._reusing > REUSED_OPEN_MAX:
            await self._clock.sleep(BEHIND_POLL_S)
        if isinstance(known, ReusedRows):
            self._reusing += known.rows
            self._journal.post(known, partial(self._reused, shard, known.rows))
            taken = range(known.row, known.row + known.rows)
            return [opened for opened in made if opened.number not in taken]
        left, outcomes = [], []
        for opened in made:
            outcome = known.get(opened.number)
            if outcome is None:
                left.append(opened)
                continue
            if keeping is not None:
                outcome = keeping.kept(opened.request, outcome)
            if opened.number in attempts:
                outcomes.append(outcome._replace(attempts=attempts[opened.number]))
            else:
                outcomes.append(outcome)
        # They become durable in this order, so that the last one speaks for all.
        self._reusing += len(outcomes)
        for outcome in outcomes[:-1]:
            self._journal.post(outcome)
        self._journal.post(outcomes[-1], partial(self._reused, shard, len(outcomes)))
        return left

    def _reused(
        self,
        shard: Shard,
        rows: int,
        _: Entry,
        error: Exception | None,
    ) -> None:
        """Rows are done with answers that this run did not ask for: no guard counts them."""
        if error is not None:
            self._break(error)
            return
        self._reusing -= rows
        self._tally.reused += rows
        shard.done += rows
        if shard.done == shard.read:
            self._seal_if_done(shard)
        if not self._rows and not self._reusing:
            self._no_rows.set()

    def _request(self, row: Row, shard: Shard) -> Request | Outcome:
        try:
            return self._prepare(row)
        except RowError as error:
            return never_sent(row, str(error), shard.known.attempts.get(row.number, 0))

    async def _backlog(self, shard: int) -> None:
        """Wait while too much waits to be published, or the journal is at its bound and waiting
        can help: an earlier shard is still on its way into a part.
        """
        while len(self._publishing) >= self._publishing_max:
            await asyncio.wait(tuple(self._publishing), return_when="FIRST_COMPLETED")
        while self._journal.backlog_bytes > BACKLOG_BYTES_MAX and (
            self._publishing or any(number < shard for number in self._shards)
        ):
            self._behind = True
            self._end_withheld()
            await self._clock.sleep(BACKLOG_POLL_S)
        self._behind = False

    # One row

    def _hire_one(self) -> None:
        name = f"worker {len(self._workers)}"
        self._workers.append(asyncio.create_task(self._worker(), name=name))

    def _hire(self) -> None:
        """More rows can be sent at once: those that wait for a worker get one."""
        for _ in range(min(len(self._queue), self._room.permits - len(self._workers))):
            self._hire_one()

    async def _worker(self) -> None:
        """Take rows through their first exchange, one after the other."""
        task = asyncio.current_task()
        while True:
            while not self._queue:
                turn = asyncio.get_running_loop().create_future()
                self._idle.append(turn)
                await turn
            opened = self._queue.popleft()
            opened.task = task
            try:
                await self._row(opened)
            except LeftPendingError:
                self._left_pending(opened)
            except asyncio.CancelledError:
                self._left_pending(opened)
                raise
            except Exception as error:  # noqa: BLE001 - raised by run
                self._break(error)

    async def _row(self, opened: Open) -> None:
        """What happens to a row, from its request to the journal."""
        request = opened.request
        if not isinstance(request, Request):
            assert request is not None
            self._settle(opened, request)
            return
        earlier = opened.shard.known.attempts.get(opened.number, 0)
        run = opened.run = RowRun(request, earlier)
        try:
            outcome = await self._loop.first(run)
        except LaterError as later:
            if self._switch.stopping:
                raise LeftPendingError from None
            task = asyncio.create_task(self._row_again(opened, run, later))
            opened.task = task
            self._retrying.add(task)
            task.add_done_callback(self._retrying.discard)
            return
        self._settle(opened, outcome)

    async def _row_again(self, opened: Open, run: RowRun, later: LaterError) -> None:
        """The same for a row whose first exchange failed, or has to wait."""
        try:
            self._settle(opened, await self._loop.again(run, later))
        except LeftPendingError:
            self._left_pending(opened)
        except asyncio.CancelledError:
            self._left_pending(opened)
            raise
        except Exception as error:  # noqa: BLE001 - raised by run
            self._break(error)

    def _settle(self, opened: Open, outcome: Outcome) -> None:
        opened.answered = True
        if self._keeping is not None:
            outcome = self._keeping.kept(opened.request, outcome)
        if opened.run is not None:
            opened.cost_pd = opened.run.cost_pd
        opened.request = opened.run = opened.task = None
        opened.size_bytes += self._room.answered(outcome.response)
        kept = opened.shard.known.kept
        entry = taken(outcome, kept) if kept else outcome
        if entry is not outcome:
            self._tally.set_aside(outcome)
        if entry is None:
            self._done(opened)
        else:
            self._journal.post(entry, self._durable)

    def _durable(self, outcome: Entry, error: Exception | None) -> None:
        """A row is done: its outcome would survive a power cut."""
        if error is not None:
            self._break(error)
            return
        assert isinstance(outcome, _OF_ROWS)
        opened = self._rows.get(outcome.row)
        if opened is None:
            self._break(RuntimeError(f"row {outcome.row} has a second outcome"))
            return
        if isinstance(outcome, Attempt):
            self._done(opened)
            return
        self._tally.finished(outcome, opened.cost_pd)
        if outcome.failure is not None or not self._finished.idle:
            broken = self._finished.add(outcome, succeeded=self._tally.succeeded)
            if broken is not None:
                failure = broken.failure
                cause = None if failure is None else Cause(failure.error_class, failure.message)
                self._switch.stop(Stop(broken.guard, broken.message, cause=cause))
        self._done(opened)

    def _done(self, opened: Open) -> None:
        self._ended(opened)
        shard = opened.shard
        shard.done += 1
        if shard.done == shard.read:
            self._seal_if_done(shard)

    def _left_pending(self, opened: Open) -> None:
        if not opened.answered and opened.number in self._rows:
            self._ended(opened)

    def _ended(self, opened: Open) -> None:
        del self._rows[opened.number]
        self._room.ended(opened.size_bytes, answered=opened.answered)
        if not self._rows:
            self._no_rows.set()
        elif self._withholding is not None and self._withholding.begun:
            self._end_withheld()

    # Shards

    def _seal_if_done(self, shard: Shard) -> None:
        if shard.read_whole and shard.done == shard.read and self._fault is None:
            self._shards.pop(shard.number, None)
            if shard.touched or shard.number in self._touched or not shard.known.recorded:
                self._publish(shard.number, complete=True)

    def _publish(self, number: int, *, complete: bool) -> None:
        self._touched.discard(number)
        task = asyncio.create_task(self._flush_and_publish(number, complete=complete))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        task.add_done_callback(self._check)

    async def _flush_and_publish(self, number: int, *, complete: bool) -> None:
        # The journal may still be taking in the shard's last blocks and failed attempts.
        await self._journal.flush()
        await self._publisher.publish(number, complete=complete)

    # The end

    async def _all_ended(self, feeding: asyncio.Task[None] | None = None) -> None:
        """Return when nothing is fed any more and no row is open."""
        if feeding is not None:
            await asyncio.wait((feeding,))
        while (self._rows or self._reusing) and self._fault is None:
            self._no_rows.clear()
            await self._no_rows.wait()

    async def _drain(self) -> None:
        """A stop: give up rows that wait, let requests in flight finish within the grace."""
        self._queue.clear()
        for opened in list(self._rows.values()):
            if opened.task is None:
                self._left_pending(opened)
            elif opened.run is not None and opened.run.phase is Phase.WAITING:
                opened.task.cancel()
                self._left_pending(opened)  # a task cancelled before its first step cannot
        hurried = asyncio.create_task(self._switch.hurried())
        ended = asyncio.create_task(self._all_ended())
        try:
            patient = self._switch.reason is not None and self._switch.reason.patient
            left_s = None if patient else self._grace_s
            while left_s is None or left_s > 0:
                missed_s = self._clock.missed_s
                done, _ = await asyncio.wait(
                    (hurried, ended), timeout=left_s, return_when="FIRST_COMPLETED"
                )
                # While this process was stopped, nothing could finish.
                left_s = 0.0 if done else self._clock.missed_s - missed_s
        finally:
            await cancelled((hurried, ended))
        for opened in list(self._rows.values()):
            if not opened.answered and opened.task is not None:
                opened.task.cancel()
        await self._all_ended()

    async def _finish(self) -> None:
        """Publish what is left, unless the storage broke."""
        if self._fault is None:
            begun = {number for number, shard in self._shards.items() if shard.touched}
            for number in sorted(begun | self._touched):
                # Rows of these are still pending: their parts are provisional.
                self._publish(number, complete=False)
        while self._publishing:
            await asyncio.wait(tuple(self._publishing))
        fault = self._fault or self._input_fault
        if fault is not None:
            raise fault

    def _noted(self, _: Entry, error: Exception | None) -> None:
        if error is not None:
            self._break(error)

    def _check(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """The storage, or the program, failed: ``run`` ends and raises it."""
        if self._fault is None:
            self._fault = error
            self._faulted.set()
            self._no_rows.set()
