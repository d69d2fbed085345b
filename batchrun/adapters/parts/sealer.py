"""The parts: a shard's journal records become one Parquet file of results and one of attempts, and
one of requests if the run keeps those.

The old part and the journal are merged in row order, with the journal winning, and the new files
replace the old (``filling``). A kill between the renames and the journal's note of them leaves new
files with the records still in the journal; sealing again then yields the same content, because
results merge by row and attempts by (row, attempt).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.log_reader import ShardReader
from batchrun.adapters.journal.state_db import KeptRequests, Published
from batchrun.adapters.parts import old_part, truncation
from batchrun.adapters.parts.old_part import OldPart
from batchrun.adapters.parts.part_writer import PIECE_ROWS, Filling, Shape
from batchrun.adapters.storage.store import REQUESTS, USAGE, Store, part_name
from batchrun.core.reply import answer
from batchrun.core.run.free_disk import Grown
from batchrun.core.run.totals import Totals
from batchrun.errors import StorageError
from batchrun.records import Outcome, ShardState, Turn

_LOG = logging.getLogger("batchrun.parts")
FORMAT = "1"


class Footer(NamedTuple):
    """The content of a part's footer: its number of rows, the first and the last row (None for an
    empty part), and whether it lacks columns that version 0.1 did not have.
    """

    rows: int
    ends: tuple[int, ...]
    lacks_columns: bool


class Ending(NamedTuple):
    """How a row ended: its error class (None for a completion), its request's hash, and the flaws
    of its answer, if these were checked.
    """

    error_class: str | None
    request_hash: str | None
    flaws: frozenset[str] = frozenset()


def ending_of(outcome: Outcome) -> Ending:
    """How a row of the journal ended."""
    failure, said = outcome.failure, outcome.completion
    return Ending(
        failure.error_class if failure else None,
        outcome.request_hash,
        answer.flaws_of(said) if said is not None else frozenset(),
    )


class Parts:
    """Reads and writes the parts of one run directory, synchronously."""

    piece_rows = PIECE_ROWS
    """Rows taken at once."""

    def __init__(
        self, store: Store, journal: Journal, carried: pa.Schema, *, turns: bool | None = None
    ) -> None:
        """``turns`` is whether it is a run of conversations; None: as the journal records."""
        self.store = store
        self._journal = journal
        version = {"batchrun.format": FORMAT}
        self._carried = carried
        self.grown = Grown()
        if turns is None:
            turns = part_schema.has_turns(journal.states.get("settings"))
        self._turns = turns
        results = part_schema.results_schema(carried, turns=turns)
        self._results_schema = results.with_metadata(version)
        self._attempts_schema = part_schema.attempts_schema().with_metadata(version)
        self._requests_schema = part_schema.REQUESTS_SCHEMA.with_metadata(version)

    def prepare(self) -> None:
        """Make the folders and remove drafts that a kill left behind."""
        self.store.prepare()

    def known_rows(self, shard: int) -> tuple[list[int], dict[int, int]]:
        """Rows with an outcome in the published part, and the last attempt number of each row in
        its ledger.
        """
        numbers: dict[int, int] = {}
        results, attempts = self.pair(shard)
        table = old_part.read(self.store, results, ["row"])
        done: list[int] = [] if table is None else table.column("row").to_pylist()
        table = old_part.read(self.store, attempts, ["row", "attempt"])
        for row, number in part_schema.tuples(table) if table is not None else ():
            numbers[row] = max(number, numbers.get(row, 0))
        return done, numbers

    def endings(self, shard: int, *, flaws: bool = False) -> dict[int, Ending]:
        """How the rows of the published part ended, by row. Without ``flaws`` the answers are not
        checked.
        """
        columns = ["row", "error_class", "request_hash", *(truncation.COLUMNS if flaws else ())]
        table = old_part.read(self.store, self.pair(shard)[0], columns)
        if table is None:
            return {}
        found = {
            row: Ending(*ended) for row, *ended in part_schema.tuples(table.select(columns[:3]))
        }
        if flaws:
            for row, (cut, empty) in zip(found, truncation.cut_or_empty(table), strict=True):
                if found[row].error_class is None:
                    flawed = answer.flaws(truncated=cut, empty=empty)
                    found[row] = found[row]._replace(flaws=flawed)
        return found

    def carried(self, shard: int) -> OldPart:
        """The columns of a shard's results that came from the input: row, custom_id, carried
        columns.
        """
        columns = ["row", "custom_id", *self._carried.names]
        return OldPart(self.store, self.pair(shard)[0], self._results_schema, columns)

    def pair(self, shard: int) -> tuple[str, str]:
        """The names of a shard's part of results and of its part of attempts."""
        name = part_name(shard)
        return f"results/{name}", f"attempts/{name}"

    def requests(self, shard: int) -> str:
        """The name of a shard's part of requests; few runs have such parts."""
        return f"{REQUESTS}/{part_name(shard)}"

    def schema_of(self, name: str) -> pa.Schema:
        """The expected layout of a part with this name."""
        kind = name.partition("/")[0]
        if kind == REQUESTS:
            return self._requests_schema
        return self._results_schema if kind == "results" else self._attempts_schema

    def footer(self, name: str) -> Footer:
        """Read only the footer of a published part. Raises ``DamagedError`` if it is not a part of
        this run.
        """
        schema = self.schema_of(name)
        where = self.store.where(name)
        try:
            with self.store.peek(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
                found, metadata = part.schema_arrow, part.metadata
        except (OSError, pa.ArrowException) as error:
            raise old_part.damaged(where, error) from error
        if not part_schema.lacks_only_later(found, schema):
            raise old_part.damaged(where, "its columns are not those of this run")
        place = found.get_field_index("row")
        ends: list[int] = []
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(place).statistics
            if statistics is not None and statistics.has_min_max:
                ends += (statistics.min, statistics.max)
        lacks = len(found.names) < len(schema.names)
        return Footer(metadata.num_rows, (min(ends), max(ends)) if ends else (), lacks)

    def schemas(self) -> tuple[pa.Schema, pa.Schema]:
        """The layout of every part of results, and of every part of attempts."""
        return self._results_schema, self._attempts_schema

    def require_room(self, shards: Iterable[int]) -> None:
        """Parts are replaced one shard at a time, old and new side by side. Raises ``StorageError``
        if the disk has no room for the largest of these shards.
        """
        needed = max((self._size(shard) for shard in shards), default=0)
        folder = self.store.drafts
        free = shutil.disk_usage(folder).free
        if needed > free:
            message = (
                f"{folder}: {needed:,} bytes are needed to write a part again, {free:,} are "
                "free. Nothing was sent; make room, then run the same command again"
            )
            raise StorageError(message)

    def _size(self, shard: int) -> int:
        log = self._journal.logs.get(shard)
        names = (*self.pair(shard), self.requests(shard))
        old = sum(self.store.size(name) or 0 for name in names)
        return old + (log.size if log else 0)

    def _begin(self, shard: int) -> Filling:
        """New drafts of a shard's parts, to be filled."""
        rows = self._journal.shard_rows
        return Filling(
            self.store,
            (*self.pair(shard), self.requests(shard)),
            Shape(
                self._results_schema,
                self._attempts_schema,
                self._requests_schema,
                self._carried,
                self._turns,
            ),
            range(shard * rows, (shard + 1) * rows),
            self._journal.folder,
            self.piece_rows,
        )

    def write(self, state: ShardState) -> Published:
        """Merge a shard's old parts and its log into the parts of ``state.generation``; durable
        under their names when this returns.
        """
        with self._begin(state.shard) as filling:
            totals = filling.finish(ShardReader(self._journal, state.shard))
            results, attempts = filling.results, filling.attempts
            kept, rows = filling.requests.draft, filling.requests.rows
            self.store.publish([*([] if kept is None else [kept]), attempts, results])
        pair, name = self.pair(state.shard), self.requests(state.shard)
        marks = self.store.marks(pair if kept is None else (*pair, name))
        self.grown.rows += sum(totals.rows())
        self.grown.part_bytes += results.size + attempts.size + (kept.size if kept else 0)
        return Published(
            state,
            results.digest,
            attempts.digest,
            totals.recorded(),
            marks.get(pair[0]),
            marks.get(pair[1]),
            None if kept is None else KeptRequests(kept.digest, rows, *marks.get(name, ())),
        )

    def write_usage(self, totals: Totals) -> None:
        """Replace ``usage.parquet``."""
        schema = part_schema.USAGE_SCHEMA
        with self.store.draft(USAGE) as draft:
            with pq.ParquetWriter(pa.PythonFile(draft, mode="w"), schema) as writer:
                writer.write_table(pa.Table.from_pylist(totals.usage_rows(), schema=schema))
            self.store.publish([draft])


PartsOf = Callable[[Store, Journal, pa.Schema], Parts]
"""Makes the parts of a run directory, given what its rows carry."""


def publish(
    parts: Parts,
    journal: Journal,
    state: ShardState,
    commit: Callable[[Published], None] = lambda _: None,
) -> None:
    """Write the parts of a shard in a new state, and record it. ``commit`` is called between the
    two: if it raises, the shard's log is unchanged. Raises ``StorageError``.
    """
    journal.fence()
    log = journal.logs.get(state.shard)
    try:
        published = parts.write(state)
    except OSError as error:
        message = (
            f"cannot write the parts of shard {state.shard}: {error}. Its rows are safe in the "
            "journal; make room or fix the disk, then run the same command again"
        )
        raise StorageError(message) from error
    commit(published)
    journal.seal(published, _going_on(parts, journal, state.shard))
    _LOG.info(
        "part %d published: %d rows read, generation %d%s",
        state.shard,
        state.rows_read,
        state.generation,
        "" if state.complete else ", not complete",
    )
    parts.grown.log_bytes += log.size if log else 0


def _going_on(parts: Parts, journal: Journal, shard: int) -> list[Turn]:
    """The answered turns of a shard's conversations that have no outcome yet: no part holds them.
    Turns of a row that was sent again and not finished are dropped, since the row has an outcome.
    """
    found = journal.turns(shard)
    done = parts.known_rows(shard)[0] if found else ()
    for row in found.keys() & set(done):
        del found[row]
    return [turn for row in sorted(found) for turn in found[row]]


class Sealer:
    """``ports.Publisher`` over ``Parts``: works in a separate thread, so that compressing and
    reading back never delay a commit.
    """

    def __init__(self, parts: Parts, journal: Journal) -> None:
        self._parts = parts
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sealer")

    async def publish(self, shard: int, *, complete: bool) -> None:
        """See ``ports.Publisher``."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._publish, shard, complete)

    def _publish(self, shard: int, complete: bool) -> None:  # noqa: FBT001 - run_in_executor
        publish(self._parts, self._journal, self._journal.next_state(shard, complete=complete))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
