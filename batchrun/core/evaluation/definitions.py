"""The scores and metrics of a config: ``[scores]`` and ``[metrics]``, read and checked.

What is SQL is checked later, by the one who runs it (``adapters/scoring``); here it is text.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from batchrun.core.evaluation import judges as judging
from batchrun.core.evaluation import rules
from batchrun.core.evaluation.judges import JUDGE, Judge
from batchrun.core.evaluation.rules import Gates
from batchrun.core.text.legible import json_of
from batchrun.errors import UsageError

WRONG, SKIP = "wrong", "skip"
ERRORS = (WRONG, SKIP)
TIMEOUT_S = 300.0
COUNT_MAX = 200
"""Scores, and metrics, that a run may have."""
FUNCTIONS_VERSION = 1
"""What the functions of batchrun compute. A change of that computes recorded scores again."""
NONE: Mapping[str, Any] = {}
FIGURES = ("cost_usd", "error_rate", "coverage")
"""Figures that a gate may name besides metrics."""

_NAME = re.compile(r"[^\W\d][\w-]{0,63}")
_OWN = ("row", "custom_id")
_SCORE_KEYS = ("sql", "python", "errors", "timeout_s")
_METRIC_KEYS = ("value", "by", "cluster")
_PYTHON = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")


@dataclass(frozen=True, slots=True)
class Score:
    """One value per row: an SQL expression, or a Python function as ``FILE.py:FUNCTION``.

    ``errors`` is whether a failed row counts as false or 0 (``wrong``) or has no score (``skip``).
    ``timeout_s`` is what a Python function may take for one part.
    """

    name: str
    sql: str | None = None
    python: str | None = None
    errors: Literal["wrong", "skip"] = "wrong"
    timeout_s: float = TIMEOUT_S

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"scores.{self.name}"

    def digest(self, source: str = "") -> str:
        """By what a score is known again: all that decides about its values. ``source`` is the
        digest of the Python file.
        """
        known = [FUNCTIONS_VERSION, self.sql, self.python and [self.python, source], self.errors]
        return sha256(json_of(known).encode()).hexdigest()

    def public(self) -> Any:
        """As a config has it, with nothing that is the default."""
        if self.python is None and self.errors == WRONG:
            return self.sql
        found: dict[str, Any] = {"sql": self.sql} if self.python is None else {}
        if self.python is not None:
            found["python"] = self.python
            if self.timeout_s != TIMEOUT_S:
                found["timeout_s"] = self.timeout_s
        return found if self.errors == WRONG else found | {"errors": self.errors}


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One figure of a run: an SQL aggregate, perhaps for every value of ``by``, over rows of which
    those with the same ``cluster`` belong together.
    """

    name: str
    value: str
    by: str | None = None
    cluster: str | None = None

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"metrics.{self.name}"

    def public(self) -> Any:
        """As a config has it."""
        more = {"by": self.by, "cluster": self.cluster}
        given = {name: value for name, value in more.items() if value is not None}
        return {"value": self.value, **given} if given else self.value


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run is measured by. ``gates_given`` is the table ``[gates]`` as the config has it."""

    scores: tuple[Score, ...] = ()
    metrics: tuple[Aggregate, ...] = ()
    gates: Gates = field(default_factory=Gates)
    gates_given: Mapping[str, Any] = field(default_factory=dict)
    judges: tuple[Judge, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to compute or to judge."""
        return bool(self.scores or self.metrics or self.gates_given or self.judges)

    def without_judges(self) -> Evaluation:
        """The same without judges: the scores that name no verdict of theirs. The metrics and gates
        of a run with judges are about both.
        """
        if not self.judges:
            return self
        verdicts = [f'"{judge.name}.'.casefold() for judge in self.judges]
        plain = (
            score
            for score in self.scores
            if not any(verdict in (score.sql or "").casefold() for verdict in verdicts)
        )
        return Evaluation(tuple(plain))

    @property
    def needs_sql(self) -> bool:
        """Whether DuckDB has to be there."""
        labelled = any(judge.agreement is not None for judge in self.judges)
        return bool(self.scores or self.metrics) or labelled

    @property
    def python(self) -> tuple[Score, ...]:
        """The scores that run Python."""
        return tuple(score for score in self.scores if score.python is not None)

    def public(self) -> dict[str, Any]:
        """As a config has it, for ``settings`` of ``summary.json``; only what is there."""
        found: dict[str, Any] = {
            "scores": {score.name: score.public() for score in self.scores},
            "metrics": {metric.name: metric.public() for metric in self.metrics},
            "gates": dict(self.gates_given),
            JUDGE: {judge.name: judge.public() for judge in self.judges},
        }
        return {name: table for name, table in found.items() if table}


def evaluation(scores: object, metrics: object, gates: object, judges: object = NONE) -> Evaluation:
    """The four tables, checked as far as this can be done without the data.

    Raises ``UsageError`` naming the key.
    """
    found = Evaluation(
        _scores(scores),
        _metrics(metrics),
        rules.gates(gates),
        dict(_table(gates, "gates")),
        judging.judges(judges),
    )
    _require_known(found)
    return found


def of_recorded(settings: Mapping[str, Any]) -> Evaluation:
    """What ``summary.json`` recorded with the settings. Raises ``UsageError`` where it is not such
    a record.
    """
    names = ("scores", "metrics", "gates", JUDGE)
    return evaluation(*(settings.get(name) or {} for name in names))


def judges_of_recorded(settings: Mapping[str, Any]) -> tuple[Judge, ...]:
    """The judges that ``summary.json`` recorded with the settings. Raises ``UsageError``."""
    return judging.judges(settings.get(JUDGE) or {})


def _table(given: object, name: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        message = f"{name} is {given!r}; expected a table"
        raise UsageError(message)
    return given


def _scores(given: object) -> tuple[Score, ...]:
    table = _table(given, "scores")
    _require_names("scores", table, _OWN)
    return tuple(_score(name, one) for name, one in table.items())


def _score(name: str, given: object) -> Score:
    key = f"scores.{name}"
    table = {"sql": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping):
        message = f'{key} is {given!r}; expected SQL such as "exact(content, expected)", or a table'
        raise UsageError(message)
    rules.require_keys(key, table, _SCORE_KEYS)
    sql, python = table.get("sql"), table.get("python")
    if (sql is None) == (python is None):
        message = f"{key} needs either `sql` or `python`"
        raise UsageError(message)
    _require_text(f"{key}.sql" if isinstance(given, Mapping) else key, sql)
    _require_text(f"{key}.python", python)
    if python is not None and not _PYTHON.fullmatch(python):
        message = f'{key}.python is {python!r}; expected a file and a function: "scorers.py:chrf"'
        raise UsageError(message)
    errors = table.get("errors", WRONG)
    if errors not in ERRORS:
        message = f"{key}.errors is {errors!r}; expected 'wrong' or 'skip'"
        raise UsageError(message)
    timeout = table.get("timeout_s", TIMEOUT_S)
    if python is None and "timeout_s" in table:
        message = f"{key}.timeout_s is for Python scorers; SQL has no time limit"
        raise UsageError(message)
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not math.isfinite(timeout) or timeout <= 0:
        message = f"{key}.timeout_s is {timeout!r}; expected seconds, more than 0"
        raise UsageError(message)
    return Score(name, sql, python, errors, float(timeout))


def python_parts(python: str) -> tuple[str, str]:
    """The file and the function of a Python scorer."""
    found = _PYTHON.fullmatch(python)
    if found is None:
        raise ValueError(python)
    return found["file"], found["function"]


def _metrics(given: object) -> tuple[Aggregate, ...]:
    table = _table(given, "metrics")
    _require_names("metrics", table, (*FIGURES, rules.COMPARE))
    return tuple(_metric(name, one) for name, one in table.items())


def _metric(name: str, given: object) -> Aggregate:
    key = f"metrics.{name}"
    table = {"value": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping):
        message = f'{key} is {given!r}; expected SQL such as "avg(correct)", or a table'
        raise UsageError(message)
    rules.require_keys(key, table, _METRIC_KEYS)
    if table.get("value") is None:
        message = f'{key} has no value; expected SQL such as value = "avg(correct)"'
        raise UsageError(message)
    for part in _METRIC_KEYS:
        named = f"{key}.{part}" if isinstance(given, Mapping) else key
        _require_text(named, table.get(part))
    return Aggregate(name, table["value"], table.get("by"), table.get("cluster"))


def _require_text(key: str, given: object) -> None:
    if given is not None and (not isinstance(given, str) or not given.strip()):
        message = f"{key} is {given!r}; expected text"
        raise UsageError(message)


def _require_names(section: str, table: Mapping[str, Any], taken: Collection[str]) -> None:
    """Names are columns and keys: plain words, apart from each other whatever their case."""
    if len(table) > COUNT_MAX:
        message = f"[{section}] has {len(table)} entries; at most {COUNT_MAX} are allowed"
        raise UsageError(message)
    seen: dict[str, str] = {}
    for name in table:
        if not _NAME.fullmatch(name):
            message = (
                f"{section}.{name}: a name has letters, digits, _ and -, begins with a letter or "
                "_, and has at most 64 of them"
            )
            raise UsageError(message)
        if name.casefold() in taken:
            message = f"{section}.{name}: this name has a meaning of its own; choose another"
            raise UsageError(message)
        if name.casefold() in seen:
            message = f"{section}.{name} and {section}.{seen[name.casefold()]} differ only in case"
            raise UsageError(message)
        seen[name.casefold()] = name


_PATHS = re.compile(
    r"rows\.(?:input|ok|error|pending|reused)|outputs\.(?:truncated|empty)|wall_s"
    r"|totals\.(?:attempts|(?:prompt|completion|total|cached|cache_write|reasoning)_tokens"
    r"|(?:unanswered|unpriced)_attempts|cost_usd|wasted_cost_usd)"
    r"|totals\.cost_usd_with_judges"
    r"|budget\.(?:charged|held)_(?:usd|tokens)|errors\.[a-z_]+"
    r"|endpoints\..+\.(?:rows_ok|rows_error|attempts|unanswered_attempts|[a-z_]+_tokens)"
)
"""Numbers of ``summary.json`` that a gate may name."""


def _require_known(found: Evaluation) -> None:
    """Every gate names a figure that there is. Raises ``UsageError``."""
    metrics = [metric.name for metric in found.metrics]
    of_judges = [name for judge in found.judges for name in judge.metric_names]
    grouped = {metric.name for metric in found.metrics if metric.by is not None}
    for level in found.gates.levels:
        if level.name == "coverage" and not (found.scores or found.judges):
            message = (
                "gates.coverage needs [scores] or [judge.NAME]: it is the share of rows with a "
                "score"
            )
            raise UsageError(message)
        if level.name in of_judges or _is_of_judge(level.name, found):
            continue
        if level.name in metrics or level.name in FIGURES or _PATHS.fullmatch(level.name):
            continue
        metric, _, group = level.name.partition(".")
        if group and metric in grouped:
            continue
        raise _unknown(f"gates.{level.name}", [*metrics, *of_judges, *FIGURES])
    for difference in found.gates.differences:
        if difference.name not in metrics:
            raise _unknown(f"gates.compare.{difference.name}", metrics)


def _is_of_judge(name: str, found: Evaluation) -> bool:
    """Whether it is a number that the summary has of a judge."""
    folder, _, rest = name.partition(".")
    judge, _, count = rest.rpartition(".")
    known = (*judging.COUNTS, "attempts", "cost_usd", "wasted_cost_usd")
    return (
        folder == judging.JUDGES and count in known and judge in [one.name for one in found.judges]
    )


def _unknown(key: str, known: Collection[str]) -> UsageError:
    name = key.rpartition(".")[2]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
    return UsageError(
        f"{key}: no metric or figure has this name; {hint} (or a number of summary.json, such as "
        "totals.cost_usd)"
    )
