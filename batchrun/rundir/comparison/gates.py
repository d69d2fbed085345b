"""The verdicts on difference gates: a run against its baseline.

A verdict becomes ``inconclusive`` if it could look better than it is: because the baseline is not
comparable, rows of the baseline are missing, or failed rows decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from batchrun.adapters.scoring import of_repeats
from batchrun.adapters.storage.store import StoreReader
from batchrun.core.evaluation.definitions import Evaluation
from batchrun.core.evaluation.gates import Verdict, judge_difference, not_judged
from batchrun.core.evaluation.rules import DifferenceRule, OnInconclusive
from batchrun.core.settings.addresses import format_address, local_path
from batchrun.core.text.wording import counted, verb
from batchrun.errors import BatchrunError
from batchrun.rundir.comparison.figures import End, MetricFigures, mean_figures, metric_figures
from batchrun.rundir.comparison.pairs import Pairs
from batchrun.rundir.comparison.side import open_side, side_of


class Judged(NamedTuple):
    """The difference that a gate judged (None if there is none), and the verdict."""

    value: float | None
    verdict: Verdict


def differences(
    evaluation: Evaluation, directory: str, store: StoreReader, summary: Mapping[str, Any]
) -> dict[str, Judged]:
    """The difference gates of a finished run, by name. ``summary`` is what the run is about to
    write, its scores included. They are inconclusive if the runs cannot be compared.
    """
    rules = evaluation.gates.differences
    if not rules:
        return {}
    baseline = evaluation.gates.baseline
    if baseline is None:
        return _all(rules, not_judged("gates.compare names no baseline."))
    if (missing := _missing(baseline)) is not None:
        return _all(rules, missing)
    if _is_same(baseline, directory):
        return _all(rules, not_judged("this run is the baseline itself."))
    try:
        a = open_side(baseline)
        b = side_of(directory, store, summary)
        with Pairs(a, b, evaluation) as pairs:
            return judged(evaluation, pairs, metric_figures(pairs))
    except BatchrunError as error:
        why = f"the baseline cannot be compared with: {error}"
        return {rule.gate: Judged(None, undecided(rule, why)) for rule in rules}


def _all(rules: tuple[DifferenceRule, ...], verdict: Verdict) -> dict[str, Judged]:
    return {rule.gate: Judged(None, verdict) for rule in rules}


def _missing(baseline: str) -> Verdict | None:
    """The verdict if there is no baseline; None if there is one."""
    local = local_path(baseline)
    if local is None or Path(local).exists():
        return None
    if Path(local).is_symlink():
        target = Path(local).readlink()
        return not_judged(
            f"the baseline {format_address(baseline)} points to {target}, which is gone: "
            "`batchrun bless DIR` sets another."
        )
    return not_judged(
        f"there is no baseline yet at {format_address(baseline)}: `batchrun bless DIR` sets one."
    )


def _is_same(baseline: str, directory: str) -> bool:
    one, other = local_path(baseline), local_path(directory)
    if one is None or other is None:
        return baseline == directory
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def judged(
    evaluation: Evaluation, pairs: Pairs, figures: Mapping[str, MetricFigures]
) -> dict[str, Judged]:
    """The difference gates over these pairs, by name."""
    found = {}
    for rule in evaluation.gates.differences:
        metric = figures.get(rule.name)
        value = None if metric is None else metric.difference
        found[rule.gate] = Judged(value, _judged(rule, pairs, figures))
    return found


def _judged(rule: DifferenceRule, pairs: Pairs, figures: Mapping[str, MetricFigures]) -> Verdict:
    if not pairs.b.is_finished:
        return not_judged("the run is not finished.")
    if not pairs.a.is_finished:
        return undecided(rule, f"the baseline {pairs.a.shown} is not finished.")
    found = figures.get(rule.name)
    if found is None:
        left_out = pairs.measures.left_out
        return undecided(rule, f"{left_out.get(f'metrics.{rule.name}', rule.name)}.")
    before, now = pairs.a.judges, pairs.b.judges
    if any(before[name] != now[name] for name in before.keys() & now.keys()):
        why = f"{rule.name} cannot be compared: the baseline was judged by another judge."
        return undecided(rule, why)
    verdict = _of(rule, found)
    if verdict.verdict in ("pass", "fail", "warn"):
        verdict = _despite_errors(rule, pairs, verdict)
    if verdict.verdict == "pass" and pairs.only_a:
        are = verb(pairs.only_a, "is", "are")
        why = (
            f"{verdict.why} But {counted(pairs.only_a, 'row')} of the baseline {are} missing from "
            "this run, so the comparison is over the others alone."
        )
        return undecided(rule, why, "warn")
    return verdict


def _of(rule: DifferenceRule, found: MetricFigures) -> Verdict:
    # Rows that failed in one of the runs do not show that both answered alike.
    pairs = found.pairs if found.scored else 0
    return judge_difference(rule, found.difference, found.low, found.high, pairs)


def _despite_errors(rule: DifferenceRule, pairs: Pairs, verdict: Verdict) -> Verdict:
    """The verdict, unless it depends on failed rows: a failure that passes with B's failed rows
    counted as right and A's as wrong, or a pass that fails the other way round.
    """
    n = pairs.measures.metrics.index(rule.name)
    one = pairs.measures.metric(rule.name)[1]
    in_unit_sql = "TRUE"
    if of_repeats.is_number(one.parsed):
        least, most = f"min(least(a_m{n}, b_m{n}))", f"max(greatest(a_m{n}, b_m{n}))"
        in_unit_sql = f"coalesce({least} >= 0 AND {most} <= 1, FALSE)"
    counts = pairs.one(
        f"SELECT count(*) FILTER (a_failed AND a_m{n} IS NOT NULL), "
        f"count(*) FILTER (b_failed AND b_m{n} IS NOT NULL), {in_unit_sql} FROM pairs"
    )
    failed_a, failed_b, in_unit = int(counts[0]), int(counts[1]), bool(counts[2])
    if one.parsed.mean_of is None or not in_unit or not failed_a + failed_b:
        return verdict
    good, bad = (0, 1) if rule.better == "lower" else (1, 0)
    kindly = verdict.verdict != "pass"
    end = End(bad, good) if kindly else End(good, bad)
    other = _of(rule, mean_figures(pairs, n, end))
    is_same = other.verdict == verdict.verdict or (not kindly and other.verdict == "inconclusive")
    if is_same:
        return verdict
    rows = counted(failed_a + failed_b, "row")
    counted_as = "right" if kindly else "wrong"
    whose = (
        "in this run" if not failed_a else "in the baseline" if not failed_b else "in either run"
    )
    why = (
        f"{verdict.why} But {rows} failed {whose}, and it is these that decide: with failures of "
        f"this run counted as {counted_as} the verdict would be {other.verdict}. Answer them with "
        "--retry-failed."
    )
    return undecided(rule, why)


def undecided(rule: DifferenceRule, why: str, default: OnInconclusive = "fail") -> Verdict:
    """An inconclusive verdict; the config decides its effect on the exit code, else ``default``."""
    effect = rule.on_inconclusive or (default if rule.severity == "fail" else "warn")
    return Verdict("inconclusive", why, blocks=effect == "fail")
