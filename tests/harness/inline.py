"""Threads as timers: journal, sealer and source doing their real work on a virtual loop.

What the real ones do in a thread of their own is done here by the loop, at once, after a virtual
delay that stands for the disk. Files are real: only who calls the code, and when, is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from batchrun.adapters.journal.flight_log import FlightLog
from batchrun.adapters.journal.journal import GROUP_S, Item, Journal, JournalWriter
from batchrun.adapters.parts.sealer import Parts, Sealer
from batchrun.adapters.sources.reader import Reader
from batchrun.records import Block, Entry, Span

CLOSING_POLL_S = 0.001


class Disk(Protocol):
    """How long the disk takes, in virtual seconds."""

    def group_s(self) -> float:
        """For a group of the journal."""
        ...

    def part_s(self) -> float:
        """For the parts of a shard."""
        ...

    def block_s(self) -> float:
        """For a block of the input."""
        ...


class InlineJournal(JournalWriter):
    """``JournalWriter`` whose thread is a chain of timers: gather, write, tell."""

    def __init__(self, journal: Journal, flight: FlightLog, disk: Disk) -> None:
        self._disk = disk
        self._busy = False
        super().__init__(journal, flight)

    def _start(self) -> None:
        """There is no thread."""

    def post(self, entry: Entry, then: object = None) -> None:
        """See ``ports.Journal``."""
        super().post(entry, then)  # type: ignore[arg-type]
        self._gather()

    def _gather(self) -> None:
        if self._queue and not self._busy:
            self._busy = True
            self._loop.call_later(0.0 if self._closing else GROUP_S, self._take)

    def _take(self) -> None:
        # What comes from here on belongs to the next group: the disk is at work.
        taken = [self._queue.popleft() for _ in range(len(self._queue))]
        self._loop.call_later(self._disk.group_s(), self._write, taken)

    def _write(self, taken: list[Item]) -> None:
        try:
            self._journal.write([entry for entry, _ in taken])
        except Exception as error:  # noqa: BLE001 - every appender must hear of it
            self._loop.call_soon(self._told, taken, error)
        except BaseException:
            # The process is dead: what waits is lost, and nobody waits for it.
            self._queue.clear()
            self._busy = False
            raise
        else:
            self._loop.call_soon(self._told, taken, None)

    def _told(self, taken: list[Item], fault: Exception | None) -> None:
        self._busy = False
        if fault is None:
            self._resolve(taken)
        else:
            self._reject(taken, fault)
        self._gather()

    async def close(self) -> None:
        """Make durable what was appended. Closing twice is harmless."""
        self._closing = True
        while self._busy or self._queue:  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(CLOSING_POLL_S)
        self._flight.close()


class InlineSealer(Sealer):
    """``Sealer`` whose thread is a lock: one shard after the other."""

    def __init__(self, parts: Parts, journal: Journal, disk: Disk) -> None:
        super().__init__(parts, journal)
        self._disk = disk
        self._turn = asyncio.Lock()

    async def publish(self, shard: int, *, complete: bool) -> None:
        """See ``ports.Publisher``."""
        async with self._turn:
            await asyncio.sleep(self._disk.part_s())
            self._publish(shard, complete)
            await asyncio.sleep(0)


class InlineSource:
    """``ports.Source`` over a reader, without a thread that reads ahead."""

    def __init__(self, reader: Reader, disk: Disk, *, limit: int | None) -> None:
        self._reader = reader
        self._disk = disk
        self._limit = limit

    async def blocks(self, spans: Iterable[Span]) -> AsyncIterator[Block]:
        """See ``ports.Source``."""
        for block in self._reader.blocks(spans, limit=self._limit):
            await asyncio.sleep(self._disk.block_s())
            yield block
