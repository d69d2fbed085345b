"""The verdict on each gate, and the exit code that all of them come to.

A level is judged at both ends of what failed rows could have been; a difference by its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from batchrun.core.evaluation.metric import Metric
from batchrun.core.evaluation.rules import DifferenceRule, LevelRule, OnInconclusive, Rule, order
from batchrun.core.statistics.distributions import two_sided_z
from batchrun.core.statistics.interval import CONFIDENCE
from batchrun.core.statistics.power import detectable
from batchrun.core.text.wording import counted, verb

Word = Literal["pass", "fail", "warn", "inconclusive", "not_judged"]

GATE_FAILED = 4
_FINISHED = (0, 1)
_DIGITS = (4, 6, 9, 17)
_ROWS_MAX = 10**9
"""More rows than this settle nothing: the difference is as good as equal to the margin."""
_SHARE_LEAST = 1e-9
"""Of half an interval: a margin or a difference that is smaller is as good as 0."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate comes to, and why, in one sentence. ``blocks`` is whether it makes the exit code
    4; ``rows_needed`` are the pairs of rows that would settle an inconclusive difference.
    """

    verdict: Word
    why: str
    blocks: bool = False
    rows_needed: int | None = None


def judge(
    rule: LevelRule,
    value: float | None,
    *,
    scored: int | None = None,
    errors: int = 0,
    as_if_errors_wrong: float | None = None,
    as_if_errors_right: float | None = None,
    errors_skipped: bool = False,
) -> Verdict:
    """Judge a figure of a run against its rule.

    Of a metric, ``scored`` is the number of ``ok`` rows with a value, ``errors`` the number of
    failed rows, and the bounds are the metric with these as 0 and as 1 (None where it has none);
    ``errors_skipped`` is whether its scores leave failed rows out on purpose. Of a total, of
    ``coverage`` and of ``error_rate`` only the value matters.
    """
    name = rule.name
    if scored == 0:
        failed = f" ({counted(errors, 'row')} failed)" if errors else ""
        why = f"{name} has no scored rows{failed}, and no gate passes without any."
        return _undecided(rule, why, "fail")
    if value is None or math.isnan(value):
        return _undecided(rule, f"{name} has no value, so {rule.text} cannot be judged.", "fail")
    rows = "" if scored is None else f" over {counted(scored, 'scored row')}"
    if scored is None or not errors:
        return _decided(rule, f"{name} is {_figure(value, rule)}{rows}", holds=rule.holds(value))
    failed_rows = counted(errors, "failed row")
    settle = f"--retry-failed settles it by answering {verb(errors, 'that row', 'those rows')}"
    if as_if_errors_wrong is None or as_if_errors_right is None:
        if errors_skipped:
            what = f"{name} is {_figure(value, rule)}{rows}, {failed_rows} left out"
            return _decided(rule, what, holds=rule.holds(value))
        why = (
            f"{name} is {_figure(value, rule)}{rows}, but the {failed_rows} may change it by an "
            f'unknown amount: {settle}, or leave failed rows out with errors = "skip".'
        )
        return _undecided(rule, why, "fail")
    wrong, right = (_figure(end, rule) for end in (as_if_errors_wrong, as_if_errors_right))
    holds = rule.holds(as_if_errors_wrong)
    if holds == rule.holds(as_if_errors_right):
        what = f"{name} is {wrong} with the {failed_rows} counted as wrong and {right} as right"
        return _decided(rule, what, holds=holds)
    why = (
        f"{name} is {wrong} if the {failed_rows} {verb(errors, 'is', 'are')} wrong and {right} if "
        f"right, and only one of these is {rule.text}: {settle}."
    )
    return _undecided(rule, why, "fail")


def judge_metric(
    rule: LevelRule, metric: Metric, *, scored: int, errors: int, errors_skipped: bool = False
) -> Verdict:
    """Judge a metric; see ``judge``."""
    return judge(
        rule,
        metric.value,
        scored=scored,
        errors=errors,
        as_if_errors_wrong=metric.as_if_errors_wrong,
        as_if_errors_right=metric.as_if_errors_right,
        errors_skipped=errors_skipped,
    )


def judge_difference(
    rule: DifferenceRule,
    difference: float | None,
    low: float | None,
    high: float | None,
    pairs: int,
) -> Verdict:
    """Judge how far a run is from its baseline: ``difference`` is the run's value minus the
    baseline's, ``low`` and ``high`` are the ends of its interval (None where it has none), and
    ``pairs`` is the number of rows with a value in both.
    """
    name, margin = rule.name, rule.not_worse_by
    if pairs == 0:
        why = f"{name} has no rows that are scored in both runs, and no gate passes without any."
        return _undecided(rule, why, "fail")
    over = counted(pairs, "pair")
    if difference is None or math.isnan(difference):
        why = f"{name} has no value in one of the runs over {over}, so they cannot be compared."
        return _undecided(rule, why, "fail")
    than = _than_baseline(name, difference)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        why = f"{than}, but {over} {verb(pairs, 'is', 'are')} too few for an interval."
        return _undecided(rule, why, "warn")
    if rule.better == "lower":
        gain, worst, best = -difference, -high, -low
    else:
        gain, worst, best = difference, low, high
    seen = f"{than} (95% interval {low:+.4g} to {high:+.4g}, {over})"
    if order(worst, -margin) >= 0:
        return Verdict("pass", f"{seen}, which rules out that it is worse by more than {margin:g}.")
    if order(gain, -margin) < 0 and best < 0:
        why = f"{seen}, which is worse by more than the {margin:g} that the gate allows."
        return _failed(rule, why)
    rows, settles = _settled_by(gain, worst, best, margin, pairs)
    why = f"{seen}, which may or may not be worse by more than {margin:g}; {settles}."
    return _undecided(rule, why, "warn", rows)


def _settled_by(
    gain: float, worst: float, best: float, margin: float, pairs: int
) -> tuple[int | None, str]:
    """The pairs of rows that would settle a difference, and what they would do.

    An interval shrinks with the square root of their number. A gain within the margin passes once
    its lower end is there, one beyond the margin fails once its upper end is below 0. A gain that
    is as good as equal to the margin never does either; then it is the rows that find a loss of the
    size of the margin in 80 of 100 runs.
    """
    within = order(gain, -margin) >= 0
    half, room = (gain - worst, gain + margin) if within else (best - gain, -gain)
    if room > half * _SHARE_LEAST and (rows := math.ceil(pairs * (half / room) ** 2)) <= _ROWS_MAX:
        rows = max(pairs + 1, rows)
        return (
            rows,
            f"about {counted(rows, 'row')} would settle it if the difference stays as it is",
        )
    if margin <= half * _SHARE_LEAST:
        return None, "no number of rows settles a difference that is equal to its margin"
    rows = max(
        pairs + 1, math.ceil(pairs * (detectable(half / two_sided_z(CONFIDENCE)) / margin) ** 2)
    )
    return rows, f"about {counted(rows, 'row')} would find a loss of {margin:g} in 80 of 100 runs"


def _than_baseline(name: str, difference: float) -> str:
    if difference == 0:
        return f"{name} is the same as in the baseline"
    way = "higher" if difference > 0 else "lower"
    return f"{name} is {abs(difference):.4g} {way} than in the baseline"


def _figure(value: float, rule: LevelRule) -> str:
    """A value in as few digits as show on which side of the threshold it is."""
    side = order(value, rule.threshold)
    texts = (f"{value:.{digits}g}" for digits in _DIGITS)
    return next((t for t in texts if order(float(t), rule.threshold) == side), repr(value))


def _decided(rule: LevelRule, what: str, *, holds: bool) -> Verdict:
    if holds:
        return Verdict("pass", f"{what}, and the gate requires {rule.text}.")
    return _failed(rule, f"{what}, but the gate requires {rule.text}.")


def _failed(rule: Rule, why: str) -> Verdict:
    blocks = rule.severity == "fail"
    return Verdict("fail" if blocks else "warn", why, blocks=blocks)


def _undecided(
    rule: Rule, why: str, default: OnInconclusive, rows_needed: int | None = None
) -> Verdict:
    """An inconclusive verdict. What the config says of them counts; without a word there, a gate
    that would only warn of a failure warns of this too.
    """
    effect = rule.on_inconclusive or (default if rule.severity == "fail" else "warn")
    return Verdict("inconclusive", why, blocks=effect == "fail", rows_needed=rows_needed)


def public(rule: Rule, value: float | None, verdict: Verdict) -> dict[str, Any]:
    """A gate as ``summary.json`` has it. ``blocks`` is whether it makes the exit code 4."""
    return {
        "rule": rule.text,
        "value": value,
        "verdict": verdict.verdict,
        "why": verdict.why,
        "blocks": verdict.blocks,
    }


def not_judged(why: str) -> Verdict:
    """The verdict where there is nothing to judge by: no baseline yet, or an unfinished run."""
    return Verdict("not_judged", why)


def exit_code(verdicts: Iterable[Verdict], code: int = 0) -> int:
    """The exit code of a command: ``code`` is what it would be without gates. A gate that blocks
    makes a finished run 4; a signal, 5 and 3 come before it, and 1 after it.
    """
    blocked = code in _FINISHED and any(verdict.blocks for verdict in verdicts)
    return GATE_FAILED if blocked else code
