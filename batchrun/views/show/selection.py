"""Which rows ``batchrun show`` shows: by number, by id, or the first that meet conditions.

Rows are searched shard by shard, reading only the columns that the conditions need; memory holds
the numbers of the chosen rows and of one shard's, and with ``--where`` the scores of one shard.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.adapters.scoring.score_parts import as_doubles
from batchrun.core.text.wording import counted, verb
from batchrun.errors import UsageError
from batchrun.views.durable.durable_rows import DurableRows
from batchrun.views.show.where import Where

COUNT = 5
"""Rows shown by default."""
IDS_MAX = 100
"""Rows shown that share an id."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for. ``names`` are rows by number, or else by id; ``ids`` by id alone."""

    names: Sequence[str] = ()
    ids: Sequence[str] = ()
    status: str | None = None
    error_class: str | None = None
    where: str | None = None
    sample: bool = False
    seed: int = 0
    count: int | None = None

    @property
    def conditions(self) -> bool:
        """Whether rows are chosen by what they are."""
        return bool(self.status or self.error_class or self.where or self.sample)


@dataclass(slots=True)
class Chosen:
    """The rows, ascending or in the order asked for, and whether more of them match."""

    rows: list[int] = field(default_factory=list)
    more: bool = False


def choose(durable: DurableRows, asked: Selection) -> Chosen:
    """Find the rows. Raises ``UsageError`` for a missing one."""
    if asked.names or asked.ids:
        if asked.conditions:
            message = (
                "name rows, or choose them by --errors, --status, --class, --where or --sample"
            )
            raise UsageError(message)
        return _named(durable, asked)
    with ExitStack() as stack:
        where = None
        if asked.where is not None:
            columns, scores = durable.schema(), durable.score_schema()
            where = stack.enter_context(Where(asked.where, columns, scores))
        return _met(durable, asked, where)


def _met(durable: DurableRows, asked: Selection, where: Where | None) -> Chosen:
    """The rows that meet the conditions, as many as are asked for."""
    columns = ["status", "error_class", *(where.columns if where else ())]
    wanted = COUNT if asked.count is None else asked.count
    chosen = _Reservoir(wanted, asked.seed) if asked.sample else _First(wanted)
    for shard in durable.shards:
        matching = []
        scores = None
        if where is not None and where.scores:
            scores = durable.score_table(shard, where.scores)
        for table in durable.pieces(shard, columns):
            piece = table if scores is None else _scored(table, scores)
            matching += _matching(piece, asked, where)
        chosen.take(sorted(matching))
        if chosen.full:
            break
    return Chosen(sorted(chosen.rows), more=chosen.more)


def _scored(table: pa.Table, scores: pa.Table) -> pa.Table:
    """The rows with these scores next to them, null where a row was not scored."""
    places = pc.index_in(table.column("row"), scores.column("row"))
    for name in scores.column_names:
        if name != "row":
            table = table.append_column(name, as_doubles(scores.column(name).take(places)))
    return table


def _matching(table: pa.Table, asked: Selection, where: Where | None) -> list[int]:
    if asked.status is not None:
        table = table.filter(pc.equal(table.column("status"), asked.status))
    if asked.error_class is not None:
        table = table.filter(pc.equal(table.column("error_class"), asked.error_class))
    if where is not None and table.num_rows:
        return where.rows(table)
    return table.column("row").to_pylist()  # type: ignore[no-any-return]


class _First:
    """The first rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.rows: list[int] = []
        self.more = False

    @property
    def full(self) -> bool:
        return self.more

    def take(self, rows: Sequence[int]) -> None:
        self.rows += rows
        self.more = len(self.rows) > self._count
        del self.rows[self._count :]


class _Reservoir:
    """A random sample of all rows, the same for the same seed and rows."""

    full = more = False

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._draw = random.Random(seed)
        self._seen = 0
        self.rows: list[int] = []

    def take(self, rows: Sequence[int]) -> None:
        for row in rows:
            self._seen += 1
            if len(self.rows) < self._count:
                self.rows.append(row)
                continue
            place = self._draw.randrange(self._seen)
            if place < self._count:
                self.rows[place] = row


def _named(durable: DurableRows, asked: Selection) -> Chosen:
    """Rows by number or id. A number that is no row may be an id."""
    numbers: list[int | str] = []
    ids = list(asked.ids)
    for name in asked.names:
        number = int(name) if name.isdecimal() and name.isascii() else None
        if number is None or not _may_be_row(durable, number):
            ids.append(name)
            numbers.append(name)
        else:
            numbers.append(number)
    found = _by_id(durable, ids) if ids else {}
    rows: list[int] = []
    for each in [*numbers, *asked.ids]:
        if isinstance(each, int):
            rows.append(each)
        elif found[each]:
            rows += found[each]
        else:
            raise _nothing(durable, each)
    rows = list(dict.fromkeys(rows))
    count = len(rows) if asked.count is None else asked.count
    return Chosen(rows[:count], more=len(rows) > count)


def _may_be_row(durable: DurableRows, number: int) -> bool:
    """Whether there is such a row, or may be: the rows of a live run may not be counted yet."""
    whole = durable.rows_input
    if whole is not None:
        return number < whole
    return bool(number // durable.shard_rows <= max(durable.shards, default=0))


def _nothing(durable: DurableRows, name: str) -> UsageError:
    whole = durable.rows_input
    what = f"no row {name} and no custom_id {name!r}" if name.isdecimal() else f"no id {name!r}"
    message = f"{durable.store.where()} has {what}"
    if whole:
        message += f"; its {counted(whole, 'row')} {verb(whole, 'is', 'are')} numbered from 0"
    return UsageError(message)


def _by_id(durable: DurableRows, ids: Sequence[str]) -> dict[str, list[int]]:
    """The rows that have these ids."""
    found: dict[str, list[int]] = {each: [] for each in ids}
    wanted = pa.array(list(found), pa.string())
    for shard in durable.shards:
        for table in durable.pieces(shard, ["custom_id"]):
            hits = table.filter(pc.is_in(table.column("custom_id"), wanted))
            for row, custom_id in zip(
                hits.column("row").to_pylist(), hits.column("custom_id").to_pylist(), strict=True
            ):
                if len(found[custom_id]) < IDS_MAX:
                    found[custom_id].append(row)
    return {each: sorted(rows) for each, rows in found.items()}
