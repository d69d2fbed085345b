"""A comparison as lines of text that wrap at any width: why the runs may differ, what got worse,
what got better, the metrics, then tokens, cost and latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batchrun.core.text.wording import counted, verb
from batchrun.rundir.comparison.figures import MetricFigures, ScoreFigures
from batchrun.rundir.comparison.pairs import CUSTOM_ID, ROW
from batchrun.rundir.comparison.totals import Quantile
from batchrun.views import figures
from batchrun.views.compare.compare import Comparison
from batchrun.views.compare.examples import KINDS, Example, Kind
from batchrun.views.figures import figure
from batchrun.views.layout import clipped
from batchrun.views.text import safe

GROUPS_SHOWN = 10
UNMATCHED_SHOWN = 10
DIFF_CHARS = 1_000
ID_COLUMNS = 80
_HEADS: Mapping[Kind, tuple[str, str]] = {
    "worse": ("regressions", "no regressions"),
    "better": ("improvements", "no improvements"),
    "changed": ("changed answers", "no changed answers"),
}
_TOTALS = {
    "attempts": "attempts",
    "prompt_tokens": "prompt tokens",
    "completion_tokens": "completion tokens",
    "reasoning_tokens": "reasoning tokens",
    "cost_usd": "cost in USD",
}


def lines(found: Comparison, only: Kind | None = None) -> list[str]:
    """The report. With ``only``, the rows of that kind alone."""
    if only is not None:
        return list(_kind(found, only))
    return [
        f"A: {safe(found.a)}",
        f"B: {safe(found.b)}",
        *_pairs(found),
        *_differs(found),
        *(safe(text) for text in found.warnings),
        *(line for kind in KINDS if kind in found.changes.shown for line in _kind(found, kind)),
        *_scores(found),
        *_metrics(found),
        *_totals(found),
        *figures.gate_lines(found.gates),
    ]


def _pairs(found: Comparison) -> Iterator[str]:
    by = {CUSTOM_ID: "custom_id", ROW: "row number"}.get(found.paired_by, safe(found.paired_by))
    status = found.status
    yield (
        f"{counted(found.pairs, 'pair')} by {by}: {status.ok_ok:,} ok in both, {status.ok_error:,} "
        f"failed in B alone, {status.error_ok:,} in A alone, {status.error_error:,} in both"
    )
    changed = found.answers_changed
    yield f"{counted(changed, 'answer')} {verb(changed, 'differs', 'differ')}"
    for letter, number in (("a", found.only_a), ("b", found.only_b)):
        if number:
            ids = found.unmatched[letter][:UNMATCHED_SHOWN]
            more = f", and {number - len(ids):,} more" if number > len(ids) else ""
            listed = ", ".join(_id(one) for one in ids)
            yield f"{counted(number, 'row')} in {letter.upper()} alone: {listed}{more}"


def _id(text: str) -> str:
    return clipped(safe(" ".join(text.split())), ID_COLUMNS)


def _differs(found: Comparison) -> Iterator[str]:
    if not found.differs:
        yield "the runs were made alike: same rows, prompt, parameters, model and scores"
        return
    yield "why they may differ:"
    for word, text in found.differs.items():
        yield f"  {word.replace('_', ' ')}: {safe(text)}"


def _kind(found: Comparison, kind: Kind) -> Iterator[str]:
    number = found.changes.counts[kind]
    some, none = _HEADS[kind]
    if not number:
        yield none
        return
    shown = found.changes.shown.get(kind, ())
    more = f" (the first {len(shown)}; -n N shows more)" if len(shown) < number else ""
    yield f"{some}: {counted(number, 'pair')}{more}"
    for one in shown:
        yield from _example(one)


def _example(one: Example) -> Iterator[str]:
    rows = f"row {one.row_a}" if one.row_a == one.row_b else f"rows {one.row_a} and {one.row_b}"
    what = [] if one.status_a == one.status_b else [f"{one.status_a} -> {one.status_b}"]
    what += [f"{name} {figure(a)} -> {figure(b)}" for name, (a, b) in one.scores.items() if a != b]
    yield f"  {_id(one.id)} ({rows}){': ' if what else ''}{safe(', '.join(what))}"
    if one.diff:
        text = safe(" ".join(one.diff.split()))
        cut = f"... ({len(text):,} characters)" if len(text) > DIFF_CHARS else ""
        yield f"    {text[:DIFF_CHARS]}{cut}"


def _scores(found: Comparison) -> Iterator[str]:
    for name, one in found.scores.items():
        yield f"score {safe(name)}: {_score(one)}"


def _score(one: ScoreFigures) -> str:
    if not one.pairs:
        return "no pair has it in both runs"
    text = f"{counted(one.lost, 'pair')} lost, {one.won:,} won"
    if one.both is not None:
        text += f", {one.both:,} right in both, {one.neither:,} wrong in both"
    text += f"; {_difference(one.difference, one.low, one.high)}"
    if one.p is not None:
        text += f"; McNemar p = {one.p:.3g}"
    return text + _detectable(one.detectable, is_share=one.both is not None)


def _detectable(difference: float | None, *, is_share: bool) -> str:
    """The smallest difference that such a comparison finds; shares differ by 1 at most."""
    if difference is None:
        return ""
    if is_share and difference > 1:
        return "; too few pairs to detect even a difference of 1"
    return f"; detectable from {difference:.4g}"


def _difference(difference: float | None, low: float | None, high: float | None) -> str:
    if difference is None:
        return "no difference can be computed"
    text = f"difference {difference:+.4g}"
    if low is None or high is None:
        return f"{text} (too few pairs for an interval)"
    text += f" (95% {low:+.4g} to {high:+.4g})"
    return f"{text}, which may be chance" if low <= 0 <= high else text


def _metrics(found: Comparison) -> Iterator[str]:
    for name, one in found.metrics.items():
        yield f"metric {safe(name)}: {_metric(one)}"
        groups = list((one.groups or {}).items())
        yield from (f"  {_id(key)}: {_metric(group)}" for key, group in groups[:GROUPS_SHOWN])
        if len(groups) > GROUPS_SHOWN:
            yield f"  and {len(groups) - GROUPS_SHOWN:,} more groups (--json has them)"


def _metric(one: MetricFigures) -> str:
    text = f"{figure(one.a)} -> {figure(one.b)} over {counted(one.pairs, 'pair')}; "
    text += _difference(one.difference, one.low, one.high)
    is_share = all(value is not None and 0 <= value <= 1 for value in (one.a, one.b))
    return text + _detectable(one.detectable, is_share=is_share)


def _totals(found: Comparison) -> Iterator[str]:
    for name, label in _TOTALS.items():
        a, b = found.totals.values[name]
        if a is None and b is None:
            continue
        change = f" ({100 * (b - a) / a:+.3g}%)" if a and b is not None else ""
        yield f"{label}: {_total(a)} -> {_total(b)}{change}"
    ratio = found.totals.cost_ratio
    if ratio.ratio is not None:
        ends = "" if ratio.low is None else f" (95% {ratio.low:.4g} to {ratio.high:.4g})"
        over = counted(ratio.pairs, "pair")
        yield f"cost of a row: {ratio.ratio:.4g} times as much{ends}, {over}"
    for name, (first, second) in found.totals.latency.items():
        if first is not None or second is not None:
            yield f"latency {name}: {_quantile(first)} -> {_quantile(second)}"


def _total(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _quantile(one: Quantile | None) -> str:
    if one is None:
        return "none"
    if one.low is None or one.high is None:
        return f"{one.value:.3g} s"
    return f"{one.value:.3g} s ({one.low:.3g} to {one.high:.3g})"
