"""``batchrun verify``: everything recomputed from the files, in one pass with flat memory.

It shares no code with what wrote the files: rows are counted and summed here once more, by Arrow's
own aggregation, and compared with what the summary and the journal claim.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters import arrow, files, looking
from batchrun.adapters.journal import STATES
from batchrun.adapters.store import (
    KINDS,
    SUMMARY,
    USAGE,
    StoreReader,
    part_names,
    read_json,
)
from batchrun.core.addresses import local_path
from batchrun.errors import UsageError
from batchrun.views.counted import SUMS, Report, Shards, Sums

_CLOSE = 1e-6


def check(folder: str, checkpoint: str | None = None) -> Report:
    """Check a run directory. Raises ``UsageError`` for what is none."""
    look = looking.look_at(folder, checkpoint)
    store = look.store
    names = {kind: store.names(kind) for kind in KINDS}
    local = local_path(folder)
    if not (any(names.values()) if local is None else Path(local, KINDS[0]).is_dir()):
        message = f"{store.where()} is no run directory: it has no results/"
        raise UsageError(message)
    report, sums = Report(store.where()), Sums()
    summary = read_json(store, SUMMARY)
    if look.live:
        report.problems.append("a run is working here; verify it when it has ended")
    if not isinstance(summary, dict):
        if not look.live:
            report.problems.append("summary.json is missing: the run was killed; run it again")
        summary = None
    parts = {kind: part_names(store, kind) for kind in KINDS}
    for kind, other in zip(KINDS, reversed(KINDS), strict=True):
        for name in sorted(set(parts[other]) - set(parts[kind])):
            report.problems.append(f"{kind}/{name} is missing")
        report.problems += [
            f"{kind}/{name} is a leftover of a kill; run again"
            for name in names[kind]
            if name.endswith(files.TEMPORARY)
        ]
    digests, shard_rows = _recorded(look.checkpoint, report)
    if shard_rows is None and summary is not None:
        shard_rows = summary.get("settings", {}).get("output.shard_rows")
    shards = Shards(store, shard_rows, digests, report, sums)
    for name in sorted({*digests, *parts["results"], *parts["attempts"]}):
        shards.check(name, [kind for kind in KINDS if name in parts[kind]])
    if summary is not None:
        _compare_summary(summary, report, sums)
        _compare_usage(store, report, sums)
    return report


def _recorded(
    checkpoint: Path | None, report: Report
) -> tuple[dict[str, tuple[str, str]], int | None]:
    """The digests the journal recorded, by part name, and the rows of a shard."""
    if checkpoint is None:
        report.notes.append("--checkpoint names no journal; digests were not compared")
        return {}, None
    path = checkpoint / STATES
    wal = path.with_name(path.name + "-wal")
    if not path.exists() or (wal.exists() and wal.stat().st_size):
        report.notes.append(f"{path} is missing or in use; digests were not compared")
        return {}, None
    try:
        db = sqlite3.connect(f"file:{path.resolve()}?mode=ro&immutable=1", uri=True)
        try:
            rows = db.execute(
                "SELECT shard, results_sha256, attempts_sha256 FROM shards"
            ).fetchall()
            (size,) = db.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone() or (
                "{}",
            )
        finally:
            db.close()
    except sqlite3.Error as error:
        report.problems.append(f"{path} cannot be read: {error}")
        return {}, None
    report.problems += [
        f"{path.name} waits to be published; run again"
        for path in sorted(path.parent.glob("shard-*.log"))
    ]
    shard_rows = json.loads(size).get("output.shard_rows")
    return {f"part-{shard:08d}.parquet": (r, a) for shard, r, a in rows}, shard_rows


def _compare_summary(summary: dict[str, Any], report: Report, sums: Sums) -> None:
    rows, totals = summary.get("rows", {}), summary.get("totals", {})
    for status in ("ok", "error"):
        report.claim(
            rows.get(status) == sums.status[status],
            f"summary.json says {rows.get(status)} rows {status}, the parts hold "
            f"{sums.status[status]}",
        )
    if rows.get("input") is not None:
        left = rows["input"] - sums.status["ok"] - sums.status["error"]
        report.claim(
            rows.get("pending") == left and left >= 0,
            f"summary.json says {rows.get('pending')} rows pending, the parts leave {left}",
        )
        if summary.get("status") in ("complete", "complete_with_errors"):
            report.claim(left == 0, f"the run is called complete and {left} rows are missing")
    _compare_status(summary, report, sums)
    report.claim(
        summary.get("errors") == dict(sums.errors),
        f"summary.json counts errors {summary.get('errors')}, the parts {dict(sums.errors)}",
    )
    outputs = {name: sums.outputs[name] for name in ("truncated", "empty")}
    report.claim(
        summary.get("outputs") == outputs,
        f"summary.json counts outputs {summary.get('outputs')}, the parts {outputs}",
    )
    for name in ("attempts", "unanswered_attempts", *SUMS):
        report.claim(
            totals.get(name) == sums.totals[name],
            f"summary.json says {name} {totals.get(name)}, the ledger sums to {sums.totals[name]}",
        )
    report.claim(
        _same(totals.get("cost_usd"), sums.cost_usd),
        f"summary.json says cost {totals.get('cost_usd')}, the ledger sums to {sums.cost_usd}",
    )


def _compare_status(summary: dict[str, Any], report: Report, sums: Sums) -> None:
    """A run is complete if, and only if, nothing is pending."""
    status, code = summary.get("status"), summary.get("exit_code")
    if summary.get("rows", {}).get("pending") == 0:
        expected = ("complete_with_errors", 1) if sums.status["error"] else ("complete", 0)
        report.claim(
            (status, code) == expected,
            f"summary.json says status {status}, exit code {code}; the parts say {expected[0]}",
        )
    else:
        report.claim(
            status in ("stopped", "interrupted") and code not in (0, 1),
            f"summary.json says status {status}, exit code {code}, with rows pending",
        )


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _CLOSE * max(1.0, abs(one))


def _compare_usage(store: StoreReader, report: Report, sums: Sums) -> None:
    try:
        with store.open(USAGE) as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        report.problems.append(f"usage.parquet cannot be read: {error}")
        return
    if not table.schema.equals(arrow.USAGE_SCHEMA):
        report.problems.append("usage.parquet has other columns than it should")
        return
    for name in ("attempts", "unanswered_attempts", *SUMS):
        found = pc.sum(table.column(name)).as_py() or 0
        report.claim(
            found == sums.totals[name],
            f"usage.parquet sums {name} to {found}, the ledger to {sums.totals[name]}",
        )
    found = pc.sum(table.column("rows_without_usage")).as_py() or 0
    report.claim(
        found == sums.without_usage,
        f"usage.parquet counts {found} rows without usage, the parts {sums.without_usage}",
    )
    for name, status in (("rows_ok", "ok"), ("rows_error", "error")):
        found = pc.sum(table.column(name)).as_py() or 0
        report.claim(
            found == sums.status[status],
            f"usage.parquet counts {found} rows {status}, the parts {sums.status[status]}",
        )
