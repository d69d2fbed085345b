"""Combines the progress of several processes, from their status files, into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batchrun.core.fleet.notices import merged
from batchrun.engine.observe.funds import MoneySnapshot
from batchrun.engine.observe.monitor import EndpointSnapshot, Snapshot

_SUMS = ("ok", "error", "retries", "throttled", "requests", "prompt_tokens", "completion_tokens")
_NOW = ("in_flight", "waiting", "requests_per_s", "tokens_per_s")
"""Keys that only count for workers that are still at work."""
_OF_WINDOWS = ("concurrency", "low", "high", "rows_per_s", "tokens_per_s", "pace_per_s", "cuts")
_OF_SERVERS = ("server_running", "server_waiting")
"""Keys that every worker learns from the same server."""
_HEALTH = ("up", "throttled", "down", "closed")
"""The states of an endpoint, the worst one last."""
Status = Mapping[str, Any]


def together(
    found: Mapping[str, Status],
    before: tuple[int, int],
    elapsed_s: float,
    *,
    alive: Iterable[str] | None = None,
) -> Snapshot | None:
    """One snapshot of all workers, by name; None while there is none. ``before`` are the rows that
    were done when the fleet was launched: ok, and failed. Rates, and what is in flight, are those
    of the workers that are ``alive`` and have not ended (None: of all that have not ended).

    Rows of a worker that died are counted again by the one that continues with them, as long as the
    fleet works; ``counts.count`` counts the durable ones.
    """
    if not found:
        return None
    statuses = list(found.values())
    living = found if alive is None else {name: found[name] for name in alive if name in found}
    running = [status for status in living.values() if not status["last"]]
    sums = {name: sum(status[name] for status in statuses) for name in _SUMS}
    now = {name: sum(status.get(name, 0) for status in running) for name in _NOW}
    inputs = [status["rows_input"] for status in statuses if status["rows_input"] is not None]
    rows = max(inputs, default=None)
    sums["ok"], sums["error"] = sums["ok"] + before[0], sums["error"] + before[1]
    if rows is not None:
        sums["ok"] = min(sums["ok"], rows - min(sums["error"], rows))
    left = None if rows is None else rows - sums["ok"] - sums["error"]
    figures: dict[str, Any] = sums | now
    notices = {name: [*map(str, status["notices"])] for name, status in found.items()}
    return Snapshot(
        state=next((s["state"] for s in running if s["state"] != "running"), "running"),
        elapsed_s=elapsed_s,
        rows_input=rows,
        resumed=sum(before),
        eta_s=eta_s(left, running),
        bound_by=_most_common(status["bound_by"] for status in running),
        waiting_for=_most_common(status.get("waiting_for") for status in running),
        cost_usd=_sum(status["cost_usd"] for status in statuses),
        wasted_cost_usd=_sum(status["wasted_cost_usd"] for status in statuses),
        money=_money(statuses, running, sums["ok"]),
        endpoints=_endpoints(running or statuses, now=bool(running)),
        controls=_controls(statuses),
        notices=tuple(merged(notices)),
        errors=dict(_counted(statuses, "errors").most_common()),
        examples=first_examples(status["examples"] for status in statuses),
        outputs=dict(_counted(statuses, "outputs")),
        **figures,
    )


def rows_per_s(running: Iterable[Status]) -> float:
    """Rows that all of them finish in a second, by the rates from which each tells how much time
    is left.
    """
    found = 0.0
    for status in running:
        if status["eta_s"] and status["rows_input"] is not None:
            left = status["rows_input"] - status["ok"] - status["error"]
            found += max(0, left) / status["eta_s"]
    return found


def eta_s(left: int | None, running: Iterable[Status]) -> float | None:
    """Seconds until so many rows are done; None where that is not known."""
    per_s = rows_per_s(running)
    return None if left is None or not per_s else left / per_s


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _most_common(values: Iterable[str | None]) -> str | None:
    counts = Counter(value for value in values if value is not None)
    return counts.most_common(1)[0][0] if counts else None


def _counted(statuses: Iterable[Status], key: str) -> Counter[str]:
    return sum((Counter(status[key]) for status in statuses), Counter())


def first_examples(several: Iterable[Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By error class, the example with the lowest row."""
    found: dict[str, dict[str, Any]] = {}
    for examples in several:
        for name, example in examples.items():
            if name not in found or example["row"] < found[name]["row"]:
                found[name] = example
    return found


def _controls(statuses: Iterable[Status]) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for status in statuses:
        found |= status.get("controls") or {}
    return found or None


def _money(statuses: Sequence[Status], running: Sequence[Status], ok: int) -> MoneySnapshot | None:
    """What is spent: what the whole will cost, one process cannot tell."""
    cost_usd = _sum(status["cost_usd"] for status in statuses)
    if cost_usd is None:
        return None
    per_hour = (status.get("money") or {} for status in running)
    return MoneySnapshot(
        per_hour_usd=_sum(money.get("per_hour_usd") for money in per_hour),
        per_ok_row_usd=cost_usd / ok if ok else None,
    )


def _endpoints(statuses: Sequence[Status], *, now: bool) -> tuple[EndpointSnapshot, ...]:
    by_name: dict[str, list[Status]] = {}
    for status in statuses:
        for endpoint in status.get("endpoints") or ():
            by_name.setdefault(endpoint["name"], []).append(endpoint)
    return tuple(_endpoint(name, found, now=now) for name, found in by_name.items())


def _endpoint(name: str, found: Sequence[Status], *, now: bool) -> EndpointSnapshot:
    worst = max(found, key=lambda one: _HEALTH.index(one["state"]))
    counters = ("requests", "answers", "refusals", "failures")
    rates = ("in_flight", "waiting", "requests_per_s")
    return EndpointSnapshot(
        name=name,
        state=worst["state"],
        why=worst["why"],
        bound_by=_most_common(one["bound_by"] for one in found),
        limits=next((one["limits"] for one in found if one["limits"]), []),
        window=_window([one["window"] for one in found if one.get("window")]),
        **{key: sum(one[key] for one in found) for key in counters},
        **{key: sum(one.get(key, 0) for one in found) if now else 0 for key in rates},
    )


def _window(found: Sequence[Status]) -> dict[str, Any] | None:
    """What all of them may have in flight together; the other values are those of one worker."""
    if not found:
        return None
    first = next((one for one in found if one["state"] != "fixed"), found[0])
    sums = {key: _sum(one[key] for one in found) for key in _OF_WINDOWS}
    heard = {key: first.get(key) for key in _OF_SERVERS}
    return {**first, **sums, **heard}
