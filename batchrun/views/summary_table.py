"""The summary of a run as one line, and as a small table in HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.settings.addresses import format_address
from batchrun.core.text.wording import counted, verb
from batchrun.views import failures, figures
from batchrun.views.text import duration, safe

METRICS_SHOWN = 20
"""Metrics, groups and gates of which the table has a line."""


def one_line(summary: Mapping[str, Any], folder: str) -> str:
    """How the run ended: status, rows, cost, time and place, on one line whatever is in them."""
    cost = summary["totals"]["cost_usd"]
    pieces = [
        f"{summary['status']}: {_rows(summary['rows'])}",
        *([] if cost is None else [format_cost(cost)]),
        duration(summary["wall_s"]),
    ]
    return f"<Summary {'; '.join(pieces)}; {format_address(folder)!r}>"


def html(summary: Mapping[str, Any], folder: str, message: str | None) -> str:
    """A table of two columns. Every text in it is escaped, and nothing of it is rendered."""
    lines = "".join(
        f'<tr><th style="text-align: left; vertical-align: top">{_text(name)}</th>'
        f'<td style="text-align: left">{_text(value)}</td></tr>'
        for name, value in _lines(summary, folder, message)
    )
    return f"<table>{lines}</table>"


def _lines(
    summary: Mapping[str, Any], folder: str, message: str | None
) -> Iterator[tuple[str, str]]:
    totals, rows = summary["totals"], summary["rows"]
    by = f" by {summary['stopped_by']}" if summary["stopped_by"] else ""
    yield "Status", str(summary["status"]).replace("_", " ") + by
    if message:
        yield "Why", message
    yield "Rows", _rows(rows)
    if summary["errors"]:
        yield "Failed", failures.class_counts(summary["errors"])
        for line in failures.example_lines(summary.get("examples") or {}, summary["errors"]):
            yield "", line
    for flaw in failures.flaw_pieces(summary["outputs"], rows["ok"]):
        yield "", flaw
    yield (
        "Tokens",
        f"{totals['prompt_tokens']:,} prompt, {totals['completion_tokens']:,} completion",
    )
    if totals["cost_usd"] is not None:
        yield "Cost", format_cost(totals["cost_usd"])
    yield "Time", f"{duration(summary['wall_s'])}, {counted(totals['attempts'], 'attempt')}"
    told = figures.lines(summary)
    for place, line in enumerate(told[:METRICS_SHOWN]):
        yield "" if place else "Figures", line
    if left := len(told[METRICS_SHOWN:]):
        yield "", f"and {left:,} more {verb(left, 'line', 'lines')} in summary.json"
    yield "Directory", format_address(folder)


def _rows(rows: Mapping[str, Any]) -> str:
    whole = "an unknown number of rows" if rows["input"] is None else counted(rows["input"], "row")
    text = f"{rows['ok']:,} of {whole} ok, {rows['error']:,} failed"
    if rows["pending"] is None:
        return f"{text}, an unknown number pending"
    return f"{text}, {rows['pending']:,} pending" if rows["pending"] else text


def _text(value: str) -> str:
    return escape(safe(value)).replace("  ", "&nbsp; ")
