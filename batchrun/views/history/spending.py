"""What runs cost, from their ledgers: exact sums in picodollars by month, model, label and so on.

Every line of ``attempts/`` counts once, those of a live run's logs too. Nothing is kept of a line
but the sums of its group, which Arrow adds up part by part. The judges of a run (``judges/NAME/``,
run directories as well) are part of its cost, in groups of their own.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.adapters.columns import schema as part_schema
from batchrun.core.cost.money import picodollars, usd
from batchrun.core.evaluation.judges import SWAPPED, is_name
from batchrun.errors import UsageError
from batchrun.rundir.judges.prepare import directory_of, swapped_of
from batchrun.views.durable.durable_rows import DurableRows

KEYS = ("month", "day", "model", "endpoint")
LABEL = "label."
_PLAIN_USD = 2048
"""Below that, a double times 10^12 is less than half a picodollar off: see ``core.cost.money``."""
_COLUMNS = (
    *("started_at", "model", "endpoint", "cost_usd"),
    *("prompt_tokens", "completion_tokens", "error_code"),
)
_REUSED = ("reused_from", "model", "endpoint")
_LOST = "ledger_lost"
"""The code of lines that a repair made up, whose time is not known."""

KEYS_OF_SUMS = {
    "cost_usd": "The double nearest to `cost_pd`.",
    "cost_pd": "The exact cost in picodollars (10^-12 USD). Null if no cost is known.",
    "attempts": "Lines of the ledgers.",
    "prompt_tokens": "Prompt tokens as reported. Null if none were.",
    "completion_tokens": "Completion tokens as reported. Null if none were.",
    "unpriced_attempts": "Attempts that used tokens and have no known cost.",
    "reused_rows": "Rows that took the answer of another run; they have no line and no cost.",
    "runs": "Runs with something in the group; a judge is part of its run.",
}
"""What the sums mean in ``costs --json``, for the reference."""

Group = tuple[str | None, ...]
"""The values of the keys, and the name of the judge: None for what the run itself sent."""
JUDGE = "judge"
_JUDGES = "judges"


@dataclass(slots=True)
class Spent:
    """The sums of one group. ``cost_pd`` is None where no cost is known, so are the tokens."""

    cost_pd: int | None = None
    attempts: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    unpriced_attempts: int = 0
    """Attempts that used tokens and have no cost."""
    reused_rows: int = 0
    """Rows that took the answer of another run, which cost nothing here."""
    runs: set[str] = field(default_factory=set)

    def public(self) -> dict[str, Any]:
        """The sums for ``--json``."""
        return {
            "cost_usd": None if self.cost_pd is None else usd(self.cost_pd),
            "cost_pd": self.cost_pd,
            "attempts": self.attempts,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "unpriced_attempts": self.unpriced_attempts,
            "reused_rows": self.reused_rows,
            "runs": len(self.runs),
        }

    def add(self, other: Spent) -> None:
        """Add the sums of another group."""
        self.cost_pd = _sum(self.cost_pd, other.cost_pd)
        self.attempts += other.attempts
        self.prompt_tokens = _sum(self.prompt_tokens, other.prompt_tokens)
        self.completion_tokens = _sum(self.completion_tokens, other.completion_tokens)
        self.unpriced_attempts += other.unpriced_attempts
        self.reused_rows += other.reused_rows
        self.runs |= other.runs


class Spending:
    """The sums of several runs by some keys."""

    def __init__(self, by: Sequence[str]) -> None:
        """Raises ``UsageError`` for an unknown key."""
        for key in by:
            if key not in KEYS and not (key.startswith(LABEL) and key != LABEL):
                message = (
                    f"--by {key}: there is no such key; they are {', '.join(KEYS)} and {LABEL}NAME"
                )
                raise UsageError(message)
        self.by = tuple(dict.fromkeys(by))
        self._groups: dict[Group, Spent] = {}
        self.notices: list[str] = []
        """What to say about the keys, once runs were added."""

    def add_all(self, folders: Iterable[str]) -> None:
        """Add the runs in these directories and their judges, each once. A judge that is named
        besides its run counts as its judge. Raises ``UsageError`` for what is not a run directory.
        """
        runs = [DurableRows(folder) for folder in folders]
        judges = {run.place: list(judges_of(run)) for run in runs}
        known = {name for run in runs for name in labels_of(run)}
        known |= {n for found in judges.values() for *_, labels in found for n in labels}
        wanted = (key.removeprefix(LABEL) for key in self.by if key.startswith(LABEL))
        self.notices = [_no_label(name, known) for name in wanted if name not in known]
        judging = {judge.place for found in judges.values() for _, judge, _ in found}
        for place, run in {run.place: run for run in runs}.items():
            if place in judging:
                continue
            where = run.store.where()
            self._add(run, where, labels_of(run), None)
            for name, judge, labels in judges[place]:
                self._add(judge, where, labels, name)

    def _add(
        self, durable: DurableRows, where: str, labels: Mapping[str, str], judge: str | None
    ) -> None:
        """Add the ledger of a run, and the answers that it reused."""
        self._groups_of(where, labels, judge, durable.ledgers(_COLUMNS), self._ledger)
        self._groups_of(where, labels, judge, durable.all_pieces(_REUSED), self._reused)

    def _groups_of(
        self,
        where: str,
        labels: Mapping[str, str],
        judge: str | None,
        tables: Iterator[pa.Table],
        added_up: Any,
    ) -> None:
        for table in tables:
            for values, sums in added_up(table):
                named = iter(values)
                group = tuple(
                    labels.get(key.removeprefix(LABEL)) if key.startswith(LABEL) else next(named)
                    for key in self.by
                )
                sums.runs.add(where)
                self._groups.setdefault((*group, judge), Spent()).add(sums)

    @property
    def _of_lines(self) -> list[str]:
        """The keys that lines have, not runs."""
        return [key for key in self.by if not key.startswith(LABEL)]

    def _ledger(self, table: pa.Table) -> Iterator[tuple[tuple[str | None, ...], Spent]]:
        if not table.num_rows:  # a shard of which nothing was sent yet has a sum of null
            return
        known = table.column("cost_usd").is_valid()
        used = pc.or_(
            table.column("prompt_tokens").is_valid(), table.column("completion_tokens").is_valid()
        )
        summed = pa.table(
            [
                *(_key(table, key) for key in self._of_lines),
                _picodollars(table.column("cost_usd")),
                table.column("prompt_tokens"),
                table.column("completion_tokens"),
                pc.and_not(used, known).cast(pa.int64()),
            ],
            names=[*self._of_lines, "cost", "prompt", "completion", "unpriced"],
        )
        wanted: Any = [
            *((name, "sum") for name in ("cost", "prompt", "completion", "unpriced")),
            ([], "count_all"),
        ]
        found = summed.group_by(self._of_lines, use_threads=False).aggregate(wanted)
        for line in found.to_pylist():
            yield (
                tuple(line[key] for key in self._of_lines),
                Spent(
                    None if line["cost_sum"] is None else int(line["cost_sum"]),
                    line["count_all"],
                    line["prompt_sum"],
                    line["completion_sum"],
                    line["unpriced_sum"],
                ),
            )

    def _reused(self, table: pa.Table) -> Iterator[tuple[tuple[str | None, ...], Spent]]:
        """Rows whose answers were reused: without a day, since nothing was sent."""
        if not part_schema.marks_reused(pa.schema([*table.schema, ("request_hash", pa.string())])):
            return
        table = table.filter(table.column("reused_from").is_valid())
        if not table.num_rows:
            return
        keys = self._of_lines
        summed = pa.table([_key(table, key) for key in keys], names=keys) if keys else None
        if summed is None:
            yield (), Spent(reused_rows=table.num_rows)
            return
        counted: Any = [([], "count_all")]
        for line in summed.group_by(keys, use_threads=False).aggregate(counted).to_pylist():
            yield tuple(line[key] for key in keys), Spent(reused_rows=line["count_all"])

    def total(self) -> Spent:
        """The sum over everything."""
        total = Spent()
        for sums in self._groups.values():
            total.add(sums)
        return total

    def lines(self) -> list[tuple[Group, Spent]]:
        """The groups in the order of their keys, missing values last; what a run itself sent comes
        before its judges.
        """

        def place(item: tuple[Group, Spent]) -> list[tuple[bool, str]]:
            *values, judge = item[0]
            return [
                *((each is None, each or "") for each in values),
                (judge is not None, judge or ""),
            ]

        return sorted(self._groups.items(), key=place)

    def public(self) -> dict[str, Any]:
        """The object of ``--json``."""
        return {
            "by": list(self.by),
            "rows": [
                dict(zip((*self.by, JUDGE), group, strict=True)) | sums.public()
                for group, sums in self.lines()
            ],
            "total": self.total().public(),
        }


Judge = tuple[str, DurableRows, Mapping[str, str]]
"""A judge: its name (``tone``, or ``tone/second`` for a judge of that one), its run directory and
its labels. Those that it lacks are the labels of the run that it judges.
"""


def judges_of(run: DurableRows, labels: Mapping[str, str] = {}) -> Iterator[Judge]:
    """The judges of a run, and theirs. Other folders are skipped."""
    labels = {**labels, **labels_of(run)}
    for folder in filter(is_name, run.store.folders(_JUDGES)):
        own = directory_of(run.directory, folder)
        try:
            judge = DurableRows(own)
        except UsageError:
            continue
        yield folder, judge, {**labels, **labels_of(judge)}
        with contextlib.suppress(UsageError):  # a judge of pairs may have judged in both orders
            swapped = DurableRows(swapped_of(own))
            yield f"{folder}/{SWAPPED}", swapped, {**labels, **labels_of(swapped)}
        for name, inner, theirs in judges_of(judge, labels):
            yield f"{folder}/{name}", inner, theirs


def labels_of(durable: DurableRows) -> Mapping[str, str]:
    """The labels of a run: its summary's, or while there is none those of its journal."""
    recorded = durable.known.meta.get("labels") if durable.known is not None else None
    for found in (recorded, durable.summary.get("labels")):
        if isinstance(found, dict):
            return {str(name): str(value) for name, value in found.items()}
    return {}


def _no_label(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {LABEL}{near[0]}?" if near else "."
    have = f"The labels are: {', '.join(sorted(known))}" if known else "They have no labels"
    return f"no run has the label {name!r}{meant} {have}"


def _sum(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _key(table: pa.Table, key: str) -> pa.ChunkedArray:
    """The values of a key, as text; null where they are not known."""
    if key in ("month", "day"):
        if "started_at" not in table.schema.names:
            return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
        lost = pc.fill_null(pc.equal(table.column("error_code"), _LOST), False)  # noqa: FBT003 - Arrow's own
        days = table.column("started_at").cast(pa.timestamp("s", "UTC"), safe=False)
        days = pc.floor_temporal(days, unit="month" if key == "month" else "day")
        days = pc.if_else(lost, None, days)
        encoded = days.combine_chunks().dictionary_encode()  # few days, many lines
        names = [
            None if when is None else f"{when:%Y-%m}" if key == "month" else f"{when:%Y-%m-%d}"
            for when in encoded.dictionary.to_pylist()
        ]
        return pa.chunked_array([pa.array(names, pa.string()).take(encoded.indices)])
    column = table.column(key)
    return column.cast(pa.string())


def _picodollars(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Costs as exact decimals: whole picodollars, whose sums do not overflow."""
    kind = pa.decimal128(38, 0)
    highest = pc.max(pc.abs(column)).as_py()
    if highest is not None and highest > _PLAIN_USD:
        values = [None if value is None else picodollars(value) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, kind)])
    whole = pc.round(pc.multiply(column, 1e12)).cast(pa.int64())
    return whole.cast(pa.decimal128(19, 0)).cast(kind)
