"""A comparison for continuous integration."""

from __future__ import annotations

from batchrun.core.text.wording import counted
from batchrun.rundir.comparison.figures import MetricFigures
from batchrun.views.ci.outcome import Outcome
from batchrun.views.compare.compare import Comparison
from batchrun.views.compare.examples import Example
from batchrun.views.figures import figure


def of_comparison(title: str, found: Comparison) -> Outcome:
    """What ``--junit`` and ``--markdown`` report of a comparison."""
    worse = found.changes.shown.get("worse", ())
    counts = found.changes.counts
    headline = (
        f"{counted(found.pairs, 'pair')}: {counts['worse']:,} got worse, {counts['better']:,} got "
        f"better, {counted(found.answers_changed, 'answer')} changed"
    )
    differs = [f"{word.replace('_', ' ')}: {text}" for word, text in found.differs.items()]
    unmatched = [
        f"{counted(number, 'row')} in {letter} alone"
        for letter, number in (("A", found.only_a), ("B", found.only_b))
        if number
    ]
    return Outcome(
        title,
        headline,
        None if found.pairs else "No row of A has a counterpart in B.",
        found.gates,
        {name: _value(one) for name, one in found.metrics.items()},
        {
            name: {key: _value(group) for key, group in one.groups.items()}
            for name, one in found.metrics.items()
            if one.groups
        },
        tuple((one.id, _what(one)) for one in worse),
        counts["worse"] - len(worse),
        (*differs, *unmatched, *found.warnings),
    )


def _value(one: MetricFigures) -> str:
    if one.difference is None:
        return f"{figure(one.a)} -> {figure(one.b)}"
    ends = "" if one.low is None else f" ({one.low:+.4g} to {one.high:+.4g})"
    return f"{figure(one.a)} -> {figure(one.b)}, {one.difference:+.4g}{ends}"


def _what(one: Example) -> str:
    """What changed of a row, and how its answer did."""
    what = [] if one.status_a == one.status_b else [f"{one.status_a} -> {one.status_b}"]
    what += [f"{name} {figure(a)} -> {figure(b)}" for name, (a, b) in one.scores.items() if a != b]
    return f"{', '.join(what)}; {one.diff}"
