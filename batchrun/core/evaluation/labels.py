"""Compares a judge with human labels: the share of matching verdicts, and Cohen's kappa."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from batchrun.core.evaluation.metric import Metric
from batchrun.core.schema.fields import Kind
from batchrun.core.statistics.agreement import agreement, kappa_terms
from batchrun.core.statistics.interval import Interval
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


class LabelledVerdicts:
    """The answers of a run that have a verdict and a label, counted by both."""

    def __init__(self, kind: Kind, counted: Iterable[tuple[object, object, int]], key: str) -> None:
        """``counted`` are verdict, label and how many answers have both; neither is null. Raises
        ``ScoringError`` for too many categories.
        """
        self._kind = kind
        pairs: Counter[tuple[Any, Any]] = Counter()
        for verdict, label, answers in counted:
            pairs[category(kind, verdict), category(kind, label)] += answers
        names = dict.fromkeys(name for pair in pairs for name in pair)
        if len(names) > CATEGORIES_MAX:
            message = (
                f"{key}: verdicts and labels have {len(names):,} different values; agreement is "
                f"for at most {CATEGORIES_MAX:,}"
            )
            raise ScoringError(message)
        self._places = {name: place for place, name in enumerate(names)}
        self._table = [[0] * len(names) for _ in names]
        for (verdict, label), answers in pairs.items():
            self._table[self._places[verdict]][self._places[label]] = answers
        self._found = agreement(self._table)

    def terms(self, pairs: Iterable[tuple[object, object]]) -> Iterator[tuple[float, float | None]]:
        """Of a verdict and its label: 1 if they are the same, else 0, and the term of kappa (None
        where kappa has no meaning). See ``agreement.kappa_terms``.
        """
        terms = None if self._found.kappa is None else kappa_terms(self._table)
        for verdict, label in pairs:
            i = self._places[category(self._kind, verdict)]
            j = self._places[category(self._kind, label)]
            yield float(i == j), None if terms is None else terms[i][j]

    def metrics(self, by_row: OfRows | None = None) -> tuple[Metric, Metric]:
        """The share of answers whose verdict is the label, and kappa, each with its interval. With
        repeats the share is the mean over rows of the share of a row's answers, and both intervals
        are over rows (``by_row``).
        """
        found = self._found
        if found.n == 0:
            return Metric(None, 0), Metric(None, 0)
        if by_row is None:
            share, ends = Metric(found.share, found.n, *found.share_interval), found.kappa_interval
        else:
            share = Metric(by_row.share, by_row.rows, *(by_row.share_interval or (None, None)))
            ends = None if found.kappa is None else by_row.kappa_interval
        return share, Metric(found.kappa, found.n, *(ends or (None, None)))


class OfRows(NamedTuple):
    """Rows with a verdict and a label, over the answers of each."""

    rows: int
    share: float
    share_interval: Interval | None
    kappa_interval: Interval | None
