"""The engine: feeds rows into the attempt loop, follows shards to their end, and drains.

Rows enter in input order, across shard borders, as coroutines bounded in count and bytes; permits
are separate, so a row that waits for the disk or for its next try holds nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from batchrun.engine.attempt import AttemptLoop, LeftPendingError, RowRun
from batchrun.engine.guards import StopSwitch
from batchrun.engine.room import Room
from batchrun.engine.tally import Tally
from batchrun.errors import InputLostError, RowError
from batchrun.ports import Clock, Journal, Publisher, Source
from batchrun.records import Block, Failure, Outcome, Request, Row, Span

BACKLOG_BYTES_MAX = 4 * 2**30
BACKLOG_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier session left of a shard in progress: the rows that have an outcome, and
    the last attempt number of rows that have none yet."""

    done: Collection[int]
    attempts: Mapping[int, int]


NOTHING_KNOWN = Known(frozenset(), {})


@dataclass(slots=True)
class _Shard:
    """A shard in progress: rows read so far, how many of them are done, and whether the reader
    is past its last row."""

    known: Known
    read: int = 0
    done: int = 0
    read_whole: bool = False
    touched: bool = False


@dataclass(slots=True)
class _Open:
    """A row that was dispatched and has no durable outcome yet."""

    size_bytes: int
    run: RowRun | None = None
    task: asyncio.Task[None] | None = None
    answered: bool = False

    @property
    def may_be_given_up(self) -> bool:
        """Whether a stop costs nothing here: no request is out and no answer has come."""
        return self.run is None or self.run.phase == "waiting"


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
        tally: Tally,
        switch: StopSwitch,
        shard_rows: int,
        room: Room,
        grace_s: float,
        known: Mapping[int, Known],
        touched: Collection[int] = (),
        limit: int | None = None,
    ) -> None:
        """``prepare`` makes a row's request or raises ``RowError``; ``known`` holds the shards
        that earlier sessions began, ``touched`` those with records no part holds yet; ``limit``
        is the row below which the source stops."""
        self._source = source
        self._loop = loop
        self._journal = journal
        self._publisher = publisher
        self._prepare = prepare
        self._clock = clock
        self._tally = tally
        self._switch = switch
        self._shard_rows = shard_rows
        self._grace_s = grace_s
        self._known = known
        self._touched = set(touched)
        self._limit = limit
        self._shards: dict[int, _Shard] = {}
        self._rows: dict[asyncio.Task[None], _Open] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._room = room
        self._fault: BaseException | None = None
        self._input_fault: InputLostError | None = None
        self._faulted = asyncio.Event()
        self.waiting_for_input = False
        self.input_ended = False

    async def run(self, spans: Sequence[Span]) -> None:
        """Read the spans, answer their rows, publish their shards.

        Returns normally when the input is done or the switch was thrown; every outcome there is
        is then published. Raises what broke the storage or the input.
        """
        feeding = asyncio.create_task(self._feed(spans), name="feed")
        feeding.add_done_callback(self._feed_ended)
        stopping = asyncio.create_task(self._switch.wait(), name="stop")
        broken = asyncio.create_task(self._faulted.wait(), name="fault")
        try:
            await asyncio.wait((feeding, stopping, broken), return_when="FIRST_COMPLETED")
            ending = asyncio.create_task(self._all_ended(), name="rows")
            await asyncio.wait((ending, stopping, broken), return_when="FIRST_COMPLETED")
            await _cancelled((ending,))
            if self._fault is None and self._switch.stopping:
                await _cancelled((feeding,))
                await self._drain()
            await self._finish()
        finally:
            await _cancelled((feeding, stopping, broken, *self._rows, *self._publishing))

    # The feed

    async def _feed(self, spans: Sequence[Span]) -> None:
        blocks = self._source.blocks(spans)
        while True:
            self.waiting_for_input = True
            block = await anext(blocks, None)
            self.waiting_for_input = False
            if block is None:
                break
            await self._backlog(block.shard)
            await self._take(block)
        self.input_ended = True
        for number, shard in list(self._shards.items()):
            # A limit inside a shard is not the input's end: the shard stays open.
            at_limit = number * self._shard_rows + shard.read == self._limit
            shard.read_whole = shard.read_whole or not at_limit
            self._seal_if_done(number, shard)

    def _feed_ended(self, feeding: asyncio.Task[None]) -> None:
        error = None if feeding.cancelled() else feeding.exception()
        if isinstance(error, InputLostError):
            # What was read is answered and published before the error is raised.
            self._input_fault = error
        elif error is not None:
            self._break(error)

    async def _take(self, block: Block) -> None:
        shard = self._shards.get(block.shard)
        if shard is None:
            known = self._known.get(block.shard, NOTHING_KNOWN)
            shard = self._shards[block.shard] = _Shard(known)
        done = shard.known.done
        rows = [row for row in block.rows if row.number not in done]
        shard.read += len(block.rows)
        shard.done += len(block.rows) - len(rows)
        shard.read_whole = shard.read == self._shard_rows
        shard.touched = shard.touched or bool(rows)
        self._fire_and_check(self._journal.append(block))
        for row in rows:
            await self._room.enter(row.size_bytes)
            opened = _Open(row.size_bytes)
            task = asyncio.create_task(self._guarded(row, opened, shard, block.shard))
            opened.task = task
            self._rows[task] = opened
        if not rows:
            self._seal_if_done(block.shard, shard)

    async def _backlog(self, shard: int) -> None:
        """Wait while the journal is at its bound, if waiting can help: an earlier shard is still
        on its way into a part."""
        while self._journal.backlog_bytes > BACKLOG_BYTES_MAX and (
            self._publishing or any(number < shard for number in self._shards)
        ):
            await self._clock.sleep(BACKLOG_POLL_S)

    # One row

    async def _guarded(self, row: Row, opened: _Open, shard: _Shard, number: int) -> None:
        """Account for a row's end, however it ends."""
        try:
            await self._row(row, opened, shard, number)
        except LeftPendingError:
            pass
        except Exception as error:  # noqa: BLE001 - raised by run
            self._break(error)
        finally:
            del self._rows[opened.task]  # type: ignore[arg-type]
            self._room.ended(opened.size_bytes, answered=opened.answered)

    async def _row(self, row: Row, opened: _Open, shard: _Shard, number: int) -> None:
        """What happens to a row, from its body to its durable outcome."""
        try:
            request = self._prepare(row)
        except RowError as error:
            outcome = Outcome(
                row=row.number,
                custom_id=row.custom_id,
                completion=None,
                failure=Failure("invalid_row", None, str(error)),
                attempts=0,
                attempt=None,
                request_hash=None,
                response=None,
            )
        else:
            run = opened.run = RowRun(request, shard.known.attempts.get(row.number, 0))
            outcome = await self._loop.outcome(run)
        opened.answered = True
        self._room.answered()
        await self._journal.append(outcome)
        self._tally.finished(outcome)
        shard.done += 1
        if shard.done == shard.read:
            self._seal_if_done(number, shard)

    # Shards

    def _seal_if_done(self, number: int, shard: _Shard) -> None:
        if shard.read_whole and shard.done == shard.read and self._fault is None:
            self._shards.pop(number, None)
            self._publish(number, complete=True)

    def _publish(self, number: int, *, complete: bool) -> None:
        self._touched.discard(number)
        task = asyncio.create_task(self._publisher.publish(number, complete=complete))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        task.add_done_callback(self._check)

    # The end

    async def _drain(self) -> None:
        """A stop: give up rows that wait, let requests in flight finish within the grace."""
        for task, opened in list(self._rows.items()):
            if opened.may_be_given_up:
                task.cancel()
        hurried = asyncio.create_task(self._switch.hurried())
        ended = asyncio.create_task(self._all_ended())
        try:
            await asyncio.wait(
                (hurried, ended), timeout=self._grace_s, return_when="FIRST_COMPLETED"
            )
        finally:
            await _cancelled((hurried, ended))
        for task, opened in list(self._rows.items()):
            if opened.run is None or opened.run.phase != "settled":
                task.cancel()
        await self._all_ended()

    async def _all_ended(self) -> None:
        while self._rows:
            ended, _ = await asyncio.wait(tuple(self._rows))
            for task in ended & self._rows.keys():
                # Cancelled before its first step: it could not account for itself.
                self._room.ended(self._rows.pop(task).size_bytes, answered=False)

    async def _finish(self) -> None:
        """Publish what is left, unless the storage or the input broke."""
        if self._fault is None:
            try:
                await self._journal.flush()
            except Exception as error:  # noqa: BLE001 - raised below
                self._break(error)
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

    def _fire_and_check(self, appended: Awaitable[None]) -> None:
        future = asyncio.ensure_future(appended)
        future.add_done_callback(self._check)

    def _check(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        if self._fault is None:
            self._fault = error
            self._faulted.set()


async def _cancelled(tasks: Collection[asyncio.Task[object]]) -> None:
    """Cancel tasks and see them end; what they raise was or will be looked at elsewhere."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(BaseException):
            await task
