"""Checks of results by themselves: every row once, in order, and each row whole in itself."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.core.verdict.rules import ERROR_CLASSES
from batchrun.views.verify.findings import Report
from batchrun.views.verify.recount import is_cost

HASH_LENGTH = 64
_ERROR_FIELDS = ("error_class", "error_code", "error_message")
_SAID = ("content", "reasoning", "refusal", "tool_calls", "finish_reason", "choices", "model")
_ORIGIN = r"\A[0-9a-zA-Z._-]+:[0-9]+\z"
_CLASSES = pa.array(list(ERROR_CLASSES), pa.string())


class RowOrder:
    """The rows of one part of results: which are there, twice, out of order, or elsewhere."""

    def __init__(
        self,
        where: str,
        report: Report,
        first: int | None,
        end: int | None,
        lost_below: int,
    ) -> None:
        """The part is for rows ``first`` up to ``end``; those below ``lost_below`` must be there,
        others may be pending.
        """
        self._where = where
        self._report = report
        self._first = first
        self._end = end
        self._lost_below = lost_below
        self._last = -1 if first is None else first - 1

    def add(self, rows: pa.Array) -> bool:
        """The next rows of the part; says whether they are in order."""
        report, where = self._report, self._where
        before = _shifted(rows, self._last)
        steps = pc.subtract(rows, before)
        report.where(
            "row_twice",
            pc.equal(steps, 0),
            lambda place: f"{where}: row {rows[place]} is there twice",
        )
        if self._first is not None and self._end is not None:
            outside = pc.or_(pc.less(rows, self._first), pc.greater_equal(rows, self._end))
            report.where(
                "row_elsewhere",
                outside,
                lambda place: f"{where}: row {rows[place]} belongs to another part",
            )
        unordered = pc.less(steps, 0)
        report.where(
            "row_order",
            unordered,
            lambda place: f"{where}: row {rows[place]} comes after row {before[place]}",
        )
        sorted_here = not pc.any(unordered).as_py()
        if self._first is not None:
            self._gaps(rows, before, steps)
        self._last = rows[-1].as_py()
        return sorted_here

    def _gaps(self, rows: pa.Array, before: pa.Array, steps: pa.Array) -> None:
        for place in pc.indices_nonzero(pc.greater(steps, 1)).to_pylist():
            low, high = before[place].as_py() + 1, rows[place].as_py()
            self._missing(low, high)

    def _missing(self, low: int, high: int) -> None:
        high = min(high, self._lost_below)
        if low < high:
            self._report.found("row_missing", f"{self._where}: {_missing(low, high)}", high - low)

    def finish(self) -> None:
        """The part is at its end."""
        if self._first is not None:
            self._missing(max(self._last + 1, self._first), self._lost_below)


def _missing(low: int, high: int) -> str:
    return f"row {low} is missing" if high - low == 1 else f"rows {low} to {high - 1} are missing"


def _shifted(values: pa.Array, first: int) -> pa.Array:
    """Each value's predecessor; ``first`` before the first."""
    return pa.concat_arrays([pa.array([first], values.type), values[:-1]])


def check_outcomes(chunk: pa.RecordBatch, report: Report, absent: Collection[str]) -> None:
    """Each row is a completion or a failure, and has what belongs to it, and nothing else."""
    status, rows = chunk.column("status"), chunk.column("row")
    if "status" in absent:
        return
    ok = pc.fill_null(pc.equal(status, "ok"), fill_value=False)
    failed = pc.fill_null(pc.equal(status, "error"), fill_value=False)
    report.where(
        "status",
        pc.invert(pc.or_(ok, failed)),
        lambda place: f"row {rows[place]} has status {status[place].as_py()!r}",
    )
    for name in _ERROR_FIELDS:
        column = chunk.column(name)
        if column.null_count < len(column):
            _where(
                report, "ok_with_error", pc.and_(ok, pc.is_valid(column)), rows,
                f"has status 'ok' and {name}", column,
            )  # fmt: skip
    answered = chunk.column("http_status")
    if "http_status" not in absent:
        good = pc.and_(pc.greater_equal(answered, 200), pc.less(answered, 300))
        bad = pc.and_not(ok, pc.fill_null(good, fill_value=False))
        _where(report, "ok_http_status", bad, rows, "has status 'ok' and http_status", answered)
    _check_reused(chunk, report, ok)
    if "request_hash" not in absent and "endpoint" not in absent:
        _check_hashes(chunk, report)
    if pc.any(failed).as_py():
        _check_failures(chunk.filter(failed), report, absent)


def _check_reused(chunk: pa.RecordBatch, report: Report, ok: pa.Array) -> None:
    """A row that took its answer from another run has one, says which run and row gave it, and
    cost nothing here. That it answers the row's own request is in the hash, which ``--against``
    makes again from the input.
    """
    origins, rows = chunk.column("reused_from"), chunk.column("row")
    if origins.null_count == len(origins):
        return
    taken = pc.is_valid(origins)
    named = pc.match_substring_regex(origins, _ORIGIN)
    _where(
        report, "reused_from", pc.fill_null(pc.invert(named), fill_value=False), rows,
        "has reused_from", origins,
    )  # fmt: skip
    status = chunk.column("status")
    wrong = pc.and_not(taken, ok)
    _where(report, "reused_status", wrong, rows, "has a reused answer and status", status)
    costs = chunk.column("cost_usd")
    billed = pc.and_(taken, pc.fill_null(pc.not_equal(costs, 0.0), fill_value=True))
    _where(report, "reused_cost", billed, rows, "has a reused answer and cost_usd", costs)


def _check_failures(failures: pa.RecordBatch, report: Report, absent: Collection[str]) -> None:
    for name in _SAID:
        present = pc.is_valid(failures.column(name))
        _tell(report, "error_with_answer", present, failures, f"has status 'error' and {name}")
    for name in ("error_class", "error_message"):
        if name not in absent:
            missing = pc.is_null(failures.column(name))
            _tell(
                report, "error_without_reason", missing, failures,
                f"has status 'error' and no {name}",
            )  # fmt: skip
    check_classes(failures, report, "row")


def check_classes(chunk: pa.RecordBatch, report: Report, what: str) -> None:
    """Error classes are those of the contract."""
    classes, rows = chunk.column("error_class"), chunk.column("row")
    if classes.null_count == len(classes):
        return
    unknown = pc.and_(pc.is_valid(classes), pc.invert(pc.is_in(classes, value_set=_CLASSES)))
    _where(report, "unknown_class", unknown, rows, "has error_class", classes, what=what)


def check_costs(chunk: pa.RecordBatch, report: Report, what: str) -> None:
    """Costs are whole numbers of picodollars, and none is below zero."""
    costs = chunk.column("cost_usd")
    if costs.null_count == len(costs):
        return
    wrong = pa.array([value is not None and not is_cost(value) for value in costs.to_pylist()])
    _where(report, "cost", wrong, chunk.column("row"), "has cost_usd", costs, what=what)


def _check_hashes(chunk: pa.RecordBatch, report: Report) -> None:
    """A row that was sent has its request's hash, another has none."""
    hashes, rows = chunk.column("request_hash"), chunk.column("row")
    lengths = pc.fill_null(pc.binary_length(hashes), 0)
    wanted = pc.if_else(pc.is_valid(chunk.column("endpoint")), HASH_LENGTH, 0)
    wrong = pc.not_equal(lengths, wanted)
    _where(report, "request_hash", wrong, rows, "has request_hash", hashes)


def _tell(report: Report, kind: str, wrong: pa.Array, chunk: pa.RecordBatch, says: str) -> None:
    rows = chunk.column("row")
    report.where(kind, wrong, lambda place: f"row {rows[place]} {says}")


def _where(
    report: Report,
    kind: str,
    wrong: pa.Array,
    rows: pa.Array,
    says: str,
    values: pa.Array,
    *,
    what: str = "row",
) -> None:
    report.where(
        kind, wrong, lambda place: f"{what} {rows[place]} {says} {values[place].as_py()!r}"
    )
