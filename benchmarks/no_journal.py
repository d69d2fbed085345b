"""The command without its journal, for durability.py alone: `python benchmarks/no_journal.py run`.

Nothing is encoded, checksummed, written to a log or flushed, requests in flight are not noted, and
there is no writer thread: outcomes stay in memory as the objects they are, until their shard's
parts are written. A kill would lose every row of the open shards. All else is the real program.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from batchrun import records
from batchrun.adapters.journal import journal, log_reader
from batchrun.adapters.journal.shard_log import ATTEMPT, BLOCK, OUTCOME, REUSED, Entry, Place
from batchrun.cli.main import main
from batchrun.ports import Durable
from batchrun.records import Attempt, Outcome, ReusedRows, Turn

KINDS = ("outcome", "attempt", "block", "reused")


class MemoryLog:
    """A shard's log as a list of what was given to it."""

    def __init__(self, path: Path, shard: int, generation: int) -> None:
        self.path, self.shard, self.generation = path, shard, generation
        self.places: list[Place] = []
        self.size = 0
        self._values: list[Any] = []

    def append(self, entries: Sequence[Entry]) -> list[Place]:
        """Keep the records; returns where they are."""
        found = []
        for row, kind, value in entries:
            size = 200
            if isinstance(value, Outcome):
                size = 1000 + len(value.response or "")
            found.append(Place(row, kind, len(self._values), size, 0))
            self._values.append(value)
            self.size += size
        self.places += found
        return found

    def body(self, place: Place) -> Any:
        """A record, as it was given."""
        return self._values[place.offset]

    def bodies(self, places: Sequence[Place]) -> list[Any]:
        """Records, as they were given."""
        return [self._values[place.offset] for place in places]

    def close(self) -> None:
        """There is nothing to close."""

    remove = close


class NoJournal:
    """``ports.Journal`` that promises nothing."""

    def __init__(self, held: journal.Journal, flight: Any) -> None:
        self._held = held
        self._flight = flight
        self._loop = asyncio.get_running_loop()
        self._told: list[tuple[records.Entry, Durable]] = []
        self._passed: list[records.Entry] = []

    @property
    def backlog_bytes(self) -> int:
        """None on the disk."""
        return 0

    def post(self, entry: records.Entry, then: Durable | None = None) -> None:
        """Say in the loop's next turn that an entry is durable, for all of this one together."""
        if not self._passed:
            self._loop.call_later(journal.GROUP_S, self._pass_on)
        self._passed.append(entry)
        if then is not None:
            if not self._told:
                self._loop.call_soon(self._tell)
            self._told.append((entry, then))

    def _tell(self) -> None:
        told, self._told = self._told, []
        for entry, then in told:
            then(entry, None)

    def _pass_on(self) -> None:
        passed, self._passed = self._passed, []
        shards: dict[int, list[Entry]] = {}
        for entry in passed:
            assert not isinstance(entry, Turn)  # the rows of benchmarks are no conversations
            if isinstance(entry, Outcome):
                record: Entry = (entry.row, OUTCOME, entry)
            elif isinstance(entry, Attempt):
                record = (entry.row, ATTEMPT, entry)
            elif isinstance(entry, ReusedRows):
                record = (entry.row, REUSED, entry)
            else:
                value = journal.BlockRecord(
                    entry.rows_read, entry.digest, entry.end, len(entry.rows), entry.carried
                )
                record = (entry.first_row, BLOCK, value)
            shards.setdefault(record[0] // self._held.shard_rows, []).append(record)
        for shard, found in shards.items():
            self._held.log_of(shard).append(found)

    async def flush(self) -> None:
        """Pass on what was posted."""
        self._pass_on()

    def sending(self, row: int, attempt: int, endpoint: int, started_at_us: int) -> None:
        """Requests in flight are not noted."""

    async def close(self) -> None:
        """Let go of the flight log's file."""
        self._flight.close()


def take_away() -> None:
    """Put the above in place of the journal."""
    from batchrun import assemble
    from batchrun.machinery import REAL

    for module, name, stand_in in (
        (journal, "ShardLog", MemoryLog),
        (journal, "read_block", lambda block: block),
        *((log_reader, f"read_{kind}", lambda value: value) for kind in KINDS),
        (assemble, "run", partial(assemble.run, machinery=replace(REAL, journal=NoJournal))),
    ):
        setattr(module, name, stand_in)


if __name__ == "__main__":
    from batchrun.cli.process import load_arrow

    load_arrow()
    take_away()
    main()
