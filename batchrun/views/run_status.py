"""What ``batchrun status`` reports of a live or finished run: no lock is taken, nothing written."""

from __future__ import annotations

import json
from typing import Any

from batchrun.adapters.journal.journal import STATES
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.core.cost.money import format_cost
from batchrun.core.settings.addresses import format_address
from batchrun.core.text.legible import shell_word
from batchrun.core.text.wording import counted
from batchrun.errors import UsageError
from batchrun.rundir import inspect
from batchrun.rundir.open_run import STATUS
from batchrun.views import ending, failures, funds, limits, windows
from batchrun.views.text import BOUND, HEALTH, duration, rate, safe, share


def read(folder: str, checkpoint: str | None = None) -> dict[str, Any]:
    """What can be known of a run directory.

    ``state`` is ``running``, ``killed`` (it left no exit record; the same command resumes) or the
    summary's status; ``errors`` counts failed rows by class, ``examples`` has one of each: an
    object of ``row`` and ``message``. Raises ``UsageError`` for what is not a run directory.
    """
    found = _found(folder, checkpoint)
    known = found.get("summary") or found.get("live") or {}
    return found | {name: known.get(name) or {} for name in ("errors", "examples")}


def _found(folder: str, checkpoint: str | None) -> dict[str, Any]:
    look = inspect.look_at(folder, checkpoint)
    control = look.checkpoint
    summary = read_json(look.store, SUMMARY)
    live = None if control is None else files.read_json(control / STATUS)
    begun = control is not None and (control / STATES).exists()
    if summary is None and live is None and not begun:
        shown = look.store.where()
        message = f"{shown} is not a run directory: it has neither summary.json nor a checkpoint"
        if control is None:
            message += " (--checkpoint names that)"
        raise UsageError(message)
    if look.live:
        return {"state": "running", "live": live}
    # Both were written by the run's own clock; a store's modification times are another's.
    since = "" if live is None else live.get("updated_at", "")
    if summary is None or since > summary.get("ended_at", ""):
        return {"state": "killed", "live": live}
    return {"state": summary["status"], "summary": summary}


def lines(found: dict[str, Any], folder: str, checkpoint: str | None = None) -> list[str]:
    """The same for people."""
    if "summary" in found:
        resume = f"the same batchrun run command (-o {shell_word(format_address(folder))})"
        return ending.lines(found["summary"], folder, resume=resume, checkpoint=checkpoint)
    live = found["live"]
    if found["state"] == "killed":
        out = ["killed: the run left no exit record; the same command resumes it"]
        if live is None:
            return out
        out.append(f"last seen {safe(str(live['updated_at']))}:")
    elif live is None:
        return ["running: starting up"]
    else:
        out = [f"{safe(str(live['state']))}: process {live['pid']} on {safe(str(live['host']))}"]
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


def _numbers(live: dict[str, Any], *, dead: bool) -> list[str]:
    """How far a run is, and how quick; of one that is dead, how far it came."""
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
    return [
        *out,
        (
            f"{rate(live['requests_per_s'])} requests, {rate(live['tokens_per_s'])} tokens, "
            f"in flight {live['in_flight']}, retried {live['retries']:,}, "
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
