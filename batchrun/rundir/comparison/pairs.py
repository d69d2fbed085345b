"""The rows of two runs, paired, in a DuckDB table that can spill to disk.

Each run first becomes a narrow table with hashes instead of texts, and numbers for what is
compared. So the pairs take about a hundred bytes per row, however long the answers are, and every
figure of a comparison is an aggregate over them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from batchrun.adapters.columns import columns as result_columns
from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.columns.schema import REPEAT as REPEAT_FIELD
from batchrun.adapters.columns.schema import REPEAT_OF as REPEAT_OF_FIELD
from batchrun.adapters.scoring import of_repeats
from batchrun.adapters.scoring.database import Database, quoted
from batchrun.adapters.scoring.plan import PlannedMetric
from batchrun.core.evaluation.definitions import Evaluation
from batchrun.core.statistics.jackknife import GROUPS
from batchrun.core.text.legible import legible
from batchrun.core.text.wording import counted
from batchrun.errors import UsageError
from batchrun.rundir.comparison.measures import Measures, Reading, measures
from batchrun.rundir.comparison.side import Side

MEMORY_BYTES = 160 * 2**20
ROW, CUSTOM_ID, REPEAT, REPEAT_OF = "row", "custom_id", "repeat", "repeat_of"
UNMATCHED_MAX = 100
_BASE = (
    *("content", "refusal", "tool_calls", "request_hash", "model", "system_fingerprint"),
    *("prompt_tokens", "completion_tokens", "cost_usd", "latency_s"),
)
_OWN = {column.name for column in result_columns.RESULTS} | {REPEAT, REPEAT_OF}


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key that is not unique in a run."""

    key: str
    rows: int
    first: int
    last: int


class Pairs:
    """Two runs row by row. Leaving the context frees the tables.

    ``by`` says how rows were paired: ``custom_id``, a column, or ``row``. ``count`` pairs, and
    ``only_a`` and ``only_b`` rows without a counterpart, at most 100 of which ``unmatched`` names.
    """

    by: str
    count: int
    only_a: int
    only_b: int
    unmatched: dict[str, list[str]]

    def __init__(self, a: Side, b: Side, evaluation: Evaluation, key: str | None = None) -> None:
        """Pair them. Raises ``UsageError`` if rows cannot be told apart, ``ScoringError``, or
        ``DamagedError``.
        """
        self.a, self.b, self.key = a, b, key
        self._stack = contextlib.ExitStack()
        try:
            database = Database(memory_bytes=MEMORY_BYTES, what="compare", in_order=False)
            self.database = self._stack.enter_context(database)
            self.measures: Measures = measures(database, a, b, evaluation)
            self.repeated = all(_is_repeated(side) for side in (a, b))
            self._carried = self._carried_columns()
            self._require_key()
            for letter, reading in (("a", self.measures.a), ("b", self.measures.b)):
                self._load(letter, reading)
            self.by = self._choose()
            self._pair()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def one(self, sql: str) -> tuple[Any, ...]:
        """The one row of an aggregate."""
        return self.rows(sql)[0]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        return self.database.rows(sql, "compare")

    # The tables of the runs

    def _carried_columns(self) -> list[str]:
        """Columns of the input that both runs carry with the same type."""
        a, b = self.a.schema, self.b.schema
        return [
            field.name
            for field in b
            if field.name not in _OWN | part_schema.own_columns(b)
            and field.name in a.names
            and a.field(field.name).type == field.type
        ]

    def _require_key(self) -> None:
        for side in (self.a, self.b) if self.key is not None else ():
            if self.key not in side.schema.names:
                own = _OWN | part_schema.own_columns(side.schema)
                there = ", ".join(name for name in side.schema.names if name not in own)
                message = (
                    f"--key {self.key}: the results of {side.shown} have no such column; those of "
                    f"the input are {there or 'none'}"
                )
                raise UsageError(message)

    def _load(self, letter: str, reading: Reading) -> None:
        """The narrow table of one run."""
        names = set(reading.side.schema.names)
        wanted = [name for name in (*_BASE, REPEAT, REPEAT_OF, *self._carried) if name in names]
        wanted = list(dict.fromkeys(wanted))
        if self.key is not None:
            wanted.append(self.key)
        columns = reading.columns(*wanted)
        base = ", ".join(
            [
                "row, custom_id, status = 'error' AS failed",
                f"{_ANSWER} AS answer",
                f"{f'hash({_listed(self._carried)})' if self._carried else '0'} AS carried",
                "hash(request_hash) AS request",
                "CASE WHEN model IS NOT NULL THEN hash(model) END AS model",
                f"{_FINGERPRINT} AS fingerprint",
                "prompt_tokens, completion_tokens, cost_usd, latency_s",
                f"{f'CAST({quoted(self.key)} AS VARCHAR)' if self.key else 'NULL'} AS other",
                f"{_REPEATED if _is_repeated(reading.side) else _SINGLE}",
            ]
        )
        values = [f"{quoted(name)} AS s{n}" for n, name in enumerate(self.measures.scores)]
        for n, one in enumerate(reading.metrics):
            values += [
                f"{_value(one)} AS m{n}",
                f"CAST({one.by or 'NULL'} AS VARCHAR) AS g{n}",
                f"CAST({one.cluster or 'NULL'} AS VARCHAR) AS c{n}",
            ]
        picked = ", ".join([base, *values])
        with self.database.tables(results=reading.side.rows(columns, reading.from_scores)):
            self.rows(f"CREATE TABLE {letter} AS SELECT {picked} FROM {reading.scored()}")

    # How rows find each other

    def _choose(self) -> str:
        """The column that pairs the rows. Raises ``UsageError`` if there is none."""
        if self.key is not None:
            for letter, side in (("a", self.a), ("b", self.b)):
                self._require_unique(letter, side, "other", f"--key {self.key}")
            return self.key
        found = {letter: self._duplicate(letter, CUSTOM_ID) for letter in "ab"}
        nameless = {letter: self._nameless(letter, CUSTOM_ID) for letter in "ab"}
        if not any(found.values()) and not any(nameless.values()):
            return CUSTOM_ID
        if self._same_inputs():
            return ROW
        raise UsageError(self._why_not(found, nameless))

    def _duplicate(self, letter: str, column: str) -> Duplicate | None:
        lines = self.rows(
            f"SELECT {column}, count(*), min(row), max(row) FROM {letter} "
            f"WHERE {column} IS NOT NULL GROUP BY {column}, repeat HAVING count(*) > 1 "
            "ORDER BY 3 LIMIT 1"
        )
        return Duplicate(*lines[0]) if lines else None

    def _nameless(self, letter: str, column: str) -> int:
        return int(self.one(f"SELECT count(*) - count({column}) FROM {letter}")[0])

    def _require_unique(self, letter: str, side: Side, column: str, key: str) -> None:
        found = self._duplicate(letter, column)
        if found is not None:
            message = (
                f"{key}: {legible(found.key)!r} comes {found.rows} times in {side.shown}, in rows "
                f"{found.first} and {found.last}; name a column that is different in every row"
            )
            raise UsageError(message)

    def _same_inputs(self) -> bool:
        """Whether a row number means the same row in both runs: all common rows carry the same
        values or, if nothing is carried, sent the same request.
        """
        same = "a.carried = b.carried" if self._carried else "a.request = b.request"
        both, alike = self.one(
            "SELECT count(*), count(*) FILTER (a.custom_id IS NOT DISTINCT FROM b.custom_id "
            f"AND {same}) FROM a JOIN b ON a.repeat_of = b.repeat_of AND a.repeat = b.repeat"
        )
        return bool(both) and both == alike

    def _why_not(self, found: dict[str, Duplicate | None], nameless: dict[str, int]) -> str:
        told = []
        for letter, side in (("a", self.a), ("b", self.b)):
            if (one := found[letter]) is not None:
                told.append(
                    f"custom_id {legible(one.key)!r} comes {one.rows} times in {side.shown} (rows "
                    f"{one.first} and {one.last})"
                )
            elif nameless[letter]:
                told.append(f"{counted(nameless[letter], 'row')} of {side.shown} without custom_id")
        return (
            f"cannot pair the rows: {' and '.join(told)}, and the inputs differ, so row numbers do "
            "not pair them either; --key COL names a column of the input that is different in "
            "every row"
        )

    def _pair(self) -> None:
        key = {ROW: REPEAT_OF, CUSTOM_ID: "custom_id"}.get(self.by, "other")
        both = f"a.{key} = b.{key} AND a.repeat = b.repeat"
        named = CUSTOM_ID if self.key is None else "other"
        name = f"coalesce({named}, CAST(row AS VARCHAR))"
        unmatched, counts = {}, {}
        for letter, mate in (("a", "b"), ("b", "a")):
            alone = f"FROM {letter} WHERE NOT EXISTS (SELECT 1 FROM {mate} WHERE {both})"
            counts[letter] = int(self.one(f"SELECT count(*) {alone}")[0])
            listed = self.rows(f"SELECT {name} {alone} ORDER BY row LIMIT {UNMATCHED_MAX}")
            unmatched[letter] = [str(line[0]) for line in listed]
        measured = len(self.measures.metrics)
        columns = ["failed", "cost_usd", "latency_s", "prompt_tokens", "completion_tokens"]
        columns += [f"s{n}" for n in range(len(self.measures.scores))]
        columns += [f"m{n}" for n in range(measured)]
        groups = [f"coalesce(b.g{n}, a.g{n}) AS g{n}" for n in range(measured)]
        groups += [f"coalesce(b.c{n}, a.c{n}) AS c{n}" for n in range(measured)]
        listed_columns = [f"{side}.{name} AS {side}_{name}" for name in columns for side in "ab"]
        bucket = f"CAST(md5_number_lower(CAST(b.{key} AS VARCHAR)) % {GROUPS} AS UTINYINT)"
        self.rows(
            "CREATE TABLE pairs AS SELECT a.row AS row_a, b.row AS row_b, b.custom_id, "
            f"CAST(b.{key} AS VARCHAR) AS key, b.repeat_of AS unit, {bucket} AS bucket, "
            "a.answer IS DISTINCT FROM b.answer AS changed, a.request <> b.request AS asked_other, "
            "a.carried <> b.carried AS carried_other, a.model <> b.model AS model_other, "
            "a.fingerprint <> b.fingerprint AS fingerprint_other, "
            f"{', '.join([*listed_columns, *groups])} FROM a JOIN b ON {both}"
        )
        self.rows("DROP TABLE a")
        self.rows("DROP TABLE b")
        self.count = int(self.one("SELECT count(*) FROM pairs")[0])
        self.only_a, self.only_b, self.unmatched = counts["a"], counts["b"], unmatched


_REPEATED = "repeat, repeat_of"
_SINGLE = "CAST(0 AS INTEGER) AS repeat, row AS repeat_of"
_FINGERPRINT = "CASE WHEN system_fingerprint IS NOT NULL THEN hash(system_fingerprint) END"
_ANSWER = (
    "CASE WHEN status <> 'error' THEN hash(content, refusal, "
    "[(x.name, x.arguments) FOR x IN tool_calls]) END"
)
"""What identifies an answer. The ids of tool calls are new every time, so they are left out."""


def _is_repeated(side: Side) -> bool:
    """Whether the answers of a run are repeats, judged by its columns; a run over the answers of
    another may have carried these along.
    """
    fields = (REPEAT_OF_FIELD, REPEAT_FIELD)
    return all(
        field.name in side.schema.names and side.schema.field(field.name).type == field.type
        for field in fields
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))


def _value(metric: PlannedMetric) -> str:
    """The value of an answer in a metric that is a mean; NULL in any other."""
    parsed = metric.parsed
    if parsed.mean_of is None:
        return "CAST(NULL AS DOUBLE)"
    value = of_repeats.answer(parsed, None, scored=bool(metric.scores))
    if of_repeats.is_number(parsed):
        value = f"CASE WHEN isfinite({value}) THEN {value} END"
    if parsed.mean_filter is None:
        return value
    return f"CASE WHEN (\n{parsed.mean_filter}\n) THEN {value} END"
