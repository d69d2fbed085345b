"""Passes outcomes to a reader once they are durable, in a bounded buffer.

Where a program reads outcomes as they come, the reader is part of the chain: if it is slow, no
further rows are dispatched. ``TellingJournal`` and ``PacedSource`` stand before the journal and the
source of a run that has such a reader; the engine does not know.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence

from batchrun.ports import Answers, Durable, Journal, Source
from batchrun.records import Block, Entry, Outcome, Request, ReusedRows, Span

HELD_ROWS = 256
HELD_BYTES = 16 * 2**20


class Outbox:
    """Durable outcomes that the reader has not taken yet. One writer, one reader, one loop."""

    def __init__(self) -> None:
        self._held: deque[tuple[Outcome, int]] = deque()
        self._bytes = 0
        self._open = True
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, outcome: Outcome) -> None:
        """Take an outcome that is durable; forgotten if the reader went away."""
        if not self._open:
            return
        completion = outcome.completion
        text = completion.first.content if completion else None
        size = len(outcome.response or "") + len(text or "")
        self._held.append((outcome, size))
        self._bytes += size
        self._news.set()
        if len(self._held) >= HELD_ROWS or self._bytes >= HELD_BYTES:
            self._room.clear()

    async def take(self) -> Outcome | None:
        """The next outcome, in the order in which they became durable; None after the last."""
        while not self._held:
            if not self._open:
                return None
            self._news.clear()
            await self._news.wait()
        outcome, size = self._held.popleft()
        self._bytes -= size
        if len(self._held) < HELD_ROWS // 2 and self._bytes < HELD_BYTES:
            self._room.set()
        return outcome

    async def room(self) -> None:
        """Return when the reader is not far behind."""
        await self._room.wait()

    def close(self) -> None:
        """Nothing comes any more, or nobody reads any more: nobody waits for room again."""
        self._open = False
        self._news.set()
        self._room.set()


class PacedSource:
    """``ports.Source`` that waits while the reader of the outcomes is behind.

    The rows of the present block go on: at most so many outcomes come on top of ``HELD_ROWS``.
    """

    def __init__(self, source: Source, outbox: Outbox) -> None:
        self._source = source
        self._outbox = outbox

    async def blocks(self, spans: Iterable[Span]) -> AsyncIterator[Block]:
        """See ``ports.Source``."""
        blocks = self._source.blocks(spans)
        try:
            async for block in blocks:
                await self._outbox.room()
                yield block
        finally:
            if isinstance(blocks, AsyncGenerator):
                await blocks.aclose()


class EachAnswer:
    """``ports.Answers`` that gives an outcome for each row: the reader takes them one by one."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def known(
        self, requests: Sequence[Request], *, together: bool = False
    ) -> Mapping[int, Outcome] | ReusedRows:
        """See ``ports.Answers``."""
        del together
        return await self._answers.known(requests)


class TellingJournal:
    """``ports.Journal`` that puts every outcome into the outbox once it is durable."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        self._journal = journal
        self._outbox = outbox
        self.sending = journal.sending
        self.flush = journal.flush

    @property
    def backlog_bytes(self) -> int:
        """See ``ports.Journal``."""
        return self._journal.backlog_bytes

    def post(self, entry: Entry, then: Durable | None = None) -> None:
        """See ``ports.Journal``."""
        if not isinstance(entry, Outcome):
            self._journal.post(entry, then)
            return

        def told(durable: Entry, error: Exception | None) -> None:
            if then is not None:
                then(durable, error)
            if error is None and isinstance(durable, Outcome):
                self._outbox.put(durable)

        self._journal.post(entry, told)
