"""The rules of gates, read from the tables ``[gates]`` and ``[gates.compare]`` of a config.

A level rule compares a figure of one run with a threshold; a difference rule limits how much worse
a run may be than its baseline.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from batchrun.errors import UsageError

Severity = Literal["fail", "warn"]
OnInconclusive = Literal["fail", "warn", "pass"]
Better = Literal["higher", "lower"]

SEVERITIES: tuple[Severity, ...] = ("fail", "warn")
ON_INCONCLUSIVE: tuple[OnInconclusive, ...] = ("fail", "warn", "pass")
BETTER: tuple[Better, ...] = ("higher", "lower")

OPERATORS: Mapping[str, Callable[[int], bool]] = {
    ">=": lambda order: order >= 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    "<": lambda order: order < 0,
    "==": lambda order: order == 0,
}
"""Whether a comparison holds, from the order of value and threshold (see ``order``)."""

COMPARE, BASELINE = "compare", "baseline"
_RULE_KEYS = ("rule", "severity", "on_inconclusive")
_DIFFERENCE_KEYS = ("not_worse_by", "on_inconclusive", "better", "severity")
_RULE = re.compile(r"\s*([<>=!]*)\s*(\S.*?)\s*")
_EXPECTED_RULE = 'a comparison with a number, such as ">= 0.80"; it may be >=, <=, >, < or =='
_EXPECTED_DIFFERENCE = "a table such as { not_worse_by = 0.01 }"
_ROUNDING = 1e-12
_Word = TypeVar("_Word", bound=str)


@dataclass(frozen=True, slots=True)
class LevelRule:
    """What a figure of a run must be. ``name`` is the metric, or the path of the figure in
    ``summary.json``. ``on_inconclusive`` is None where the config leaves it open.
    """

    name: str
    operator: str
    threshold: float
    severity: Severity = "fail"
    on_inconclusive: OnInconclusive | None = None
    written: str = ""

    @property
    def gate(self) -> str:
        """The name of the gate."""
        return self.name

    @property
    def text(self) -> str:
        """The rule as the config has it."""
        return self.written or f"{self.operator} {self.threshold:g}"

    def holds(self, value: float) -> bool:
        """Whether the value keeps the rule; a difference of 1e-12 of it counts as rounding."""
        return OPERATORS[self.operator](order(value, self.threshold))


@dataclass(frozen=True, slots=True)
class DifferenceRule:
    """How much worse than its baseline a metric may be."""

    name: str
    not_worse_by: float
    better: Better = "higher"
    severity: Severity = "fail"
    on_inconclusive: OnInconclusive | None = None

    @property
    def gate(self) -> str:
        """The name of the gate."""
        return f"{COMPARE}.{self.name}"

    @property
    def text(self) -> str:
        """The rule in a line."""
        lower = ", better = lower" if self.better == "lower" else ""
        return f"not_worse_by {self.not_worse_by:.12g}{lower}"


Rule = LevelRule | DifferenceRule


@dataclass(frozen=True, slots=True)
class Gates:
    """All gates of a config. ``baseline`` is the path that it names, if it names one."""

    levels: tuple[LevelRule, ...] = ()
    differences: tuple[DifferenceRule, ...] = ()
    baseline: str | None = None


def order(value: float, threshold: float) -> int:
    """-1, 0 or 1 for a value below, at or above a threshold. What differs by less than 1e-12 of
    either is equal: averages of ten times 0.8 are 0.7999999999999999.
    """
    if math.isclose(value, threshold, rel_tol=_ROUNDING):
        return 0
    return -1 if value < threshold else 1


def gates(table: object) -> Gates:
    """The gates of the table ``[gates]``. Raises ``UsageError`` naming the key and its value."""
    if not isinstance(table, Mapping):
        message = f'gates is {table!r}; expected a table of rules, such as accuracy = ">= 0.80"'
        raise UsageError(message)
    compared = table.get(COMPARE, {})
    if not isinstance(compared, Mapping):
        message = f"gates.compare is {compared!r}; expected a table with a baseline and rules"
        raise UsageError(message)
    baseline = compared.get(BASELINE)
    if baseline is not None and (not isinstance(baseline, str) or not baseline):
        message = f"gates.compare.baseline is {baseline!r}; expected a run directory"
        raise UsageError(message)
    own = {key: value for key, value in table.items() if key != COMPARE}
    return Gates(
        tuple(level_rule(name, given) for name, given in _levels(own, "")),
        tuple(difference_rule(n, given) for n, given in compared.items() if n != BASELINE),
        baseline,
    )


def _levels(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, object]]:
    """Each rule with its name. TOML reads ``totals.cost_usd = ...`` as a table in a table."""
    for key, given in table.items():
        is_path = isinstance(given, Mapping) and not any(
            name in given and not isinstance(given[name], Mapping) for name in _RULE_KEYS
        )
        if is_path and given:
            yield from _levels(cast("Mapping[str, Any]", given), f"{path}{key}.")
        else:
            yield f"{path}{key}", given


def level_rule(name: str, given: object) -> LevelRule:
    """The rule that the key ``name`` of ``[gates]`` holds: a text, or a table with ``rule``.

    Raises ``UsageError`` naming the key and its value.
    """
    key = f"gates.{name}"
    table = given if isinstance(given, Mapping) else {"rule": given}
    require_keys(key, table, _RULE_KEYS)
    if "rule" not in table:
        message = f"{key} has no rule; expected {_EXPECTED_RULE}"
        raise UsageError(message)
    written = table["rule"]
    operator, threshold = _comparison(f"{key}.rule" if table is given else key, written)
    return LevelRule(
        name,
        operator,
        threshold,
        _choice(f"{key}.severity", table.get("severity", "fail"), SEVERITIES),
        _on_inconclusive(key, table),
        " ".join(str(written).split()),
    )


def difference_rule(name: str, given: object) -> DifferenceRule:
    """The rule that the key ``name`` of ``[gates.compare]`` holds.

    Raises ``UsageError`` naming the key and its value.
    """
    key = f"gates.compare.{name}"
    if not isinstance(given, Mapping):
        message = f"{key} is {given!r}; expected {_EXPECTED_DIFFERENCE}"
        raise UsageError(message)
    require_keys(key, given, _DIFFERENCE_KEYS)
    if "not_worse_by" not in given:
        message = f"{key} has no not_worse_by; expected {_EXPECTED_DIFFERENCE}"
        raise UsageError(message)
    margin = given["not_worse_by"]
    is_number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if not is_number or not math.isfinite(margin) or margin < 0:
        message = (
            f"{key}.not_worse_by is {margin!r}; expected how much worse the metric may be, a "
            "number of at least 0"
        )
        raise UsageError(message)
    return DifferenceRule(
        name,
        float(margin),
        _choice(f"{key}.better", given.get("better", "higher"), BETTER),
        _choice(f"{key}.severity", given.get("severity", "fail"), SEVERITIES),
        _on_inconclusive(key, given),
    )


def _comparison(key: str, given: object) -> tuple[str, float]:
    found = _RULE.fullmatch(given) if isinstance(given, str) else None
    operator, number = found.groups() if found is not None else ("", "")
    try:
        threshold = float(number) if "_" not in number else math.nan
    except ValueError:
        threshold = math.nan
    if operator not in OPERATORS or not math.isfinite(threshold):
        message = f"{key} is {given!r}; expected {_EXPECTED_RULE}"
        raise UsageError(message)
    return operator, threshold


def _on_inconclusive(key: str, table: Mapping[str, Any]) -> OnInconclusive | None:
    if "on_inconclusive" not in table:
        return None
    return _choice(f"{key}.on_inconclusive", table["on_inconclusive"], ON_INCONCLUSIVE)


def _choice(key: str, given: object, choices: Collection[_Word]) -> _Word:
    for choice in choices:
        if given == choice:
            return choice
    message = f"{key} is {given!r}; expected {' or '.join(repr(c) for c in choices)}"
    raise UsageError(message)


def require_keys(key: str, table: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises ``UsageError`` naming the first key of a table that is none of these."""
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            message = f"unknown key {key}.{name}{meant}"
            raise UsageError(message)
