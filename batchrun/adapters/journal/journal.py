"""The journal: the outcomes of rows in unpublished parts, and the thread that writes it.

``Journal`` combines the checkpoint's state file and the logs of the shards in progress: what an
earlier session left, and what is appended now. ``JournalWriter`` is ``ports.Journal`` for a running
engine: one thread writes, in groups. Entries that arrive within ``GROUP_S`` of each other share one
flush per log; ``flush`` returns after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchrun import records
from batchrun.adapters.columns import read_answers
from batchrun.adapters.journal.flight_log import FlightLog
from batchrun.adapters.journal.shard_log import (
    AMENDMENT,
    ATTEMPT,
    BLOCK,
    OUTCOME,
    REUSED,
    TURN,
    Entry,
    ShardLog,
    damaged,
)
from batchrun.adapters.journal.state_db import Published, StateFile
from batchrun.adapters.storage import disk, files
from batchrun.core.run.shards import is_former
from batchrun.errors import StorageError
from batchrun.ports import Durable
from batchrun.records import Attempt, Block, Outcome, Position, ReusedRows, ShardState, Turn

STATES = "journal.db"
GROUP_S = 0.025


class BlockRecord(NamedTuple):
    """A block in the log: the position in the shard's input after it, and its carried columns."""

    rows_read: int
    digest: bytes
    end: Position
    rows: int
    carried: bytes


class Amendment(NamedTuple):
    """Done rows with an unchanged request whose ``custom_id`` or carried columns changed in the
    input: ``values`` is an Arrow IPC stream of ``row``, ``custom_id`` and those columns.
    """

    row: int
    values: bytes


read_outcome: Callable[[bytes | memoryview], Outcome] = msgspec.msgpack.Decoder(Outcome).decode
read_attempt: Callable[[bytes], Attempt] = msgspec.msgpack.Decoder(Attempt).decode
read_block: Callable[[bytes], BlockRecord] = msgspec.msgpack.Decoder(BlockRecord).decode
read_reused: Callable[[bytes], ReusedRows] = msgspec.msgpack.Decoder(ReusedRows).decode
read_amendment: Callable[[bytes], Amendment] = msgspec.msgpack.Decoder(Amendment).decode
read_turn: Callable[[bytes], Turn] = msgspec.msgpack.Decoder(Turn).decode

LOG_NAME = re.compile(r"shard-(\d{8})\.(\d+)\.log")


def log_name(shard: int, generation: int) -> str:
    """The log from which the given generation of a shard's part will be made."""
    return f"shard-{shard:08d}.{generation}.log"


def log_names(shard: int) -> str:
    """A pattern that matches the logs of a shard, of any generation."""
    return f"shard-{shard:08d}.*.log"


@dataclass(frozen=True, slots=True)
class OpenShard:
    """The content of a shard's log: rows with an outcome, those of them that are ok, and the last
    attempt number of any row.
    """

    done: frozenset[int]
    ok: frozenset[int]
    attempts: dict[int, int]


class Journal:
    """The checkpoint's state file and logs. Not thread-safe unless noted."""

    def __init__(self, folder: Path, shard_rows: int) -> None:
        """Open the journal. Logs with a published part are removed."""
        self.folder = folder
        self.shard_rows = shard_rows
        self.states = StateFile(folder / STATES)
        self._published = {p.state.shard: p.state for p in self.states.published()}
        self.logs: dict[int, ShardLog] = {}
        self.fence: Callable[[], None] = lambda: None  # raises if another run has taken the lock
        try:
            self._open_logs()
        except BaseException:
            self.close()
            raise

    def _open_logs(self) -> None:
        there = {
            (int(match[1]), int(match[2])): path
            for path in self.folder.glob("shard-*.log")
            if (match := LOG_NAME.fullmatch(path.name)) is not None
        }
        for (shard, generation), path in sorted(there.items()):
            recorded = self._generation(shard)
            if generation <= recorded:
                # Its part was published; the kill came before the log was removed.
                disk.unlink(path)
                files.reached("log.removed", path)
            elif generation == recorded + 1:
                self.logs[shard] = ShardLog(path, shard, generation)
            elif generation == recorded + 2 and (shard, recorded + 1) in there:
                # Turns were copied into it; the kill came before the parts were recorded.
                disk.unlink(path)
                files.reached("log.removed", path)
            else:
                raise damaged(path, f"generation {recorded} of its part is the last one known")

    def close(self) -> None:
        """Close all files."""
        for log in self.logs.values():
            log.close()
        self.states.close()

    @property
    def size_bytes(self) -> int:
        """Bytes in the logs."""
        return sum(log.size for log in list(self.logs.values()))

    def log_of(self, shard: int) -> ShardLog:
        """The log of a shard, created if it has none."""
        log = self.logs.get(shard)
        if log is None:
            generation = self._generation(shard) + 1
            path = self.folder / log_name(shard, generation)
            log = self.logs[shard] = ShardLog(path, shard, generation)
        return log

    def _generation(self, shard: int) -> int:
        state = self._published.get(shard)
        return 0 if state is None else state.generation

    def shards(self) -> list[ShardState]:
        """All shards with read input, published or not, in order."""
        numbers = sorted({*self._published, *self.logs})
        found = (self.state(shard) for shard in numbers if not is_former(shard))
        return [state for state in found if state is not None]

    def state(self, shard: int) -> ShardState | None:
        """A shard's published state, with the input from the log; None if there is neither."""
        state = self._published.get(shard)
        log = self.logs.get(shard)
        for place in log.places if log else ():
            if place.kind == BLOCK:
                block = read_block(log.body(place))  # type: ignore[union-attr]
                if state is None:
                    state = ShardState(shard, 0, b"", block.end, 0, complete=False)
                if block.rows_read >= state.rows_read or not block.rows:
                    state = replace(
                        state, rows_read=block.rows_read, digest=block.digest, end=block.end
                    )
        return state

    def touched(self) -> set[int]:
        """Shards with outcomes, attempts or amendments that are in no part yet."""
        return {
            shard
            for shard, log in self.logs.items()
            if any(place.kind not in (BLOCK, TURN) for place in log.places)
        }

    def drop_idle(self) -> None:
        """Remove logs with nothing but notes of the input: a kill came before their rows were sent.
        Their blocks are noted again when they are read.
        """
        for shard in [
            s for s, log in self.logs.items() if all(p.kind == BLOCK for p in log.places)
        ]:
            self.logs.pop(shard).remove()

    def turns(self, shard: int) -> dict[int, list[Turn]]:
        """The answered turns of conversations in the log of a shard that have no outcome in it, by
        row, in their order.
        """
        found: dict[int, list[Turn]] = {}
        log = self.logs.get(shard)
        for place in log.places if log else ():
            if place.kind == TURN:
                turn = read_turn(log.body(place))  # type: ignore[union-attr]
                known = found.setdefault(place.row, [])
                # A conversation that started over: its turns replace the earlier ones.
                known[turn.number - 1 :] = [turn]
            elif place.kind == OUTCOME:
                found.pop(place.row, None)
            elif place.kind == REUSED and found:
                reused = read_reused(log.body(place))  # type: ignore[union-attr]
                for row in range(reused.row, reused.row + reused.rows):
                    found.pop(row, None)
        return found

    def outcomes(self, shard: int) -> Iterator[Outcome]:
        """The outcomes in the log of a shard, in order of arrival."""
        log = self.logs.get(shard)
        for place in log.places if log else ():
            if place.kind == OUTCOME:
                yield read_outcome(log.body(place))  # type: ignore[union-attr]
            elif place.kind == REUSED:
                yield from read_answers.outcomes(read_reused(log.body(place)))  # type: ignore[union-attr]

    def exchanges(self, shard: int) -> Iterator[tuple[int, int]]:
        """Row and number of every attempt in the log of a shard."""
        log = self.logs.get(shard)
        for place in log.places if log else ():
            if place.kind in (OUTCOME, ATTEMPT):
                body = log.body(place)  # type: ignore[union-attr]
                attempt = (
                    read_attempt(body) if place.kind == ATTEMPT else read_outcome(body).attempt
                )
                if attempt is not None:
                    yield attempt.row, attempt.number

    def open_shard(self, shard: int) -> OpenShard:
        """The summary of a shard's log."""
        done: set[int] = set()
        ok: set[int] = set()
        attempts: dict[int, int] = {}
        log = self.logs.get(shard)
        for place in log.places if log else ():
            if place.kind == OUTCOME:
                outcome = read_outcome(log.body(place))  # type: ignore[union-attr]
                done.add(place.row)
                (ok.add if outcome.ok else ok.discard)(place.row)
                attempts[place.row] = max(outcome.attempts, attempts.get(place.row, 0))
            elif place.kind == REUSED:
                reused = read_reused(log.body(place))  # type: ignore[union-attr]
                rows = range(reused.row, reused.row + reused.rows)
                done.update(rows)
                ok.update(rows)
                attempts |= {row: attempts.get(row, 0) for row in rows}
            elif place.kind == ATTEMPT:
                number = read_attempt(log.body(place)).number  # type: ignore[union-attr]
                attempts[place.row] = max(number, attempts.get(place.row, 0))
        return OpenShard(frozenset(done), frozenset(ok), attempts)

    def write(self, entries: Sequence[records.Entry | Amendment]) -> None:
        """Make entries durable, in order; one flush per shard's log. Raises ``StorageError``."""
        self.fence()
        groups: defaultdict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            if isinstance(entry, Turn) and entry.attempt is not None:
                # In the same group as the turn, so both are durable, or neither.
                groups[entry.row // self.shard_rows].append(_record(entry.attempt))
            record = _record(entry)
            groups[record[0] // self.shard_rows].append(record)
        with self._storing():
            for shard, found in groups.items():
                self.log_of(shard).append(found)
            self.fence()  # a disk that stalled for long may have cost the lock

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = (
                f"cannot write the journal in {self.folder}: {error.strerror or error}. What was "
                "committed before is intact; make room, then run the same command again"
            )
            raise StorageError(message) from error

    def next_state(self, shard: int, *, complete: bool) -> ShardState:
        """The state a shard will have once its next parts are published. A complete shard stays
        complete: outcomes are replaced, never removed.
        """
        state = self.state(shard) or ShardState(shard, 0, b"", Position(), 0, complete=False)
        whole = complete or state.complete
        return replace(state, generation=state.generation + 1, complete=whole)

    def refresh(self, states: Sequence[ShardState]) -> None:
        """Replace the record of shards' input. In a log, a block without rows marks that earlier
        blocks describe the input before the change.
        """
        size = self.shard_rows
        logged = [state for state in states if state.shard in self.logs]
        self.write(
            [Block(s.shard, s.shard * size, (), b"", s.rows_read, s.digest, s.end) for s in logged]
        )
        kept = [state for state in states if state.shard in self._published]
        self.states.refresh(kept)
        self._published |= {state.shard: state for state in kept}

    def adopt(self, state: ShardState) -> None:
        """Take over a shard's state that was just written to the state file."""
        self._published[state.shard] = state

    def forget(self, shards: Sequence[int]) -> None:
        """Forget published shards that are no longer in the input."""
        self.states.forget(shards)
        for shard in shards:
            self._published.pop(shard, None)

    def seal(self, published: Published, turns: Sequence[Turn] = ()) -> None:
        """Record a shard's new parts, then remove its log. ``turns`` are those of conversations in
        progress: they are written to the shard's next log first. Called in the sealing thread, once
        nothing more is appended for the shard.
        """
        shard = published.state.shard
        following = self._carried_on(published.state, turns) if turns else None
        self.states.seal(published)
        self._published[shard] = published.state
        log = self.logs.pop(shard, None)
        if following is not None:
            self.logs[shard] = following
        if log is not None:
            log.remove()

    def _carried_on(self, state: ShardState, turns: Sequence[Turn]) -> ShardLog:
        """The next log of a shard, with the turns that are not in its parts."""
        generation = state.generation + 1
        path = self.folder / log_name(state.shard, generation)
        with self._storing():
            following = ShardLog(path, state.shard, generation)
            following.append([_record(turn) for turn in turns])
        files.reached("turns.carried", path)
        return following


def _record(entry: records.Entry | Amendment) -> Entry:
    """An entry in the form of the log."""
    if isinstance(entry, Outcome):
        if (entry.completion is None) == (entry.failure is None):
            message = f"row {entry.row}: an outcome is a completion or a failure"
            raise ValueError(message)
        return entry.row, OUTCOME, entry
    if isinstance(entry, Block):
        rows = len(entry.rows)
        held = BlockRecord(entry.rows_read, entry.digest, entry.end, rows, entry.carried)
        return entry.first_row, BLOCK, held
    if isinstance(entry, Attempt):
        return entry.row, ATTEMPT, entry
    if isinstance(entry, Turn):
        return entry.row, TURN, entry._replace(attempt=None)
    return entry.row, REUSED if isinstance(entry, ReusedRows) else AMENDMENT, entry


Item = tuple[records.Entry, Durable | None]


class JournalWriter:
    """``ports.Journal`` over a ``Journal`` and its writer thread."""

    def __init__(self, journal: Journal, flight: FlightLog) -> None:
        self._journal = journal
        self._flight = flight
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self._woken = False
        """Whether the thread should check the queue; checking its event takes longer."""
        self.sending = flight.note
        """See ``ports.Journal``."""
        self._closing = False
        self._fault: Exception | None = None
        self._given = 0
        self._durable = 0
        self._flushed: list[tuple[int, asyncio.Future[None]]] = []
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @property
    def backlog_bytes(self) -> int:
        """See ``ports.Journal``."""
        return self._journal.size_bytes

    def post(self, entry: records.Entry, then: Durable | None = None) -> None:
        """See ``ports.Journal``."""
        if self._fault is not None:
            if then is not None:
                self._loop.call_soon(then, entry, self._fault)
            return
        self._given += 1
        self._queue.append((entry, then))
        if not self._woken:
            self._woken = True
            self._wake.set()

    async def flush(self) -> None:
        """See ``ports.Journal``."""
        if self._fault is not None:
            raise self._fault
        if self._durable < self._given:
            future = self._loop.create_future()
            self._flushed.append((self._given, future))
            await future

    async def close(self) -> None:
        """Make durable what was appended and stop the thread. Closing twice is harmless."""
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self._flight.close()

    def _work(self) -> None:
        """The writer thread."""
        taken: list[Item] = []
        try:
            while True:
                self._wake.wait()
                if not self._closing:
                    time.sleep(GROUP_S)
                # Cleared before the queue is emptied and the flag is read: what arrives meanwhile
                # is either seen now or wakes the next turn.
                self._wake.clear()
                self._woken = False
                closing = self._closing
                taken = [self._queue.popleft() for _ in range(len(self._queue))]
                if taken:
                    self._journal.write([entry for entry, _ in taken])
                    self._loop.call_soon_threadsafe(self._resolve, taken)
                    taken = []  # release the entries before waiting for the next group
                elif closing:
                    return
                if closing:
                    self._wake.set()
        except Exception as error:  # noqa: BLE001 - every appender must get it
            self._loop.call_soon_threadsafe(self._reject, taken, error)

    def _resolve(self, taken: list[Item]) -> None:
        wipe = self._flight.wipe
        for entry, then in taken:
            if isinstance(entry, Outcome):
                wipe(entry.row, entry.attempts)
            elif isinstance(entry, Attempt):
                wipe(entry.row, entry.number)
            elif isinstance(entry, Turn) and entry.attempt is not None:
                wipe(entry.row, entry.attempt.number)
            if then is not None:
                then(entry, None)
        self._durable += len(taken)
        while self._flushed and self._flushed[0][0] <= self._durable:
            _, future = self._flushed.pop(0)
            if not future.done():
                future.set_result(None)

    def _reject(self, taken: list[Item], fault: Exception) -> None:
        self._fault = fault
        for entry, then in [*taken, *self._queue]:
            if then is not None:
                then(entry, fault)
        self._queue.clear()
        for _, future in self._flushed:
            if not future.done():
                future.set_exception(fault)
        self._flushed.clear()
