"""How far judges agree with human labels, counted in one pass over the scores; with repeats, a
second pass aggregates the answers of each row.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from batchrun.adapters.scoring.database import Database, Table, quoted
from batchrun.adapters.scoring.metrics import Measured, evaluated_rows
from batchrun.adapters.scoring.plan import KEYS, Plan, PlannedJudge, in_order
from batchrun.adapters.storage.store import StoreReader
from batchrun.core.evaluation.judges import column_of
from batchrun.core.evaluation.labels import CATEGORIES_MAX, LabelledVerdicts, OfRows
from batchrun.core.statistics.agreement import clustered_kappa_interval
from batchrun.core.statistics.mean import values_interval
from batchrun.errors import UsageError

_PAIRS_MAX = 10 * CATEGORIES_MAX
"""Maximum number of different pairs of verdict and label, as written."""


def require_labels(schema: pa.Schema, one: PlannedJudge) -> None:
    """Check the labels of a judge against the columns of the results. Raises ``UsageError``."""
    column = one.judge.agreement
    if column is None:
        return
    if column not in schema.names:
        near = difflib.get_close_matches(column, schema.names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"{one.judge.key}.agreement: the results have no column {column!r}{hint}"
        raise UsageError(message)
    if pa.types.is_nested(schema.field(column).type):
        message = f"{one.judge.key}.agreement: {column} has lists or objects, and no labels"
        raise UsageError(message)
    one.asked.compared(one.judge)


def measure_agreement(database: Database, store: StoreReader, plan: Plan) -> dict[str, Measured]:
    """The metrics of the judges that have labels, by name. Raises ``ScoringError``."""
    found: dict[str, Measured] = {}
    for one in plan.judges:
        judge = one.judge
        if judge.agreement is None:
            continue
        field = one.asked.compared(judge)
        column = column_of(judge.name, field.name)
        numbers, texts = ((), (column,)) if field.kind == "text" else ((column,), ())
        columns = in_order(plan.schema, {*KEYS, judge.agreement})
        source = evaluated_rows(store, plan, columns, numbers, texts)
        verdict, label = quoted(column), quoted(judge.agreement)
        answers = (
            f"(SELECT {verdict} AS verdict, CAST({label} AS VARCHAR) AS label, row FROM results "
            f"WHERE {verdict} IS NOT NULL AND {label} IS NOT NULL)"
        )
        with database.tables(results=source):
            counted = database.rows(
                f"SELECT verdict, label, count(*) FROM {answers} GROUP BY 1, 2 "
                f"LIMIT {_PAIRS_MAX + 1}",
                judge.key,
            )
        is_boolean = field.kind == "boolean"
        pairs = [(bool(said) if is_boolean else said, given) for said, given, _ in counted]
        counts = [count for *_, count in counted]
        compared = LabelledVerdicts(
            field.kind, ((*pair, n) for pair, n in zip(pairs, counts, strict=True)), judge.key
        )
        by_row = None
        if plan.repeat > 1 and counted:
            terms = compared.terms(pairs)
            known = [(*line[:2], *term) for line, term in zip(counted, terms, strict=True)]
            with database.tables(results=source, terms=_as_table(known, field.kind)):
                by_row = _of_rows(database, answers, plan.repeat, judge.key)
        for name, metric in zip(judge.metric_names, compared.metrics(by_row), strict=True):
            found[name] = Measured(metric, metric.n)
    return found


def _as_table(known: Sequence[tuple[Any, str, float, float | None]], kind: str) -> Table:
    """The contribution of each pair of verdict and label to share and kappa."""
    verdict = pa.string() if kind == "text" else pa.float64()
    kinds = (verdict, pa.string(), pa.float64(), pa.float64())
    schema = pa.schema(list(zip(("verdict", "label", "same", "term"), kinds, strict=True)))
    columns = zip(zip(*known, strict=True), kinds, strict=True)
    batch = pa.RecordBatch.from_arrays([pa.array(*each) for each in columns], schema=schema)
    return Table(schema, lambda: [batch])


def _of_rows(database: Database, answers: str, repeat: int, key: str) -> OfRows:
    """The agreement over rows that were answered ``repeat`` times, with the sums per row that a
    mean of clusters needs (``core/statistics/mean.py``).
    """
    ((rows, n, share, variance, zero_or_one, *sums),) = database.rows(
        "SELECT count(*), CAST(sum(n) AS BIGINT), avg(x), var_samp(x), "
        "count(*) FILTER (x = 0 OR x = 1), sum(t), sum(t * t), sum(t * n), "
        "CAST(sum(n * n) AS DOUBLE) FROM "
        "(SELECT count(*) AS n, avg(same) AS x, sum(term) AS t "
        f"FROM {answers} AS answers JOIN terms USING (verdict, label) GROUP BY row // {repeat})",
        key,
    )
    interval = None
    if None not in sums:
        interval = clustered_kappa_interval(rows, n, *sums)
    return OfRows(rows, share, values_interval(rows, share, variance, zero_or_one), interval)
