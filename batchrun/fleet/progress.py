"""The progress of a fleet: what the status files of its workers say, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batchrun.adapters.storage import files
from batchrun.engine.observe.monitor import Snapshot
from batchrun.rundir.fleet.launches import WORKERS, Launch, Launches
from batchrun.rundir.open_run import STATUS

_SUMS = ("ok", "error", "retries", "throttled", "requests", "prompt_tokens", "completion_tokens")
_NOW = ("in_flight", "requests_per_s", "tokens_per_s")
"""What only counts of workers that go on."""


class FleetProgress:
    """Looks at the fleet of a run directory, now and then."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches
        self._launch: Launch | None = None
        self._before = 0, 0

    def look(self, elapsed_s: float) -> Snapshot | None:
        """One snapshot of all workers; None while there is no fleet."""
        launch = self._launches.current()
        if launch is None:
            return None
        if launch != self._launch:
            self._launch, self._before = launch, self._launches.plan(launch).before
        paths = sorted((launch.folder / WORKERS).glob(f"*/{STATUS}"))
        found = (files.read_json(path) for path in paths)
        statuses = [status for status in found if isinstance(status, dict)]
        return together(statuses, self._before, elapsed_s)


def together(
    found: Sequence[Mapping[str, Any]], before: tuple[int, int], elapsed_s: float
) -> Snapshot | None:
    """One snapshot of all workers; None while there is none. ``before`` are the rows that were
    done when the fleet was launched: ok, and failed.

    Rows of a worker that died are counted again by the one that goes on with them, for as long as
    the fleet works: this is a display, and the summary counts what is published.
    """
    if not found:
        return None
    sums = {name: sum(status[name] for status in found) for name in _SUMS}
    now = {name: sum(status[name] for status in found if not status["last"]) or 0 for name in _NOW}
    inputs = [status["rows_input"] for status in found if status["rows_input"] is not None]
    rows = max(inputs, default=None)
    new = sums["ok"] + sums["error"]
    sums["ok"], sums["error"] = sums["ok"] + before[0], sums["error"] + before[1]
    if rows is not None:
        sums["ok"] = min(sums["ok"], rows - min(sums["error"], rows))
    left = None if rows is None else rows - sums["ok"] - sums["error"]
    running = [status for status in found if not status["last"]]
    figures: dict[str, Any] = sums | now
    return Snapshot(
        state=next((s["state"] for s in running if s["state"] != "running"), "running"),
        elapsed_s=elapsed_s,
        rows_input=rows,
        resumed=sum(before),
        eta_s=None if left is None or not new else left * elapsed_s / new,
        bound_by=_most_common(status["bound_by"] for status in running),
        cost_usd=_sum(status["cost_usd"] for status in found),
        wasted_cost_usd=_sum(status["wasted_cost_usd"] for status in found),
        notices=tuple(dict.fromkeys(text for status in found for text in status["notices"])),
        errors=dict(sum((Counter(status["errors"]) for status in found), Counter()).most_common()),
        examples={name: said for status in found for name, said in status["examples"].items()},
        outputs=dict(sum((Counter(status["outputs"]) for status in found), Counter())),
        **figures,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _most_common(values: Iterable[str | None]) -> str | None:
    counts = Counter(value for value in values if value is not None)
    return counts.most_common(1)[0][0] if counts else None
