"""Metrics: SQL aggregates over results and scores, with what their intervals need.

Every statement reads the columns that it names, one part at a time, and returns a few numbers:
counts and moments of a mean, sums over clusters, or the aggregate without each of 50 groups of
rows. So memory is bounded by DuckDB's limit, whatever the number of rows. ``core/statistics`` makes
intervals from these numbers.

The bounds of a metric, if all failed rows were wrong or right, are the same metric with failed rows
scoring 0 or 1.

With repeats, a mean is over the rows of the input: the answers of each row are aggregated first
(``of_repeats``). Other aggregates take all answers individually; their intervals leave out whole
rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.scoring import of_repeats
from batchrun.adapters.scoring.database import MEMORY_BYTES, Database, Table, quoted
from batchrun.adapters.scoring.plan import KEYS, Plan, PlannedMetric, in_order
from batchrun.adapters.scoring.score_parts import in_sql
from batchrun.adapters.storage.store import SCORES, StoreReader, part_names
from batchrun.core.evaluation.metric import Metric
from batchrun.core.statistics.interval import Interval
from batchrun.core.statistics.jackknife import GROUPS, jackknife_interval
from batchrun.core.statistics.mean import clustered_interval, values_interval
from batchrun.errors import ScoringError

GROUPS_MAX = 1_000
"""How many groups of a metric are reported: those with the most rows."""
BYTES_A_VALUE = 16
_KEEPING = (
    "quantile",
    "median",
    "mode",
    "mad",
    "list",
    "array",
    "string",
    "group_concat",
    "histogram",
)
"""Parts of the names of aggregates that keep every value."""
NO_GROUP = "(null)"
"""The key of the rows in which ``by`` is null."""


class Counted(NamedTuple):
    """Counts of a score: ``ok`` rows with a value, ``ok`` rows without one, and failed rows."""

    scored: int
    null: int
    error_rows: int

    def as_dict(self) -> dict[str, int]:
        """For ``summary.json``."""
        return self._asdict()


class Measured(NamedTuple):
    """A metric, and how many ``ok`` rows have a value in it, which its gate needs."""

    metric: Metric
    scored: int


class _Figure(NamedTuple):
    """One metric of one group of rows; ``in_unit`` is whether all its values lie in 0 to 1. With
    repeats the rows of a mean are those of the input.
    """

    value: float | None
    n: int
    scored: int
    interval: Interval | None
    in_unit: bool


_Key = tuple[bool, str | None]
"""SQL for whether a line is a group, and which one."""
_NAMED = "__is_group, __name"
"""The same, as columns."""


def evaluated_rows(
    store: StoreReader,
    plan: Plan,
    columns: Sequence[str],
    scores: Sequence[str],
    texts: Sequence[str] = (),
) -> Table:
    """Rows of the whole run: columns of the results, scores as numbers, texts of judges."""
    wanted = pa.schema([plan.schema.field(name) for name in columns])
    schema = wanted
    for name in scores:
        schema = schema.append(pa.field(name, pa.float64()))
    for name in texts:
        schema = schema.append(pa.field(name, pa.string()))

    def batches() -> Iterator[pa.RecordBatch]:
        for name in part_names(store, "results"):
            yield from _part(store, name, wanted, [*scores, *texts], schema)

    return Table(schema, batches)


def _part(
    store: StoreReader, name: str, wanted: pa.Schema, scores: Sequence[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """One part of the results joined with its scores."""
    beside: pa.Table | None = None
    if scores:
        beside = _read(store, f"{SCORES}/{name}", ["row", *scores])
    at = 0
    for table in _groups(store, f"results/{name}", wanted):
        columns = list(table.columns)
        if beside is not None:
            slice_ = beside.slice(at, table.num_rows)
            if not slice_.column("row").equals(table.column("row")):
                raise damaged(store.where(f"{SCORES}/{name}"), "its rows are not the results'")
            columns += [in_sql(slice_.column(score)) for score in scores]
        at += table.num_rows
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches()


def _groups(store: StoreReader, name: str, wanted: pa.Schema) -> Iterator[pa.Table]:
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            there = [column for column in wanted.names if column in part.schema_arrow.names]
            for batch in part.iter_batches(batch_size=8192, columns=there, use_threads=False):
                yield part_schema.completed(pa.Table.from_batches([batch]), wanted)
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(name), error) from error


def _read(store: StoreReader, name: str, columns: Sequence[str]) -> pa.Table:
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            return part.read(columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise damaged(store.where(name), error) from error


def count_scores(database: Database, store: StoreReader, plan: Plan) -> dict[str, Counted]:
    """How many rows each score has a value for. Raises ``ScoringError`` or ``DamagedError``."""
    names = [one.score.name for one in plan.scores]
    if not names:
        return {}
    ok = "status <> 'error'"
    picked = ", ".join(f"count({quoted(name)}) FILTER ({ok})" for name in names)
    statement = f"SELECT count(*) FILTER ({ok}), count(*), {picked} FROM results"
    with database.tables(results=evaluated_rows(store, plan, list(KEYS), names)):
        whole, rows, *scored = database.rows(statement, "scores")[0]
    return {
        name: Counted(count, whole - count, rows - whole)
        for name, count in zip(names, scored, strict=True)
    }


def count_errors(database: Database, store: StoreReader, plan: Plan) -> int:
    """The number of failed rows."""
    with database.tables(results=evaluated_rows(store, plan, ["status"], ())):
        statement = "SELECT count(*) FILTER (status = 'error') FROM results"
        return int(database.rows(statement, "metrics")[0][0])


def measure(
    database: Database, store: StoreReader, plan: Plan, error_rows: int
) -> dict[str, Measured]:
    """All metrics of a run whose scores are current. ``error_rows`` is the number of failed rows.

    Raises ``ScoringError`` naming the metric, or ``DamagedError``.
    """
    narrow = [one for one in plan.metrics if _is_narrow(plan, one)]
    found = {}
    if narrow:
        with _kept(database, store, plan, narrow):
            for one in narrow:
                found[one.metric.name] = _measure(database, one, None, error_rows, plan.repeat)
    for one in plan.metrics:
        if one not in narrow:
            columns = in_order(plan.schema, {*KEYS, *one.columns})
            source = evaluated_rows(store, plan, columns, one.scores, one.texts)
            found[one.metric.name] = _measure(database, one, source, error_rows, plan.repeat)
    return {one.metric.name: found[one.metric.name] for one in plan.metrics}


def _is_narrow(plan: Plan, one: PlannedMetric) -> bool:
    """Whether everything that a metric reads is short: numbers, times, and its group columns."""
    if one.texts:
        return False
    texts = [plan.schema.field(name) for name in one.columns]
    grouping = {text.lower() for text in (one.metric.by, one.metric.cluster) if text is not None}
    return all(
        not pa.types.is_nested(field.type)
        and (not _is_text(field.type) or field.name in KEYS or field.name.lower() in grouping)
        for field in texts
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


@contextlib.contextmanager
def _kept(
    database: Database, store: StoreReader, plan: Plan, metrics: Sequence[PlannedMetric]
) -> Iterator[None]:
    """The columns that several metrics read, as a DuckDB table, so the parts are read once. DuckDB
    spills what does not fit its memory into its private folder.
    """
    columns = in_order(plan.schema, {*KEYS, *(name for one in metrics for name in one.columns)})
    used = {name for one in metrics for name in one.scores}
    scores = sorted(used)
    with database.tables(__parts=evaluated_rows(store, plan, columns, scores)):
        database.rows("CREATE TEMP TABLE results AS SELECT * FROM __parts", "metrics")
    try:
        yield
    finally:
        database.rows("DROP TABLE results", "metrics")


def _measure(
    database: Database, one: PlannedMetric, source: Table | None, error_rows: int, repeat: int
) -> Measured:
    """One metric, over ``source`` or the kept table."""
    statement = _Statement(database, one, source, repeat)
    figures = statement.figures(None)
    if not error_rows:
        bounds = [figures, figures]
    elif one.scores or one.parsed.mean_of is not None:
        bounds = [statement.figures(instead, values_only=True) for instead in (0, 1)]
    else:
        bounds = [{}, {}]
    keys = sorted(figures, key=lambda key: (not key[0], -figures[key].n, str(key[1])))
    found = {key: _metric(figures[key], *(bound.get(key) for bound in bounds)) for key in keys}
    whole = found.pop((False, None), Metric(None, 0))
    scored = figures[False, None].scored if (False, None) in figures else 0
    if one.by is None:
        return Measured(whole, scored)
    groups = {
        NO_GROUP if key[1] is None else key[1]: found[key]
        for key in [key for key in keys if key[0]][:GROUPS_MAX]
    }
    return Measured(replace(whole, groups=groups), scored)


def _metric(figure: _Figure, wrong: _Figure | None, right: _Figure | None) -> Metric:
    low, high = figure.interval or (None, None)
    bounded = figure.in_unit
    return Metric(
        figure.value,
        figure.n,
        low,
        high,
        wrong.value if bounded and wrong else None,
        right.value if bounded and right else None,
    )


class _Statement:
    """The SQL of one metric."""

    def __init__(
        self, database: Database, one: PlannedMetric, source: Table | None, repeat: int
    ) -> None:
        self._database = database
        self._one = one
        self._source = source
        self._key = one.metric.key
        self._unit = "row" if repeat == 1 else f"row // {repeat}"
        """The row of the input."""
        self._by_row = repeat > 1 or one.parsed.of_repeats is not None

    def figures(self, instead: int | None, *, values_only: bool = False) -> dict[_Key, _Figure]:
        """The metric of all rows and each group. ``instead`` replaces the score of failed rows."""
        if self._one.parsed.mean_of is None:
            return self._aggregate(instead, values_only=values_only)
        return self._mean(instead, values_only=values_only)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self._source is None:
            return self._database.rows(sql, self._key)
        with self._database.tables(results=self._source):
            return self._database.rows(sql, self._key)

    def _from(self, instead: int | None, *more: str) -> str:
        """The rows, with the scores of failed ones replaced."""
        replaced = ""
        if instead is not None and self._one.scores:
            each = (
                f"CASE WHEN status = 'error' THEN {instead}.0 ELSE {name} END AS {name}"
                for name in map(quoted, self._one.scores)
            )
            replaced = f" REPLACE ({', '.join(each)})"
        group = self._one.by or "NULL"
        columns = ", ".join([f"*{replaced}", f"CAST({group} AS VARCHAR) AS __group", *more])
        return f"(SELECT {columns} FROM results) AS results"

    def _sets(self, *keys: str) -> str:
        """GROUP BY: all rows and, with ``by``, each group of them."""
        listed = ", ".join(keys)
        whole = f"({listed})"
        if self._one.by is None:
            return f"GROUP BY GROUPING SETS ({whole})"
        return f"GROUP BY GROUPING SETS ({whole}, ({', '.join([*keys, '__group'])}))"

    @property
    def _flagged(self) -> tuple[str, str]:
        """Whether a line belongs to a group, and to which."""
        if self._one.by is None:
            return "FALSE", "NULL"
        return "grouping(__group) = 0", "__group"

    @property
    def _grouped(self) -> str:
        return ", ".join(self._flagged)

    # A mean

    def _mean(self, instead: int | None, *, values_only: bool) -> dict[_Key, _Figure]:
        inner, named, sets = self._answers(instead), self._grouped, self._sets()
        low_of = high_of = "__x"
        if self._by_row:
            inner, named, sets = self._by_rows(inner, instead), _NAMED, f"GROUP BY {_NAMED}"
            low_of, high_of = "__low", "__high"
        found = self._rows(
            f"SELECT {named}, avg(__x), count(__x), count(__x) FILTER (NOT __failed), "
            f"var_samp(__x), min({low_of}), max({high_of}), "
            f"count(*) FILTER (__x = 0 OR __x = 1) FROM {inner} {sets}"
        )
        clusters: Mapping[_Key, tuple[Any, ...]] = {}
        if self._one.cluster is not None and not values_only:
            clusters = self._clusters(inner)
        figures = {}
        for is_group, name, mean, n, scored, variance, low, high, zero_one in found:
            key = bool(is_group), name
            if not n:
                figures[key] = _Figure(None, 0, 0, None, in_unit=False)
                continue
            interval = None
            if key in clusters:
                interval = clustered_interval(*clusters[key])
            elif self._one.cluster is None:
                interval = values_interval(n, mean, variance, zero_one)
            in_unit = low >= 0 and high <= 1
            figures[key] = _Figure(finite(mean), n, scored, interval, in_unit)
        return figures

    def _answers(self, instead: int | None) -> str:
        """The value of every answer, with its group columns."""
        parsed = self._one.parsed
        value = of_repeats.answer(parsed, instead, scored=bool(self._one.scores))
        only = ""
        if parsed.mean_filter is not None:
            # A failed row may be included if the filter cannot be decided for it.
            failed = "FALSE" if instead is None else "status = 'error'"
            only = f" WHERE coalesce((\n{parsed.mean_filter}\n), {failed})"
        cluster = "NULL" if self._one.cluster is None else _cluster(self._one.cluster, self._unit)
        unit = f", {self._unit} AS __unit" if self._by_row else ""
        return (
            f"(SELECT {value} AS __x, status = 'error' AS __failed, __group, "
            f"{cluster} AS __cluster{unit} FROM {self._from(instead)}{only})"
        )

    def _by_rows(self, answers: str, instead: int | None) -> str:
        """The value of every row of the input, overall and in each group that has answers of it."""
        parsed = self._one.parsed
        flag, name = self._flagged
        low, high = ("min(__x)", "max(__x)") if of_repeats.is_number(parsed) else ("0.0", "1.0")
        return (
            f"(SELECT {flag} AS __is_group, {name} AS __name, "
            f"{of_repeats.row(parsed, '__x', '__failed', instead)} AS __x, "
            "NOT bool_or(NOT __failed AND __x IS NOT NULL) AS __failed, "
            f"{low} AS __low, {high} AS __high, min(__cluster) AS __cluster "
            f"FROM {answers} AS answers {self._sets('__unit')})"
        )

    def _clusters(self, inner: str) -> dict[_Key, tuple[Any, ...]]:
        """By group: clusters, rows, and the sums for the clustered error."""
        flag, name = self._flagged
        named, sets = f"{flag} AS __is_group, {name} AS __name", self._sets("__cluster")
        if self._by_row:
            named, sets = _NAMED, f"GROUP BY {_NAMED}, __cluster"
        each = (
            f"(SELECT {named}, count(__x) AS n, sum(__x) AS s "
            f"FROM {inner} WHERE __x IS NOT NULL {sets})"
        )
        found = self._rows(
            "SELECT __is_group, __name, count(*), CAST(sum(n) AS BIGINT), sum(s), sum(s * s), "
            f"sum(s * n), sum(n * n) FROM {each} GROUP BY __is_group, __name"
        )
        return {
            (bool(is_group), name): (clusters, n, *map(float, sums))
            for is_group, name, clusters, n, *sums in found
        }

    # Any other aggregate

    def _aggregate(self, instead: int | None, *, values_only: bool) -> dict[_Key, _Figure]:
        value = f"TRY_CAST((\n{self._one.metric.value}\n) AS DOUBLE)"
        scores = [quoted(name) for name in self._one.scores]
        there = " AND ".join(f"{name} IS NOT NULL" for name in scores) or "TRUE"
        unit = " AND ".join(
            f"coalesce(min({name}) >= 0 AND max({name}) <= 1, FALSE)" for name in scores
        )
        found = self._rows(
            f"SELECT {self._grouped}, {value}, count(*) FILTER ({there}), "
            f"count(*) FILTER (({there}) AND status <> 'error'), {unit or 'FALSE'} "
            f"FROM {self._from(instead)} {self._sets()}"
        )
        left_out = {} if values_only else self._left_out(value)
        return {
            (bool(is_group), name): _Figure(
                finite(figure),
                n,
                scored,
                jackknife_interval(finite(figure), left_out.get((bool(is_group), name), ())),
                in_unit=bool(in_unit),
            )
            for is_group, name, figure, n, scored, in_unit in found
        }

    def _left_out(self, value: str) -> dict[_Key, list[float | None]]:
        """By group: the aggregate without each of the groups of rows that it holds. The rows are
        read once; then it takes one pass, or several if an aggregate keeps all its values.
        """
        key = f"coalesce(custom_id, CAST({self._unit} AS VARCHAR))"
        if self._one.cluster is not None:
            key = _cluster(self._one.cluster, self._unit)
        bucket = f"CAST(md5_number_lower({key}) % {GROUPS} AS TINYINT) AS __bucket"
        one = self._one
        named = [quoted(name) for name in (*one.columns, *one.scores, *one.texts)]
        columns = ", ".join(dict.fromkeys([*named, "__group", "__bucket"]))
        made = f"CREATE TEMP TABLE __rows AS SELECT {columns} FROM {self._from(None, bucket)}"
        self._rows(made)
        try:
            return self._without_each(value)
        finally:
            self._database.rows("DROP TABLE __rows", self._key)

    def _without_each(self, value: str) -> dict[_Key, list[float | None]]:
        held: dict[_Key, set[int]] = {}
        rows = 0
        for is_group, name, number, count in self._database.rows(
            f"SELECT {self._grouped}, __bucket, count(*) FROM __rows {self._sets('__bucket')}",
            self._key,
        ):
            held.setdefault((bool(is_group), name), set()).add(number)
            rows += 0 if is_group else count
        figures: dict[_Key, list[float | None]] = {}
        at, step = 0, _at_once(self._one.parsed.aggregates, rows)
        while at < GROUPS:
            try:
                found = self._database.rows(
                    f"SELECT __without, {self._grouped}, {value} FROM __rows AS results, "
                    f"(SELECT unnest(range({at}, {min(at + step, GROUPS)})) AS __without) "
                    f"WHERE __bucket <> __without {self._sets('__without')}",
                    self._key,
                )
            except ScoringError as error:
                if not error.out_of_memory or step == 1:
                    raise
                step = max(1, step // 4)
                continue
            at += step
            for number, is_group, name, figure in found:
                if number in held.get((bool(is_group), name), ()):
                    figures.setdefault((bool(is_group), name), []).append(finite(figure))
        return figures


def _at_once(aggregates: Sequence[str], rows: int) -> int:
    """How many groups are left out in one pass: limited by memory for aggregates that keep their
    values.
    """
    if not any(word in name for name in aggregates for word in _KEEPING):
        return GROUPS
    return max(1, min(GROUPS, MEMORY_BYTES // 2 // (BYTES_A_VALUE * max(1, rows))))


def _cluster(sql: str, unit: str) -> str:
    """A cluster's key; a row without one is a cluster of its own."""
    return f"coalesce(CAST({sql} AS VARCHAR), 'row ' || ({unit}))"


def finite(value: Any) -> float | None:
    """A number in a form valid in JSON."""
    return float(value) if value is not None and math.isfinite(value) else None
