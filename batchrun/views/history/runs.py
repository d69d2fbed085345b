"""The runs below a folder, in the order in which they began, with the trend of their metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import SUMMARY
from batchrun.core.cost.money import format_cost
from batchrun.core.run.summary import moment
from batchrun.errors import UsageError
from batchrun.rundir import state_reader
from batchrun.views import run_status
from batchrun.views.history.text_table import table
from batchrun.views.layout import wrap
from batchrun.views.text import safe

WORST_FIRST = ("fail", "inconclusive", "not_judged", "warn", "pass")
"""Verdicts of gates: that of a run is the first of these that one of its gates has."""
SHORT = {"complete_with_errors": "with errors"}
"""Statuses that are shorter in the table."""
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-=+*%#"
TREND_RUNS = 30
"""How many of the latest runs are in a sparkline."""
_COUNTS = ("input", "ok", "error", "pending")


KEYS = {
    "dir": "The run directory, below FOLDER as it was given.",
    "started_at": "When its first session began, UTC.",
    "status": (
        "As in `summary.json`; `running`, `killed` or `unsent` for a run without a current summary."
    ),
    "exit_code": "Of its last session; null while it runs or if it was killed.",
    "verdict": (
        "The worst verdict of its gates: `fail`, `inconclusive`, `not_judged`, `warn` or `pass`. "
        "Null without gates."
    ),
    "rows": "`input`, `ok`, `error` and `pending`, as in `summary.json`.",
    "cost_usd": "Its bill so far; null if no cost is known.",
    "metrics": "Its metrics by name, as in `summary.json`: objects with `value` and more.",
    "labels": "Its labels.",
}
"""What the keys of a run mean in ``runs --json``, for the reference."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run directory, as its files tell of it."""

    dir: str
    started_at: str | None
    status: str
    exit_code: int | None
    verdict: str | None
    rows: Mapping[str, int | None]
    cost_usd: float | None
    metrics: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, str]

    def public(self) -> dict[str, Any]:
        """The run for ``--json``."""
        return {name: getattr(self, name) for name in self.__slots__}


def find(folder: str, labels: Mapping[str, str] | None = None) -> list[RunLine]:
    """The runs below a folder, the earliest first; those that have these labels. What lies in a run
    directory is part of that run. Raises ``UsageError`` for a missing folder.
    """
    if not Path(folder).is_dir():
        message = f"{folder} is not a folder; name the one that run directories are in"
        raise UsageError(message)
    found = [_read(place) for place in _directories(folder)]
    wanted = (labels or {}).items()
    kept = [run for run in found if run is not None and wanted <= dict(run.labels).items()]
    return sorted(kept, key=lambda run: (run.started_at or "", run.dir))


def _directories(folder: str) -> Iterator[str]:
    for place, inner, names in os.walk(folder):
        if SUMMARY in names or Path(place, "checkpoint", state_reader.STATES).exists():
            inner.clear()
            yield str(Path(place))
        else:
            inner[:] = sorted(name for name in inner if not name.startswith("."))


def _read(place: str) -> RunLine | None:
    """A run; None for a folder whose ``summary.json`` is another program's."""
    begun = Path(place, "checkpoint", state_reader.STATES).exists()
    if not begun and not _is_ours(files.read_json(Path(place, SUMMARY))):
        return None
    found = run_status.read(place)
    summary, live = found.get("summary"), found.get("live") or {}
    known = state_reader.values(Path(place, "checkpoint"), "started_at_us", "labels")
    if summary is None:
        began = known.get("started_at_us")
        whole, ok, error = (live.get(name) for name in ("rows_input", "ok", "error"))
        rows = {"input": whole, "ok": ok, "error": error, "pending": None}
        if whole is not None and ok is not None and error is not None:
            rows["pending"] = whole - ok - error
        return RunLine(
            place,
            moment(began) if isinstance(began, int) else None,
            found["state"],
            None,
            None,
            rows,
            live.get("cost_usd"),
            {},
            known.get("labels") or {},
        )
    return RunLine(
        place,
        summary.get("started_at"),
        summary["status"],
        summary.get("exit_code"),
        _verdict(summary.get("gates")),
        {name: summary["rows"].get(name) for name in _COUNTS},
        summary["totals"].get("cost_usd"),
        {
            name: each
            for name, each in (summary.get("metrics") or {}).items()
            if isinstance(each, dict)
        },
        summary.get("labels") or {},
    )


def _is_ours(summary: object) -> bool:
    """Whether a ``summary.json`` is that of a run."""
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        return False
    return isinstance(summary.get("rows"), dict) and isinstance(summary.get("totals"), dict)


def _verdict(gates: object) -> str | None:
    """The verdict of a run; None where it has no gates."""
    found = {
        gate.get("verdict")
        for gate in (gates.values() if isinstance(gates, dict) else ())
        if isinstance(gate, dict)
    }
    return next((verdict for verdict in WORST_FIRST if verdict in found), None)


def lines(runs: Sequence[RunLine], *, width: int | None, plain: bool) -> Iterator[str]:
    """The runs as a table, and a sparkline for every metric. ``plain`` has it in ASCII."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    judged = any(run.verdict for run in runs)
    rows = [
        [
            (run.started_at or "?")[:16].replace("T", " "),
            SHORT.get(run.status, run.status),
            *([run.verdict or "-"] if judged else []),
            run.dir,
            _rows(run.rows),
            "?" if run.cost_usd is None else format_cost(run.cost_usd),
            *(_figure(value_of(run, name)) for name in names),
        ]
        for run in runs
    ]
    texts = ["DATE", "STATUS", *(["VERDICT"] if judged else []), "RUN"]
    heads = [*texts, "ROWS OK", "COST", *map(safe, names)]
    yield from table(heads, rows, width=width, left=len(texts))
    trends = [(name, [value_of(run, name) for run in runs][-TREND_RUNS:]) for name in names]
    trends = [(n, v) for n, v in trends if len([each for each in v if each is not None]) > 1]
    if trends:
        yield ""
    for name, values in trends:
        known = [value for value in values if value is not None]
        spark = sparkline(values, plain=plain)
        change = f"{_figure(known[0])} to {_figure(known[-1])}"
        yield from wrap(f"{name}  {spark}  {change}", width, 0, 2)


def value_of(run: RunLine, name: str) -> float | None:
    """The value of a metric in a run; None where it has none."""
    value = run.metrics.get(name, {}).get("value")
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def sparkline(values: Sequence[float | None], *, plain: bool = False) -> str:
    """Values as bars from the lowest to the highest; a blank for a missing one."""
    bars = PLAIN_BARS if plain else BARS
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    if low == high:
        return "".join(" " if value is None else bars[3] for value in values)
    steps = len(bars) - 1
    return "".join(
        " " if value is None else bars[round((value - low) / (high - low) * steps)]
        for value in values
    )


def table_rows(runs: Sequence[RunLine]) -> tuple[list[str], list[list[Any]]]:
    """The runs for ``--csv``: heads, and a line a run."""
    metrics = sorted({name for run in runs for name in run.metrics})
    labels = sorted({name for run in runs for name in run.labels})
    heads = [
        *("dir", "started_at", "status", "exit_code", "verdict"),
        *(f"rows_{name}" for name in _COUNTS),
        "cost_usd",
        *(f"metric.{name}" for name in metrics),
        *(f"label.{name}" for name in labels),
    ]
    rows = [
        [
            *(run.dir, run.started_at, run.status, run.exit_code, run.verdict),
            *(run.rows.get(name) for name in _COUNTS),
            run.cost_usd,
            *(value_of(run, name) for name in metrics),
            *(run.labels.get(name) for name in labels),
        ]
        for run in runs
    ]
    return heads, rows


def _rows(rows: Mapping[str, int | None]) -> str:
    ok, whole = rows.get("ok"), rows.get("input")
    return "?" if ok is None else f"{ok:,} of {'?' if whole is None else f'{whole:,}'}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
