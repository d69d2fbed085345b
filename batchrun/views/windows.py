"""What batchrun found that a server can take, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.views.text import rate

STATES = {
    "doubling": "growing",
    "halving": "shrinking",
    "holding": "steady",
    "probing_up": "trying more",
    "probing_down": "trying fewer",
}
"""The states of the climb (``engine.pace.climb.State``)."""


def format_window(window: Mapping[str, Any] | None) -> str | None:
    """One line for ``Gate.window``; None if nothing was searched for."""
    if window is None:
        return None
    parts = []
    state = STATES.get(window["state"])
    if state is not None:
        why = f" ({window['why']})" if window["why"] else ""
        parts.append(
            f"concurrency {window['concurrency']:,} of {window['low']:,} to {window['high']:,}, "
            f"{state}{why}"
        )
        if window["rows_per_s"] is not None:
            parts.append(f"goodput {rate(window['rows_per_s'])} rows")
        if window["tokens_per_s"] is not None:
            parts[-1] += f", {rate(window['tokens_per_s'])} tokens"
    if window["pace_per_s"] is not None:
        parts.append(f"the server takes about {rate(window['pace_per_s'])} requests")
    return ", ".join(parts) or None
