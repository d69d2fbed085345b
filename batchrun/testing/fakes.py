"""Fakes of the seams in ``batchrun.ports``: in memory, on the loop's time, and scripted.

They keep the promises of the seams, and also record their calls, so that a test can compare these
with what the engine reports.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from batchrun.errors import FaultKind, InputLostError, StorageError, TransportFault
from batchrun.records import (
    Attempt,
    Block,
    Entry,
    Outcome,
    Position,
    Reply,
    Request,
    Row,
    Span,
    Turn,
)
from batchrun.testing.samples import ok

if TYPE_CHECKING:
    from batchrun.ports import Durable


class FakeSource:
    """``ports.Source`` over a list of rows.

    A row's position is its number. ``lost_at`` is a row before which the input can no longer be
    read; ``pause_s`` is the time that reading a block takes.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        shard_rows: int,
        block_rows: int = 4,
        limit: int | None = None,
        lost_at: int | None = None,
        pause_s: float = 0.0,
    ) -> None:
        self.rows = rows
        self.read = 0
        """Rows handed out; those read twice count twice."""
        self._shard_rows = shard_rows
        self._block_rows = block_rows
        self._end = len(rows) if limit is None else min(limit, len(rows))
        self._lost_at = lost_at
        self._pause_s = pause_s

    async def blocks(self, spans: Iterable[Span]) -> AsyncIterator[Block]:
        """See ``ports.Source``."""
        for span in spans:
            last = None if span.last is None else (span.last + 1) * self._shard_rows
            end = self._end if last is None else min(last, self._end)
            first = span.first * self._shard_rows
            while first < end:
                await asyncio.sleep(self._pause_s)
                border = (first // self._shard_rows + 1) * self._shard_rows
                stop = min(first + self._block_rows, border, end)
                if self._lost_at is not None and stop > self._lost_at:
                    message = f"input rows.fake can no longer be read from row {self._lost_at} on"
                    raise InputLostError(message)
                yield self._block(first, stop)
                self.read += stop - first
                first = stop

    def _block(self, first: int, stop: int) -> Block:
        shard = first // self._shard_rows
        begin = shard * self._shard_rows
        whole = repr([tuple(row) for row in self.rows[begin:stop]]).encode()
        return Block(
            shard=shard,
            first_row=first,
            rows=tuple(self.rows[first:stop]),
            carried=b"",
            rows_read=stop - begin,
            digest=hashlib.sha256(whole).digest(),
            end=Position(0, stop, stop),
        )


# The exchange

Answer = Reply | TransportFault
"""How an exchange ends."""

Script = Callable[[Request, int], Answer]
"""Chooses the answer: called with the request and the number of earlier requests for its row."""


def script_of(answers: Mapping[int, Sequence[Answer]], *, then: Answer | None = None) -> Script:
    """A script that answers each row from its list, in order. A row without a list, or at its end,
    gets ``then`` (by default a completion).
    """
    final = ok() if then is None else then

    def answer(request: Request, asked_before: int) -> Answer:
        listed = answers.get(request.row, ())
        return listed[asked_before] if asked_before < len(listed) else final

    return answer


@dataclass(slots=True)
class FakeTransport:
    """``ports.Transport`` by a script.

    ``latency_s`` is how long an exchange takes, in the loop's time, or a function of the request.
    An exchange that would take longer than ``timeout_s`` ends then, with a timeout.
    """

    script: Script = field(default_factory=lambda: script_of({}))
    latency_s: float | Callable[[Request], float] = 0.1
    timeout_s: float = 600.0
    asked: list[int] = field(default_factory=list)
    """The rows of the requests, in order."""
    asked_at_s: list[float] = field(default_factory=list)
    """Their times, in the loop's time."""
    asked_of: Counter[int] = field(default_factory=Counter)
    """The number of requests for each row."""
    in_flight: int = 0
    in_flight_max: int = 0
    cancelled: int = 0
    remark: str | None = None

    def resize(self, concurrency: int) -> None:
        """See ``ports.Transport``. It takes any number."""

    async def send(self, request: Request) -> Reply:
        """See ``ports.Transport``."""
        before = self.asked_of[request.row]
        self.asked.append(request.row)
        self.asked_at_s.append(asyncio.get_running_loop().time())
        self.asked_of[request.row] += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        latency = self.latency_s if isinstance(self.latency_s, float) else self.latency_s(request)
        try:
            await asyncio.sleep(min(latency, self.timeout_s))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        if latency > self.timeout_s:
            message = f"no whole reply within {self.timeout_s:g} s"
            raise TransportFault(message, kind=FaultKind.TIMEOUT, sent=True)
        answer = self.script(request, before)
        if isinstance(answer, TransportFault):
            raise answer
        return answer


# Storage


class FakeJournal:
    """``ports.Journal`` in a list. Entries posted within ``commit_s`` become durable together. A
    commit that would make ``fails_after`` entries or more durable fails; it may be set at any time.
    """

    def __init__(self, *, commit_s: float = 0.025, fails_after: int | None = None) -> None:
        self.durable: list[Entry] = []
        self.notes: dict[tuple[int, int], int] = {}
        """Exchanges noted by row and attempt, with their start (wall clock, microseconds)."""
        self.backlog_bytes = 0
        self.commits = 0
        self._commit_s = commit_s
        self.fails_after = fails_after
        self._waiting: list[tuple[Entry, Durable | None]] = []
        self._flushing: list[asyncio.Future[None]] = []
        self._turn: asyncio.TimerHandle | None = None
        self._fault: StorageError | None = None

    def post(self, entry: Entry, then: Durable | None = None) -> None:
        """See ``ports.Journal``."""
        loop = asyncio.get_running_loop()
        if self._fault is not None:
            if then is not None:
                loop.call_soon(then, entry, self._fault)
            return
        self._waiting.append((entry, then))
        if self._turn is None:
            self._turn = loop.call_later(self._commit_s, self._commit)

    def sending(self, row: int, attempt: int, endpoint: int, started_at_us: int) -> None:
        """See ``ports.Journal``."""
        del endpoint
        self.notes[row, attempt] = started_at_us

    async def flush(self) -> None:
        """See ``ports.Journal``."""
        if self._waiting:
            done = asyncio.get_running_loop().create_future()
            self._flushing.append(done)
            await done
        if self._fault is not None:
            raise self._fault

    @property
    def pending(self) -> list[Entry]:
        """Entries that were posted and are not durable yet."""
        return [entry for entry, _ in self._waiting]

    def outcomes(self) -> dict[int, Outcome]:
        """The durable outcomes by row."""
        return {entry.row: entry for entry in self.durable if isinstance(entry, Outcome)}

    def attempts(self) -> list[Attempt]:
        """All durable attempts, including those that decided an outcome. One that was posted both
        alone and with its outcome counts once.
        """
        found = {}
        for entry in self.durable:
            attempt = entry.attempt if isinstance(entry, Outcome | Turn) else entry
            if isinstance(attempt, Attempt):
                found[attempt.row, attempt.number] = attempt
        return list(found.values())

    def _commit(self) -> None:
        """All waiting entries become durable together, or are refused together."""
        self._turn = None
        group, self._waiting = self._waiting, []
        flushing, self._flushing = self._flushing, []
        if self.fails_after is not None and len(self.durable) + len(group) >= self.fails_after:
            self._fault = StorageError("cannot write the journal: no space left, on purpose")
        else:
            self.commits += 1
            self.durable += [entry for entry, _ in group]
        for entry, then in group:
            if then is not None:
                then(entry, self._fault)
        for done in flushing:
            if not done.done():
                done.set_result(None)


class FakePublisher:
    """``ports.Publisher`` over a ``FakeJournal``: parts are dictionaries of outcomes by row.

    It refuses to publish a shard with entries that are not yet in the journal: the real one would
    remove the log under the writer.
    """

    def __init__(
        self,
        journal: FakeJournal,
        *,
        shard_rows: int,
        takes_s: float = 0.05,
        fails_at: int | None = None,
    ) -> None:
        self.parts: dict[int, dict[int, Outcome]] = defaultdict(dict)
        self.published: list[tuple[int, bool]] = []
        """Shards in the order published, and whether they were published as complete."""
        self._journal = journal
        self._shard_rows = shard_rows
        self._takes_s = takes_s
        self._fails_at = fails_at

    async def publish(self, shard: int, *, complete: bool) -> None:
        """See ``ports.Publisher``."""
        self._require_settled(shard)
        await asyncio.sleep(self._takes_s)
        self._require_settled(shard)
        if shard == self._fails_at:
            message = f"cannot write the parts of shard {shard}: no space left, on purpose"
            raise StorageError(message)
        for row, outcome in self._journal.outcomes().items():
            if row // self._shard_rows == shard:
                self.parts[shard][row] = outcome
        self.published.append((shard, complete))

    def _require_settled(self, shard: int) -> None:
        late = [entry for entry in self._journal.pending if self._shard_of(entry) == shard]
        if late:
            _late(shard, late[0])

    def _shard_of(self, entry: Entry) -> int:
        row = entry.first_row if isinstance(entry, Block) else entry.row
        return row // self._shard_rows


def _late(shard: int, entry: Entry) -> NoReturn:
    message = f"shard {shard} is published while its journal still takes in {type(entry).__name__}"
    raise AssertionError(message)
