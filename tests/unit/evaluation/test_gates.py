"""The verdict on a gate, and the exit code that all of them come to."""

import itertools
import math
import random

import pytest

from batchrun.core.evaluation.gates import (
    Verdict,
    exit_code,
    judge,
    judge_difference,
    judge_metric,
    not_judged,
)
from batchrun.core.evaluation.metric import Metric
from batchrun.core.evaluation.rules import difference_rule, level_rule
from batchrun.core.statistics.paired import paired_share_interval
from tests.harness.coverage import paired_shares

ACCURACY = level_rule("accuracy", ">= 0.80")


def level(rule=ACCURACY, value=0.85, *, scored=100, errors=0, bounds=(None, None), skipped=False):
    """A verdict on a metric."""
    metric = Metric(value, scored, None, None, *bounds)
    return judge_metric(rule, metric, scored=scored, errors=errors, errors_skipped=skipped)


@pytest.mark.parametrize(
    ("given", "word", "blocks", "says"),
    [
        ({}, "pass", False, "accuracy is 0.85 over 100 scored rows, and the gate requires >= 0.80"),
        ({"value": 0.75}, "fail", True, "accuracy is 0.75 over 100 scored rows, but the gate"),
        ({"value": 0.79999}, "fail", True, "accuracy is 0.79999 over"),
        (
            {"value": 0.82, "errors": 2, "bounds": (0.82, 0.84)},
            "pass",
            False,
            "0.82 with the 2 failed rows counted as wrong and 0.84 as right, and the gate",
        ),
        (
            {"value": 0.7, "errors": 2, "bounds": (0.7, 0.72)},
            "fail",
            True,
            "0.72 as right, but",
        ),
        (
            {"value": 0.79, "errors": 1, "bounds": (0.79, 0.801)},
            "inconclusive",
            True,
            "0.79 if the 1 failed row is wrong and 0.801 if right, and only one of these is >=",
        ),
        (
            {"value": 0.9, "errors": 3},
            "inconclusive",
            True,
            "the 3 failed rows may change it by an unknown amount: --retry-failed",
        ),
        (
            {"value": 0.9, "errors": 3, "skipped": True},
            "pass",
            False,
            "3 failed rows left out, and",
        ),
        ({"value": 0.1, "errors": 3, "skipped": True}, "fail", True, "3 failed rows left out, but"),
        (
            {"value": 0.9, "errors": 30, "bounds": (0.7, 0.93), "skipped": True},
            "inconclusive",
            True,
            "only one of these",
        ),
        (
            {"value": 0.0, "scored": 0, "errors": 5, "bounds": (0.0, 1.0)},
            "inconclusive",
            True,
            "no scored rows (5 rows failed)",
        ),
        (
            {"value": None, "scored": 0},
            "inconclusive",
            True,
            "no scored rows, and no gate passes",
        ),
        ({"value": None}, "inconclusive", True, "has no value"),
        ({"value": math.nan}, "inconclusive", True, "has no value"),
    ],
)
def test_a_metric(given, word, blocks, says):
    """Both ends of what failed rows could have been decide, and the sentence has the figures."""
    found = level(**given)
    assert (found.verdict, found.blocks) == (word, blocks)
    assert says in found.why
    assert found.why.endswith(".")


def test_bounds_may_be_the_other_way_round():
    """A share of wrong answers falls when failed rows count as right."""
    rule = level_rule("wrong", "<= 0.20")
    assert level(rule, 0.25, errors=10, bounds=(0.25, 0.15)).verdict == "inconclusive"
    assert level(rule, 0.19, errors=1, bounds=(0.19, 0.18)).verdict == "pass"


@pytest.mark.parametrize("operator", [">=", "<=", ">", "<", "=="])
def test_nothing_passes_without_scored_rows(operator):
    """Whatever its rule and figures: the trap is a night in which every request failed."""
    values, errors = (None, 0.0, 0.5, 1.0), (0, 1, 100)
    bounds = (None, 0.0, 1.0)
    for value, failed, low, high, skipped in itertools.product(
        values, errors, bounds, bounds, (True, False)
    ):
        rule = level_rule("accuracy", f"{operator} 0.5")
        found = level(rule, value, scored=0, errors=failed, bounds=(low, high), skipped=skipped)
        assert (found.verdict, found.blocks) == ("inconclusive", True)


def test_a_total_needs_no_scored_rows():
    """Dollars, coverage and error rates are what they are, whatever rows failed."""
    assert judge(level_rule("totals.cost_usd", "<= 5"), 4.0).verdict == "pass"
    assert judge(level_rule("coverage", ">= 0.99"), 0.0).verdict == "fail"
    unknown = judge(level_rule("cost_usd", "<= 5"), None)
    assert (unknown.verdict, unknown.blocks) == ("inconclusive", True)


def test_a_gate_that_only_warns():
    """It never makes the exit code 4, unless the config says so of inconclusive ones."""
    for value, word in ((0.7, "warn"), (None, "inconclusive"), (0.9, "pass")):
        rule = level_rule("accuracy", {"rule": ">= 0.8", "severity": "warn"})
        found = judge(rule, value)
        assert (found.verdict, found.blocks) == (word, False)
    table = {"rule": ">= 0.8", "severity": "warn", "on_inconclusive": "fail"}
    assert judge(level_rule("accuracy", table), None).blocks


@pytest.mark.parametrize(("word", "blocks"), [("fail", True), ("warn", False), ("pass", False)])
def test_what_the_config_says_of_inconclusive_gates(word, blocks):
    """It counts for levels and for differences alike; the verdict stays inconclusive."""
    rule = level_rule("accuracy", {"rule": ">= 0.8", "on_inconclusive": word})
    found = level(rule, 0.79, errors=3, bounds=(0.79, 0.82))
    assert (found.verdict, found.blocks) == ("inconclusive", blocks)
    other = difference_rule("accuracy", {"not_worse_by": 0.01, "on_inconclusive": word})
    found = judge_difference(other, 0.0, -0.02, 0.02, 500)
    assert (found.verdict, found.blocks) == ("inconclusive", blocks)


DIFFERENCES = [
    # difference, low, high, verdict, part of the sentence
    (0.002, -0.008, 0.012, "pass", "rules out that it is worse by more than 0.01"),
    (-0.005, -0.01, 0.0, "pass", "0.005 lower than in the baseline (95% interval -0.01 to +0"),
    (-0.03, -0.05, -0.01, "fail", "worse by more than the 0.01 that the gate allows"),
    (-0.02, -0.05, 0.01, "inconclusive", "would settle it"),
    (-0.02, -0.04, 0.0, "inconclusive", "would settle it"),
    (0.0, -0.02, 0.02, "inconclusive", "is the same as in the baseline"),
    (-0.008, -0.012, -0.004, "inconclusive", "would settle it"),
    (0.80 - 0.81, -0.02, -0.001, "inconclusive", "would find a loss of 0.01 in 80"),
    (0.80 - 0.81, 0.80 - 0.81, 0.80 - 0.81, "pass", "rules out"),
]


@pytest.mark.parametrize(("difference", "low", "high", "word", "says"), DIFFERENCES)
def test_a_difference(difference, low, high, word, says):
    """It passes by the lower end, fails by estimate and upper end, and else is inconclusive."""
    rule = difference_rule("accuracy", {"not_worse_by": 0.01})
    found = judge_difference(rule, difference, low, high, 1000)
    assert (found.verdict, found.blocks) == (word, word == "fail")
    assert says in found.why
    assert "1,000 pairs" in found.why


@pytest.mark.parametrize(("difference", "low", "high", "word", "says"), DIFFERENCES)
def test_lower_may_be_better(difference, low, high, word, says):
    """Then all of it is the other way round."""
    rule = difference_rule("errors", {"not_worse_by": 0.01, "better": "lower"})
    found = judge_difference(rule, -difference, -high, -low, 1000)
    assert found.verdict == word
    assert says.split(" lower ")[-1].split(" (95%")[0] in found.why.replace(" higher ", " lower ")


def test_a_difference_without_figures():
    """Without a pair or a value it blocks; without an interval it takes more rows."""
    rule = difference_rule("accuracy", {"not_worse_by": 0.01})
    for found, blocks, says in (
        (judge_difference(rule, None, None, None, 0), True, "no rows that are scored in both"),
        (judge_difference(rule, 0.0, -1.0, 1.0, 0), True, "no rows that are scored in both"),
        (judge_difference(rule, None, None, None, 7), True, "no value in one of the runs"),
        (judge_difference(rule, 0.1, None, None, 1), False, "1 pair is too few"),
        (judge_difference(rule, 0.1, math.nan, math.nan, 2), False, "too few for an interval"),
    ):
        assert (found.verdict, found.blocks) == ("inconclusive", blocks)
        assert says in found.why


def test_a_margin_of_0_needs_a_gain():
    """Equal runs leave it open, whatever the number of rows; a sure gain passes."""
    rule = difference_rule("accuracy", {"not_worse_by": 0})
    found = judge_difference(rule, 0.0, -0.02, 0.02, 1000)
    assert (found.verdict, found.rows_needed) == ("inconclusive", None)
    assert "no number of rows settles a difference that is equal to its margin" in found.why
    assert judge_difference(rule, 0.03, 0.001, 0.05, 1000).verdict == "pass"


def test_a_difference_that_only_warns():
    """A shown loss has the verdict `warn`."""
    rule = difference_rule("accuracy", {"not_worse_by": 0.01, "severity": "warn"})
    found = judge_difference(rule, -0.03, -0.05, -0.01, 1000)
    assert (found.verdict, found.blocks) == ("warn", False)


@pytest.mark.parametrize("seed", range(30))
def test_the_rows_said_to_settle_it_do(seed):
    """With the same shares over so many rows the gate passes or fails; with a tenth fewer it is
    still inconclusive.
    """
    rng = random.Random(seed)
    rule = difference_rule("accuracy", {"not_worse_by": 0.02})
    lost, won = rng.uniform(0.01, 0.1), rng.uniform(0.01, 0.1)
    counts = paired_shares(rng, 800, lost, won)

    def verdict(rows):
        both, lost, won, neither = (round(count * rows / 800) for count in counts)
        n = both + lost + won + neither
        ends = paired_share_interval(both, lost, won, neither)
        return judge_difference(rule, (won - lost) / n, *ends, n)

    found = verdict(800)
    if found.verdict != "inconclusive":
        assert found.rows_needed is None
        return
    assert f"about {found.rows_needed:,} rows" in found.why
    assert verdict(found.rows_needed * 1.15).verdict in {"pass", "fail"}
    if found.rows_needed > 900:
        assert verdict(found.rows_needed * 0.87).verdict == "inconclusive"


FAIL, WARN = Verdict("fail", "", blocks=True), Verdict("warn", "")


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 129, 130, 143])
def test_exit_codes(code):
    """A signal, 5, 3 and 2 come before 4, and 4 before 1 and 0."""
    assert exit_code([WARN, FAIL], code) == (4 if code in {0, 1} else code)
    assert exit_code([WARN, not_judged("There is no baseline yet.")], code) == code
    assert exit_code([], code) == code


def test_a_metric_as_json():
    """Its keys are those of `summary.json`; groups only where there are some."""
    one = Metric(0.5, 2, 0.1, 0.9, 0.5, 0.5)
    keys = ["value", "n", "low", "high", "as_if_errors_wrong", "as_if_errors_right"]
    assert list(one.as_dict()) == keys
    whole = Metric(0.5, 2, groups={"law": one}).as_dict()
    assert whole["groups"] == {"law": one.as_dict()}
    assert whole["low"] is None
