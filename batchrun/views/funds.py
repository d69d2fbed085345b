"""How money is shown during a run: with the same words on the display, in plain lines and in
``batchrun status``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.cost.money import format_cost, format_rough_cost
from batchrun.views.text import share

MONEY_KNOWN = Mapping[str, Any]
"""The fields of ``engine.observe.funds.MoneySnapshot``; another version may have written others."""


def costs(cost_usd: float | None, known: MONEY_KNOWN | None) -> list[str]:
    """The amount spent and its forecast, in short pieces; none if no cost is known."""
    if cost_usd is None:
        return []
    get = (known or {}).get
    pieces = [f"cost {format_cost(cost_usd)}"]
    per_hour, per_row, projected = map(get, ("per_hour_usd", "per_ok_row_usd", "projected_usd"))
    if projected is not None:
        pieces.append(f"projected {format_rough_cost(projected)}")
        low, high = get("projected_low_usd"), get("projected_high_usd")
        if low is not None and high is not None:
            pieces.append(f"90% between {format_rough_cost(low)} and {format_rough_cost(high)}")
    if per_hour is not None:
        pieces.append(f"{format_rough_cost(per_hour)} per hour")
    if per_row is not None:
        pieces.append(f"{format_rough_cost(per_row)} per ok row")
    return pieces


def charged(known: MONEY_KNOWN | None) -> list[str]:
    """What is charged to the budgets, in short pieces; none where there are no budgets."""
    get = (known or {}).get
    pieces = []
    cap, spent, held = map(get, ("max_cost_usd", "charged_usd", "held_usd"))
    if cap is not None and spent is not None:
        pieces.append(f"charged {format_cost(spent)} of {cap_of(cap)} {_share(spent, cap)}")
        if held:
            pieces.append(f"{format_cost(held)} of it unanswered")
    cap, spent, held = map(get, ("max_total_tokens", "charged_tokens", "held_tokens"))
    if cap is not None and spent is not None:
        pieces.append(f"{spent:,} of {cap:,} tokens")
        if held:
            pieces.append(f"{held:,} of them unanswered")
    return pieces


def cap_of(cap_usd: float) -> str:
    """An amount that the user chose, as written."""
    whole, _, part = f"{cap_usd:,.12f}".rstrip("0").partition(".")
    return f"${whole}.{part:0<2}" if part else f"${whole}"


def used(budget: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What an ended run has used of its budgets, a sentence for each."""
    known = {
        "max_cost_usd": settings.get("guards.max_cost_usd"),
        "max_total_tokens": settings.get("guards.max_total_tokens"),
        **budget,
    }
    pieces = charged(known)
    return [f"budget: {', '.join(pieces)}"] if pieces else []


def ahead(projected: Mapping[str, Any]) -> list[str]:
    """What the pending rows of an ended run would cost, if that can be told."""
    rest, total = projected.get("pending_cost_usd"), projected.get("cost_usd")
    if rest is None or total is None:
        return []
    spent = total - rest
    low, high = projected.get("low_usd"), projected.get("high_usd")
    between = ""
    if low is not None and high is not None:
        between = (
            f" ({format_rough_cost(max(0.0, low - spent))} to {format_rough_cost(high - spent)})"
        )
    return [
        (
            f"pending rows: about {format_rough_cost(rest)}{between}, "
            f"the whole run about {format_rough_cost(total)}"
        )
    ]


def _share(part: float, whole: float) -> str:
    """In whole percent of a cap, which may have been lowered below what is charged."""
    return f"({share(round(part * 10**9), round(whole * 10**9))})"
