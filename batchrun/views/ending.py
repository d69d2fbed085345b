"""The last words of a run: what was done, where it is, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.run.reuse_rules import format_rows_by_endpoint
from batchrun.core.settings.addresses import format_address
from batchrun.core.settings.providers import cautions
from batchrun.core.text.legible import shell_word
from batchrun.core.text.wording import counted, verb
from batchrun.views import failures, figures, funds
from batchrun.views.text import BOUND, duration, safe


def lines(
    summary: Mapping[str, Any],
    folder: str,
    *,
    resume: str,
    bound_by: str | None = None,
    checkpoint: str | None = None,
    fix: Sequence[str] = (),
) -> list[str]:
    """The final summary as lines. ``resume`` is the command that continues; ``checkpoint`` is its
    place, if not in the run directory; ``fix`` are lines about what has to be changed first.
    """
    rows, totals = summary["rows"], summary["totals"]
    whole = "?" if rows["input"] is None else f"{rows['input']:,}"
    noun = verb(rows["input"] or 0, "row", "rows")
    pending = "" if rows["pending"] == 0 else f", {_count(rows['pending'])} pending"
    said = {
        "complete": "complete",
        "complete_with_errors": "complete, with errors",
        "stopped": f"stopped by {summary['stopped_by']}",
        "interrupted": f"interrupted by {summary['stopped_by'] or 'a fault'}",
    }[summary["status"]]
    outputs = summary["outputs"]
    if (flaw := failures.mostly(outputs, rows["ok"])) is not None:
        said += f", but most answers are {flaw}"
    out = [
        f"{said}: {rows['ok']:,} of {whole} {noun} ok, {rows['error']:,} failed{pending}",
        f"{counted(totals['attempts'], 'attempt')} in {duration(summary['wall_s'])}; "
        f"{totals['prompt_tokens']:,} prompt + "
        f"{counted(totals['completion_tokens'], 'completion token')}" + _cost(totals),
    ]
    out += [f"note: {text}" for text in cautions(_providers(summary))]
    out += _reused(summary)
    if totals.get("unpriced_attempts") and totals["cost_usd"] is not None:
        unpriced = totals["unpriced_attempts"]
        has = verb(unpriced, "has", "have")
        out.append(f"{counted(unpriced, 'attempt')} {has} no known price: not counted")
    if totals["unanswered_attempts"]:
        unanswered = counted(totals["unanswered_attempts"], "attempt")
        out.append(f"{unanswered} got no whole answer and may be billed")
    out += funds.used(summary.get("budget", {}), summary["settings"])
    if rows["pending"]:
        out += funds.ahead(summary.get("projected", {}))
    out += failures.flaw_lines(outputs, rows["ok"])
    out += failures.failure_lines(summary["errors"], summary.get("examples", {}))
    if len(endpoints := summary.get("endpoints") or {}) > 1:
        out += [
            f"{safe(name)}: {counted(own['rows_ok'], 'row')} ok, {own['rows_error']:,} failed, "
            f"{counted(own['attempts'], 'attempt')}"
            for name, own in endpoints.items()
        ]
    out += figures.lines(summary)
    if bound_by is not None and not fix:
        out.append(f"held back most by {BOUND[bound_by]}")
    place = format_address(folder)
    out.append(f"results: {place}/results")
    judging = any(one.get("pending") for one in (summary.get("judges") or {}).values())
    if rows["pending"] == 0 and not (judging and resume):
        out.append(f"next: batchrun verify {shell_word(place)}{_where(checkpoint)}")
        if fix:
            out += [*fix, f"then, to send failed rows again: {resume}"]
        elif summary["errors"].keys() - {"invalid_row"}:
            out.append("to send failed rows again: the same command with --retry-failed")
    else:
        out += [*fix, f"{'then, ' if fix else ''}to resume: {resume}"]
    return out


def _providers(summary: Mapping[str, Any]) -> list[str | None]:
    """The providers of the run's endpoints."""
    return [endpoint.get("provider") for endpoint in summary["settings"].get("endpoint") or ()]


def _reused(summary: Mapping[str, Any]) -> list[str]:
    """How many answers were taken from other runs, from which, and which endpoints gave them."""
    rows, by = summary["rows"], summary.get("reused") or {}
    if not rows.get("reused"):
        return []
    named = summary["settings"].get("input.reuse") or ["another run"]
    where = ", ".join(map(safe, named))
    told = f"{rows['reused']:,} of {rows['ok']:,} answers reused from {where}"
    return [f"{told} ({safe(format_rows_by_endpoint(by))}): not sent, not billed"]


def _cost(totals: Mapping[str, Any]) -> str:
    """The bill, and the wasted part of it; empty if it is not known."""
    if totals["cost_usd"] is None:
        return ""
    wasted = totals["wasted_cost_usd"]
    with_judges = totals.get("cost_usd_with_judges")
    more = "" if with_judges is None else f", {format_cost(with_judges)} with its judges"
    lost = f", {format_cost(wasted)} wasted" if wasted else ""
    return f"; cost {format_cost(totals['cost_usd'])}{lost}{more}"


def _where(checkpoint: str | None) -> str:
    return "" if checkpoint is None else f" --checkpoint {shell_word(checkpoint)}"


def _count(number: int | None) -> str:
    return "an unknown number" if number is None else f"{number:,}"
