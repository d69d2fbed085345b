"""The parts: a shard's journal records become one Parquet file of results and one of attempts.

One mechanism serves the first seal, the completion of a provisional part and every later change:
the old part and the journal are merged in row order, the journal wins, and the new pair of files
replaces the old. A kill between the renames and the journal's note of them leaves new files with
the records still in the journal; sealing again then yields the same content, because results
merge by row and attempts by (row, attempt).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters import answers, arrow, files, old_part
from batchrun.adapters.journal import Journal
from batchrun.adapters.log import damaged as log_damaged
from batchrun.adapters.old_part import OldPart
from batchrun.adapters.shard_reader import ShardReader
from batchrun.adapters.states import Published
from batchrun.adapters.store import USAGE, Store, part_name
from batchrun.core import answer
from batchrun.core.free_disk import Grown
from batchrun.core.money import picodollars
from batchrun.core.totals import TOKENS, AttemptLine, ResultLine, Totals, day_of
from batchrun.errors import StorageError
from batchrun.records import NO_USAGE, Attempt, Outcome, ShardState

FORMAT = "1"
PIECE_ROWS = 256
PIECE_BYTES = 12 * 2**20
"""What is read back at once: records are many small objects, four times the size of columns."""
GROUP_ROWS = 1024
GROUP_BYTES = 4 * 2**20
"""What becomes a row group."""
ATTEMPT_BYTES = 200
"""About what a line of the ledger takes: its texts are names and codes."""
_ATTEMPT_COLUMNS = ["row", "endpoint", "model", "service_tier", "cost_usd", "unanswered", *TOKENS]
_KEY = itemgetter(*map(Attempt._fields.index, ("endpoint", "model", "service_tier")))
_PLACE = itemgetter(*map(Attempt._fields.index, ("row", "number")))
_STARTED = itemgetter(Attempt._fields.index("started_at_us"))
_RESULT_COLUMNS = ["row", "error_class", "cost_usd", *TOKENS]


class Parts:
    """Reads and writes the parts of one run directory, synchronously."""

    def __init__(self, store: Store, journal: Journal, carried: pa.Schema) -> None:
        self.store = store
        self._journal = journal
        version = {"batchrun.format": FORMAT}
        self._carried = carried
        self.grown = Grown()
        self._results_schema = arrow.results_schema(carried).with_metadata(version)
        self._attempts_schema = arrow.attempts_schema().with_metadata(version)

    def prepare(self) -> None:
        """Make the folders and take away drafts that a kill left behind."""
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
        for row, number in _tuples(table) if table is not None else ():
            numbers[row] = max(number, numbers.get(row, 0))
        return done, numbers

    def endings(self, shard: int) -> dict[int, tuple[str | None, str | None]]:
        """How the rows of the published part ended: error class (None for a completion) and
        request hash by row.
        """
        columns = ["row", "error_class", "request_hash"]
        table = old_part.read(self.store, self.pair(shard)[0], columns)
        if table is None:
            return {}
        return {row: (error_class, digest) for row, error_class, digest in _tuples(table)}

    def carried(self, shard: int) -> OldPart:
        """What came from the input into a shard's results: row, custom_id, carried columns."""
        columns = ["row", "custom_id", *self._carried.names]
        return OldPart(self.store, self.pair(shard)[0], self._results_schema, columns)

    def pair(self, shard: int) -> tuple[str, str]:
        """The names of a shard's part of results and of its part of attempts."""
        name = part_name(shard)
        return f"results/{name}", f"attempts/{name}"

    def schemas(self) -> tuple[pa.Schema, pa.Schema]:
        """What every part of results, and every part of attempts, looks like."""
        return self._results_schema, self._attempts_schema

    def require_room(self, shards: Iterable[int]) -> None:
        """Parts are replaced one shard at a time, old and new side by side. Raises
        ``StorageError`` where the disk has no room for the largest of these shards.
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
        old = sum(self.store.size(name) or 0 for name in self.pair(shard))
        return old + (log.size if log else 0)

    def write(self, state: ShardState) -> Published:
        """Merge a shard's old parts and its log into the parts of ``state.generation``; durable
        under their names when this returns.
        """
        shard, store = state.shard, self.store
        names = self.pair(shard)
        with store.draft(names[0]) as results, store.draft(names[1]) as attempts:
            totals = self._fill(shard, results, attempts)
            store.publish([attempts, results])
        self.grown.rows += sum(totals.rows())
        self.grown.part_bytes += results.size + attempts.size
        return Published(state, results.digest, attempts.digest, totals.recorded())

    def _fill(self, shard: int, results: files.Draft, attempts: files.Draft) -> Totals:
        totals = Totals()
        names = self.pair(shard)
        with (
            _writer(results, self._results_schema) as write_results,
            _writer(attempts, self._attempts_schema) as write_attempts,
            OldPart(self.store, names[0], self._results_schema) as old_results,
            OldPart(self.store, names[1], self._attempts_schema) as old_attempts,
        ):
            log = ShardReader(self._journal, shard)
            for high, outcomes, ledger in self._pieces(shard, log):
                ledgered = self._attempts_table(ledger, old_attempts.below(high))
                write_attempts.add(ledgered, ledgered.num_rows * ATTEMPT_BYTES)
                old = old_results.below(high)
                resulted = self._results_table(log, outcomes, old, ledgered)
                size = log.taken_bytes + (0 if old is None else old.nbytes)
                write_results.add(resulted, size)
                _count(totals, ledger, outcomes, ledgered, resulted)
        return totals

    def _pieces(
        self, shard: int, log: ShardReader
    ) -> Iterator[tuple[int, list[Outcome], list[Attempt]]]:
        """The shard's log in row order and bounded pieces: the row below which a piece lies, its
        outcomes, and its attempts, those that decided an outcome included.
        """
        end = (shard + 1) * self._journal.shard_rows
        while True:
            outcomes = log.outcomes(rows_max=PIECE_ROWS, bytes_max=PIECE_BYTES)
            high = outcomes[-1].row + 1 if log.more else end
            ledger = list(log.attempts_below(high))
            alone = not ledger
            ledger += [o.attempt for o in outcomes if o.attempt is not None]
            if not alone:
                ledger.sort(key=_PLACE)
            yield high, outcomes, ledger
            if high == end:
                return

    def _attempts_table(self, ledger: list[Attempt], old: pa.Table | None) -> pa.Table:
        """A piece of the ledger, old lines and new ones."""
        new = pa.Table.from_arrays(arrow.attempt_columns(ledger), schema=self._attempts_schema)
        if old is None:
            return new
        seen = {(attempt.row, attempt.number) for attempt in ledger}
        keys = zip(old.column("row").to_pylist(), old.column("attempt").to_pylist(), strict=True)
        old = old.filter(pa.array([key not in seen for key in keys], pa.bool_()))
        merged = pa.concat_tables([old, new])
        return merged.sort_by([("row", "ascending"), ("attempt", "ascending")])

    def _results_table(
        self, log: ShardReader, outcomes: list[Outcome], old: pa.Table | None, ledgered: pa.Table
    ) -> pa.Table:
        """A piece of the results, old rows and new ones; ``ledgered`` is the ledger of both."""
        rows = [outcome.row for outcome in outcomes]
        fixed = arrow.result_columns(outcomes)
        carried = self._gather(log, rows).columns if len(self._carried) else []
        new = pa.Table.from_arrays([*fixed, *carried], schema=self._results_schema)
        if old is None:
            return new
        fresh = set(rows)
        kept = [row not in fresh for row in old.column("row").to_pylist()]
        old = old.filter(pa.array(kept, pa.bool_()))
        for amendment in log.amendments():
            old = old_part.amended(old, arrow.from_ipc(amendment))
        return _counted(pa.concat_tables([old, new]).sort_by("row"), ledgered)

    def _gather(self, log: ShardReader, rows: list[int]) -> pa.Table:
        """The carried columns of these rows (ascending), from the log's blocks."""
        pieces: list[pa.Table] = []
        at = 0
        if rows:
            for first, count, data in log.blocks(rows[0], rows[-1] + 1):
                start = at
                while at < len(rows) and first <= rows[at] < first + count:
                    at += 1
                if at > start:
                    table = arrow.from_ipc(data)
                    places = [row - first for row in rows[start:at]]
                    whole = places[-1] - places[0] + 1 == len(places)
                    pieces.append(
                        table.slice(places[0], len(places)) if whole else table.take(places)
                    )
        if at < len(rows):
            why = f"the carried columns of row {rows[at]} are missing"
            raise log_damaged(self._journal.folder, why)
        if not pieces:
            return self._carried.empty_table()
        return pa.concat_tables(pieces)


def _counted(results: pa.Table, ledger: pa.Table) -> pa.Table:
    """Results whose ``attempts`` count what the ledger holds: a row that was sent again, without
    an outcome so far, keeps its old one and counts on.
    """
    highest = dict(_tuples(ledger.select(["row", "attempt"])))
    counts = [
        max(count, highest.get(row, 0))
        for row, count in _tuples(results.select(["row", "attempts"]))
    ]
    place = results.schema.get_field_index("attempts")
    field = results.schema.field(place)
    return results.set_column(place, field, pa.array(counts, field.type))


def _count(
    totals: Totals,
    ledger: list[Attempt],
    outcomes: list[Outcome],
    ledgered: pa.Table,
    resulted: pa.Table,
) -> None:
    """Count a piece as published into the totals."""
    keys = set(map(_KEY, ledger))
    starts_us = list(map(_STARTED, ledger))
    days = {day_of(min(starts_us)), day_of(max(starts_us))} if ledger else set()
    if (
        len(keys) == len(days) == 1
        and len(ledger) == len(outcomes) == ledgered.num_rows == resulted.num_rows
        and resulted.column("error_class").null_count == len(outcomes)
        and resulted.column("endpoint").null_count == 0  # each was sent
    ):
        said = [outcome.completion for outcome in outcomes if outcome.completion is not None]
        totals.add_outputs(
            truncated=sum(map(answer.is_truncated, said)),
            empty=sum(map(answer.is_empty, said)),
        )
        usages = [attempt.usage for attempt in ledger]
        costs_pd = [attempt.cost_pd for attempt in ledger if attempt.cost_pd is not None]
        bare = usages.count(NO_USAGE)
        unpriced = len(ledger) - len(costs_pd) - bare
        if bare and costs_pd:
            unpriced = sum(a.cost_pd is None and a.usage != NO_USAGE for a in ledger)
        totals.add_alike(
            keys.pop(),
            ok=len(outcomes),
            without_usage=bare,
            tokens=[sum(filter(None, counts)) for counts in zip(*usages, strict=True)],
            day=days.pop(),
            cost_pd=sum(costs_pd) if costs_pd else None,
            unpriced=unpriced,
        )
        return
    totals.add_attempts(
        AttemptLine(row, (endpoint, model, tier), _pd(cost), unanswered, tokens, day_of(at_us))
        for (row, endpoint, model, tier, cost, unanswered, *tokens), at_us in zip(
            _tuples(ledgered.select(_ATTEMPT_COLUMNS)),
            ledgered.column("started_at").cast(pa.int64()).to_pylist(),
            strict=True,
        )
    )
    totals.add_results(
        ResultLine(row, error_class, any(count is not None for count in tokens), _pd(cost), *told)
        for (row, error_class, cost, *tokens), told in zip(
            _tuples(resulted.select(_RESULT_COLUMNS)), answers.cut_or_empty(resulted), strict=True
        )
    )


def _pd(cost_usd: float | None) -> int | None:
    """What a cost in a column stands for: exactly what was written there."""
    return None if cost_usd is None else picodollars(cost_usd)


def _tuples(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """A table row by row."""
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


@contextlib.contextmanager
def _writer(draft: files.Draft, schema: pa.Schema) -> Iterator[_Groups]:
    """A Parquet writer onto a draft."""
    writer = pq.ParquetWriter(
        pa.PythonFile(draft, mode="w"),
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=arrow.dictionary_columns(schema),
        write_statistics=["row"],
    )
    with writer:
        groups = _Groups(writer)
        yield groups
        groups.flush()


class _Groups:
    """Gathers tables into row groups of a good size."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def add(self, table: pa.Table, size_bytes: int) -> None:
        """Take the next rows, of about this size: Arrow's own count of it looks at every buffer
        of every column, for each of many small pieces.
        """
        if table.num_rows:
            self._tables.append(table)
            self._rows += table.num_rows
            self._bytes += size_bytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._tables:
            table = pa.concat_tables(self._tables)
            self._tables, self._rows, self._bytes = [], 0, 0
            self._writer.write_table(table)


def write_usage(store: Store, totals: Totals) -> None:
    """Replace ``usage.parquet``."""
    with store.draft(USAGE) as draft:
        with pq.ParquetWriter(pa.PythonFile(draft, mode="w"), arrow.USAGE_SCHEMA) as writer:
            rows = totals.usage_rows()
            writer.write_table(pa.Table.from_pylist(rows, schema=arrow.USAGE_SCHEMA))
        store.publish([draft])


def publish(parts: Parts, journal: Journal, state: ShardState) -> None:
    """Write the parts of a shard in a new state, and note it. Raises ``StorageError``."""
    journal.fence()
    log = journal.logs.get(state.shard)
    try:
        published = parts.write(state)
    except OSError as error:
        message = (
            f"cannot write the parts of shard {state.shard}: {error}. Its rows are safe in the "
            "journal; make room or mend the disk, then run the same command again"
        )
        raise StorageError(message) from error
    journal.seal(published)
    parts.grown.log_bytes += log.size if log else 0


class Sealer:
    """``ports.Publisher`` over ``Parts``: works in a thread of its own, so that reading back and
    compressing never delays a commit.
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
