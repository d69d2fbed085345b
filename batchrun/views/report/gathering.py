"""What the report takes of the results: one pass over a few columns, then the rows that it shows.

Memory is bounded whatever the run holds: sums, percentiles, and a fixed number of rows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.adapters.columns import schema as part_schema
from batchrun.views.published import Results
from batchrun.views.report.quantiles import Quantiles

EXAMPLES_MAX = 3
"""Rows shown of an error class."""
CLASSES_MAX = 30
TOP_MAX = 10
"""Rows shown as the slowest, dearest and longest."""
SAMPLE_MAX = 30
"""Rows drawn by hash."""
CLIP_CHARS = 4_000
"""Characters that are kept of a text, more than the page will show."""
_READ = (
    *("row", "custom_id", "status", "error_class", "finish_reason", "attempts"),
    *("prompt_tokens", "completion_tokens", "cost_usd", "latency_s", "ttft_s", "repeat"),
)
_SHOWN = (
    *("row", "custom_id", "status", "content", "refusal", "reasoning", "tool_calls"),
    *("finish_reason", "model", "endpoint", "error_class", "error_code", "error_message"),
    *("http_status", "attempts", "prompt_tokens", "completion_tokens", "cost_usd"),
    *("latency_s", "ttft_s"),
)
CARRIED_MAX = 8
"""Columns of the input that are shown with a sampled row."""


class Top(NamedTuple):
    """A row that is among the first by some column, and its value."""

    value: float
    row: int


@dataclass(slots=True)
class Gathered:
    """What one pass found. Rows are numbers; ``shown`` has what is shown of them."""

    rows: int = 0
    ok: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    latency: Quantiles = field(default_factory=Quantiles)
    ttft: Quantiles = field(default_factory=Quantiles)
    prompt_tokens: Quantiles = field(default_factory=Quantiles)
    completion_tokens: Quantiles = field(default_factory=Quantiles)
    classes: dict[str, list[int]] = field(default_factory=dict)
    class_counts: Counter[str] = field(default_factory=Counter)
    slowest: list[Top] = field(default_factory=list)
    dearest: list[Top] = field(default_factory=list)
    longest: list[Top] = field(default_factory=list)
    sample: list[int] = field(default_factory=list)
    shown: dict[int, dict[str, Any]] = field(default_factory=dict)


def gather(results: Results) -> Gathered:
    """Read the published results. Raises ``DamagedError`` for a part that cannot be read."""
    found, drawn = Gathered(), _Draw()
    names = [name for name in _READ if name in results.schema.names]
    for table in results.tables(names):
        _count(found, table)
        drawn.add(table)
    found.sample = drawn.rows()
    tops = (found.slowest, found.dearest, found.longest)
    wanted = {top.row for ranking in tops for top in ranking} | set(found.sample)
    wanted |= {row for rows in found.classes.values() for row in rows}
    own = part_schema.own_columns(results.schema)
    carried = [name for name in results.schema.names if name not in own][:CARRIED_MAX]
    shown = [name for name in (*_SHOWN, *carried) if name in results.schema.names]
    for table in results.rows(sorted(wanted), shown):
        for row in table.to_pylist():
            found.shown[row["row"]] = _clipped(row, carried)
    return found


def _count(found: Gathered, table: pa.Table) -> None:
    """Add a row group to the sums, percentiles and rankings."""
    ok = pc.equal(table.column("status"), "ok")
    found.rows += table.num_rows
    found.ok += pc.sum(ok).as_py() or 0
    found.retried += pc.sum(pc.greater(table.column("attempts"), 1)).as_py() or 0
    for each in pc.value_counts(table.filter(ok).column("finish_reason")).to_pylist():
        found.finish_reasons[each["values"] or "none"] += each["counts"]
    for name in ("latency", "ttft"):
        getattr(found, name).add(table.column(f"{name}_s"))
    for name in ("prompt_tokens", "completion_tokens"):
        getattr(found, name).add(table.column(name))
    for ranking, name in (
        (found.slowest, "latency_s"),
        (found.dearest, "cost_usd"),
        (found.longest, "completion_tokens"),
    ):
        _rank(ranking, table.select(["row", name]), name)
    failed = table.filter(pc.invert(ok)).select(["row", "error_class"])
    for row, name in zip(*(column.to_pylist() for column in failed.columns), strict=True):
        found.class_counts[name or "unknown"] += 1
        rows = found.classes.setdefault(name or "unknown", [])
        if len(rows) < EXAMPLES_MAX and len(found.classes) <= CLASSES_MAX:
            rows.append(row)


def _rank(ranking: list[Top], table: pa.Table, name: str) -> None:
    """Keep the rows with the largest values; of equal ones the first."""
    least = ranking[-1].value if len(ranking) == TOP_MAX else 0.0
    table = table.filter(pc.greater(table.column(name), least))
    if not table.num_rows:
        return
    order = [(name, "descending"), ("row", "ascending")]
    best = table.take(pc.select_k_unstable(table, TOP_MAX, order))
    more = zip(best.column(name).to_pylist(), best.column("row").to_pylist(), strict=True)
    ranking.extend(Top(float(value), row) for value, row in more)
    ranking.sort(key=lambda top: (-top.value, top.row))
    del ranking[TOP_MAX:]


class _Draw:
    """The rows whose names have the least hashes. A name is the ``custom_id``, else the row number,
    with its repeat: the same input gives the same rows every night, whatever was answered.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, int]] = []

    def add(self, table: pa.Table) -> None:
        """Consider the rows of a row group."""
        rows = table.column("row").to_pylist()
        ids = table.column("custom_id").to_pylist()
        repeats: Iterable[Any] = [None] * len(rows)
        if "repeat" in table.column_names:
            repeats = table.column("repeat").to_pylist()
        kept = self._kept
        for row, custom_id, repeat in zip(rows, ids, repeats, strict=True):
            name = f"{row if custom_id is None else custom_id}\0{repeat or ''}"
            digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()
            key = -int.from_bytes(digest, "big")
            if len(kept) < SAMPLE_MAX:
                heapq.heappush(kept, (key, -row))
            elif key > kept[0][0]:
                heapq.heapreplace(kept, (key, -row))

    def rows(self) -> list[int]:
        """Their numbers, in the order of the input."""
        return sorted(-row for _, row in self._kept)


def _clipped(row: Mapping[str, Any], carried: Sequence[str]) -> dict[str, Any]:
    """A row with its texts cut, its carried columns as texts below ``carried``."""
    kept: dict[str, Any] = {
        name: _clip(value) if isinstance(value, str) else value
        for name, value in row.items()
        if name not in carried
    }
    kept["content_chars"] = len(row.get("content") or "")
    if kept.get("tool_calls"):
        kept["tool_calls"] = _clip(
            ", ".join(f"{c['name']}({c['arguments']})" for c in row["tool_calls"])
        )
    kept["carried"] = {
        _clip(name): _clip(str(row[name]))
        for name in carried
        if row.get(name) is not None and not isinstance(row[name], bytes)
    }
    return kept


def _clip(text: str) -> str:
    return text if len(text) <= CLIP_CHARS else text[:CLIP_CHARS]
