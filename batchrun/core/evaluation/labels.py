"""A judge beside people: how often its verdict is the label that they gave, and Cohen's kappa."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from batchrun.core.evaluation.metric import Metric
from batchrun.core.schema.fields import Kind
from batchrun.core.statistics.agreement import agreement
from batchrun.errors import ScoringError

CATEGORIES_MAX = 1_000
"""Different values that verdicts and labels may have: both are few, or kappa says nothing."""
_TRUTH: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "1", "1.0"), True),
    **dict.fromkeys(("false", "no", "0", "0.0"), False),
}


def category(kind: Kind, value: object) -> Any:
    """What a verdict or a label stands for: equal ones are the same whatever their form. Numbers
    may be written as text, booleans as yes and no or 1 and 0; texts are compared without case and
    outer white space. A label that is no such value is a category of its own.
    """
    text = str(value).strip().casefold()
    if kind == "boolean":
        return _TRUTH.get(text, text)
    if kind == "number" and not isinstance(value, bool):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def agreement_metrics(
    kind: Kind, counted: Iterable[tuple[object, object, int]], key: str
) -> tuple[Metric, Metric]:
    """The share of rows whose verdict is the label, and kappa, each with its interval. ``counted``
    are verdict, label and rows; neither is null. Raises ``ScoringError`` for too many categories.
    """
    pairs: Counter[tuple[Any, Any]] = Counter()
    for verdict, label, rows in counted:
        pairs[category(kind, verdict), category(kind, label)] += rows
    places = {name: place for place, name in enumerate(dict.fromkeys(sum(pairs, ())))}
    if len(places) > CATEGORIES_MAX:
        message = (
            f"{key}: verdicts and labels have {len(places):,} different values; agreement is for "
            f"at most {CATEGORIES_MAX:,}"
        )
        raise ScoringError(message)
    table = [[0] * len(places) for _ in places]
    for (verdict, label), rows in pairs.items():
        table[places[verdict]][places[label]] = rows
    found = agreement(table)
    if found.n == 0:
        return Metric(None, 0), Metric(None, 0)
    share, kappa = found.share_interval, found.kappa_interval
    return (
        Metric(found.share, found.n, share.low, share.high),
        Metric(found.kappa, found.n, kappa and kappa.low, kappa and kappa.high),
    )
