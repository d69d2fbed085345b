"""How far judges agree with human labels, counted in one pass over the scores."""

from __future__ import annotations

import difflib

import pyarrow as pa

from batchrun.adapters.scoring.database import Database, quoted
from batchrun.adapters.scoring.metrics import Measured, evaluated_rows
from batchrun.adapters.scoring.plan import KEYS, Plan, PlannedJudge, in_order
from batchrun.adapters.storage.store import StoreReader
from batchrun.core.evaluation.judges import column_of
from batchrun.core.evaluation.labels import CATEGORIES_MAX, agreement_metrics
from batchrun.errors import UsageError

_PAIRS_MAX = 10 * CATEGORIES_MAX
"""Different pairs of verdict and label, in whatever form they are written."""


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
        with database.tables(results=source):
            counted = database.rows(
                f"SELECT {verdict}, CAST({label} AS VARCHAR), count(*) FROM results "
                f"WHERE {verdict} IS NOT NULL AND {label} IS NOT NULL GROUP BY 1, 2 "
                f"LIMIT {_PAIRS_MAX + 1}",
                judge.key,
            )
        if field.kind == "boolean":
            counted = [(bool(value), given, rows) for value, given, rows in counted]
        for name, metric in zip(
            judge.metric_names, agreement_metrics(field.kind, counted, judge.key), strict=True
        ):
            found[name] = Measured(metric, metric.n)
    return found
