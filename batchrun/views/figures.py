"""The scores, metrics and gates of a summary as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.text.wording import counted
from batchrun.views.layout import clipped, columns_of, padded
from batchrun.views.text import safe

GROUPS_SHOWN = 10
KEY_COLUMNS = 80
"""The characters of a group's name that are shown."""
_WORDS = {
    "fail": "FAILED",
    "inconclusive": "inconclusive",
    "warn": "warning",
    "not_judged": "not judged",
}
"""How verdicts other than a pass begin a line, the gravest first."""


def lines(summary: Mapping[str, Any]) -> list[str]:
    """All scores, metrics and gates of a summary; empty if a run has none."""
    judges = (summary.get("judges") or {}).items()
    judged = [line for name, one in judges for line in _judge(name, one)]
    unscored = [_unscored(name, one) for name, one in (summary.get("scores") or {}).items()]
    out = judged + [line for line in unscored if line is not None]
    for name, metric in (summary.get("metrics") or {}).items():
        if not isinstance(metric, Mapping):
            continue  # none of batchrun's
        out.append(f"{safe(name)}: {_metric(metric)}")
        groups = list((metric.get("groups") or {}).items())
        shown = [(clipped(safe(key), KEY_COLUMNS), one) for key, one in groups[:GROUPS_SHOWN]]
        width = max((columns_of(key) for key, _ in shown), default=0)
        out += [f"  {padded(key, width)}  {_metric(one)}" for key, one in shown]
        if len(groups) > GROUPS_SHOWN:
            out.append(f"  and {len(groups) - GROUPS_SHOWN:,} more groups in summary.json")
    return out + gate_lines(summary.get("gates") or {})


def _reason(name: str, why: str) -> str:
    """Why a gate did not pass, beginning with the gate's name, once."""
    return safe(why) if why.startswith(f"{name} ") else f"{safe(name)}: {safe(why)}"


def _judge(name: str, one: Mapping[str, Any]) -> list[str]:
    """How many answers a judge judged, what is wrong with its verdicts, and what it cost."""
    left = {
        "unparsed": "without a verdict that can be read",
        "failed": "not answered by the judge",
        "missing": "not judged",
        "stale": "judged before the answer changed",
        "pending": "pending",
        "flips": "decided by the order, counted as ties",
    }
    told = [f"{one[key]:,} {what}" for key, what in left.items() if one.get(key)]
    cost = "" if one.get("cost_usd") is None else f"; cost {format_cost(one['cost_usd'])}"
    if cost and one.get("wasted_cost_usd"):
        cost += f", {format_cost(one['wasted_cost_usd'])} of it wasted"
    by = "" if not one.get("model") else f" by {safe(str(one['model']))}"
    head = f"judge {safe(name)}: {counted(one['rows'], 'answer')} judged{by}"
    return ["".join([head, *(f", {each}" for each in told), cost])]


def figure(value: float | None) -> str:
    """A number in at most six significant digits."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.6g}"


def _unscored(name: str, one: Mapping[str, Any]) -> str | None:
    """What a score leaves out, if anything."""
    if not one["null"]:
        return None
    of = counted(one["scored"] + one["null"], "ok row")
    return f"score {safe(name)}: {one['null']:,} of {of} not scored (null)"


def _metric(metric: Mapping[str, Any]) -> str:
    text = figure(metric.get("value"))
    if metric.get("low") is not None:
        text += f" (95% {figure(metric['low'])} to {figure(metric.get('high'))})"
    text += f", n {metric.get('n') or 0:,}"
    wrong, right = metric.get("as_if_errors_wrong"), metric.get("as_if_errors_right")
    if wrong is not None and wrong != right:
        text += f"; {figure(wrong)} if failed rows were wrong, {figure(right)} if right"
    return text


def gate_lines(gates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many gates passed, and every other one with its reason; nothing without gates."""
    if not gates:
        return []
    verdicts = [gate["verdict"] for gate in gates.values()]
    passed, unjudged = verdicts.count("pass"), verdicts.count("not_judged")
    left = f", {unjudged} not judged" if unjudged else ""
    out = [f"gates: {passed} of {len(gates) - unjudged} passed{left}"]
    if unjudged == len(gates):
        out = [f"gates: 0 passed{left}"]
    for verdict, word in _WORDS.items():
        out += [
            f"  {word}: {_reason(name, gate['why'])}"
            for name, gate in gates.items()
            if gate["verdict"] == verdict
        ]
    return out
