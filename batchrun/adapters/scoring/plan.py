"""The scores and metrics to compute over a run, checked against the columns of its results.

Errors that can be known before the first request are found here: broken SQL, a column or function
that does not exist, a score that is neither boolean nor a number, a missing Python file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.scoring import of_repeats, parser
from batchrun.adapters.scoring.database import Database, Table, quoted
from batchrun.adapters.scoring.parser import Parsed
from batchrun.core.evaluation.definitions import Aggregate, Evaluation, Score, python_parts
from batchrun.core.evaluation.judges import Asked, Judge, column_of
from batchrun.core.schema.fields import Kind
from batchrun.errors import UsageError

RESULTS = "results"
STATUS = "status"
KEYS = ("row", "custom_id", STATUS)
"""Columns that are always read."""
_NUMBERS = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER"),
    *("UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "BIGNUM", "VARINT", '"NULL"', "NULL"),
    *("INTEGER_LITERAL", "DECIMAL"),
)
BOOLEAN = "BOOLEAN"
_OF_KINDS: Mapping[Kind, pa.DataType] = {
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "text": pa.string(),
}
"""The columns of verdicts, by the kind of their fields."""


@dataclass(frozen=True, slots=True)
class PlannedScore:
    """A score that can be computed. ``is_boolean`` is not known for Python before it has run."""

    score: Score
    digest: str
    columns: tuple[str, ...] = ()
    is_boolean: bool | None = None


@dataclass(frozen=True, slots=True)
class PlannedJudge:
    """A judge whose verdicts can be read."""

    judge: Judge
    asked: Asked

    @property
    def fields(self) -> list[pa.Field]:
        """The columns of its verdicts."""
        return [
            pa.field(column_of(self.judge.name, field.name), _OF_KINDS[field.kind])
            for field in self.asked.fields
        ]


@dataclass(frozen=True, slots=True)
class PlannedMetric:
    """A metric that can be computed: the columns and scores that it reads (including numeric
    verdicts of judges), the ``texts`` of judges, and the SQL of ``by`` and ``cluster``.
    """

    metric: Aggregate
    parsed: Parsed
    columns: tuple[str, ...]
    scores: tuple[str, ...]
    by: str | None = None
    cluster: str | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it, for results of this schema."""

    evaluation: Evaluation
    schema: pa.Schema
    scores: tuple[PlannedScore, ...] = ()
    metrics: tuple[PlannedMetric, ...] = ()
    judges: tuple[PlannedJudge, ...] = ()

    @property
    def verdicts(self) -> list[pa.Field]:
        """The columns of the judges' verdicts."""
        return [field for one in self.judges for field in one.fields]

    @property
    def has_parts(self) -> bool:
        """Whether there is anything to write into ``scores/``."""
        return bool(self.scores or self.judges)

    @property
    def repeat(self) -> int:
        """How many answers belong to a row of the input."""
        return part_schema.repeats_in(self.schema)

    @property
    def sql(self) -> tuple[PlannedScore, ...]:
        """The scores in SQL."""
        return tuple(one for one in self.scores if one.score.sql is not None)

    @property
    def digests(self) -> dict[str, str]:
        """The digest that identifies each score."""
        return {one.score.name: one.digest for one in self.scores}

    def sql_columns(self) -> list[str]:
        """The columns of the results that the scores in SQL read."""
        return in_order(self.schema, {*KEYS, *(name for one in self.sql for name in one.columns)})


def make(
    database: Database,
    evaluation: Evaluation,
    schema: pa.Schema,
    kept: Mapping[str, str] | None = None,
    judges: Sequence[PlannedJudge] = (),
) -> Plan:
    """Check an evaluation against the results' schema. ``kept`` are Python scores that are not run
    again, with the digests that identify them; the verdicts of ``judges`` are columns too. Raises
    ``UsageError`` naming the key.
    """
    taken = {name.casefold(): name for name in schema.names}
    seen = with_verdicts(schema, judges)
    for score in evaluation.scores:
        if score.name.casefold() in taken:
            message = (
                f"{score.key}: the results have a column {taken[score.name.casefold()]!r}; choose "
                "another name"
            )
            raise UsageError(message)
    scores = tuple(_score(database, score, seen, kept or {}) for score in evaluation.scores)
    with_scores = schema
    names: list[str] = []
    texts: list[str] = []
    for field in [field for one in judges for field in one.fields]:
        is_text = pa.types.is_string(field.type)
        (texts if is_text else names).append(field.name)
        with_scores = with_scores.append(field if is_text else field.with_type(pa.float64()))
    for score in evaluation.scores:
        with_scores = with_scores.append(pa.field(score.name, pa.float64()))
    names += [score.name for score in evaluation.scores]
    metrics = tuple(_metric(database, one, with_scores, names, texts) for one in evaluation.metrics)
    return Plan(evaluation, schema, scores, metrics, tuple(judges))


def with_verdicts(schema: pa.Schema, judges: Sequence[PlannedJudge]) -> pa.Schema:
    """The columns of the results and of the verdicts. Raises ``UsageError`` if the results have a
    column with the name of a verdict's.
    """
    taken = {name.casefold(): name for name in schema.names}
    for one in judges:
        for field in one.fields:
            if field.name.casefold() in taken:
                message = (
                    f"{one.judge.key}: the results have a column {taken[field.name.casefold()]!r} "
                    "as the judge would; give the judge another name"
                )
                raise UsageError(message)
            schema = schema.append(field)
    return schema


def score_sql(score: Score, *, is_boolean: bool) -> str:
    """A score as SQL over ``ok`` rows. Failed rows are scored without it: inside a CASE, DuckDB
    computes repeated subexpressions again (five times as long for ``exact(letter(x), y)``).
    """
    return f"(\n{score.sql}\n)" if is_boolean else f"CAST((\n{score.sql}\n) AS DOUBLE)"


def in_order(schema: pa.Schema, names: Iterable[str]) -> list[str]:
    """Column names in the order of the schema."""
    wanted = set(names)
    return [name for name in schema.names if name in wanted]


def _parsed(
    database: Database, text: str, key: str, kind: parser.Kind, schema: pa.Schema
) -> Parsed:
    """Parse an expression; an error points out a name that is a word of SQL."""
    try:
        return database.expression(text, key, kind)
    except UsageError as error:
        words = {word.lower() for word in re.findall(r"\w+", text)}
        names = [name for name in schema.names if name.lower() in words & database.reserved]
        if not names:
            raise
        message = f'{error} ({names[0]} is a word of SQL: as a name, write "{names[0]}" in quotes)'
        raise UsageError(message) from None


def _columns(schema: pa.Schema, parsed: Parsed) -> tuple[str, ...]:
    """The columns that an expression refers to."""
    return tuple(name for name in schema.names if name.lower() in parsed.columns)


def _refuse_unquoted(key: str, parsed: Parsed, schema: pa.Schema) -> None:
    """Raises ``UsageError`` if a field of a judge is named as if the judge were a table."""
    for name in schema.names:
        judge, dot, field = name.lower().partition(".")
        named = {judge, field} <= parsed.columns and name.lower() not in parsed.columns
        if dot and named and judge not in map(str.lower, schema.names):
            message = (
                f"{key}: write {quoted(name)} in double quotes, which is the name of the column: "
                f"{parsed.text}"
            )
            raise UsageError(message)


def _require_columns(key: str, parsed: Parsed, columns: Iterable[str]) -> None:
    """Check that no word of SQL is used as a missing column."""
    own = parsed.columns & parser.OF_NO_COLUMN - {name.lower() for name in columns}
    if own:
        message = f"{key}: the results have no column {min(own)!r}: {parsed.text}"
        raise UsageError(message)


def _empty(schema: pa.Schema, columns: Iterable[str]) -> Table:
    wanted = pa.schema([schema.field(name) for name in in_order(schema, columns)])
    return Table(wanted, lambda: ())


def _score(
    database: Database, score: Score, schema: pa.Schema, kept: Mapping[str, str]
) -> PlannedScore:
    if score.name in kept:
        return PlannedScore(score, kept[score.name])
    if score.python is not None:
        return PlannedScore(score, score.digest(_source_digest(score)))
    parsed = _parsed(database, score.sql or "", score.key, "score", schema)
    columns = _columns(schema, parsed)
    _require_columns(score.key, parsed, columns)
    _refuse_unquoted(score.key, parsed, schema)
    with database.tables(results=_empty(schema, {*KEYS, *schema.names})):
        # All columns are included, so that a message can name the nearest.
        kind = database.types(f"SELECT (\n{score.sql}\n) AS x FROM results", score.key)[0][1]
    is_boolean = kind == BOOLEAN
    if not is_boolean and kind.partition("(")[0] not in _NUMBERS:
        message = f"{score.key} is {kind}; a score is true or false, or a number: {score.sql}"
        raise UsageError(message)
    with database.tables(results=_empty(schema, {*KEYS, *columns})):
        sql = score_sql(score, is_boolean=is_boolean)
        database.types(f"SELECT {sql} AS x FROM results", score.key)
    return PlannedScore(score, score.digest(), columns, is_boolean)


def _source_digest(score: Score) -> str:
    """The digest of a Python scorer's file. Raises ``UsageError`` if it cannot be read."""
    path, function = python_parts(score.python or "")
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        message = f"{score.key}: cannot read {path}: {error.strerror}"
        raise UsageError(message) from None
    try:
        compiled = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        message = f"{score.key}: {path} is not valid Python: {error}"
        raise UsageError(message) from None
    if function not in compiled.co_names and b"import *" not in source:
        message = f"{score.key}: {path} has no function {function!r}"
        raise UsageError(message)
    return hashlib.sha256(source).hexdigest()


def _metric(
    database: Database,
    metric: Aggregate,
    schema: pa.Schema,
    scores: Sequence[str],
    texts: Sequence[str] = (),
) -> PlannedMetric:
    parsed = _parsed(database, metric.value, metric.key, "metric", schema)
    grouping = {"by": metric.by, "cluster": metric.cluster}
    words: dict[str, str | None] = {}
    used = set(_columns(schema, parsed))
    _require_columns(metric.key, parsed, used)
    _refuse_unquoted(metric.key, parsed, schema)
    for part, text in grouping.items():
        words[part] = None
        if text is None:
            continue
        key = f"{metric.key}.{part}"
        column = next((n for n in schema.names if n.casefold() == text.casefold()), None)
        if column is not None:
            words[part] = quoted(column)
            used.add(column)
            continue
        found = _parsed(database, text, key, "group", schema)
        _require_columns(key, found, _columns(schema, found))
        with database.tables(results=_empty(schema, schema.names)):
            database.types(f"SELECT (\n{text}\n) AS x FROM results", key)
        used |= set(_columns(schema, found))
        words[part] = f"(\n{text}\n)"
    with database.tables(results=_empty(schema, schema.names)):
        if parsed.of_repeats is not None:
            _require_repeats(database, metric, parsed, part_schema.repeats_in(schema))
        else:
            sql = f"SELECT (\n{metric.value}\n) AS x FROM results"
            kind = database.types(sql, metric.key)[0][1]
            if kind.partition("(")[0] not in _NUMBERS:
                message = f"{metric.key} is {kind}; a metric is a number: {metric.value}"
                raise UsageError(message)
    columns = tuple(in_order(schema, used - set(scores) - set(texts)))
    named = tuple(name for name in scores if name in used)
    read = tuple(name for name in texts if name in used)
    return PlannedMetric(metric, parsed, columns, named, words["by"], words["cluster"], read)


def _require_repeats(database: Database, metric: Aggregate, parsed: Parsed, repeat: int) -> None:
    """Check the arguments of an aggregate over the repeats of a row, of which there are ``repeat``.
    Raises ``UsageError``.
    """
    name = parsed.of_repeats
    if name != of_repeats.MAJORITY:
        _require_k(metric, parsed.other, repeat)
    call = of_repeats.row(parsed, of_repeats.answer(parsed, None, scored=True), "FALSE", None)
    statement = f"SELECT {call} AS x, any_value(\n{parsed.mean_of}\n) AS value FROM results"
    if parsed.mean_filter is not None:
        statement += f" WHERE (\n{parsed.mean_filter}\n)"
    kind = database.types(statement, metric.key)[1][1]
    if name == of_repeats.MAJORITY or kind == BOOLEAN or kind.partition("(")[0] in _NUMBERS:
        return
    message = (
        f"{metric.key}: {name} takes a score, or what is true or false, and {parsed.mean_of} is "
        f"{kind}: {metric.value}"
    )
    raise UsageError(message)


def _require_k(metric: Aggregate, k: str, repeat: int) -> None:
    """Check that the number of drawn answers is at most the number that a row has."""
    if not k.isdecimal() or int(k) < 1:
        message = f"{metric.key}: k is a whole number, at least 1: {metric.value}"
        raise UsageError(message)
    if int(k) > repeat:
        answers = "one answer" if repeat == 1 else f"{repeat} answers"
        message = (
            f"{metric.key}: {metric.value} takes {k} answers to each row, and this run has "
            f"{answers}: --repeat K (request.repeat) asks for more"
        )
        raise UsageError(message)
