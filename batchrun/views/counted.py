"""What parts add up to, by endpoint, model and service tier. It shares no code with what wrote
them: see ``verify``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.core import answer

TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
COUNTS = (
    "rows_ok",
    "rows_error",
    "attempts",
    *TOKENS,
    "rows_without_usage",
    "unanswered_attempts",
)
COSTS = ("cost_usd", "ok_cost_usd")
KEY = ("endpoint", "model", "service_tier")
Key = tuple[str | None, str | None, str | None]
_CUT = pa.array(sorted(answer.TRUNCATED))


@dataclass(slots=True)
class Sums:
    """What rows and attempts add up to. ``groups`` has the sums by endpoint, model and tier."""

    errors: Counter[str] = field(default_factory=Counter)
    outputs: Counter[str] = field(default_factory=Counter)
    groups: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add the sums of another part."""
        self.errors.update(other.errors)
        self.outputs.update(other.outputs)
        for key, sums in other.groups.items():
            self._book(key, sums)

    def total(self, name: str) -> Any:
        """One of ``COUNTS`` or ``COSTS`` over all groups; a cost is None where none is known."""
        if name in COUNTS:
            return sum(group[name] for group in self.groups.values())
        known = [group[name] for group in self.groups.values() if group[name] is not None]
        return sum(known) if known else None

    def add_attempts(self, lines: pa.RecordBatch) -> None:
        """Count lines of the ledger."""
        sums = [(name, "sum") for name in (*TOKENS, "unanswered", "cost_usd")]
        for key, found in _grouped(lines, [*sums, ("row", "count")]):
            booked = {name: found[f"{name}_sum"] or 0 for name in TOKENS}
            booked["unanswered_attempts"] = found["unanswered_sum"] or 0
            booked["attempts"] = found["row_count"]
            booked["cost_usd"] = found["cost_usd_sum"]
            self._book(key, booked)

    def add_results(self, results: pa.RecordBatch, last: pa.RecordBatch) -> None:
        """Count rows, under what their last attempts beside them say."""
        failed = pc.is_valid(results.column("error_class"))
        bare = pc.is_null(results.column(TOKENS[0]))
        for name in TOKENS[1:]:
            bare = pc.and_(bare, pc.is_null(results.column(name)))
        counted = pa.RecordBatch.from_arrays(
            [
                *(last.column(name) for name in KEY),
                failed,
                pc.and_not(bare, failed),
                pc.if_else(failed, pa.scalar(None, pa.float64()), results.column("cost_usd")),
            ],
            names=[*KEY, "failed", "bare", "cost"],
        )
        wanted = [("failed", "sum"), ("failed", "count"), ("bare", "sum"), ("cost", "sum")]
        for key, found in _grouped(counted, wanted):
            errors = found["failed_sum"] or 0
            self._book(
                key,
                {
                    "rows_error": errors,
                    "rows_ok": found["failed_count"] - errors,
                    "rows_without_usage": found["bare_sum"] or 0,
                    "ok_cost_usd": found["cost_sum"],
                },
            )
        classes = results.column("error_class")
        if classes.null_count < len(classes):
            for value in pc.value_counts(classes.drop_null()).to_pylist():
                self.errors[value["values"]] += value["counts"]
            results = results.filter(pc.invert(failed))
        _sum_outputs(results, self.outputs)

    def _book(self, key: Key, more: dict[str, Any]) -> None:
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = dict.fromkeys(COUNTS, 0) | dict.fromkeys(COSTS)
        for name, value in more.items():
            if value is not None:
                group[name] = (group[name] or 0) + value


def _grouped(
    batch: pa.RecordBatch, aggregations: Sequence[tuple[str, str]]
) -> Iterator[tuple[Key, dict[str, Any]]]:
    table = pa.Table.from_batches([batch])
    found = table.group_by(list(KEY), use_threads=False).aggregate(list(aggregations))
    for row in found.to_pylist():
        yield (row["endpoint"], row["model"], row["service_tier"]), row


def _sum_outputs(answered: pa.RecordBatch, outputs: Counter[str]) -> None:
    """Count answers that were cut off, and empty ones. Several choices of a row count once."""
    choices = answered.column("choices")
    if choices.null_count == len(choices):
        outputs["truncated"] += _true(_cut(answered))
        outputs["empty"] += _true(_silent(answered))
        return
    several = pc.is_valid(choices)
    rows = choices.filter(several)
    single = answered.filter(pc.invert(several))
    outputs["truncated"] += _true(_cut(single)) + len(_rows_with(_cut, rows))
    outputs["empty"] += _true(_silent(single)) + len(_rows_with(_silent, rows))


def _cut(answers: pa.RecordBatch) -> pa.Array:
    reasons = answers.column("finish_reason").dictionary_encode()
    lower = pc.utf8_lower(reasons.dictionary)
    return pc.is_in(lower, value_set=_CUT).take(reasons.indices)


def _silent(answers: pa.RecordBatch) -> pa.Array:
    blank = pc.match_substring_regex(answers.column("content"), r"\A[ \t\r\n]*\z")
    calls = pc.list_value_length(answers.column("tool_calls"))
    refused = pc.binary_length(answers.column("refusal"))
    said = pc.or_(*(pc.greater(pc.fill_null(length, 0), 0) for length in (calls, refused)))
    return pc.and_not(pc.fill_null(blank, fill_value=True), said)


def _rows_with(what: Callable[[pa.RecordBatch], pa.Array], rows: pa.Array) -> set[int]:
    """The rows of which any choice is such a one."""
    if not len(rows):
        return set()
    choices = pa.RecordBatch.from_struct_array(rows.flatten())
    return set(pc.list_parent_indices(rows).filter(what(choices)).to_pylist())


def _true(mask: pa.Array) -> int:
    return pc.sum(mask).as_py() or 0
