"""The report of ``batchrun estimate`` with several models: what each of them would cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batchrun.core.cost.money import PICODOLLARS, format_cost
from batchrun.views.estimation.estimate_report import Report
from batchrun.views.estimation.unit_prices import labelled_lines
from batchrun.views.layout import wrap
from batchrun.views.text import safe

WIDE = 60
"""From so many columns on, the table has the ends of the intervals too."""


class Comparison:
    """The report of several models over the same rows, each with its own estimate."""

    def __init__(self, reports: Mapping[str, Report], rows: int, bad: int) -> None:
        self._reports = reports
        self._rows = rows
        self._bad = bad

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "rows": self._rows,
            "bad": self._bad,
            "models": {name: each.compared(name) for name, each in self._reports.items()},
            "notes": list(
                dict.fromkeys(n for r in self._reports.values() for n in r.as_dict()["notes"])
            ),
        }

    def lines(self, width: int) -> Iterator[str]:
        """The table, the unit prices, and what the figures rest on, in so many columns."""
        bad = f" ({self._bad:,} bad: see `batchrun validate`)" if self._bad else ""
        yield from labelled_lines("rows", f"{self._rows:,}{bad}", width)
        yield ""
        heads = ["cost", "low", "high", "batch"] if width >= WIDE else ["cost", "batch"]
        lines: list[tuple[str, ...]] = [(*heads, "model")]
        for name, each in self._reports.items():
            cost, batch = each.cost, each.batch_pd()
            low, likely, high = (None,) * 3 if cost is None else (cost.low, cost.likely, cost.high)
            ends = [likely, low, high] if width >= WIDE else [likely]
            ends.append(None if batch is None else batch.likely)
            lines.append((*map(_dollars, ends), safe(name)))
        widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
        for line in lines:
            cells = [f"{cell:>{size}}" for cell, size in zip(line, widths, strict=False)]
            yield from wrap("  ".join([*cells, line[-1]]), width, hang=2)
        for name, each in self._reports.items():
            yield ""
            yield from labelled_lines("model", safe(name), width)
            yield from each.detected(width)
            yield from each.priced(name, width)
        yield ""
        for note in self._notes():
            yield from wrap(f"- {note}", width, hang=2)

    def _notes(self) -> list[str]:
        """What the figures rest on, each said once."""
        notes = (note for each in self._reports.values() for note in each.as_dict()["notes"])
        return list(dict.fromkeys(notes))


def _dollars(pd: float | None) -> str:
    return "?" if pd is None else format_cost(pd / PICODOLLARS)
