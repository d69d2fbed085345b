"""Done rows that are sent again: failed ones, and those with a changed request.

A row's old outcome stays in its part until a new one is in the log; when the shard is published,
the log wins. The rows are found shard by shard, when the shard is read: nothing here grows with the
number of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Amendment, Journal
from batchrun.adapters.parts.old_part import OldPart
from batchrun.adapters.parts.sealer import Ending, Parts, ending_of, publish
from batchrun.adapters.sources.reader import Reader
from batchrun.core.run.changes import Changes
from batchrun.errors import RowError
from batchrun.records import Block, Known, Position, Request, Row, Span

Build = Callable[[Row], Request]
"""Makes a row's request, or raises ``RowError``."""


def endings(
    parts: Parts, journal: Journal, shard: int, *, flaws: bool = False
) -> dict[int, Ending]:
    """How the rows of a shard ended, by row, from its part and its log, which wins. With ``flaws``
    the answers are checked too.
    """
    found = parts.endings(shard, flaws=flaws)
    found |= {outcome.row: ending_of(outcome) for outcome in journal.outcomes(shard)}
    return found


def count_done(parts: Parts, journal: Journal) -> tuple[int, Counter[str]]:
    """Rows with a completion, and rows that failed by error class, in parts and logs together."""
    ok, errors = 0, Counter[str]()
    touched = journal.touched()
    for published in journal.states.published():
        if published.state.shard not in touched:
            ok += sum(sums["rows_ok"] for *_, sums in published.totals["groups"])
            errors.update(published.totals["errors"])
    for shard in touched:
        for ending in endings(parts, journal, shard).values():
            if ending.error_class is None:
                ok += 1
            else:
                errors[ending.error_class] += 1
    return ok, errors


def count_beyond(parts: Parts, journal: Journal, limit: int) -> int:
    """The number of rows from ``limit`` on with an outcome, in parts and logs together."""
    first, touched = limit // journal.shard_rows, journal.touched()
    count = 0
    for published in journal.states.published():
        shard = published.state.shard
        if shard > first and shard not in touched:
            sums = (group[3] for group in published.totals["groups"])
            count += sum(each["rows_ok"] + each["rows_error"] for each in sums)
        elif shard == first:
            touched.add(shard)
    for shard in touched:
        if shard >= first:
            count += sum(row >= limit for row in endings(parts, journal, shard))
    return count


def known(parts: Parts, journal: Journal, shard: int) -> Known:
    """Rows of a shard that have an outcome, in its part or in the journal, and the last attempt
    number of rows that have none.
    """
    published, numbers = parts.known_rows(shard)
    opened = journal.open_shard(shard)
    done = frozenset(published) | opened.done
    attempts = {
        row: max(numbers.get(row, 0), opened.attempts.get(row, 0))
        for row in numbers.keys() | opened.attempts.keys()
        if row not in done
    }
    return Known(done, attempts)


def last_attempts(parts: Parts, journal: Journal, shard: int) -> dict[int, int]:
    """The last attempt number of every row of a shard that was sent."""
    numbers = parts.known_rows(shard)[1]
    for row, number in journal.open_shard(shard).attempts.items():
        numbers[row] = max(number, numbers.get(row, 0))
    return numbers


@dataclass(frozen=True, slots=True)
class Selection:
    """Which done rows are sent again. ``build`` is None where requests are not compared."""

    changes: Changes
    build: Build | None

    def picks(self, ending: Ending, row: Row) -> bool:
        """Whether this row is one of them."""
        if self.changes.retries_class(ending.error_class):
            return True
        return bool(ending.flaws & self.changes.retried_flaws) or self._changed(ending, row)

    def spared(self, ending: Ending, row: Row) -> frozenset[str] | None:
        """For a row that is sent again: the flaws that a better answer may have, None if any
        outcome replaces the old one.
        """
        retried = self.changes.retried_flaws
        if not ending.flaws & retried or self._changed(ending, row):
            return None
        return ending.flaws - retried

    def _changed(self, ending: Ending, row: Row) -> bool:
        return self.build is not None and hash_of(self.build, row) != ending.request_hash


def hash_of(build: Build, row: Row) -> str | None:
    """The hash of a row's request; None if it has no valid request, as in the results."""
    try:
        return build(row).hash
    except RowError:
        return None


@dataclass(slots=True)
class Found:
    """What is sent again: the shards, how many rows with a completion, and failed ones by error
    class; and, if done rows are no longer in the input, from which row on.
    """

    shards: set[int] = field(default_factory=set)
    ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    missing_from: int | None = None

    @property
    def rows(self) -> int:
        """How many rows are sent again."""
        return self.ok + self.errors.total()


def find_failed(parts: Parts, journal: Journal, changes: Changes, limit: int | None) -> Found:
    """Rows that are sent again because of how they ended, from the recorded totals of each shard.
    Parts are read only if ``limit`` is inside a shard, or answers may have both flaws.
    """
    found = Found()
    size, flaws = journal.shard_rows, changes.retried_flaws
    for published in journal.states.published():
        shard = published.state.shard
        errors: Mapping[str, int] = published.totals["errors"]
        outputs: Mapping[str, int] = published.totals["outputs"]
        error = Counter({name: n for name, n in errors.items() if changes.retries_class(name)})
        flawed = [outputs[name] for name in flaws if outputs[name]]
        ok = sum(flawed)
        cut = limit is not None and (shard + 1) * size > limit
        if (cut and (error or ok)) or len(flawed) > 1:
            ended = endings(parts, journal, shard, flaws=bool(flawed)).items()
            below = [ending for row, ending in ended if limit is None or row < limit]
            classes = (ending.error_class for ending in below)
            error = Counter(name for name in classes if name and changes.retries_class(name))
            ok = sum(bool(ending.flaws & flaws) for ending in below)
        if error or ok:
            found.shards.add(shard)
            found.errors += error
            found.ok += ok
    return found


class Survey:
    """One pass over the input of everything that is done: every request is compared."""

    def __init__(
        self,
        parts: Parts,
        journal: Journal,
        reader: Reader,
        selection: Selection,
        *,
        amends: Collection[int] = (),
    ) -> None:
        """``amends`` are shards with changed input: their rows with an unchanged request get the
        present ``custom_id`` and carried columns. Their parts are written again during ``run``, one
        by one.
        """
        self._parts = parts
        self._journal = journal
        self._reader = reader
        self._selection = selection
        self._amends = amends
        self._found = Found()
        self._rest: Mapping[int, Ending] = {}

    def run(self, limit: int | None) -> Found:
        """Find the rows below ``limit`` that are sent again."""
        shards = [state.shard for state in self._journal.shards()]
        if not shards:
            return self._found
        span = Span(0, max(shards), Position())
        blocks = self._reader.blocks([span], limit=limit)
        block = next(blocks, None)
        for shard in shards:
            while block is not None and block.shard < shard:
                block = next(blocks, None)
            block = self._shard(shard, block, blocks)
            if self._rest and limit is None and self._found.missing_from is None:
                self._found.missing_from = min(self._rest)
        return self._found

    def _shard(self, shard: int, block: Block | None, blocks: Iterator[Block]) -> Block | None:
        """Check one shard, starting with its first block; returns the block after it."""
        flaws = bool(self._selection.changes.retried_flaws)
        rest = self._rest = endings(self._parts, self._journal, shard, flaws=flaws)
        amended = False
        with self._parts.carried(shard) as old:
            while block is not None and block.shard == shard:
                same = []
                for row in block.rows:
                    ending = rest.pop(row.number, None)
                    if ending is None:
                        continue
                    if self._selection.picks(ending, row):
                        self._found.shards.add(shard)
                        if ending.error_class is None:
                            self._found.ok += 1
                        else:
                            self._found.errors[ending.error_class] += 1
                    else:
                        same.append(row)
                if shard in self._amends:
                    amended = self._amend(block, same, old) or amended
                block = next(blocks, None)
        if amended:
            publish(self._parts, self._journal, self._journal.next_state(shard, complete=False))
        return block

    def _amend(self, block: Block, same: Sequence[Row], old: OldPart) -> bool:
        """Note the new values of rows with an unchanged request; returns whether there are any."""
        before = old.below(block.first_row + len(block.rows))
        if before is None or not same:
            return False
        places = {number: place for place, number in enumerate(before.column("row").to_pylist())}
        now = _input_values(block, before.schema)
        changed = [
            row.number - block.first_row
            for row in same
            if row.number in places
            and not now.slice(row.number - block.first_row, 1).equals(
                before.slice(places[row.number], 1)
            )
        ]
        if not changed:
            return False
        [batch] = now.take(changed).combine_chunks().to_batches()
        self._journal.write([Amendment(block.first_row + changed[0], part_schema.to_ipc(batch))])
        return True


def _input_values(block: Block, schema: pa.Schema) -> pa.Table:
    """What a block's rows contribute to the results: row, custom_id, carried columns."""
    columns = [
        pa.array([row.number for row in block.rows], pa.int64()),
        pa.array([row.custom_id for row in block.rows], pa.string()),
    ]
    carried = part_schema.from_ipc(block.carried).columns if block.carried else []
    return pa.Table.from_arrays([*columns, *carried], schema=schema)


def first_difference(
    block: Block, ended: Mapping[int, Ending], old: OldPart, build: Build
) -> Row | None:
    """The first done row of a block whose request, ``custom_id`` or carried columns differ from the
    published ones; None if there is none. ``old`` is advanced to the block's end.
    """
    before = old.below(block.first_row + len(block.rows))
    places: dict[int, int] = {}
    if before is not None:
        places = {row: place for place, row in enumerate(before.column("row").to_pylist())}
        now = _input_values(block, before.schema)
    for row in block.rows:
        ending = ended.get(row.number)
        if ending is None:
            continue
        if hash_of(build, row) != ending.request_hash:
            return row
        if before is not None and row.number in places:
            value = now.slice(row.number - block.first_row, 1)
            if not value.equals(before.slice(places[row.number], 1)):
                return row
    return None


class SelectingReader:
    """A reader that finds out, at a shard's first block, which of its outcomes stand."""

    def __init__(
        self,
        reader: Reader,
        parts: Parts,
        journal: Journal,
        selection: Selection,
        shards: Collection[int],
        known: dict[int, Known],
    ) -> None:
        """Fills ``known`` for these shards as they are read, before returning their blocks."""
        self._reader = reader
        self._parts = parts
        self._journal = journal
        self._selection = selection
        self._shards = shards
        self._known = known
        self.schema = reader.schema
        self.where = reader.where
        self.count = reader.count
        self.remarks = reader.remarks
        self.sample = reader.sample
        self.sent = reader.sent

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """See ``reader.Reader``."""
        shard = -1
        ended: dict[int, Ending] = {}
        standing: set[int] = set()
        kept: dict[int, frozenset[str]] = {}
        anew: set[int] = set()
        flaws = bool(self._selection.changes.retried_flaws)
        for block in self._reader.blocks(spans, limit=limit, breaks=breaks):
            if block.shard not in self._shards:
                yield block
                continue
            if block.shard != shard:
                shard = block.shard
                ended = endings(self._parts, self._journal, shard, flaws=flaws)
                standing, kept = set(ended), {}
                # Another process of a fleet sent them again, and did not finish the shard.
                anew = {outcome.row for outcome in self._journal.outcomes(shard)}
                state = self._journal.state(shard)
                self._known[shard] = Known(
                    # ``kept`` gets the rows of blocks that were not returned yet, which are removed
                    # here.
                    standing,
                    last_attempts(self._parts, self._journal, shard),
                    recorded=state is not None
                    and state.complete
                    and shard not in self._journal.logs,
                    kept=kept,
                )
            for row in block.rows:
                ending = ended.get(row.number)
                if ending is None or row.number in anew or not self._selection.picks(ending, row):
                    continue
                standing.discard(row.number)
                spared = self._selection.spared(ending, row) if ending.flaws else None
                if spared is not None:
                    kept[row.number] = spared
            yield block
