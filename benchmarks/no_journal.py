"""The command without its journal, for durability.py alone: `python benchmarks/no_journal.py run`.

Outcomes wait in memory, as the objects they are, until their shard's parts are written. Nothing is
encoded, checksummed, written to a log or flushed, requests in flight are not noted, and there is no
writer thread. A kill would lose every row of the open shards. All else is the real program, but for
the garbage collector: it is off, since those many objects would keep it busy, which records that
are bytes do not. So the run without a journal is, if anything, too cheap.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchrun.adapters import journal, shard_reader
from batchrun.adapters.log import AMENDMENT, ATTEMPT, BLOCK, OUTCOME, Place
from batchrun.cli.main import main
from batchrun.ports import Durable
from batchrun.records import Attempt, Block, Outcome


class MemoryLog:
    """What a shard's log holds, as objects."""

    def __init__(self, path: Path, shard: int, generation: int) -> None:
        self.path, self.shard, self.generation = path, shard, generation
        self.places: list[Place] = []
        self.size = 0
        self._held: list[Any] = []

    def keep(self, row: int, kind: int, value: object, size: int) -> None:
        """Hold a record."""
        self.places.append(Place(row, kind, len(self._held), size, 0))
        self._held.append(value)
        self.size += size

    def body(self, place: Place) -> Any:
        """A record, as it was given."""
        return self._held[place.offset]

    def bodies(self, places: Sequence[Place]) -> list[Any]:
        """Many of them."""
        return [self._held[place.offset] for place in places]

    def close(self) -> None:
        """There is nothing to close."""

    def remove(self) -> None:
        """A part holds its rows."""
        self._held.clear()


def write(self: journal.Journal, entries: Sequence[Outcome | Attempt | Block | Any]) -> None:
    """In place of ``Journal.write``."""
    for entry in entries:
        value: object = entry
        if isinstance(entry, Outcome):
            row, kind = entry.row, OUTCOME
            size = 1000 + len(str(entry.response or ""))
        elif isinstance(entry, Attempt):
            row, kind, size = entry.row, ATTEMPT, 200
        elif isinstance(entry, Block):
            row, kind, size = entry.first_row, BLOCK, len(entry.carried)
            value = journal.BlockRecord(
                entry.rows_read, entry.digest, entry.end, len(entry.rows), entry.carried
            )
        else:
            row, kind, size = entry.row, AMENDMENT, len(entry.values)
        log: Any = self.log_of(row // self.shard_rows)
        log.keep(row, kind, value, size)


class NoJournal:
    """``ports.Journal`` that promises nothing."""

    def __init__(self, held: journal.Journal, flight: Any) -> None:
        self._held = held
        self._flight = flight
        self._loop = asyncio.get_running_loop()
        self._told: list[tuple[Outcome | Attempt | Block, Durable]] = []

    @property
    def backlog_bytes(self) -> int:
        """None on the disk."""
        return 0

    def post(self, entry: Outcome | Attempt | Block, then: Durable | None = None) -> None:
        """Hold an entry, and say so in the loop's next turn, for all of this one together."""
        self._held.write([entry])
        if then is not None:
            if not self._told:
                self._loop.call_soon(self._tell)
            self._told.append((entry, then))

    def _tell(self) -> None:
        told, self._told = self._told, []
        for entry, then in told:
            then(entry, None)

    async def append(self, entry: Outcome | Attempt | Block) -> None:
        """Hold an entry."""
        self._held.write([entry])

    async def flush(self) -> None:
        """Nothing is under way."""

    def sending(self, row: int, attempt: int, endpoint: int, started_at_us: int) -> None:
        """Requests in flight are not noted."""

    async def close(self) -> None:
        """Let go of the flight log's file."""
        self._flight.close()


def given(value: Any) -> Any:
    """In place of a decoder."""
    return value


def take_away() -> None:
    """Put the above in place of the journal."""
    from batchrun import assemble

    journal.Journal.write = write  # type: ignore[method-assign]
    for module in (journal, shard_reader):
        for name in ("read_outcome", "read_attempt", "read_block", "read_amendment"):
            setattr(module, name, given)
    for module, name, stand_in in (
        (journal, "ShardLog", MemoryLog),
        (assemble, "JournalWriter", NoJournal),
    ):
        setattr(module, name, stand_in)


if __name__ == "__main__":
    from batchrun.cli.process import load_arrow

    load_arrow()
    take_away()
    gc.disable()
    main()
