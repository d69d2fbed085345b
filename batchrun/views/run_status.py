"""What ``batchrun status`` reports of a live or finished run: no lock is taken, nothing written."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from batchrun.adapters.journal.journal import STATES
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.core.cost.money import format_cost
from batchrun.core.settings.addresses import format_address, is_remote
from batchrun.core.text.legible import shell_word
from batchrun.core.text.wording import counted
from batchrun.core.verdict import next_steps
from batchrun.rundir import inspect
from batchrun.rundir.open_run import STATUS
from batchrun.views import ending, failures, funds, limits, windows
from batchrun.views.text import BOUND, HEALTH, duration, in_flight, rate, safe, share

WORKER_STATES = ("alive", "dead", "left")
"""How the processes of a fleet may be (``fleet.status.KEYS``)."""


def read(folder: str, checkpoint: str | None = None) -> dict[str, Any]:
    """What can be known of a run directory.

    ``state`` is ``running``, ``unsent`` (a start ended before its first request), ``killed`` (it
    left no exit record; the same command resumes) or the summary's status; ``fleet`` is present
    while several processes work on it, or if they died (``fleet.status.KEYS``); ``errors`` counts
    failed rows by class, ``examples`` has one of each: an object of ``row`` and ``message``. Raises
    ``UsageError`` for what is not a run directory.
    """
    found = _found(folder, checkpoint)
    known = found.get("summary") or found.get("live") or {}
    return found | {name: known.get(name) or {} for name in ("errors", "examples")}


def _found(folder: str, checkpoint: str | None) -> dict[str, Any]:
    look = inspect.look_at(folder, checkpoint)
    control = look.checkpoint
    if look.fleet is not None and control is not None:
        from batchrun.views.fleet import status

        together = status.read(look.fleet, control, locked=look.live)
        if together is not None:
            return together
    if is_remote(folder):
        from batchrun.views.fleet import status

        together = status.read_in_store(folder, look)
        if together is not None:
            return together
    summary = read_json(look.store, SUMMARY)
    live = None if control is None else files.read_json(control / STATUS)
    begun = control is not None and (control / STATES).exists()
    if summary is None and live is None and not begun:
        raise inspect.no_run(look, "summary.json")
    if look.live:
        return {"state": "running", "live": live}
    if summary is None and live is None and inspect.is_unsent(look):
        return {"state": "unsent", "live": None}
    # Both were written by the run's own clock; a store's modification times are another's.
    since = "" if live is None else live.get("updated_at", "")
    if summary is None or since > summary.get("ended_at", ""):
        return {"state": "killed", "live": live}
    return {"state": summary["status"], "summary": summary}


def lines(found: dict[str, Any], folder: str, checkpoint: str | None = None) -> list[str]:
    """The same for people."""
    where = shell_word(format_address(folder))
    if "summary" in found:
        summary = found["summary"]
        guard = next_steps.GUARDS.get(summary["stopped_by"]) if summary["rows"]["pending"] else None
        fix = () if guard is None else (f"to fix: {guard}",)
        command = f"batchrun run command (-o {where})"
        resume = f"the same {command}" if guard is None else f"the {command} with that change"
        return ending.lines(summary, folder, resume=resume, checkpoint=checkpoint, fix=fix)
    if found["state"] == "unsent":
        return [
            "nothing was sent yet: the last start ended before its first request",
            f"next: the batchrun run command again (-o {where}), corrected if it was refused",
        ]
    live, out = found["live"], _head(found)
    if live is None:
        return out
    out += _numbers(live, dead=found["state"] == "killed")
    if live.get("cost_usd") is not None:
        spent, *others = funds.costs(live["cost_usd"], live.get("money"))
        wasted = live.get("wasted_cost_usd")
        out.append(f"{spent}, {format_cost(wasted)} of it wasted" if wasted else spent)
        if others:  # the last one goes with what is spent: each line fits a terminal
            out[-1] += f", {others.pop()}" if others[-1].endswith("per ok row") else ""
            out += [", ".join(others)] if others else []
    if pieces := funds.charged(live.get("money")):
        out.append(f"budget: {', '.join(pieces)}")
    outputs = live.get("outputs") or {}
    out += failures.flaw_lines(outputs, outputs.get("answers", 0))
    out += failures.failure_lines(live.get("errors") or {}, live.get("examples") or {})
    out += _controls(live.get("controls"))
    out += [f"notice: {safe(notice)}" for notice in live.get("notices") or ()]
    if "fleet" in found:
        out += _workers(found)
    dead = found["state"] == "killed"
    if live["bound_by"] is not None and not dead:
        out.append(f"bound by {BOUND[live['bound_by']]}")
    if len(live["endpoints"]) > 1 and not dead:
        out += map(_endpoint, live["endpoints"])
    for endpoint in live["endpoints"]:
        named = "" if len(live["endpoints"]) == 1 else f"{safe(endpoint['name'])}: "
        told = (
            windows.format_window(endpoint.get("window")),
            limits.format_limits(endpoint.get("limits", ())),
        )
        out += [named + line for line in told if line is not None]
    return out


def _head(found: dict[str, Any]) -> list[str]:
    """The first lines: which process works or worked on the run."""
    live = found["live"]
    if "fleet" in found:
        return [_processes(found)]
    if found["state"] == "killed":
        out = ["killed: the run left no exit record; the same command resumes it"]
        return out if live is None else [*out, f"last seen {safe(str(live['updated_at']))}:"]
    if live is None:
        return ["running: starting up"]
    return [f"{safe(str(live['state']))}: process {live['pid']} on {safe(str(live['host']))}"]


def _numbers(live: dict[str, Any], *, dead: bool) -> list[str]:
    """The progress and speed of a run; for a dead one, how far it came."""
    whole = live["rows_input"]
    done = live["ok"] + live["error"]
    rows = "? rows" if whole is None else counted(whole, "row")
    reused = f", {live['reused']:,} of them reused in this session" if live.get("reused") else ""
    out = [
        (
            f"{done:,} of {rows} done {share(done, whole)}"
            f" ({live['ok']:,} ok{reused}, {live['error']:,} failed), "
            f"elapsed {duration(live['elapsed_s'])}"
        )
    ]
    if dead:
        sent = f"{counted(live['requests'], 'request')} sent"
        return [*out, f"{sent}, retried {live['retries']:,}, throttled {live['throttled']:,}"]
    at_server = in_flight(live["in_flight"], live.get("waiting", 0), live.get("waiting_for"))
    return [
        *out,
        (
            f"{rate(live['requests_per_s'])} requests, {rate(live['tokens_per_s'])} tokens, "
            f"{at_server}, retried {live['retries']:,}, "
            f"throttled {live['throttled']:,}, ETA {duration(live['eta_s'])}"
        ),
    ]


def _controls(found: dict[str, Any] | None) -> list[str]:
    """What was set while the run was live."""
    if not found:
        return []
    told = (
        f"{safe(key)} {'none' if value is None else safe(json.dumps(value))}"
        for key, value in found.items()
    )
    return [f"changed with batchrun ctl: {', '.join(told)}"]


def _endpoint(live: dict[str, Any]) -> str:
    """One of several endpoints."""
    text = (
        f"{safe(live['name'])}: {HEALTH[live['state']]}, {rate(live['requests_per_s'])} requests, "
        f"in flight {live['in_flight']}, sent {live['requests']:,}, answered {live['answers']:,}, "
        f"throttled {live['refusals']:,}, failed {live['failures']:,}"
    )
    return text if live["why"] is None else f"{text}: {safe(live['why'])}"


def _processes(found: dict[str, Any]) -> str:
    """How many processes work on the run together, or did."""
    workers, live = found["fleet"]["workers"], found["live"]
    states = Counter(worker["state"] for worker in workers)
    told = ", ".join(f"{states[state]} {state}" for state in WORKER_STATES if states[state])
    processes = counted(len(workers), "process", "processes")
    if found["state"] == "killed":
        return f"killed: {processes} together ({told}); the same command resumes:"
    hosts = {worker["host"] for worker in workers if worker["state"] == "alive"}
    on = f" on {counted(len(hosts), 'machine')}" if len(hosts) > 1 else ""
    return f"{safe(str(live['state']))}: {processes} together{on} ({told})"


def _workers(found: dict[str, Any]) -> list[str]:
    """Shards, shared limits and processes, a line for each."""
    fleet = found["fleet"]
    shards, out = fleet["shards"], []
    out.append(
        f"{shards['published']:,} of {counted(shards['all'], 'shard')} published, "
        f"{shards['claimed']:,} claimed, {shards['free']:,} free"
    )
    several = len({limit["endpoint"] for limit in fleet["limits"]}) > 1
    if fleet["limits"] and found["state"] != "killed":
        told = (_limit(limit, limit["total"], several=several) for limit in fleet["limits"])
        out.append(f"limits of all together: {', '.join(told)}")
    return out + [_worker(worker, several=several) for worker in fleet["workers"]]


def _limit(limit: dict[str, Any], value: float, *, several: bool) -> str:
    named = f"{safe(limit['endpoint'])}." if several else ""
    return f"{named}{limit['kind']} {value:,.6g}"


def _worker(worker: dict[str, Any], *, several: bool) -> str:
    where = f"process {worker['pid']} on {safe(str(worker['host']))}"
    if worker["pid"] is None:
        where = "a process that has just begun"
    done = f"{counted(worker['shards'], 'shard')} and {counted(worker['rows'], 'row')} done"
    text = f"{safe(worker['name'])}: {worker['state']}, {where}, {done}"
    if worker["state"] == "alive":
        shares = (_limit(one, one["share"], several=several) for one in worker["shares"])
        now = [f"in flight {worker['in_flight']}", f"{rate(worker['requests_per_s'])} requests"]
        return ", ".join([text, *now, *shares])
    if worker["state"] == "dead":
        text += f", last heard of {duration(worker['silent_s'])} ago"
        if worker["claimed"]:
            text += f", {counted(worker['claimed'], 'shard')} to be taken over"
    return text
