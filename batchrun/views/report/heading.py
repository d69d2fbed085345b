"""The top of a page about a run: its figures, what is remarkable, what to do now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.text.legible import shell_word
from batchrun.views import failures, run_status
from batchrun.views.pages.rendering import fitted
from batchrun.views.report.sections import Facts
from batchrun.views.text import duration, verdict

_TONES = {"green": "good", "yellow": "warn", "red": "bad", "cyan": "live"}


def heading(facts: Facts) -> dict[str, Any]:
    """The values of the template for the top of a page."""
    first, *others = run_status.lines(dict(facts.found), facts.place)
    _, _, colour = verdict(first)
    return {
        "title": fitted(f"{first.partition(':')[0]}: {facts.place}", 300),
        "place": fitted(facts.place, 600),
        "verdict": fitted(first, 600),
        "tone": _TONES.get(colour or "", ""),
        "remarks": [fitted(line, 600) for line in _remarks(facts.found, others)],
        "tiles": _tiles(facts),
        "next": [fitted(line, 900) for line in _next(facts)],
    }


def _remarks(found: Mapping[str, Any], lines: list[str]) -> list[str]:
    """What the status says beside its verdict that no section has."""
    if "summary" not in found:
        return lines[:3]
    outputs, ok = found["summary"]["outputs"], found["summary"]["rows"]["ok"]
    notices = [f"notice: {text}" for text in found["summary"].get("notices") or ()]
    return failures.flaw_lines(outputs, ok) + notices[:10]


def _tiles(facts: Facts) -> list[tuple[str, str]]:
    """The figures on top."""
    if summary := facts.summary:
        rows, totals = summary["rows"], summary["totals"]
        cost, wasted, spent_s = totals["cost_usd"], totals["wasted_cost_usd"], summary["wall_s"]
        pending, attempts = rows["pending"], totals["attempts"]
        tokens = totals["prompt_tokens"], totals["completion_tokens"]
    elif live := facts.found.get("live"):
        rows, cost, wasted = live, live.get("cost_usd"), live.get("wasted_cost_usd")
        whole = live["rows_input"]
        pending = None if whole is None else whole - live["ok"] - live["error"]
        attempts, spent_s = live["requests"], live["elapsed_s"]
        tokens = live["prompt_tokens"], live["completion_tokens"]
    else:
        return []
    found: list[tuple[str, str | None]] = [
        ("rows ok", f"{rows['ok']:,}"),
        ("rows failed", f"{rows['error']:,}"),
        ("rows pending", "?" if pending is None else f"{pending:,}"),
        ("attempts", f"{attempts:,}"),
        ("prompt tokens", f"{tokens[0]:,}"),
        ("completion tokens", f"{tokens[1]:,}"),
        ("cost", None if cost is None else format_cost(cost)),
        ("of it wasted", format_cost(wasted) if wasted else None),
        ("time", duration(spent_s)),
    ]
    return [(name, value) for name, value in found if value is not None]


def _next(facts: Facts) -> list[str]:
    """What to do now."""
    found = facts.found
    if found["state"] == "running":
        return [f"batchrun status {shell_word(facts.place)} --watch follows the run"]
    out = []
    rows = facts.summary.get("rows") or {"pending": None}
    if rows["pending"] != 0:
        out.append(f"the same batchrun run command (-o {shell_word(facts.place)}) resumes the run")
    out += [f"{name}: {text}" for name, text in failures.advice(found["errors"])]
    if rows["pending"] == 0:
        out.append(f"batchrun verify {shell_word(facts.place)} proves that every row is there")
    return out
