"""Which scores and metrics two runs can be compared by, and how SQL reads them.

Recorded scores are used if both runs recorded them by the same definition. If not, an SQL score is
computed again over both: comparing by two definitions means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from batchrun.adapters.scoring import plan as planning
from batchrun.adapters.scoring.database import Database, quoted
from batchrun.adapters.scoring.parser import Kind
from batchrun.adapters.scoring.plan import Plan, PlannedMetric
from batchrun.core.evaluation.definitions import Aggregate, Evaluation, Score
from batchrun.errors import UsageError
from batchrun.rundir.comparison.side import Side


@dataclass(frozen=True, slots=True)
class Reading:
    """How one run is read: ``recorded`` scores from its files, the ``computed`` ones from its
    results, and the metrics over both.
    """

    side: Side
    recorded: tuple[str, ...]
    computed: Plan
    metrics: tuple[PlannedMetric, ...]
    verdicts: tuple[str, ...] = ()
    """Columns of the judges that both runs share: read, but not compared as scores."""

    @property
    def from_scores(self) -> tuple[str, ...]:
        """The columns that are read from the parts of the scores."""
        return (*self.recorded, *self.verdicts)

    @property
    def score_names(self) -> tuple[str, ...]:
        """All scores, in the order of the columns."""
        return (*self.recorded, *(one.score.name for one in self.computed.scores))

    def columns(self, *more: str) -> list[str]:
        """The columns of the results that are read."""
        used = {*planning.KEYS, *more}
        for score in self.computed.scores:
            used.update(score.columns)
        for metric in self.metrics:
            used.update(metric.columns)
        return planning.in_order(self.side.schema, used)

    def scored(self) -> str:
        """The rows with their scores as numbers, as a table expression."""
        if not self.computed.scores:
            return "results"
        computed = [
            f"CAST({planning.score_sql(one.score, is_boolean=bool(one.is_boolean))} AS DOUBLE) "
            f"AS {quoted(one.score.name)}"
            for one in self.computed.scores
        ]
        # Failed rows score what the definition says, whatever the expression makes of them.
        replaced = [
            f"CASE WHEN status = 'error' THEN {'NULL' if one.score.errors == 'skip' else '0.0'} "
            f"WHEN isfinite({quoted(one.score.name)}) THEN {quoted(one.score.name)} END "
            f"AS {quoted(one.score.name)}"
            for one in self.computed.scores
        ]
        return (
            f"(SELECT * REPLACE ({', '.join(replaced)}) FROM "
            f"(SELECT *, {', '.join(computed)} FROM results)) AS results"
        )


@dataclass(frozen=True, slots=True)
class Measures:
    """What both runs are compared by. ``left_out`` says of a score or metric, by its key
    (``scores.NAME``), why it is not compared.
    """

    a: Reading
    b: Reading
    scores: tuple[str, ...]
    metrics: tuple[str, ...]
    skipped: frozenset[str] = frozenset()
    """Scores that leave failed rows out."""
    left_out: dict[str, str] = field(default_factory=dict)

    def metric(self, name: str) -> tuple[PlannedMetric, PlannedMetric]:
        """A metric as each of the runs has it."""
        return next(one for one in self.a.metrics if one.metric.name == name), next(
            one for one in self.b.metrics if one.metric.name == name
        )


def measures(database: Database, a: Side, b: Side, evaluation: Evaluation) -> Measures:
    """Choose them. Raises ``UsageError`` for SQL that does not work on the judged run."""
    left_out: dict[str, str] = {}
    recorded: list[str] = []
    computed: list[Score] = []
    shared, foreign = _verdicts(a, b)
    for score in evaluation.scores:
        judge = _foreign(database, score.sql, score.key, "score", foreign)
        if judge is not None:
            left_out[score.key] = _judge_reason(score.key, judge, a, b)
            continue
        digests = [side.score_digests.get(score.name) for side in (a, b)]
        wanted = digests[1] if score.python is not None else score.digest()
        if wanted is not None and digests == [wanted, wanted]:
            recorded.append(score.name)
        elif score.sql is not None:
            computed.append(score)
        else:
            left_out[score.key] = _python_reason(score, digests)
    readings = [
        Reading(side, tuple(recorded), Plan(evaluation, _with(side, recorded, shared)), (), shared)
        for side in (a, b)
    ]
    for score in computed:
        found = _planned(
            database, readings, replace(evaluation, scores=(score,), metrics=()), score.key
        )
        if isinstance(found, str):
            left_out[score.key] = found
            continue
        readings = [
            replace(
                one, computed=replace(one.computed, scores=(*one.computed.scores, *plan.scores))
            )
            for one, plan in zip(readings, found, strict=True)
        ]
    gone = [key.partition(".")[2] for key in left_out]
    usable = tuple(one.score for one in readings[1].computed.scores)
    for metric in evaluation.metrics:
        named = next((name for name in gone if _mentions(metric, name)), None)
        if named is not None:
            left_out[metric.key] = left_out[f"scores.{named}"]
            continue
        judge = _foreign(database, metric.value, metric.key, "metric", foreign)
        if judge is not None:
            left_out[metric.key] = _judge_reason(metric.key, judge, a, b)
            continue
        alone = replace(evaluation, scores=usable, metrics=(metric,))
        found = _planned(database, readings, alone, metric.key)
        if isinstance(found, str):
            left_out[metric.key] = found
            continue
        readings = [
            replace(one, metrics=(*one.metrics, *(_on_columns(m, one) for m in plan.metrics)))
            for one, plan in zip(readings, found, strict=True)
        ]
    first, second = readings
    return Measures(
        first,
        second,
        second.score_names,
        tuple(one.metric.name for one in second.metrics),
        frozenset(score.name for score in evaluation.scores if score.errors == "skip"),
        left_out,
    )


def _mentions(metric: Aggregate, score: str) -> bool:
    """Whether the SQL of a metric names a score."""
    word = re.compile(rf"(?<![\w-]){re.escape(score)}(?![\w-])", re.IGNORECASE)
    return any(word.search(text or "") for text in (metric.value, metric.by, metric.cluster))


def _with(side: Side, recorded: Sequence[str], verdicts: Sequence[str]) -> pa.Schema:
    """The columns of a run, its recorded scores and the verdicts of its judges among them."""
    schema = side.schema
    for name in recorded:
        schema = schema.append(pa.field(name, pa.float64()))
    for name in verdicts:
        schema = schema.append(side.verdicts[name])
    return schema


def _verdicts(a: Side, b: Side) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The columns of the judges that both runs share; and, by lower-case name, the judge of each
    other column: it was asked differently, or exists in only one of the runs.
    """
    of_a, of_b = a.verdicts, b.verdicts
    shared, foreign = [], {}
    for name, kind in {**of_a, **of_b}.items():
        judge = name.partition(".")[0]
        same = a.judges.get(judge) == b.judges.get(judge)
        if same and of_a.get(name) == of_b.get(name) == kind:
            shared.append(name)
        else:
            foreign[name.lower()] = judge
    return tuple(shared), foreign


def _foreign(
    database: Database, text: str | None, key: str, kind: Kind, foreign: Mapping[str, str]
) -> str | None:
    """A judge that the runs do not share, if the SQL names its verdicts."""
    if text is None or not foreign:
        return None
    columns = database.expression(text, key, kind).columns
    return next((judge for name, judge in foreign.items() if name in columns), None)


def _judge_reason(key: str, judge: str, a: Side, b: Side) -> str:
    without = next((side for side in (a, b) if judge not in side.judges), None)
    if without is not None:
        return f"{key} needs the verdicts of the judge {judge}, and {without.shown} has none"
    return (
        f"{key} cannot be compared: the judge {judge} was asked otherwise in {a.shown} than in "
        f"{b.shown} (another model, prompt, schema or other parameters)"
    )


def _on_columns(metric: PlannedMetric, reading: Reading) -> PlannedMetric:
    """A metric whose recorded scores are named as scores, not as columns of the results."""
    numbers = [n for n in reading.verdicts if not pa.types.is_string(reading.side.verdicts[n].type)]
    own = {*reading.recorded, *numbers}
    columns = tuple(name for name in metric.columns if name not in own)
    scores = (*metric.scores, *(name for name in metric.columns if name in own))
    return replace(metric, columns=columns, scores=scores)


def _planned(
    database: Database, readings: Sequence[Reading], evaluation: Evaluation, key: str
) -> list[Plan] | str:
    """The plans for both runs, or why the first run has none. Raises ``UsageError`` if the second
    has none.
    """
    plans = list(_plans(database, readings[1:], evaluation))
    try:
        return [*_plans(database, readings[:1], evaluation), *plans]
    except UsageError as error:
        why = str(error).removeprefix(f"{key}: ")
        return f"{key} cannot be computed for {readings[0].side.shown}: {why}"


def _plans(
    database: Database, readings: Sequence[Reading], evaluation: Evaluation
) -> Iterator[Plan]:
    for reading in readings:
        yield planning.make(database, evaluation, reading.computed.schema)


def _python_reason(score: Score, digests: Sequence[str | None]) -> str:
    if None in digests:
        return (
            f"{score.key} is a Python scorer, and not both runs have its values: "
            "`batchrun score DIR -c FILE` computes them"
        )
    return (
        f"{score.key} was computed by different versions of its Python scorer: "
        "`batchrun score DIR -c FILE` computes it again for either run"
    )
