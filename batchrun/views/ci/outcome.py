"""The outcome of any command for continuous integration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.text.wording import counted

GRAVEST_FIRST = ("fail", "inconclusive", "warn", "not_judged", "pass")
FINISHED = ("complete", "complete_with_errors")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A title, one line that sums it up, and the figures.

    ``problem`` is why there is no verdict, where there is none. ``values`` has a line of figures
    for each metric, ``groups`` for each of its groups; ``rows`` are the rows to look at, each with
    what changed; ``notes`` are sentences.
    """

    title: str
    headline: str
    problem: str | None = None
    gates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()
    rows_more: int = 0
    notes: tuple[str, ...] = ()

    def gates_in_order(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The gates, the gravest verdict first."""
        return sorted(self.gates.items(), key=lambda one: GRAVEST_FIRST.index(one[1]["verdict"]))

    @property
    def word(self) -> str:
        """The outcome in a word or two."""
        if self.problem is not None:
            return "no verdict"
        if any(gate["blocks"] for gate in self.gates.values()):
            return "gates failed"
        return "gates passed" if self.gates else "no gates"


def of_error(title: str, message: str) -> Outcome:
    """The outcome of a command that failed."""
    return Outcome(title, message, message)


def of_summary(command: str, summary: Mapping[str, Any], directory: str) -> Outcome:
    """The outcome of a run, by its summary."""
    rows, status = summary["rows"], summary["status"]
    whole = "an unknown number of" if rows["input"] is None else f"{rows['input']:,}"
    cost = summary["totals"].get("cost_usd")
    headline = f"{rows['ok']:,} of {whole} rows ok, {rows['error']:,} failed"
    if cost is not None:
        headline += f"; {format_cost(cost)}"
    problem = None
    if status not in FINISHED:
        stopped = summary.get("stopped_by")
        problem = f"The run is {status}{f' by {stopped}' if stopped else ''}: {headline}."
    elif summary["exit_code"] not in (0, 1, 4):
        problem = f"The run ended with exit code {summary['exit_code']}: {headline}."
    metrics: Mapping[str, Mapping[str, Any]] = summary.get("metrics") or {}
    notes = [
        f"{name}: {counted(number, 'row')} failed" for name, number in summary["errors"].items()
    ]
    return Outcome(
        f"batchrun {command} {directory}",
        headline,
        problem,
        summary.get("gates") or {},
        {name: value_text(one) for name, one in metrics.items()},
        {
            name: {key: value_text(group) for key, group in one["groups"].items()}
            for name, one in metrics.items()
            if one.get("groups")
        },
        notes=tuple(notes),
    )


def value_text(metric: Mapping[str, Any]) -> str:
    """A metric with its interval in a line."""
    value = metric["value"]
    if value is None:
        return "no value"
    text = f"{value:.6g}"
    if metric["low"] is not None:
        text += f" ({metric['low']:.4g} to {metric['high']:.4g})"
    return f"{text}, n {metric['n']:,}"
