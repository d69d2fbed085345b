"""Pairs of answers as input (``judge --against``): one row per row that both runs answered.

It is the source of a chained run with a second answer next to the first. The rows are those of the
judged run, in its order; which row of the other run belongs to each is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.sources import opening
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.sources.run import OWN, RunInput, RunReader, RunSource, column_of
from batchrun.adapters.sources.sampling import PickingReader
from batchrun.adapters.sources.splitting import Splitter, needs_of, splitter_of
from batchrun.core.request.chained_rows import (
    FIELDS,
    HASHED,
    KIND,
    MESSAGES,
    ROW,
    source_hash,
)
from batchrun.core.request.paired_rows import (
    AGAINST_HASH,
    AGAINST_ROW,
    SIDES,
    pair_fields_used,
)
from batchrun.core.request.prompt import Plan
from batchrun.core.settings.reading import NOW

_PAIR_FIELDS = (pa.field(AGAINST_ROW, pa.int64()), pa.field(AGAINST_HASH, pa.string()))
_HASH = "request_hash"
_NUMBER = "row"

Answers = Callable[[Sequence[int], Sequence[str]], Mapping[int, Mapping[str, Any]]]
"""Columns of some rows of the other run, by row."""
Partners = Callable[[Sequence[int]], Sequence[int | None]]
"""The row of the other run that belongs to each of these rows; None if there is none."""


@dataclass(frozen=True, slots=True)
class OtherRun:
    """The run to compare with. ``pairs`` is how many rows both runs answered."""

    source: RunSource
    partners: Partners
    answers: Answers
    pairs: int


@dataclass(frozen=True, slots=True)
class PairInput(RunInput):
    """An ``Input`` made of pairs of answers. ``swapped`` is whether ``a`` is the answer of the
    other run.
    """

    other: OtherRun = field(kw_only=True)
    swapped: bool = False

    @property
    def own(self) -> tuple[pa.Field, ...]:
        """See ``RunInput``."""
        return (*OWN, *_PAIR_FIELDS)

    def _reader(self, carry: Carry | None, shard_rows: int) -> PickingReader:
        return PairReader(
            self.source,
            self.fields,
            self.stamps,
            carry,
            shard_rows,
            self.splitter,
            self.other,
            swapped=self.swapped,
        )


def pair_input(
    source: RunSource, other: OtherRun, stamps: Sequence[Stamp], plan: Plan, *, swapped: bool
) -> PairInput:
    """Pairs of answers as an input, with the templates of ``plan`` applied to them.

    Raises ``InputError`` if no row has an answer in both runs, ``UsageError`` for a template with
    an unknown field.
    """
    found = PairInput(
        tuple(stamps),
        KIND,
        splitter_of(KIND, plan, NOW),
        reading=NOW.of(KIND),
        source=source,
        fields=pair_fields_used(plan.templates.paths, plan.templates.whole),
        other=other,
        swapped=swapped,
    )
    shaped = opening.shaped(found, plan)
    assert isinstance(shaped, PairInput)
    return shaped


class PairReader(RunReader):
    """Rows that are pairs of answers, as ``reader.Reader`` describes."""

    own = (*OWN, *_PAIR_FIELDS)

    def __init__(
        self,
        source: RunSource,
        fields: frozenset[str],
        stamps: Sequence[Stamp],
        carry: Carry | None,
        shard_rows: int,
        splitter: Splitter,
        other: OtherRun,
        *,
        swapped: bool,
    ) -> None:
        """Raises ``InputError`` for a part that cannot be read."""
        super().__init__(source, fields, stamps, carry, shard_rows, splitter)
        self._other = other
        self._swapped = swapped
        shown = frozenset(SIDES) & needs_of(splitter)
        self._fields = fields if shown else frozenset()
        self._shown = self._shown | shown

    def sample(self) -> Iterator[dict[str, Any]]:
        """See ``reader.Reader``."""
        for row in super().sample():
            carried = {name: value for name, value in row.items() if name != ROW}
            yield carried | {side: self.example() for side in SIDES}

    def count(self, stop: Callable[[], bool]) -> int | None:  # noqa: ARG002 - it is known
        """The number of pairs."""
        return self._other.pairs

    def _selected(self, part: pq.ParquetFile, first: int) -> Iterator[pa.RecordBatch]:
        for batch in super()._selected(part, first):
            if batch.num_rows:
                yield batch

    def _as_input(self, results: pa.RecordBatch) -> pa.RecordBatch:
        """Results as pairs: the rows that the other run answered too, with its answers."""
        partners = self._other.partners(results.column("row").to_pylist())
        results = results.filter(pa.array([row is not None for row in partners], pa.bool_()))
        rows = [row for row in partners if row is not None]
        found = super()._as_input(results)
        columns = dict(zip(found.schema.names, found.columns, strict=True))
        wanted = [*HASHED, *self._fields.intersection(FIELDS), _HASH]
        answers = self._other.answers(rows, sorted({*wanted}))
        columns[AGAINST_ROW] = pa.array(rows, pa.int64())
        if AGAINST_HASH in self._read:
            hashes = [source_hash(*(answers[row][name] for name in HASHED)) for row in rows]
            columns[AGAINST_HASH] = pa.array(hashes, pa.string())
        if self._shown & set(SIDES):
            mine = self._side(results, sorted(self._fields.intersection(FIELDS)))
            theirs = pa.array(
                [self._answer_of(answers[row], row, mine.type) for row in rows], mine.type
            )
            first, second = (theirs, mine) if self._swapped else (mine, theirs)
            columns |= dict(zip(SIDES, (first, second), strict=True))
        return pa.RecordBatch.from_pydict(columns)

    def _columns(self) -> list[str]:
        more = {_HASH} if MESSAGES in self._fields else set()
        return sorted({*super()._columns(), *more, *self._fields.intersection(FIELDS)})

    def _side(self, results: pa.RecordBatch, used: Sequence[str]) -> pa.StructArray:
        """The answers of the judged run."""
        names = [*used, _HASH, _NUMBER]
        arrays = [column_of(results, name) for name in names]
        found: pa.StructArray = pa.StructArray.from_arrays(arrays, names=names)
        return found

    def _answer_of(self, answer: Mapping[str, Any], row: int, kind: Any) -> dict[str, Any]:
        """An answer of the other run, in the same form as one of the judged run."""
        known = {**answer, _NUMBER: row}
        return {kind.field(n).name: known.get(kind.field(n).name) for n in range(kind.num_fields)}

    def _data(self, batch: pa.RecordBatch) -> dict[str, list[Any]]:
        found = super()._data(batch)
        runs = [self._source, self._other.source]
        for side, run in zip(SIDES, reversed(runs) if self._swapped else runs, strict=True):
            if side not in found:
                continue
            rows = [answer.pop(_NUMBER) for answer in found[side]]
            hashes = [answer.pop(_HASH) for answer in found[side]]
            if MESSAGES not in self._fields or run.messages is None:
                continue
            # They are looked up in row order, whatever the order of the pairs.
            order = sorted(range(len(rows)), key=rows.__getitem__)
            said = run.messages([rows[n] for n in order], [hashes[n] for n in order])
            for place, messages in zip(order, said, strict=True):
                found[side][place][MESSAGES] = messages
        return found
