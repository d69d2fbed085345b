"""``batchrun verify``: everything recomputed from the files, in one pass with flat memory.

It shares no code with what wrote the files: rows are counted and summed here once more, by Arrow's
own aggregation, and compared with what the summary and the journal claim.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters import arrow, files
from batchrun.adapters.journal import STATES
from batchrun.adapters.rundir import SUMMARY, USAGE
from batchrun.errors import UsageError
from batchrun.views.text import safe

PROBLEMS_SHOWN = 20
_SUMS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
_CLOSE = 1e-6


@dataclass(slots=True)
class Report:
    """What was checked and what does not hold."""

    folder: str
    rows: int = 0
    attempts: int = 0
    parts: int = 0
    digests: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    def claim(self, holds: bool, problem: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Something that must hold."""
        if not holds:
            self.problems.append(problem)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "attempts": self.attempts,
            "parts": self.parts,
            "digests": self.digests,
            "notes": self.notes,
            "problems": self.problems,
        }

    def lines(self) -> list[str]:
        """For people."""
        out = [
            (
                f"{self.folder}: {self.rows:,} rows and {self.attempts:,} attempts in "
                f"{self.parts:,} parts, {self.digests:,} digests compared"
            )
        ]
        out += [f"note: {note}" for note in self.notes]
        out += [f"PROBLEM: {safe(text)}" for text in self.problems[:PROBLEMS_SHOWN]]
        if len(self.problems) > PROBLEMS_SHOWN:
            out.append(f"... and {len(self.problems) - PROBLEMS_SHOWN:,} more problems")
        out.append("verified: every row is accounted for" if self.ok else "NOT verified")
        return out


@dataclass(slots=True)
class _Sums:
    """What the files add up to."""

    status: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    cost_usd: float | None = None
    ok_cost_usd: float | None = None
    without_usage: int = 0


def check(folder: str, checkpoint: str | None = None) -> Report:
    """Check a run directory. Raises ``UsageError`` for what is none."""
    place = Path(folder)
    control = Path(checkpoint) if checkpoint else place / "checkpoint"
    if not (place / "results").is_dir():
        message = f"{folder} is no run directory: it has no results/"
        raise UsageError(message)
    report, sums = Report(folder), _Sums()
    summary = files.read_json(place / SUMMARY)
    live = files.is_locked(place)
    if live:
        report.problems.append("a run is working here; verify it when it has ended")
    if not isinstance(summary, dict):
        if not live:
            report.problems.append("summary.json is missing: the run was killed; run it again")
        summary = None
    names = [sorted(p.name for p in (place / kind).glob("part-*.parquet")) for kind in _KINDS]
    for kind, mine, others in zip(_KINDS, names, reversed(names), strict=True):
        for name in sorted(set(others) - set(mine)):
            report.problems.append(f"{kind}/{name} is missing")
        report.problems += [
            f"{kind}/{p.name} is a leftover of a kill; run again"
            for p in (place / kind).glob(f"*{files.TEMPORARY}")
        ]
    digests, shard_rows = _recorded(control / STATES, report)
    if shard_rows is None and summary is not None:
        shard_rows = summary.get("settings", {}).get("output.shard_rows")
    schemas: dict[str, pa.Schema] = {}
    for name in names[0]:
        if name in names[1]:
            _pair(place, name, shard_rows, schemas, report, sums)
    _compare_digests(place, names, digests, report)
    if summary is not None:
        _compare_summary(summary, report, sums)
        _compare_usage(place / USAGE, report, sums)
    return report


_KINDS = ("results", "attempts")


def _recorded(path: Path, report: Report) -> tuple[dict[str, tuple[str, str]], int | None]:
    """The digests the journal recorded, by part name, and the rows of a shard."""
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


def _compare_digests(
    place: Path, names: list[list[str]], digests: dict[str, tuple[str, str]], report: Report
) -> None:
    if not digests:
        return
    for index, kind in enumerate(_KINDS):
        for name in sorted(set(names[index]) | set(digests)):
            if name not in digests:
                report.problems.append(f"{kind}/{name} is not known to the journal")
            elif name not in names[index]:
                report.problems.append(f"{kind}/{name} is missing")
            else:
                found = _sha256(place / kind / name)
                report.digests += 1
                report.claim(
                    found == digests[name][index], f"{kind}/{name} is not what was written"
                )


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _pair(
    place: Path,
    name: str,
    shard_rows: int | None,
    schemas: dict[str, pa.Schema],
    report: Report,
    sums: _Sums,
) -> None:
    """One shard: its results and its ledger."""
    shard = int(name.removeprefix("part-").removesuffix(".parquet"))
    counted: Counter[int] = Counter()
    highest: dict[int, int] = {}
    before: tuple[int, int] = (-1, 0)
    where = f"attempts/{name}"
    for batch in _batches(place / "attempts" / name, where, schemas, report):
        report.attempts += batch.num_rows
        _sum_attempts(batch, sums)
        numbers = batch.column("attempt").to_pylist()
        for row, number in zip(batch.column("row").to_pylist(), numbers, strict=True):
            report.claim(
                (row, number) > before, f"{where}: row {row} attempt {number} out of order"
            )
            before = (row, number)
            counted[row] += 1
            highest[row] = number
    last = -1
    where = f"results/{name}"
    for batch in _batches(place / "results" / name, where, schemas, report):
        report.rows += batch.num_rows
        _sum_results(batch, sums)
        for row, attempts, status, error in zip(
            *(batch.column(c).to_pylist() for c in ("row", "attempts", "status", "error_class")),
            strict=True,
        ):
            report.claim(row > last, f"{where}: row {row} comes after row {last}")
            last = row
            report.claim(
                shard_rows is None or row // shard_rows == shard,
                f"{where}: row {row} belongs to another part",
            )
            report.claim(
                counted[row] == attempts == highest.get(row, 0),
                f"row {row} says {attempts} attempts, the ledger has {counted[row]}",
            )
            report.claim(
                (status == "ok") == (error is None) and status in ("ok", "error"),
                f"row {row} has status {status!r} and error class {error!r}",
            )
    report.parts += 1


def _batches(
    path: Path, where: str, schemas: dict[str, pa.Schema], report: Report
) -> Iterator[pa.RecordBatch]:
    kind = where.partition("/")[0]
    fixed = arrow.RESULT_FIELDS if kind == "results" else arrow.ATTEMPT_FIELDS
    wanted = {
        "row", "attempt", "attempts", "status", "error_class", "cost_usd", "unanswered", *_SUMS
    }  # fmt: skip
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            schema = file.schema_arrow
            known = schemas.setdefault(kind, schema)
            report.claim(schema.equals(known), f"{where} has other columns than the first part")
            expected = [(f.name, f.type) for f in schema][: len(fixed)]
            if expected != list(fixed):
                report.problems.append(
                    f"{where} lacks columns of the contract or has them otherwise"
                )
                return
            columns = [name for name, _ in fixed if name in wanted]
            yield from file.iter_batches(columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        report.problems.append(f"{where} cannot be read: {error}")


def _sum_attempts(batch: pa.RecordBatch, sums: _Sums) -> None:
    sums.totals["attempts"] += batch.num_rows
    sums.totals["unanswered_attempts"] += pc.sum(batch.column("unanswered")).as_py() or 0
    for name in _SUMS:
        sums.totals[name] += pc.sum(batch.column(name)).as_py() or 0
    sums.cost_usd = _plus(sums.cost_usd, pc.sum(batch.column("cost_usd")).as_py())


def _sum_results(batch: pa.RecordBatch, sums: _Sums) -> None:
    for value in pc.value_counts(batch.column("status")).to_pylist():
        sums.status[value["values"]] += value["counts"]
    for value in pc.value_counts(batch.column("error_class").drop_null()).to_pylist():
        sums.errors[value["values"]] += value["counts"]
    answered = batch.filter(pc.equal(batch.column("status"), "ok"))
    reported = [pc.is_valid(answered.column(name)) for name in _SUMS]
    for more in reported[1:]:
        reported[0] = pc.or_(reported[0], more)
    sums.without_usage += answered.num_rows - (pc.sum(reported[0]).as_py() or 0)
    sums.ok_cost_usd = _plus(sums.ok_cost_usd, pc.sum(answered.column("cost_usd")).as_py())


def _plus(before: float | None, more: float | None) -> float | None:
    return before if more is None else (before or 0.0) + more


def _compare_summary(summary: dict[str, Any], report: Report, sums: _Sums) -> None:
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
    for name in ("attempts", "unanswered_attempts", *_SUMS):
        report.claim(
            totals.get(name) == sums.totals[name],
            f"summary.json says {name} {totals.get(name)}, the ledger sums to {sums.totals[name]}",
        )
    report.claim(
        _same(totals.get("cost_usd"), sums.cost_usd),
        f"summary.json says cost {totals.get('cost_usd')}, the ledger sums to {sums.cost_usd}",
    )


def _compare_status(summary: dict[str, Any], report: Report, sums: _Sums) -> None:
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


def _compare_usage(path: Path, report: Report, sums: _Sums) -> None:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        report.problems.append(f"usage.parquet cannot be read: {error}")
        return
    if not table.schema.equals(arrow.USAGE_SCHEMA):
        report.problems.append("usage.parquet has other columns than it should")
        return
    for name in ("attempts", "unanswered_attempts", *_SUMS):
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
