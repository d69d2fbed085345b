"""What parts add up to, by endpoint, model and service tier. It shares no code with what wrote
them: see ``verify``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.core.reply import answer

TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
)
COUNTED_LATER = frozenset(("cache_write_tokens",))
"""What version 0.1 did not count: its records do not name it."""
COUNTS = (
    "rows_ok",
    "rows_error",
    "attempts",
    *TOKENS,
    "rows_without_usage",
    "unanswered_attempts",
)
COSTS = ("cost_pd", "ok_cost_pd")
"""In whole picodollars: their sums have no error."""
OF_DAYS = ("attempts", "prompt_tokens", "completion_tokens")
PICODOLLARS = 10**12
COST_USD_MAX = 10_000.0
"""More is no cost of one exchange."""
_PLAIN_USD = 1000.0
"""Up to here a double times 10^12 is less than half a picodollar from what was written."""
PLAIN_ROWS = 8192
DEAR_ROWS = 512
"""As many costs, at the most that they can be, add up in 64 bits."""
_DAY_US = 24 * 3600 * 10**6
_EPOCH = date(1970, 1, 1).toordinal()
KEY = ("endpoint", "model", "service_tier")
Key = tuple[str | None, str | None, str | None]
_CUT = pa.array(sorted(answer.TRUNCATED))


@dataclass(slots=True)
class Sums:
    """What rows and attempts add up to. ``groups`` has the sums by endpoint, model and tier."""

    errors: Counter[str] = field(default_factory=Counter)
    outputs: Counter[str] = field(default_factory=Counter)
    groups: dict[Key, dict[str, Any]] = field(default_factory=dict)
    days: dict[str, dict[str, Any]] = field(default_factory=dict)
    reused: Counter[str] = field(default_factory=Counter)
    unpriced: int = 0

    def add(self, other: Sums) -> None:
        """Add the sums of another part."""
        self.errors.update(other.errors)
        self.outputs.update(other.outputs)
        self.reused.update(other.reused)
        for key, sums in other.groups.items():
            self._book(key, sums)
        for day, sums in other.days.items():
            self._book_day(day, sums)
        self.unpriced += other.unpriced

    def total(self, name: str) -> Any:
        """One of ``COUNTS`` or ``COSTS`` over all groups; a cost is None where none is known."""
        if name in COUNTS:
            return sum(group[name] for group in self.groups.values())
        known = [group[name] for group in self.groups.values() if group[name] is not None]
        if not known and self.reused and not self.total("attempts"):
            return 0  # every answer was reused: it is known that nothing was spent
        return sum(known) if known else None

    def add_attempts(self, lines: pa.RecordBatch) -> None:
        """Count lines of the ledger."""
        for piece in _summable(lines):
            self._add_attempts(piece)

    def _add_attempts(self, lines: pa.RecordBatch) -> None:
        costs = _picodollars(lines.column("cost_usd"))
        moments = lines.column("started_at").cast(pa.int64())
        bare = _bare(lines)
        counted = pa.RecordBatch.from_arrays(
            [
                *(lines.column(name) for name in (*KEY, *TOKENS, "unanswered", "row")),
                costs,
                pc.divide(moments, _DAY_US),
            ],
            names=[*KEY, *TOKENS, "unanswered", "row", "cost", "day"],
        )
        sums = [(name, "sum") for name in (*TOKENS, "unanswered", "cost")]
        for found in _grouped(counted, KEY, [*sums, ("row", "count")]):
            booked = {name: found[f"{name}_sum"] or 0 for name in TOKENS}
            booked["unanswered_attempts"] = found["unanswered_sum"] or 0
            booked["attempts"] = found["row_count"]
            booked["cost_pd"] = found["cost_sum"]
            self._book(_key(found), booked)
        sums = [(name, "sum") for name in (*OF_DAYS[1:], "cost")]
        for found in _grouped(counted, ("day",), [*sums, ("row", "count")]):
            booked = {name: found[f"{name}_sum"] or 0 for name in OF_DAYS[1:]}
            booked |= {"attempts": found["row_count"], "cost_pd": found["cost_sum"]}
            self._book_day(_day_name(found["day"]), booked)
        self.unpriced += _true(pc.and_not(pc.is_null(lines.column("cost_usd")), bare))

    def add_results(self, results: pa.RecordBatch, last: pa.RecordBatch) -> None:
        """Count rows, under what their last attempts beside them say."""
        failed = pc.is_valid(results.column("error_class"))
        counted = pa.RecordBatch.from_arrays(
            [
                *(last.column(name) for name in KEY),
                failed,
                pc.and_not(_bare(results), failed),
                pc.if_else(failed, pa.scalar(None, pa.float64()), results.column("cost_usd")),
            ],
            names=[*KEY, "failed", "bare", "cost_usd"],
        )
        wanted = [("failed", "sum"), ("failed", "count"), ("bare", "sum"), ("cost_usd", "sum")]
        for piece in _summable(counted):
            costs = _picodollars(piece.column("cost_usd"))
            place = piece.schema.get_field_index("cost_usd")
            for found in _grouped(piece.set_column(place, "cost_usd", costs), KEY, wanted):
                errors = found["failed_sum"] or 0
                self._book(
                    _key(found),
                    {
                        "rows_error": errors,
                        "rows_ok": found["failed_count"] - errors,
                        "rows_without_usage": found["bare_sum"] or 0,
                        "ok_cost_pd": found["cost_usd_sum"],
                    },
                )
        if "reused_from" in results.schema.names:
            taken = pc.is_valid(results.column("reused_from"))
            if pc.any(taken).as_py():
                names = pc.fill_null(results.column("endpoint").filter(taken), "")
                for value in pc.value_counts(names).to_pylist():
                    self.reused[value["values"]] += value["counts"]
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
        _add(group, more)

    def _book_day(self, day: str, more: dict[str, Any]) -> None:
        sums = self.days.get(day)
        if sums is None:
            sums = self.days[day] = dict.fromkeys(OF_DAYS, 0) | {"cost_pd": None}
        _add(sums, more)


def _add(sums: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if value is not None:
            sums[name] = (sums[name] or 0) + value


def usd(cost_pd: int | None) -> float | None:
    """A cost as the files show it: the double that is nearest to it."""
    return None if cost_pd is None else cost_pd / PICODOLLARS


def is_cost(value: float) -> bool:
    """Whether a double stands for a whole number of picodollars that an exchange can cost."""
    if 0 <= value <= _PLAIN_USD:
        return round(value * PICODOLLARS) / PICODOLLARS == value
    found = _exact(value)
    return found is not None and found / PICODOLLARS == value


def _exact(value: float | None) -> int | None:
    if value is None or not 0 <= value <= COST_USD_MAX:
        return None
    return round(Fraction(value) * PICODOLLARS)


def _picodollars(costs: pa.Array) -> pa.Array:
    """Costs as integers; null where a value is no cost, which is told of elsewhere."""
    if _is_plain(costs):
        return pc.round(pc.multiply(costs, float(PICODOLLARS))).cast(pa.int64())
    return pa.array([_exact(value) for value in costs.to_pylist()], pa.int64())


def _is_plain(costs: pa.Array) -> bool:
    inside = pc.and_(pc.greater_equal(costs, 0.0), pc.less_equal(costs, _PLAIN_USD))
    return bool(pc.all(inside).as_py() is not False)


def _summable(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in pieces whose costs add up in 64 bits."""
    rows = PLAIN_ROWS if _is_plain(batch.column("cost_usd")) else DEAR_ROWS
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _bare(batch: pa.RecordBatch) -> pa.Array:
    """Where no token count was reported."""
    bare = pc.is_null(batch.column(TOKENS[0]))
    for name in TOKENS[1:]:
        bare = pc.and_(bare, pc.is_null(batch.column(name)))
    return bare


def _key(found: dict[str, Any]) -> Key:
    return found["endpoint"], found["model"], found["service_tier"]


def _day_name(day: int | None) -> str:
    return "unknown" if day is None else date.fromordinal(_EPOCH + day).isoformat()


def _grouped(
    batch: pa.RecordBatch, keys: Sequence[str], aggregations: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    table = pa.Table.from_batches([batch])
    found = table.group_by(list(keys), use_threads=False).aggregate(list(aggregations))
    yield from found.to_pylist()


def _sum_outputs(answered: pa.RecordBatch, outputs: Counter[str]) -> None:
    """Count answers that were cut off, and empty ones. Several choices of a row count once; an
    image is an answer, whatever else is said.
    """
    outputs["truncated"] += _rows_count(_cut, answered)
    if "media" in answered.schema.names:
        media = answered.column("media")
        if media.null_count < len(media):
            answered = answered.filter(pc.is_null(media))
    outputs["empty"] += _rows_count(_silent, answered)


def _rows_count(what: Callable[[pa.RecordBatch], pa.Array], answered: pa.RecordBatch) -> int:
    """How many rows have an answer that is such a one."""
    choices = answered.column("choices")
    if choices.null_count == len(choices):
        return _true(what(answered))
    several = pc.is_valid(choices)
    single = answered.filter(pc.invert(several))
    return _true(what(single)) + len(_rows_with(what, choices.filter(several)))


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
