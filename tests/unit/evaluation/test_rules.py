"""The rules of gates, as a config writes them."""

import functools
import operator
import tomllib

import pytest

from batchrun.core.evaluation.rules import (
    DifferenceRule,
    Gates,
    LevelRule,
    gates,
    level_rule,
    order,
)
from batchrun.errors import UsageError


def read(text):
    """The gates of a config file."""
    return gates(tomllib.loads(text)["gates"])


def test_every_form_of_a_rule():
    """Texts, tables, paths with and without quotes, and differences from a baseline."""
    found = read(
        """
        [gates]
        accuracy = ">= 0.80"
        cost_usd = "<=5"
        error_rate = { rule = "< 1e-2", severity = "warn" }
        "totals.attempts" = { rule = "== 100", on_inconclusive = "pass" }
        rows.error = "> -1"
        scores.rule.scored = ">= 10"
        [gates.compare]
        baseline = "last/night"
        accuracy = { not_worse_by = 0.01, on_inconclusive = "fail" }
        latency = { not_worse_by = 2, better = "lower", severity = "warn" }
        """
    )
    assert found == Gates(
        (
            LevelRule("accuracy", ">=", 0.8, written=">= 0.80"),
            LevelRule("cost_usd", "<=", 5.0, written="<=5"),
            LevelRule("error_rate", "<", 0.01, severity="warn", written="< 1e-2"),
            LevelRule("totals.attempts", "==", 100, "fail", "pass", "== 100"),
            LevelRule("rows.error", ">", -1.0, written="> -1"),
            LevelRule("scores.rule.scored", ">=", 10.0, written=">= 10"),
        ),
        (
            DifferenceRule("accuracy", 0.01, on_inconclusive="fail"),
            DifferenceRule("latency", 2.0, "lower", "warn"),
        ),
        "last/night",
    )
    assert [rule.text for rule in found.levels[:2]] == [">= 0.80", "<=5"]
    assert [rule.text for rule in found.differences] == [
        "not_worse_by 0.01",
        "not_worse_by 2, better = lower",
    ]
    assert [rule.gate for rule in found.differences] == ["compare.accuracy", "compare.latency"]


def test_no_gates():
    """An empty table is no mistake."""
    assert read("[gates]") == Gates()
    assert read("[gates.compare]\nbaseline = 'b'") == Gates(baseline="b")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('accuracy = "=> 0.8"', "gates.accuracy is '=> 0.8'; expected a comparison"),
        ('accuracy = "0.8"', "gates.accuracy is '0.8'"),
        ('accuracy = ">="', "gates.accuracy is '>='"),
        ('accuracy = ""', "gates.accuracy is ''"),
        ('accuracy = ">= 80%"', "gates.accuracy is '>= 80%'"),
        ('accuracy = ">= nan"', "gates.accuracy is '>= nan'"),
        ('accuracy = ">= inf"', "gates.accuracy is '>= inf'"),
        ('accuracy = ">= 1_000"', "gates.accuracy is '>= 1_000'"),
        ('accuracy = ">= 0.8 <= 0.9"', "gates.accuracy is '>= 0.8 <= 0.9'"),
        ("accuracy = 0.8", "gates.accuracy is 0.8; expected a comparison"),
        ("accuracy = true", "gates.accuracy is True"),
        ("accuracy = {}", "gates.accuracy has no rule"),
        ('accuracy = { severity = "warn" }', "gates.accuracy has no rule"),
        ("accuracy = { rule = 0.8 }", "gates.accuracy.rule is 0.8"),
        ('accuracy = { rule = "> 0", severty = "warn" }', "did you mean severity"),
        ('accuracy = { rule = "> 0", colour = "red" }', "unknown key gates.accuracy.colour"),
        ('accuracy = { rule = "> 0", severity = "error" }', "severity is 'error'; expected 'fail'"),
        ('accuracy = { rule = "> 0", on_inconclusive = true }', "on_inconclusive is True"),
        ("totals.cost_usd = 5", "gates.totals.cost_usd is 5"),
        ("compare = 5", "gates.compare is 5"),
        ("compare.baseline = 5", "gates.compare.baseline is 5"),
        ('compare.baseline = ""', "gates.compare.baseline is ''"),
        ('compare.accuracy = ">= 0"', "gates.compare.accuracy is '>= 0'"),
        ("compare.accuracy = 0.01", "expected a table such as { not_worse_by = 0.01 }"),
        ('compare.accuracy = { better = "lower" }', "gates.compare.accuracy has no not_worse_by"),
        ("compare.accuracy = { not_worse_by = -0.01 }", "not_worse_by is -0.01"),
        ("compare.accuracy = { not_worse_by = true }", "not_worse_by is True"),
        ("compare.accuracy = { not_worse_by = nan }", "not_worse_by is nan"),
        ('compare.accuracy = { not_worse_by = "1%" }', "not_worse_by is '1%'"),
        ("compare.a = { not_worse_by = 0, bettr = 1 }", "did you mean better"),
        ('compare.a = { not_worse_by = 0, better = "up" }', "better is 'up'; expected 'higher'"),
    ],
)
def test_what_is_no_rule(text, named):
    """The message names the key and its value, and says what is expected."""
    with pytest.raises(UsageError) as raised:
        read(f"[gates]\n{text}")
    assert named in str(raised.value)


def test_gates_are_a_table():
    """Whatever else a program passes."""
    with pytest.raises(UsageError, match="gates is 'accuracy'"):
        gates("accuracy")


@pytest.mark.parametrize(
    ("rule", "below", "at", "above"),
    [
        (">= 0.8", False, True, True),
        ("<= 0.8", True, True, False),
        ("> 0.8", False, False, True),
        ("< 0.8", True, False, False),
        ("== 0.8", False, True, False),
    ],
)
def test_what_holds(rule, below, at, above):
    """The mean of ten times 0.8 is 0.8, whatever the last bit of it says."""
    level = level_rule("accuracy", rule)
    mean = functools.reduce(operator.add, [0.8] * 10) / 10  # from Python 3.12 on, sum() is exact
    assert mean != 0.8  # noqa: PLR2004, RUF100
    assert [level.holds(v) for v in (0.79, 0.8, mean, 0.81)] == [below, at, at, above]


def test_a_picodollar_is_no_rounding():
    """Only what is small beside the figures themselves counts as equal."""
    assert order(1e-12, 0.0) == 1
    assert order(-1e-12, 0.0) == -1
