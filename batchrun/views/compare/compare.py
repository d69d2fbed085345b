"""Comparing two run directories: the figures, the verdicts, and the rows to look at.

Nothing is written and no lock is taken; a run that is still working is compared as far as its parts
are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchrun.core.evaluation import gates
from batchrun.core.evaluation.definitions import Evaluation, of_recorded
from batchrun.core.evaluation.gates import exit_code
from batchrun.errors import UsageError
from batchrun.rundir.comparison import differs, figures, totals
from batchrun.rundir.comparison.figures import MetricFigures, ScoreFigures, Status
from batchrun.rundir.comparison.gates import Judged, judged
from batchrun.rundir.comparison.pairs import Pairs
from batchrun.rundir.comparison.side import Side, open_side
from batchrun.rundir.comparison.totals import Totals
from batchrun.views.compare import examples
from batchrun.views.compare.examples import Changes, Kind

ROWS_SHOWN = 10

KEYS = {
    "pairs": "Rows that both runs have.",
    "only_a": "Rows of A without a counterpart in B.",
    "only_b": "Rows of B without a counterpart in A.",
    "unmatched": "Their ids, at most 100 of each: `custom_id`, the value of `--key`, or the row.",
    "answers_changed": "Pairs that are `ok` in both runs and whose answer differs.",
    "status": "Pairs by status in A and B: `ok_ok`, `ok_error`, `error_ok`, `error_error`.",
    "scores": "By score: `both`, `lost`, `won`, `neither` (null where values are not all 0 or 1), "
    "`difference` (B - A), `low`, `high` (95 % interval), `p` (exact McNemar), `detectable`.",
    "metrics": "By metric, over the pairs: `a`, `b`, `difference`, `low`, `high`; `groups` if any.",
    "totals": "By name, `a` and `b`: tokens and cost of the whole runs, latency over the pairs.",
    "differs": "Why the runs may differ: words out of `rows`, `prompt`, `params`, `model`, "
    "`model_answered`, `fingerprint`, `scores`, `judge`.",
    "gates": "By gate (`compare.NAME`): `rule`, `value`, `verdict`, `why`.",
    "rows": "The rows that are listed: `kind`, `custom_id`, `row_a`, `row_b`, status and scores.",
}
"""What the keys of ``compare --json`` mean, for the reference."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs compared. ``left_out`` names what could not be computed from the files."""

    a: str
    b: str
    paired_by: str
    pairs: int
    only_a: int
    only_b: int
    unmatched: Mapping[str, list[str]]
    status: Status
    scores: Mapping[str, ScoreFigures]
    metrics: Mapping[str, MetricFigures]
    totals: Totals
    differs: Mapping[str, str]
    gates: Mapping[str, dict[str, Any]]
    exit_code: int
    changes: Changes = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def answers_changed(self) -> int:
        """Pairs that are ``ok`` in both runs and whose answer differs."""
        return self.status.answers_changed

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "pairs": self.pairs,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "unmatched": dict(self.unmatched),
            "answers_changed": self.answers_changed,
            "status": self.status.as_dict(),
            "scores": {name: one.as_dict() for name, one in self.scores.items()},
            "metrics": {name: one.as_dict() for name, one in self.metrics.items()},
            "totals": self.totals.as_dict(),
            "differs": list(self.differs),
            "gates": dict(self.gates),
            "rows": self.changes.as_list(),
        }


def compare(
    a: str,
    b: str,
    evaluation: Evaluation | None = None,
    *,
    key: str | None = None,
    only: Kind | None = None,
    rows: int = ROWS_SHOWN,
) -> Comparison:
    """Compare run B with run A, row by row.

    ``evaluation`` has the scores, metrics and gates, by default those that B recorded (its Python
    scorers count with the values that both runs recorded). ``key`` is a column that pairs rows;
    ``rows`` rows of each kind are looked up, or of the kind ``only``. Raises ``UsageError`` for
    runs that cannot be paired, ``ScoringError`` and ``DamagedError``.
    """
    first, second = open_side(a), open_side(b)
    if evaluation is None:
        evaluation = recorded(second)
    with Pairs(first, second, evaluation, key) as pairs:
        status = figures.status(pairs)
        scores = figures.score_figures(pairs)
        metrics = figures.metric_figures(pairs)
        verdicts = judged(evaluation, pairs, metrics)
        return Comparison(
            first.shown,
            second.shown,
            pairs.by,
            pairs.count,
            pairs.only_a,
            pairs.only_b,
            pairs.unmatched,
            status,
            scores,
            metrics,
            totals.totals(pairs),
            differs.reasons(pairs, status, evaluation),
            _public(evaluation, verdicts),
            exit_code(one.verdict for one in verdicts.values()),
            examples.changes(pairs, scores, only, rows),
            tuple(differs.warnings(pairs, status)),
        )


def recorded(side: Side) -> Evaluation:
    """The scores, metrics and gates that a run recorded. Raises ``UsageError``."""
    try:
        return of_recorded(side.settings)
    except UsageError as error:
        message = f"the settings that {side.shown} recorded cannot be used: {error}; give -c FILE"
        raise UsageError(message) from None


def _public(evaluation: Evaluation, verdicts: Mapping[str, Judged]) -> dict[str, dict[str, Any]]:
    return {
        rule.gate: gates.public(rule, *verdicts[rule.gate]) for rule in evaluation.gates.differences
    }
