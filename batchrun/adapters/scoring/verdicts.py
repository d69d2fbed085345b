"""The verdicts of judges, joined with the answers that they judged.

A judge's run directory is inside that of the run that it judges. Each of its rows names the row and
the hash of the answer that it was shown. A verdict only counts for the present answer: if the hash
differs, it is stale, and null.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.scoring.plan import PlannedJudge
from batchrun.adapters.storage.store import StoreReader, part_names
from batchrun.core.evaluation.judges import COUNTS, SWAPPED, WINNER, in_pair
from batchrun.core.request.chained_rows import HASHED, SOURCE_HASH, SOURCE_ROW, source_hash

ANSWER = ("row", "status", *HASHED)
"""The columns of results that identify an answer."""
_VERDICT = (SOURCE_ROW, SOURCE_HASH, "status", "error_class", "content")
UNPARSED = frozenset(("invalid_output", "truncated_output", "empty_output", "invalid_response"))
"""Error classes of a judge with an unreadable answer."""


@dataclass(slots=True)
class Counts:
    """Counts of a judge's verdicts over the rows of a part or of a run.

    ``rows`` are answers with a judgement. Of those, ``unparsed`` have no readable verdict and
    ``failed`` no reply. ``stale`` judgements are about earlier answers, ``missing`` are answers
    without a judgement, ``flips`` verdicts that changed with the order.
    """

    rows: int = 0
    unparsed: int = 0
    failed: int = 0
    stale: int = 0
    missing: int = 0
    flips: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of other rows."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def judged(self) -> int:
        """Rows with a verdict."""
        return self.rows - self.unparsed - self.failed

    def as_dict(self) -> dict[str, int]:
        """For the summary; ``flips`` only if there are any."""
        return {name: getattr(self, name) for name in COUNTS}


class _Line(NamedTuple):
    """A judgement in the judge's results."""

    hash: str
    status: str
    error_class: str | None
    content: str | None
    swapped: bool


class _Group(NamedTuple):
    """A row group of a judge's results, and the last row that it judges."""

    last: int
    first: int
    name: str
    number: int


class Verdicts:
    """The verdicts of some judges on the answers of one run directory."""

    def __init__(self, store: StoreReader, judges: Sequence[PlannedJudge]) -> None:
        self._store = store
        self._judges = judges
        self._groups: dict[str, list[_Group]] = {}

    def of_part(self, name: str) -> tuple[pa.Table, dict[str, Counts]]:
        """The columns of the verdicts, a line for each row of a part of the results; and the counts
        by judge. Raises ``DamagedError``.
        """
        made = {one.judge.name: _Columns(one) for one in self._judges}
        for table in _groups(self._store, f"results/{name}", ANSWER):
            answers = [
                (row, None if status == "error" else source_hash(content, refusal, calls))
                for row, status, content, refusal, calls in zip(
                    *(table.column(column).to_pylist() for column in ANSWER), strict=True
                )
            ]
            for one in self._judges:
                lines = self._lines(one, answers[0][0], answers[-1][0]) if answers else {}
                made[one.judge.name].add(answers, lines)
        arrays, fields = [], []
        for one in self._judges:
            arrays += made[one.judge.name].arrays()
            fields += one.fields
        counts = {judge: columns.counts for judge, columns in made.items()}
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields)), counts

    def _lines(self, one: PlannedJudge, low: int, high: int) -> dict[int, list[_Line]]:
        """The judgements of some rows."""
        found: dict[int, list[_Line]] = {}
        for swapped in one.asked.orders:
            folder = f"{one.judge.folder}/{SWAPPED}" if swapped else one.judge.folder
            groups = self._groups.get(folder)
            if groups is None:
                groups = self._groups[folder] = list(_index(self._store, folder))
            at = bisect_left(groups, low, key=lambda group: group.last)
            while at < len(groups) and groups[at].first <= high:
                table = _row_group(self._store, groups[at].name, groups[at].number)
                row = table.column(SOURCE_ROW)
                inside = pc.and_(pc.greater_equal(row, low), pc.less_equal(row, high))
                columns = (column.to_pylist() for column in table.filter(inside).columns)
                for number, *line in zip(*columns, strict=True):
                    found.setdefault(number, []).append(_Line._make((*line, swapped)))
                at += 1
        return found


@dataclass(slots=True)
class _Columns:
    """The columns of one judge, as they are filled."""

    planned: PlannedJudge
    counts: Counts = field(default_factory=Counts)
    values: list[list[Any]] = field(default_factory=list)

    def add(
        self, answers: Sequence[tuple[int, str | None]], lines: Mapping[int, Sequence[_Line]]
    ) -> None:
        """Add the verdicts on some answers, each a row and its hash (None: it failed)."""
        if not self.values:
            self.values = [[] for _ in self.planned.asked.fields]
        for row, known in answers:
            found = self._verdict(known, lines.get(row, ()))
            for field_, column in zip(self.planned.asked.fields, self.values, strict=True):
                column.append(value_of(found.get(field_.name), field_.kind))

    def arrays(self) -> list[pa.Array]:
        """The columns as Arrow arrays."""
        values = self.values or [[] for _ in self.planned.asked.fields]
        return [
            pa.array(column, one.type)
            for column, one in zip(values, self.planned.fields, strict=True)
        ]

    def _verdict(self, known: str | None, lines: Sequence[_Line]) -> Mapping[str, Any]:
        """The verdict on an answer, empty if there is none; counts it."""
        counts = self.counts
        current = [line for line in lines if line.hash == known]
        counts.stale += any(line.hash != known for line in lines)
        if known is None:
            return {}
        asked = self.planned.asked
        wanted = asked.orders
        by_order = {line.swapped: line for line in current}
        if any(order not in by_order for order in wanted):
            counts.missing += 1
            return {}
        counts.rows += 1
        found = [verdict_of(by_order[order]) for order in wanted]
        if None in found:
            lost = [by_order[order] for order in wanted if verdict_of(by_order[order]) is None]
            read = all(line.status != "error" or line.error_class in UNPARSED for line in lost)
            counts.unparsed += read
            counts.failed += not read
            return {}
        verdict = dict(found[0] or {})
        if asked.pairs:
            winners = [_text((one or {}).get(WINNER)) for one in found]
            verdict[WINNER], flipped = in_pair(winners, both=asked.both_orders)
            counts.flips += flipped
        return verdict


def verdict_of(line: Any) -> dict[str, Any] | None:
    """The JSON object that a judge answered; None if the answer is something else, or missing."""
    if line.status == "error" or line.content is None:
        return None
    try:
        found = json.loads(line.content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def value_of(value: Any, kind: str) -> Any:
    """A value converted to the column of its kind; None if it does not fit."""
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "text":
        return _text(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _index(store: StoreReader, folder: str) -> Iterator[_Group]:
    """The row groups of a judge's results with the rows that they judge, in order."""
    for name in part_names(store, f"{folder}/results"):
        path = f"{folder}/results/{name}"
        for number, table in enumerate(_groups(store, path, (SOURCE_ROW,))):
            if table.num_rows:
                ends = pc.min_max(table.column(SOURCE_ROW)).as_py()
                yield _Group(ends["max"], ends["min"], path, number)


def _row_group(store: StoreReader, name: str, number: int) -> pa.Table:
    columns = [*_VERDICT]
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            return part.read_row_group(number, columns, use_threads=False).select(columns)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(name), error) from error


def _groups(store: StoreReader, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            for group in range(part.num_row_groups):
                yield part.read_row_group(group, list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(name), error) from error
