"""The figures of an evaluation in the form of ``summary.json``, and the verdicts on its gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.adapters.scoring.metrics import Counted, Measured
from batchrun.core.cost.money import picodollars, usd
from batchrun.core.evaluation import gates
from batchrun.core.evaluation.definitions import SKIP, Evaluation
from batchrun.core.evaluation.gates import Verdict
from batchrun.core.evaluation.judges import JUDGES
from batchrun.core.evaluation.metric import Metric
from batchrun.core.evaluation.rules import LevelRule, Rule

if TYPE_CHECKING:  # loaded only by runs with a baseline
    from batchrun.rundir.comparison.gates import Judged

WITH_JUDGES = "cost_usd_with_judges"
COVERAGE, ERROR_RATE, COST = "coverage", "error_rate", "cost_usd"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was computed over a run. ``metric_scores`` names the scores of each metric."""

    scores: Mapping[str, Counted] = field(default_factory=dict)
    metrics: Mapping[str, Measured] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    metric_scores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def unfinished_judge(self) -> str | None:
        """A judge with answers left to judge, so its verdicts are incomplete."""
        return next((name for name, one in self.judges.items() if _is_unfinished(one)), None)

    def public(self) -> dict[str, Any]:
        """The keys ``scores`` and ``metrics`` of ``summary.json``, without empty ones."""
        found = {
            "scores": {
                name: {**counted.as_dict(), "sha256": self.digests[name]}
                for name, counted in self.scores.items()
            },
            "metrics": {name: one.metric.as_dict() for name, one in self.metrics.items()},
            JUDGES: {name: dict(one) for name, one in self.judges.items()},
        }
        return {name: table for name, table in found.items() if table}


def _is_unfinished(one: Mapping[str, Any]) -> bool:
    """Whether a judge has rows pending, or has never ended although there are answers."""
    pending = one["pending"]
    return bool(one["missing"]) if pending is None else bool(pending)


def with_judges(
    totals: Mapping[str, Any], judges: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The totals of a run, with its cost including judges."""
    bills = [totals.get("cost_usd"), *(one["cost_usd"] for one in judges.values())]
    known = [picodollars(bill) for bill in bills if bill is not None]
    own = {name: value for name, value in totals.items() if name != WITH_JUDGES}
    return own | {WITH_JUDGES: usd(sum(known)) if known else None}


def judge(
    evaluation: Evaluation,
    figures: Figures,
    summary: Mapping[str, Any],
    differences: Mapping[str, Judged],
) -> dict[str, tuple[Rule, float | None, Verdict]]:
    """The verdict on every gate, by name. ``differences`` has the verdicts against a baseline."""
    found: dict[str, tuple[Rule, float | None, Verdict]] = {}
    for level in evaluation.gates.levels:
        found[level.gate] = (level, *_level(level, evaluation, figures, summary))
    for difference in evaluation.gates.differences:
        value, verdict = differences[difference.gate]
        found[difference.gate] = (difference, value, verdict)
    return found


def unjudged(evaluation: Evaluation, why: str) -> dict[str, tuple[Rule, float | None, Verdict]]:
    """The verdicts on all gates of a run that cannot be judged."""
    rules: tuple[Rule, ...] = (*evaluation.gates.levels, *evaluation.gates.differences)
    return {rule.gate: (rule, None, gates.not_judged(why)) for rule in rules}


def gates_public(
    judged: Mapping[str, tuple[Rule, float | None, Verdict]],
) -> dict[str, dict[str, Any]]:
    """The key ``gates`` of ``summary.json``."""
    return {
        name: gates.public(rule, value, verdict) for name, (rule, value, verdict) in judged.items()
    }


def _level(
    rule: LevelRule, evaluation: Evaluation, figures: Figures, summary: Mapping[str, Any]
) -> tuple[float | None, Verdict]:
    rows = summary["rows"]
    errors = int(rows["error"])
    measured, metric, scored = _measured(rule.name, figures)
    if metric is not None and measured is not None:
        named = figures.metric_scores.get(rule.name.partition(".")[0], ())
        by_name = {score.name: score for score in evaluation.scores}
        skipped = bool(named) and all(
            name in by_name and by_name[name].errors == SKIP for name in named
        )
        # People and a judge agree on answers, and a failed row has none.
        skipped |= any(rule.name in judge.metric_names for judge in evaluation.judges)
        verdict = gates.judge_metric(
            rule, metric, scored=scored, errors=errors, errors_skipped=skipped
        )
        return metric.value, verdict
    value = _figure(rule.name, figures, summary)
    return value, gates.judge(rule, value)


def _measured(name: str, figures: Figures) -> tuple[Measured | None, Metric | None, int]:
    """The metric that a gate names, or its group; and the ``ok`` rows with a value in it."""
    if (whole := figures.metrics.get(name)) is not None:
        return whole, whole.metric, whole.scored
    metric, _, group = name.partition(".")
    found = figures.metrics.get(metric)
    if found is None or found.metric.groups is None:
        return None, None, 0
    one = found.metric.groups.get(group, Metric(None, 0))
    return found, one, one.n


def _figure(name: str, figures: Figures, summary: Mapping[str, Any]) -> float | None:
    """A figure that is not a metric: one that batchrun derives, or a number in the summary."""
    rows = summary["rows"]
    if name == COVERAGE:
        if not rows["input"]:
            return None
        scored = [one.scored for one in figures.scores.values()]
        scored += [one["rows"] - one["unparsed"] - one["failed"] for one in figures.judges.values()]
        least = min(scored, default=0)
        return least / int(rows["input"])
    if name == ERROR_RATE:
        return int(rows["error"]) / int(rows["input"]) if rows["input"] else None
    if name == COST:
        name = "totals.cost_usd"
    if name.startswith("errors."):
        return float(summary["errors"].get(name.partition(".")[2], 0))
    found: Any = summary
    # The name of an endpoint may contain dots.
    first, _, rest = name.partition(".")
    middle, _, last = rest.rpartition(".")
    for key in filter(None, (first, middle, last)):
        found = found.get(key) if isinstance(found, Mapping) else None
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if number else None
