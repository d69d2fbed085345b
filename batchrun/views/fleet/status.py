"""What ``batchrun status`` reports of a run that several processes do together.

It has the keys of a run of one process, so that every reader of a status can read it, and besides
``fleet``: the processes, the shards, and the limits with everybody's share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchrun.core.fleet import controls, quota
from batchrun.core.run.summary import format_examples
from batchrun.engine.observe.monitor import Snapshot
from batchrun.rundir import state_reader
from batchrun.rundir.fleet import looking
from batchrun.rundir.fleet.looking import SeenFleet, SeenWorker
from batchrun.rundir.inspect import Look
from batchrun.views.fleet import counts, together
from batchrun.views.fleet.counts import Counts

KEYS = {
    "shards": (
        "Numbers of shards: `all`, `published` (complete), `claimed` (a process is working on "
        "them, or was when it died) and `free`."
    ),
    "limits": (
        "Limits that all processes share: objects of `endpoint`, `kind` (`concurrency`, `rpm`, "
        "`tpm`) and `total`."
    ),
    "workers": (
        "One object per process: `name`; `host` and `pid`; `state` (`alive`, `dead`, or `left` if "
        "it ended cleanly); `silent_s`, seconds since it renewed its lease; `shards`, how many it "
        "has published; `claimed`, how many it has claimed but not published; `rows`, the durable "
        "rows of both; `in_flight`; `requests_per_s`; and `shares`, its share of each limit: "
        "objects of `endpoint`, `kind` and `share`."
    ),
}
"""What the keys of ``fleet`` in ``status --json`` mean, for the reference."""


def read(folder: Path, checkpoint: Path, *, locked: bool) -> dict[str, Any] | None:
    """The status of a fleet that is not folded; None if there is none. ``locked`` says that a
    process has the run directory to itself, which begins or folds it.
    """
    fleet = looking.seen(folder)
    if fleet is None:
        return None
    found, live, _ = _counted(fleet, checkpoint)
    return _status(fleet, found, live, locked=locked)


def read_in_store(folder: str, look: Look) -> dict[str, Any] | None:
    """The same for a fleet whose run directory is in an object store. The number of rows that are
    not published comes from the status in the leases of its processes.
    """
    seen = looking.seen_in_store(folder, look.checkpoint, look.store)
    if seen is None:
        return None
    fleet, locked = seen
    found, live, knows_before = _counted(fleet, look.checkpoint)
    done = sum(found.totals.rows())
    if not knows_before:
        done += sum(fleet.plan.before)
    for worker in fleet.alive:
        told = worker.status.get("ok", 0) + worker.status.get("error", 0)
        more = max(0, told - found.rows[worker.name])
        found.rows[worker.name] += more
        done += more
    error = max(live["error"], sum(worker.status.get("error", 0) for worker in fleet.alive))
    live |= {"ok": max(0, min(done, fleet.plan.rows) - error), "error": error}
    return _status(fleet, found, live, locked=locked)


def _counted(fleet: SeenFleet, checkpoint: Path | None) -> tuple[Counts, dict[str, Any], bool]:
    """What is durable and published of a fleet, the keys of ``live``, and whether the checkpoint of
    the run is there, which knows what was done before the launch.
    """
    recorded = None if checkpoint is None else state_reader.read(checkpoint)
    found = counts.count(fleet, {} if recorded is None else recorded.shards)
    kept = (recorded.meta.get("examples") if recorded else None) or {}
    return found, _live(fleet, found, kept), recorded is not None


def _status(
    fleet: SeenFleet, found: Counts, live: Mapping[str, Any], *, locked: bool
) -> dict[str, Any]:
    return {
        "state": "running" if fleet.alive or locked else "killed",
        "live": live,
        "fleet": _fleet(fleet, found),
    }


def _live(fleet: SeenFleet, found: Counts, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys as the status file of one process, over all of them."""
    alive = [worker.name for worker in fleet.alive]
    statuses = {worker.name: worker.status for worker in fleet.workers if worker.status}
    seen = together.together(statuses, (0, 0), fleet.elapsed_s, alive=alive)
    ok, error = found.totals.rows()
    totals, rows = found.totals.overall(), fleet.plan.rows
    running = [statuses[name] for name in alive if name in statuses]
    errors = dict(sorted(found.totals.errors.items(), key=lambda one: -one[1]))
    # Those of published shards are only in the status files of the workers.
    reported = {} if seen is None else seen.examples
    recorded = (format_examples(each, errors) for each in (kept, found.examples))
    examples = together.first_examples([reported, *recorded])
    now: dict[str, Any] = asdict(seen if seen is not None else _NOTHING)
    state = controls.state_after(fleet.changes)
    return now | {
        "state": now["state"] if state == "running" else state,
        "elapsed_s": fleet.elapsed_s,
        "rows_input": rows,
        "ok": ok,
        "error": error,
        "resumed": sum(fleet.plan.before),
        "eta_s": together.eta_s(max(0, rows - ok - error), running),
        "cost_usd": totals["cost_usd"],
        "wasted_cost_usd": totals["wasted_cost_usd"],
        "errors": errors,
        "examples": {name: examples[name] for name in errors if name in examples},
        "outputs": {"answers": ok, **found.totals.outputs},
        "controls": _controls(fleet),
        "pid": None,
        "host": None,
        "updated_at": max((one["updated_at"] for one in statuses.values()), default=None),
    }


_NOTHING = Snapshot(
    state="running",
    elapsed_s=0.0,
    rows_input=None,
    ok=0,
    error=0,
    resumed=0,
    retries=0,
    throttled=0,
    requests=0,
    in_flight=0,
    prompt_tokens=0,
    completion_tokens=0,
    requests_per_s=0.0,
    tokens_per_s=0.0,
    eta_s=None,
    bound_by=None,
)
"""The status before any process has reported progress."""


def _controls(fleet: SeenFleet) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for change in fleet.changes:
        found |= change.as_history()["set"]
    return found or None


def _fleet(fleet: SeenFleet, found: Counts) -> dict[str, Any]:
    every = len(fleet.plan.starts)
    published, claimed = every - fleet.pending_shards, len(fleet.claims)
    limits = [
        {"endpoint": endpoint, "kind": kind, "total": _number(total)}
        for name, total in fleet.book.limits.items()
        for endpoint, kind in (quota.limit_of(name),)
    ]
    return {
        "shards": {
            "all": every,
            "published": published,
            "claimed": claimed,
            "free": max(0, every - published - claimed),
        },
        "limits": limits,
        "workers": [_worker(fleet, found, worker) for worker in fleet.workers],
    }


def _worker(fleet: SeenFleet, found: Counts, worker: SeenWorker) -> dict[str, Any]:
    alive = worker.state == looking.ALIVE
    status = worker.status if alive else {}
    holding = fleet.book.holdings.get(worker.name) if alive else None
    return {
        "name": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "state": worker.state,
        "silent_s": round(worker.silent_s, 1),
        "shards": found.shards[worker.name],
        "claimed": sum(claim.worker == worker.name for claim in fleet.claims.values()),
        "rows": found.rows[worker.name],
        "in_flight": status.get("in_flight", 0),
        "requests_per_s": status.get("requests_per_s", 0.0),
        "shares": [
            {"endpoint": endpoint, "kind": kind, "share": _number(share)}
            for name, share in (holding.parts if holding is not None else {}).items()
            for endpoint, kind in (quota.limit_of(name),)
        ],
    }


def _number(value: float) -> float:
    """A whole number as one."""
    return int(value) if float(value).is_integer() else value
