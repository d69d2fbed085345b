"""The verdict on each gate, and the exit code that all of them come to.

A level is judged at both ends of what failed rows could have been; a difference by its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from batchrun.core.evaluation.metric import Metric
from batchrun.core.evaluation.rules import DifferenceRule, LevelRule, OnInconclusive, Rule, order
from batchrun.core.text.wording import counted, verb

Word = Literal["pass", "fail", "warn", "inconclusive", "not_judged"]

GATE_FAILED = 4
_FINISHED = (0, 1)
_DIGITS = (4, 6, 9, 17)
_ROWS_MAX = 10**9
"""More rows than this settle nothing: the difference is as good as equal to the margin."""


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
    raise NotImplementedError


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
    raise NotImplementedError


def not_judged(why: str) -> Verdict:
    """The verdict where there is nothing to judge by: no baseline yet, or an unfinished run."""
    return Verdict("not_judged", why)


def exit_code(verdicts: Iterable[Verdict], code: int = 0) -> int:
    """The exit code of a command: ``code`` is what it would be without gates. A gate that blocks
    makes a finished run 4; a signal, 5 and 3 come before it, and 1 after it.
    """
    blocked = code in _FINISHED and any(verdict.blocks for verdict in verdicts)
    return GATE_FAILED if blocked else code
