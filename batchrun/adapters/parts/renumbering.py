"""Matches a run's rows with an input that gives them other numbers, and rewrites its parts.

A row of a chained run (``--from``) is identified by its row in the source (``source_row``). When
the source's answers change, rows appear and disappear in the middle, and every later row moves. So
the parts are written again: each old row moves to the new place of its source row, with its
attempts, and keeps its outcome. A row with a changed request keeps it too, until it has a new one;
the attempts of removed rows stay in the ledger, and their answers go to ``checkpoint/former/``.

Old parts and new input are both in the order of the source's rows, so one pass over both is enough,
with a block of rows in memory.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts import old_part, staged_parts
from batchrun.adapters.parts.old_part import OldPart
from batchrun.adapters.parts.part_writer import Shape
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.parts.staged_parts import ShardDrafts, StagedParts
from batchrun.core.request.chained_rows import SOURCE_ROW
from batchrun.core.run.shards import FORMER_FROM, is_former
from batchrun.core.text.wording import counted, verb
from batchrun.errors import StorageError
from batchrun.records import Block, Position, Row, ShardState

HashOf = Callable[[Row], str | None]
"""The hash of a row's request; None for a row without a valid request."""
PIECE_ROWS = 256
REPEAT_OF, REPEAT = part_schema.REPEAT_NAMES
"""Columns of the results with the row of the input and the number of the repeat; few runs have
them.
"""


@dataclass(slots=True)
class Shift:
    """How many of a run's rows kept their request (``same``) or have another one (``changed``), how
    many rows of the source have no outcome in the run (``new``), and how many outcomes no longer
    have a row in the source (``gone``).
    """

    same: int = 0
    changed: int = 0
    new: int = 0
    gone: int = 0

    @property
    def rows(self) -> int:
        """The number of rows in the present input."""
        return self.same + self.changed + self.new

    def __str__(self) -> str:
        counts = [
            (self.new, f"{counted(self.new, 'row')} {verb(self.new, 'is', 'are')} new"),
            (self.changed, f"{self.changed:,} {verb(self.changed, 'has', 'have')} another request"),
            (self.gone, f"{self.gone:,} {verb(self.gone, 'is', 'are')} gone"),
            (self.same, f"{self.same:,} {verb(self.same, 'is', 'are')} as before"),
        ]
        return ", ".join(text for number, text in counts if number) or "there are no rows"


class _Old(NamedTuple):
    """Some old rows, ascending: their results, the attempts of these rows and of pending ones
    before them, and their requests.
    """

    results: pa.Table
    attempts: pa.Table
    requests: pa.Table
    keys: list[int]
    """The keys of the results (``keys_of``)."""

    def split(self, key: int) -> tuple[_Old, _Old | None]:
        """The rows up to this key, and the others."""
        rows = self.results.column("row").to_pylist()
        count = sum(each <= key for each in self.keys)
        if count == len(rows):
            return self, None
        low = rows[count - 1] + 1 if count else rows[0]
        attempts, requests = (
            sum(row < low for row in table.column("row").to_pylist())
            for table in (self.attempts, self.requests)
        )
        first = _Old(
            self.results.slice(0, count),
            self.attempts.slice(0, attempts),
            self.requests.slice(0, requests),
            self.keys[:count],
        )
        rest = _Old(
            self.results.slice(count),
            self.attempts.slice(attempts),
            self.requests.slice(requests),
            self.keys[count:],
        )
        return first, rest


def keys_of(results: pa.Table, repeats: int) -> list[int]:
    """The keys of rows: the row of their source and, with ``repeats``, the number of the repeat,
    combined into one number.
    """
    sources: list[int] = results.column(SOURCE_ROW).to_pylist()
    if repeats == 1:
        return sources
    which = results.column(REPEAT).to_pylist()
    return [source * repeats + repeat for source, repeat in zip(sources, which, strict=True)]


def key_of(row: Row, repeats: int) -> int:
    """The key of a row of the input."""
    return row.line if repeats == 1 else row.line * repeats + row.number % repeats


def survey(
    parts: Parts, journal: Journal, blocks: Iterable[Block], hash_of: HashOf, repeats: int = 1
) -> Shift:
    """How an input changes the numbers of a run's rows. Reads both, and changes nothing."""
    shift = Shift()
    old = endings(parts, journal, repeats)
    ahead = next(old, None)
    for block in blocks:
        for row in block.rows:
            key = key_of(row, repeats)
            while ahead is not None and ahead[0] < key:
                shift.gone += 1
                ahead = next(old, None)
            if ahead is None or ahead[0] != key:
                shift.new += 1
                continue
            if hash_of(row) == ahead[1]:
                shift.same += 1
            else:
                shift.changed += 1
            ahead = next(old, None)
    shift.gone += (ahead is not None) + sum(1 for _ in old)
    return shift


def endings(parts: Parts, journal: Journal, repeats: int = 1) -> Iterator[tuple[int, str | None]]:
    """The key and the request's hash of every row with a published outcome, ascending."""
    columns = [SOURCE_ROW, "request_hash", *([] if repeats == 1 else [REPEAT])]
    for state in journal.shards():
        table = old_part.read(parts.store, parts.pair(state.shard)[0], columns)
        if table is not None:
            hashes = table.column("request_hash").to_pylist()
            yield from zip(keys_of(table, repeats), hashes, strict=True)


class Renumbering:
    """The parts of a run for rows with other numbers: ``run`` stages and commits them. ``shift``
    counts what became of the rows.
    """

    def __init__(
        self,
        parts: Parts,
        journal: Journal,
        blocks: Iterator[Block],
        hash_of: HashOf,
        carried: pa.Schema,
        repeats: int = 1,
    ) -> None:
        """``blocks`` are the whole input, ``carried`` the columns that its rows carry, and
        ``repeats`` how often each row of the source occurs. No log may have an outcome.
        """
        self._repeats = repeats
        self._parts = parts
        self._journal = journal
        self._blocks = blocks
        self._hash_of = hash_of
        self._carried = carried
        results, attempts = parts.schemas()
        requests = parts.schema_of(parts.requests(0))
        self._shape = Shape(results, attempts, requests, carried)
        self._states = {state.shard: state for state in journal.shards()}
        self._rest: _Old | None = None
        self._old: Iterator[_Old] = iter(())
        self._names_files = False
        self.shift = Shift()

    def run(self, values: Mapping[str, object]) -> None:
        """Stage the parts, commit them together with ``values`` for the state file, and publish
        them. Raises ``StorageError`` if there is no room for them.
        """
        journal = self._journal
        self._require_room()
        staged = StagedParts.begun(journal.folder, self._shape)
        try:
            with _Former(journal, staged) as former:
                self._write(staged, former)
                former.end()
            staged.synced()
        except OSError as error:
            staged_parts.discard(journal.folder)
            message = (
                f"cannot write into {staged.folder}: {error.strerror or error}. Nothing was "
                "changed; make room, then run the same command again"
            )
            raise StorageError(message) from error
        finally:
            staged.close()
        kept = {each.state.shard for each in staged.shards}
        removed = [shard for shard in self._states if shard not in kept]
        staged_parts.commit(journal, staged.shards, removed, **values)
        staged_parts.finish(self._parts.store, journal)

    def _require_room(self) -> None:
        """All parts are written once more before the first old one is replaced."""
        names = [
            name
            for shard in self._states
            for name in (*self._parts.pair(shard), self._parts.requests(shard))
        ]
        needed = sum(self._parts.store.size(name) or 0 for name in names)
        free = shutil.disk_usage(self._journal.folder).free
        if needed > free:
            message = (
                f"{self._journal.folder}: {needed:,} bytes are needed to write all parts again, "
                f"{free:,} are free. Nothing was sent; make room, then run the same command again"
            )
            raise StorageError(message)

    def _write(self, staged: StagedParts, former: _Former) -> None:
        self._old = self._all_old()
        blocks = self._blocks
        block = next(blocks, None)
        while block is not None:
            shard, last = block.shard, block
            with staged.shard(shard) as drafts:
                while block is not None and block.shard == shard:
                    self._take(block, drafts, former)
                    last, block = block, next(blocks, None)
                if drafts.rows or drafts.lines:
                    drafts.end(self._state(last, drafts.rows))
        for old in self._through(None):
            self.shift.gone += old.results.num_rows
            former.add(old.results, old.attempts)

    def _state(self, last: Block, rows: int) -> ShardState:
        """The state of a shard whose last block is given, with this many outcomes."""
        before = self._states.get(last.shard)
        generation = 1 if before is None else before.generation + 1
        whole = rows == last.rows_read
        return ShardState(
            last.shard, last.rows_read, last.digest, last.end, generation, complete=whole
        )

    def _take(self, block: Block, drafts: ShardDrafts, former: _Former) -> None:
        """Write the old rows that match the rows of a block."""
        rows = {key_of(row, self._repeats): row for row in block.rows}
        known = 0
        for old in self._through(max(rows)):
            places = [place for place, key in enumerate(old.keys) if key in rows]
            known += len(places)
            self.shift.gone += len(old.keys) - len(places)
            found = [rows[old.keys[place]] for place in places]
            numbers = old.results.column("row").to_pylist()
            moved = {numbers[place]: row.number for place, row in zip(places, found, strict=True)}
            kept, others = _moved(old.attempts, moved)
            gone = [place for place, key in enumerate(old.keys) if key not in rows]
            former.add(old.results.take(pa.array(gone, pa.int64())), others)
            requests, _ = _moved(old.requests, moved)
            results = self._results(block, old.results.take(pa.array(places, pa.int64())), found)
            drafts.add(results, kept, requests, names_files=self._names_files)
        self.shift.new += len(block.rows) - known

    def _results(self, block: Block, results: pa.Table, rows: Sequence[Row]) -> pa.Table:
        """Old results with the numbers of these rows. If the request is the same, they get the
        present values from the input.
        """
        hashes = results.column("request_hash").to_pylist()
        same = [self._hash_of(row) == hashed for row, hashed in zip(rows, hashes, strict=True)]
        self.shift.same += sum(same)
        self.shift.changed += len(same) - sum(same)
        results = _with(results, "row", pa.array([row.number for row in rows], pa.int64()))
        if self._repeats > 1:
            of = [row.number // self._repeats for row in rows]
            results = _with(results, REPEAT_OF, pa.array(of, pa.int64()))
        if not any(same):
            return results
        mask = pa.array(same, pa.bool_())
        stay = results.filter(pa.array([not each for each in same], pa.bool_()))
        fresh = results.filter(mask)
        wanted = [row for row, is_same in zip(rows, same, strict=True) if is_same]
        fresh = _with(fresh, "custom_id", pa.array([row.custom_id for row in wanted], pa.string()))
        if block.carried:
            now = part_schema.from_ipc(block.carried)
            now = now.take(pa.array([row.number - block.first_row for row in wanted], pa.int64()))
            for name, column in zip(self._carried.names, now.columns, strict=True):
                fresh = _with(fresh, name, column)
        return fresh if not stay.num_rows else pa.concat_tables([fresh, stay]).sort_by("row")

    def _through(self, key: int | None) -> Iterator[_Old]:
        """The old rows up to this key (None: all) that were not taken yet."""
        while True:
            old = self._rest if self._rest is not None else next(self._old, None)
            self._rest = None
            if old is None:
                return
            if key is not None:
                old, self._rest = old.split(key)
            if old.results.num_rows or old.attempts.num_rows:
                yield old
            if self._rest is not None:
                return

    def _all_old(self) -> Iterator[_Old]:
        """All old rows in pieces, ascending."""
        parts, size = self._parts, self._journal.shard_rows
        schemas = (self._shape.results, self._shape.attempts, self._shape.requests)
        for shard in sorted(self._states):
            names = (*parts.pair(shard), parts.requests(shard))
            opened = [
                OldPart(parts.store, name, schema)
                for name, schema in zip(names, schemas, strict=True)
            ]
            with opened[0], opened[1], opened[2]:
                self._names_files = self._names_files or opened[0].names_files
                end = (shard + 1) * size
                for first in range(shard * size, end, PIECE_ROWS):
                    high = min(first + PIECE_ROWS, end)
                    tables = [
                        schema.empty_table() if (table := part.below(high)) is None else table
                        for part, schema in zip(opened, schemas, strict=True)
                    ]
                    if any(table.num_rows for table in tables):
                        results, attempts, requests = tables
                        keys = keys_of(results, self._repeats)
                        yield _Old(results, attempts, requests, keys)


class _Former:
    """Paid exchanges that no longer belong to a row: the answers and attempts of removed rows; and
    the attempts of rows that never had an outcome, since their source row is not known.
    """

    def __init__(self, journal: Journal, staged: StagedParts) -> None:
        published = (one.state.shard for one in journal.states.published())
        first = max((shard for shard in published if is_former(shard)), default=FORMER_FROM - 1) + 1
        self._staged = staged
        self._size = journal.shard_rows
        self._shard = first
        self._next = first * self._size
        self._stack = contextlib.ExitStack()
        self._drafts: ShardDrafts | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, results: pa.Table, attempts: pa.Table) -> None:
        """Take rows, in the order of their old numbers, with all attempts of each."""
        self._staged.add_gone(results)
        numbers: dict[int, int] = {}
        for row in attempts.column("row").to_pylist():
            if row not in numbers:
                numbers[row] = self._next
                self._next += 1
        moved, _ = _moved(attempts, numbers)
        at, rows = 0, moved.column("row").to_pylist()
        while at < len(rows):
            shard = rows[at] // self._size
            count = sum(row // self._size == shard for row in rows[at:])
            self._lines(shard, moved.slice(at, count))
            at += count

    def _lines(self, shard: int, attempts: pa.Table) -> None:
        if self._drafts is None or shard != self._shard:
            self.end()
            self._shard = shard
            self._drafts = self._stack.enter_context(self._staged.shard(shard))
        shape = self._staged.shape
        none = shape.results.empty_table(), shape.requests.empty_table()
        self._drafts.add(none[0], attempts, none[1], names_files=False)

    def end(self) -> None:
        """Keep what was taken."""
        if self._drafts is not None:
            state = ShardState(self._shard, 0, b"", Position(), 1, complete=True)
            self._drafts.end(state)
            self._drafts = None
            self._stack.close()


def _moved(table: pa.Table, numbers: Mapping[int, int]) -> tuple[pa.Table, pa.Table]:
    """The lines of the rows in ``numbers`` with their new numbers, and the other lines."""
    rows = table.column("row").to_pylist()
    there = [row in numbers for row in rows]
    if all(there):
        kept, others = table, table.slice(0, 0)
    else:
        mask = pa.array(there, pa.bool_())
        kept = table.filter(mask)
        others = table.filter(pa.array([not each for each in there], pa.bool_()))
    moved = [numbers[row] for row in rows if row in numbers]
    return _with(kept, "row", pa.array(moved, pa.int64())), others


def _with(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    return table.set_column(place, field, column.cast(field.type))
