"""What is said of the parts, beside what they add up to: summary, usage table, state file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.storage.store import USAGE, StoreReader
from batchrun.core.run.summary import moment
from batchrun.core.text.wording import verb
from batchrun.rundir.state_reader import Recorded, RecordedShard
from batchrun.views.verify.findings import Report
from batchrun.views.verify.part_reader import column_faults
from batchrun.views.verify.recount import (
    COSTS,
    COUNTED_LATER,
    COUNTS,
    KEY,
    OF_DAYS,
    TOKENS,
    Sums,
    usd,
)

GUARD_CODES = (3, 4)
_OUTPUTS = ("truncated", "empty")


def compare_recorded(known: RecordedShard, sums: Sums, report: Report) -> None:
    """A shard's sums, beside those that the state file has of it."""
    where = f"the journal's totals of part-{known.shard:08d}"
    try:
        errors = dict(known.totals["errors"])
        outputs = dict(known.totals["outputs"])
        groups = {tuple(group[:3]): group[3] for group in known.totals["groups"]}
        differing = [
            (key, name, groups.get(key, {}).get(name), sums.groups.get(key, {}).get(name))
            for key in {**groups, **sums.groups}
            for name in (*COUNTS, *COSTS)
            if groups.get(key, {}).get(name) != sums.groups.get(key, {}).get(name)
            and (name not in COUNTED_LATER or name in groups.get(key, {name: None}))
        ]
    except (KeyError, TypeError, ValueError, IndexError):
        report.found("state_totals", f"{where} are no totals")
        return
    for key, name, said, found in differing:
        group = "/".join(str(part) for part in key)
        report.found("state_totals", f"{where} say {name} {said} for {group}, it holds {found}")
    told: list[tuple[str, object, object]] = [
        ("errors", errors, dict(sums.errors)),
        ("outputs", outputs, {name: sums.outputs[name] for name in _OUTPUTS}),
        ("reused", known.totals.get("reused", {}), dict(sums.reused)),
    ]
    # A version that knew no prices recorded neither.
    for name, recounted in (("unpriced", sums.unpriced), ("days", sums.days)):
        if known.totals.get(name) is not None:
            told.append((name, known.totals[name], recounted))
    for name, said_of, counted in told:
        report.claim(
            said_of == counted, "state_totals", f"{where} say {name} {said_of}, it holds {counted}"
        )


def compare_summary(summary: Mapping[str, Any], report: Report, sums: Sums) -> None:
    """The summary, beside the sums of all parts and beside itself."""
    rows, totals = _object(summary, "rows"), _object(summary, "totals")
    ok, error = sums.total("rows_ok"), sums.total("rows_error")
    for status, found in (("ok", ok), ("error", error)):
        report.claim(
            rows.get(status) == found,
            "summary",
            f"summary.json says {rows.get(status)} rows {status}, the parts hold {found}",
        )
    if isinstance(rows.get("input"), int):
        left = rows["input"] - ok - error
        report.claim(
            rows.get("pending") == left and left >= 0,
            "summary",
            f"summary.json says {rows.get('pending')} rows pending, the parts leave {left}",
        )
        if summary.get("status") in ("complete", "complete_with_errors"):
            rows_are = verb(left, "row is", "rows are")
            text = f"the run is called complete and {left} {rows_are} missing"
            report.claim(left == 0, "summary", text)
    _check_status(summary, report, error)
    counted = {name: sums.outputs[name] for name in _OUTPUTS}
    told = [("errors", dict(sums.errors)), ("outputs", counted)]
    if sums.reused or "reused" in summary:
        told.append(("reused", dict(sums.reused)))
        text = f"summary.json says {rows.get('reused')} rows reused, the parts hold {{}}"
        taken = sum(sums.reused.values())
        report.claim((rows.get("reused") or 0) == taken, "summary", text.format(taken))
    for name, found in told:
        text = f"summary.json counts {name} {summary.get(name)}, the parts {found}"
        report.claim(summary.get(name) == found, "summary", text)
    expected = {name: sums.total(name) for name in ("attempts", "unanswered_attempts", *TOKENS)}
    expected |= _bill(sums.total("cost_pd"), sums.total("ok_cost_pd"))
    if totals.get("by_day") is not None:
        expected["by_day"] = {
            day: {**{name: booked[name] for name in OF_DAYS}, "cost_usd": usd(booked["cost_pd"])}
            for day, booked in sums.days.items()
        }
    if totals.get("unpriced_attempts") is not None:
        expected["unpriced_attempts"] = sums.unpriced
    for name, found in expected.items():
        report.claim(
            totals.get(name) == found or (name in COUNTED_LATER and name not in totals),
            "summary",
            f"summary.json says {name} {totals.get(name)}, the parts sum to {found}",
        )
    for name in ("started_at", "ended_at"):
        text = f"summary.json says {name} {summary.get(name)!r}, which is not a time"
        report.claim(_is_moment(summary.get(name)), "summary", text)


def _evaluated_to(summary: Mapping[str, Any], code: object) -> bool:
    """Whether scores, metrics or gates can give a run without pending rows this exit code: 4 for a
    verdict, 5 or a signal's where they could not be computed.
    """
    settings, gates = _object(summary, "settings"), _object(summary, "gates")
    judges = _object(summary, "judges")
    if not any(settings.get(name) for name in ("scores", "metrics", "gates", "judge")):
        return False
    verdicts = {_object(gates, name).get("verdict") for name in gates}
    if code == 4:
        return bool(verdicts & {"fail", "inconclusive"})
    if code == 3 and not any(_object(judges, name).get("pending", 0) != 0 for name in judges):
        return False
    ended = isinstance(code, int) and (code in (3, 5) or code > 128)
    return ended and verdicts <= {"not_judged"}


def _check_status(summary: Mapping[str, Any], report: Report, failed: int) -> None:
    """A run is complete if, and only if, nothing is pending; its exit code says the same."""
    status, code, by = (summary.get(name) for name in ("status", "exit_code", "stopped_by"))
    said = f"summary.json says status {status}, exit code {code}, stopped_by {by}"
    if _object(summary, "rows").get("pending") == 0:
        expected: tuple[str, int, None] = ("complete", 0, None)
        if failed:
            expected = ("complete_with_errors", 1, None)
        text = f"{said}; the parts say {expected[0]}, exit code {expected[1]}"
        if code != expected[1] and _evaluated_to(summary, code):
            return
        report.claim((status, code, by) == expected, "summary_status", text)
        return
    if not isinstance(code, int):
        fits = False
    elif status == "stopped":
        fits = code in GUARD_CODES and by is not None
    else:  # by a signal, or by a fault that nobody wished for
        fits = status == "interrupted" and code > 1 and (code > 128) == (by is not None)
    report.claim(fits, "summary_status", f"{said}, with rows pending")


def compare_state(summary: Mapping[str, Any], recorded: Recorded, report: Report) -> None:
    """The summary, beside what the state file has of the whole run."""
    settings, meta = _object(summary, "settings"), recorded.meta
    for name, value in recorded.settings.items():
        report.claim(
            settings.get(name) == value,
            "state_summary",
            f"summary.json has the setting {name} {settings.get(name)!r}, the journal {value!r}",
        )
    said: list[tuple[str, Any, Any]] = []
    if isinstance(meta.get("started_at_us"), int):
        said.append(("started_at", summary.get("started_at"), moment(meta["started_at_us"])))
    if isinstance(meta.get("wall_s"), int | float):
        said.append(("wall_s", summary.get("wall_s"), round(meta["wall_s"], 3)))
    if isinstance(meta.get("input_rows"), int):
        said.append(("rows.input", _object(summary, "rows").get("input"), meta["input_rows"]))
    totals = _object(summary, "totals")
    for name, of_shard in (("by_day", "days"), ("unpriced_attempts", "unpriced")):
        counted = all(shard.totals.get(of_shard) is not None for shard in recorded.shards.values())
        text = f"summary.json does not say {name}, which the journal counted"
        report.claim(not counted or totals.get(name) is not None, "state_summary", text)
    for name, one, other in said:
        text = f"summary.json says {name} {one}, the journal {other}"
        report.claim(one == other, "state_summary", text)


def compare_usage(store: StoreReader, report: Report, sums: Sums) -> None:
    """The usage table, line by line."""
    try:
        with store.open(USAGE) as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        report.found("usage", f"usage.parquet cannot be read: {error}")
        return
    faults = list(column_faults(table.schema, part_schema.USAGE_SCHEMA))
    for text in faults:
        report.found("columns", f"usage.parquet: {text}")
    if faults:
        return
    found: dict[Any, dict[str, Any]] = {}
    for line in table.to_pylist():
        key = tuple(line[name] for name in KEY)
        text = f"usage.parquet has the line {_shown(key)} twice"
        report.claim(key not in found, "usage", text)
        found.setdefault(key, line)
    for key in sums.groups.keys() - found.keys():
        report.found("usage", f"usage.parquet has no line for {_shown(key)}, the parts have")
    for key, line in found.items():
        group = sums.groups.get(key)
        if group is None:
            text = f"usage.parquet has a line for {_shown(key)}, and the parts have nothing of it"
            report.found("usage", text)
            continue
        expected = {name: group[name] for name in COUNTS}
        expected |= _bill(group["cost_pd"], group["ok_cost_pd"])
        for name, value in expected.items():
            report.claim(
                line.get(name) == value or (name in COUNTED_LATER and name not in line),
                "usage",
                f"usage.parquet says {name} {line.get(name)} for {_shown(key)}, the parts sum to "
                f"{value}",
            )


def _shown(key: tuple[str | None, ...]) -> str:
    return "/".join(str(part) for part in key)


def _object(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = summary.get(name)
    return found if isinstance(found, dict) else {}


def _bill(bill_pd: int | None, kept_pd: int | None) -> dict[str, float | None]:
    wasted_pd = None if bill_pd is None else max(0, bill_pd - (kept_pd or 0))
    return {"cost_usd": usd(bill_pd), "wasted_cost_usd": usd(wasted_pd)}


def _is_moment(value: object) -> bool:
    try:
        return datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        return False
