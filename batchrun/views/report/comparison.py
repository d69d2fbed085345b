"""Another run beside this one, for ``batchrun report --against``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.settings.addresses import format_address
from batchrun.errors import DamagedError, ScoringError, UsageError
from batchrun.views import run_status

TOTALS = (
    *("attempts", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost_usd", "wasted_cost_usd"),
)


ROWS = 30
"""Rows of each kind that are looked up."""


def compared(against: str, folder: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Two ended runs, keyed as ``batchrun compare --json`` keys them, with ``against`` on top: row
    by row as that command compares them; where that cannot be done (``unpaired`` says why), what
    their summaries say. Raises ``UsageError`` where either run has not ended.
    """
    found = beside(against, summary)
    try:
        from batchrun.views.compare.compare import compare

        paired = compare(against, folder, rows=ROWS).as_dict()
    except (UsageError, ScoringError, DamagedError) as error:
        return {**found, "unpaired": str(error)}
    return {**found, **paired, "totals": found["totals"] | paired["totals"]}


def beside(against: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the summaries say of two ended runs, without pairing rows."""
    other = run_status.read(against).get("summary")
    if other is None:
        message = f"--against {against}: that run has no summary yet; name one that has ended"
        raise UsageError(message)
    if not summary:
        message = "--against compares ended runs, and this one has no summary yet"
        raise UsageError(message)
    return {
        "against": format_address(against),
        "differs": _differs(other, summary),
        "metrics": {
            name: _both(theirs.get("value"), ours.get("value"))
            for name, theirs, ours in _shared(other, summary, "metrics")
        },
        "totals": {
            **{
                f"rows {name}": {"a": other["rows"].get(name), "b": summary["rows"].get(name)}
                for name in ("input", "ok", "error")
            },
            **{
                name: {"a": other["totals"].get(name), "b": summary["totals"].get(name)}
                for name in TOTALS
            },
            "wall_s": {"a": other.get("wall_s"), "b": summary.get("wall_s")},
        },
    }


def _differs(other: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """Why the runs may differ, in the words of ``compare``."""
    settings = [each.get("settings") or {} for each in (other, summary)]
    names = {
        "rows": ("input.files", "input.from", "input.from_status", "input.sample", "limit"),
        "prompt": ("request.prompt", "request.system", "request.messages"),
        "params": ("request.params", "request.schema", "request.repeat"),
        "model": ("request.model",),
    }
    return [
        word
        for word, keys in names.items()
        if any(settings[0].get(key) != settings[1].get(key) for key in keys)
    ]


def _shared(
    other: Mapping[str, Any], summary: Mapping[str, Any], key: str
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    theirs, ours = (each.get(key) or {} for each in (other, summary))
    return [
        (name, theirs[name], ours[name])
        for name in ours
        if isinstance(ours[name], Mapping) and isinstance(theirs.get(name), Mapping)
    ]


def _both(a: object, b: object) -> dict[str, object]:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return {"a": a, "b": b, "difference": b - a if numbers else None}  # type: ignore[operator]
