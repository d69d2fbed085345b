"""``checkpoint/status.json``: the progress of a live run, for other processes."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from pathlib import Path

from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.storage import files
from batchrun.core.run import summary
from batchrun.engine.observe.monitor import Snapshot

KEYS = {
    "state": "`running`, `paused` (by `batchrun ctl`), or `stopping` once a stop was requested.",
    "elapsed_s": "Seconds since this session began.",
    "rows_input": "Rows of the input. Null until they are counted, and until a piped input ends.",
    "ok": "Rows with a durable completion, those of earlier sessions included.",
    "error": "Rows with a durable failure, those of earlier sessions included.",
    "resumed": "Of these rows, those that earlier sessions finished.",
    "reused": "Of the `ok` rows, those that this session took from other runs (`--reuse`).",
    "retries": "Retries in this session.",
    "throttled": "Replies in this session that asked to slow down.",
    "requests": "Requests sent in this session.",
    "in_flight": "Requests sent and not answered yet.",
    "waiting": "Rows that could be in flight besides, but may not be sent yet.",
    "waiting_for": "What most of these wait for: `rpm`, `tpm`, `limits`, `server`, `outage` or "
    "`pause`, as in `bound_by`; null if none waits.",
    "prompt_tokens": "Prompt tokens of the rows finished in this session.",
    "completion_tokens": "Completion tokens of the rows finished in this session.",
    "requests_per_s": "Requests per second over the last 15 seconds.",
    "tokens_per_s": "Tokens per second over the last 15 seconds.",
    "eta_s": "Seconds left at the present rate. Null if unknown.",
    "bound_by": (
        "What limits the run's speed: `pause`, `concurrency`, `rpm`, `tpm`, `limits` (those that "
        "the server reports), `server` (it throttles), `outage`, `budget` (nearly used up), "
        "`source` (reading the input), `memory` (as many rows are open as it is set aside for), "
        "`cpu`, or null."
    ),
    "cost_usd": "The bill so far, over all sessions. Null while no cost is known.",
    "wasted_cost_usd": "The part of it that bought no answer of an `ok` row.",
    "money": (
        "Null while no cost is known and no budget is set; else an object, with null for what is "
        "unknown: `per_hour_usd` (over the last 15 seconds), `per_ok_row_usd`; `projected_usd` for "
        "the whole run, with its 90% interval from `projected_low_usd` to `projected_high_usd`; "
        "`max_cost_usd` with `charged_usd`, `held_usd` (the part of it held for attempts whose "
        "cost is unknown) and `reserved_usd` (on top, for requests in flight); and in the same way "
        "`max_total_tokens`, `charged_tokens`, `held_tokens`, `reserved_tokens`."
    ),
    "endpoints": (
        "One object per endpoint: `name`; `state` (`up`, `throttled` by the server, `down` while "
        "only probes go there, or `closed` for the reason in `why`); `in_flight`, `waiting`; "
        "`requests`, "
        "`answers`, `refusals` and `failures`; `requests_per_s`; `bound_by`; and `limits`, those "
        "that the server reported last: objects of `kind` (`requests`, `tokens`, `input_tokens`, "
        "`output_tokens`), `per` (`second` to `month`, `unknown`), `per_s`, `limit`, `remaining`, "
        "`reset_s` and `source` (the headers' names), with null for what it did not report. "
        "`window` tells what batchrun found that the server can take, null while it does not look: "
        "`concurrency` (requests in flight at most, now) between `low` and `high`; `state` "
        "(`doubling`, `halving`, `holding`, `probing_up`, `probing_down`, or `fixed`) and `why`; "
        "`rows_per_s` and `tokens_per_s`, the goodput when it was last judged; `cuts`, how often "
        "overload reduced it; and, once the server refused requests without reporting a limit, "
        "`pace_per_s` with `pace_state` (`free`, `frozen`, `doubling`, `steady`, `closed`). "
        "`server_running` and `server_waiting` are the requests that the server says it runs and "
        "lets wait, where it is a self-hosted one with `/metrics`."
    ),
    "controls": (
        "What `batchrun ctl` set in this session, by key: the latest values. Null if it set "
        "nothing."
    ),
    "notices": "What the run has reported to the user in this session; the latest may be missing.",
    "errors": "Failed rows by error class, those of earlier sessions included.",
    "examples": "One failed row of each error class: an object of `row` and `message`.",
    "outputs": (
        "`answers` of this session, and how many of them are `truncated` (a token limit cut them "
        "off) or `empty`."
    ),
    "last": "Whether the session wrote this at its end.",
    "pid": "The process id.",
    "host": "The machine that the process runs on.",
    "updated_at": "When the file was written, UTC; about twice a second.",
}
"""The meaning of the keys of ``status.json``, for the reference."""


ADDED = ("pid", "host", "updated_at")
"""The keys that are not part of a snapshot of the run."""


class StatusFile:
    """``ports.Observer`` that replaces ``checkpoint/status.json``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        assert isinstance(event, Snapshot)
        here = (os.getpid(), socket.gethostname(), summary.moment(LoopClock.onward_us()))
        status = asdict(event) | dict(zip(ADDED, here, strict=True))
        files.write_json(self._path, status, durable=False)
