"""The summary of a run: what ``summary.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from batchrun.core.cost.money import usd
from batchrun.core.cost.projection import Projection
from batchrun.core.run.totals import Totals

COMPLETE, WITH_ERRORS, STOPPED, INTERRUPTED = (
    "complete",
    "complete_with_errors",
    "stopped",
    "interrupted",
)


NO_BUDGET: Mapping[str, Any] = dict.fromkeys(
    ("charged_usd", "held_usd", "charged_tokens", "held_tokens")
)


def moment(microseconds: int) -> str:
    """A wall-clock time as text, UTC."""
    when = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def in_step(
    summary: Mapping[str, Any], totals: Totals, wall_s: float, shaping: Mapping[str, Any]
) -> bool:
    """Whether a summary counts what these totals and the journal's ``wall_s`` do, and tells of the
    settings that shape requests. Where a kill came between, one of them is older; so it is where
    other settings were allowed since.
    """
    rows, settings = summary.get("rows"), summary.get("settings")
    if not isinstance(settings, dict) or any(
        settings.get(name) != value for name, value in shaping.items()
    ):
        return False
    counted = (rows.get("ok"), rows.get("error")) if isinstance(rows, dict) else None
    return (
        counted == totals.rows()
        and summary.get("errors") == dict(sorted(totals.errors.items()))
        and summary.get("totals") == totals.overall()
        and summary.get("outputs") == totals.outputs
        and summary.get("reused", {}) == totals.reused
        and summary.get("wall_s") == round(wall_s, 3)
    )


def build(
    *,
    totals: Totals,
    rows_input: int | None,
    stopped_by: str | None,
    stop_exit_code: int | None,
    started_at_us: int,
    ended_at_us: int,
    wall_s: float,
    settings: dict[str, Any],
    version: str,
    budget: Mapping[str, Any] = NO_BUDGET,
    projected: Projection | None = None,
    fault_exit_code: int = 5,
    reuses: bool = False,
    run: str | None = None,
) -> dict[str, Any]:
    """The summary. A stop that left nothing pending is not a stop; ``wall_s`` sums the sessions.
    A session that neither ended nor was stopped ends with ``fault_exit_code``. ``projected`` is
    written down where rows are pending; what was reused, where the run ``reuses`` answers.
    """
    ok, error = totals.rows()
    pending = None if rows_input is None else rows_input - ok - error
    if pending == 0:
        status = WITH_ERRORS if error else COMPLETE
        exit_code = 1 if error else 0
        stopped_by = None
    else:
        signalled = stop_exit_code is not None and stop_exit_code > 128
        status = INTERRUPTED if signalled or stop_exit_code is None else STOPPED
        exit_code = fault_exit_code if stop_exit_code is None else stop_exit_code
    return {
        "status": status,
        "stopped_by": stopped_by,
        "exit_code": exit_code,
        "rows": {
            "input": rows_input,
            "ok": ok,
            "error": error,
            "pending": pending,
            **({"reused": sum(totals.reused.values())} if reuses or totals.reused else {}),
        },
        "totals": totals.overall(),
        "errors": dict(sorted(totals.errors.items())),
        "outputs": dict(totals.outputs),
        **({"reused": dict(sorted(totals.reused.items()))} if reuses or totals.reused else {}),
        "endpoints": totals.by_endpoint(),
        "budget": dict(budget),
        "projected": _projected(projected if pending else None),
        "started_at": moment(started_at_us),
        "ended_at": moment(ended_at_us),
        "wall_s": round(wall_s, 3),
        "settings": settings,
        **({"run": run} if run is not None else {}),
        "version": version,
    }


def _projected(found: Projection | None) -> dict[str, float | None]:
    """What the whole run will have cost, and what of that its pending rows will."""
    amounts = {
        "cost_usd": found and found.total,
        "low_usd": found and found.low,
        "high_usd": found and found.high,
        "pending_cost_usd": found and found.pending,
    }
    return {name: None if cost is None else usd(cost) for name, cost in amounts.items()}
