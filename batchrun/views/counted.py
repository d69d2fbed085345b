"""What the parts of a run directory add up to, and what is wrong with them.

It shares no code with what wrote them: see ``verify``.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters import arrow
from batchrun.adapters.store import KINDS, StoreReader, part_number
from batchrun.core import answer
from batchrun.views.text import safe

PROBLEMS_SHOWN = 20
_BATCH_ROWS = 1024
_OF_CHOICES = ("content", "refusal", "finish_reason", "tool_calls.list.element.name")
SUMS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)


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
class Sums:
    """What the files add up to."""

    status: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    cost_usd: float | None = None
    ok_cost_usd: float | None = None
    without_usage: int = 0
    outputs: Counter[str] = field(default_factory=Counter)


class Shards:
    """Checks parts, one shard at a time; each file is opened once."""

    def __init__(
        self,
        store: StoreReader,
        shard_rows: int | None,
        digests: dict[str, tuple[str, str]],
        report: Report,
        sums: Sums,
    ) -> None:
        self._store = store
        self._shard_rows = shard_rows
        self._digests = digests
        self._report = report
        self._sums = sums
        self._schemas: dict[str, pa.Schema] = {}

    def check(self, name: str, kinds: list[str]) -> None:
        """One shard, whose part is there of these kinds: digests, and what a pair adds up to."""
        report = self._report
        paired = len(kinds) == len(KINDS)
        counted: Counter[int] = Counter()
        highest: dict[int, int] = {}
        results, attempts = self._digests.get(name, ("", ""))
        for kind, digest in (("attempts", attempts), ("results", results)):
            where = f"{kind}/{name}"
            if kind not in kinds:
                report.claim(not digest, f"{where} is missing")
                continue
            report.claim(not self._digests or bool(digest), f"{where} is not known to the journal")
            try:
                with self._store.open(where) as file:
                    self._compare_digest(file, where, digest)
                    if paired and kind == "attempts":
                        self._attempts(file, where, counted, highest)
                    elif paired:
                        self._results(file, where, counted, highest)
            except OSError as error:
                report.problems.append(f"{where} cannot be read: {error}")
        report.parts += paired

    def _compare_digest(self, file: io.BufferedIOBase, where: str, digest: str) -> None:
        if digest:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            self._report.digests += 1
            self._report.claim(found == digest, f"{where} is not what was written")
            file.seek(0)

    def _attempts(
        self, file: io.BufferedIOBase, where: str, counted: Counter[int], highest: dict[int, int]
    ) -> None:
        """A ledger: how many attempts it has of each row, and the number of the last one."""
        report = self._report
        before: tuple[int, int] = (-1, 0)
        for batch in self._batches(file, where):
            report.attempts += batch.num_rows
            _sum_attempts(batch, self._sums)
            numbers = batch.column("attempt").to_pylist()
            for row, number in zip(batch.column("row").to_pylist(), numbers, strict=True):
                report.claim(
                    (row, number) > before, f"{where}: row {row} attempt {number} out of order"
                )
                before = (row, number)
                counted[row] += 1
                highest[row] = number

    def _results(
        self, file: io.BufferedIOBase, where: str, counted: Counter[int], highest: dict[int, int]
    ) -> None:
        """Results, beside what the ledger says of their rows."""
        report = self._report
        shard = part_number(where)
        last = -1
        for batch in self._batches(file, where):
            report.rows += batch.num_rows
            _sum_results(batch, self._sums)
            columns = ("row", "attempts", "status", "error_class")
            for row, attempts, status, error in zip(
                *(batch.column(name).to_pylist() for name in columns), strict=True
            ):
                report.claim(row > last, f"{where}: row {row} comes after row {last}")
                last = row
                report.claim(
                    self._shard_rows is None or row // self._shard_rows == shard,
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

    def _batches(self, source: io.BufferedIOBase, where: str) -> Iterator[pa.RecordBatch]:
        report, kind = self._report, where.partition("/")[0]
        fixed = arrow.RESULT_FIELDS if kind == "results" else arrow.ATTEMPT_FIELDS
        wanted = {
            "row", "attempt", "attempts", "status", "error_class", "cost_usd", "unanswered", *SUMS,
            "finish_reason", "content", "refusal", "tool_calls",
        }  # fmt: skip
        try:
            with pq.ParquetFile(source, pre_buffer=False) as file:
                schema = file.schema_arrow
                known = self._schemas.setdefault(kind, schema)
                report.claim(schema.equals(known), f"{where} has other columns than the first part")
                expected = [(f.name, f.type) for f in schema][: len(fixed)]
                if expected != list(fixed):
                    report.problems.append(
                        f"{where} lacks columns of the contract or has them otherwise"
                    )
                    return
                columns = [name for name, _ in fixed if name in wanted]
                if kind == "results":
                    columns += [f"choices.list.element.{name}" for name in _OF_CHOICES]
                yield from file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            report.problems.append(f"{where} cannot be read: {error}")


def _sum_attempts(batch: pa.RecordBatch, sums: Sums) -> None:
    sums.totals["attempts"] += batch.num_rows
    sums.totals["unanswered_attempts"] += pc.sum(batch.column("unanswered")).as_py() or 0
    for name in SUMS:
        sums.totals[name] += pc.sum(batch.column(name)).as_py() or 0
    sums.cost_usd = _plus(sums.cost_usd, pc.sum(batch.column("cost_usd")).as_py())


def _sum_results(batch: pa.RecordBatch, sums: Sums) -> None:
    for value in pc.value_counts(batch.column("status")).to_pylist():
        sums.status[value["values"]] += value["counts"]
    for value in pc.value_counts(batch.column("error_class").drop_null()).to_pylist():
        sums.errors[value["values"]] += value["counts"]
    answered = batch.filter(pc.equal(batch.column("status"), "ok"))
    reported = [pc.is_valid(answered.column(name)) for name in SUMS]
    for more in reported[1:]:
        reported[0] = pc.or_(reported[0], more)
    sums.without_usage += answered.num_rows - (pc.sum(reported[0]).as_py() or 0)
    _sum_outputs(answered, sums.outputs)
    sums.ok_cost_usd = _plus(sums.ok_cost_usd, pc.sum(answered.column("cost_usd")).as_py())


def _sum_outputs(answered: pa.RecordBatch, outputs: Counter[str]) -> None:
    """Count answers that were cut off, and empty ones. Several choices of a row count once."""
    several = pc.is_valid(answered.column("choices"))
    rows = answered.column("choices").filter(several)
    single = answered.filter(pc.invert(several))
    outputs["truncated"] += _true(_cut(single)) + len(_rows_with(_cut, rows))
    outputs["empty"] += _true(_silent(single)) + len(_rows_with(_silent, rows))


def _cut(answers: pa.RecordBatch) -> pa.Array:
    lower = pc.utf8_lower(answers.column("finish_reason"))
    return pc.is_in(lower, value_set=pa.array(sorted(answer.TRUNCATED)))


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


def _plus(before: float | None, more: float | None) -> float | None:
    return before if more is None else (before or 0.0) + more
