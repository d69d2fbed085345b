"""Checks of the ledger: attempts numbered without a gap, and consistent with their rows' results.

The attempt that decided a row is nearly always its last. A row that was sent again and got no new
outcome keeps its old one: then an earlier attempt decided it, and all later ones failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from batchrun.views.verify.check_rows import check_classes, check_costs
from batchrun.views.verify.check_trails import check_trails
from batchrun.views.verify.findings import Report
from batchrun.views.verify.part_reader import LEDGER_NAMES, PartReader

IDENTICAL = ("http_status", "endpoint", "started_at", "latency_s", "request_id", "error_code")
"""What tells an exchange from others."""
ALIKE = (
    "error_class",
    *IDENTICAL,
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd",
)
"""What a result has from the attempt that decided it."""
OF_ANSWERS = ("model", "service_tier")
"""What it has from it where it is an answer."""


class LedgerCheck:
    """One part of attempts, read beside its part of results."""

    def __init__(
        self, part: PartReader, report: Report, first: int | None, end: int | None
    ) -> None:
        """The part is for rows ``first`` up to ``end``."""
        self._part = part
        self._report = report
        self._span = (first, end)
        self._chunks = self._read()
        self._ahead: pa.RecordBatch | None = None
        self._last = (-1, 0)
        self._sorted = True

    @property
    def where(self) -> str:
        """The part's name."""
        return self._part.where

    @property
    def absent(self) -> Collection[str]:
        """Columns that say nothing here."""
        return self._part.absent

    def up_to(self, row: int | None) -> Iterator[pa.RecordBatch]:
        """The lines of rows up to this one (None: the rest) that were not taken yet."""
        while True:
            chunk = self._ahead if self._ahead is not None else next(self._chunks, None)
            self._ahead = None
            if chunk is None:
                return
            if row is None or chunk.column("row")[-1].as_py() <= row:
                yield chunk
                continue
            rows = chunk.column("row")
            if self._sorted:
                place = pc.sum(pc.less_equal(rows, row)).as_py() or 0
                taken, self._ahead = chunk.slice(0, place), chunk.slice(place)
            else:
                low = pc.less_equal(rows, row)
                taken, self._ahead = chunk.filter(low), chunk.filter(pc.invert(low))
            if taken.num_rows:
                yield taken
            return

    def _read(self) -> Iterator[pa.RecordBatch]:
        for chunk in self._part.chunks(LEDGER_NAMES):
            self._check(chunk)
            yield chunk

    def _check(self, chunk: pa.RecordBatch) -> None:
        """The lines are by row and number, and the numbers of a row are 1, 2, 3, ..."""
        report, where = self._report, self._part.where
        rows, numbers = chunk.column("row"), chunk.column("attempt")
        before_row = _shifted(rows, self._last[0])
        before = _shifted(numbers, self._last[1])
        unordered = pc.less(rows, before_row)
        report.where(
            "ledger_order",
            unordered,
            lambda n: f"{where}: row {rows[n]} comes after row {before_row[n]}",
        )
        self._sorted = self._sorted and not pc.any(unordered).as_py()
        expected = pc.add(pc.if_else(pc.equal(rows, before_row), before, 0), 1)
        if "attempt" not in self.absent:
            wrong = pc.and_not(pc.not_equal(numbers, expected), unordered)
            report.where(
                "attempt_number",
                pc.fill_null(wrong, fill_value=True),
                lambda n: (
                    f"{where}: row {rows[n]} has attempt {numbers[n]} where attempt "
                    f"{expected[n]} belongs"
                ),
            )
        first, end = self._span
        if first is not None and end is not None:
            outside = pc.or_(pc.less(rows, first), pc.greater_equal(rows, end))
            report.where(
                "row_elsewhere",
                outside,
                lambda n: f"{where}: row {rows[n]} belongs to another part",
            )
        check_classes(chunk, report, f"{where}: row")
        check_costs(chunk, report, f"{where}: row")
        check_trails(chunk, report, f"{where}: row")
        self._last = (rows[-1].as_py(), numbers[-1].as_py() or 0)


def _shifted(values: pa.Array, first: int) -> pa.Array:
    return pa.concat_arrays([pa.array([first], values.type), values[:-1]])


def last_lines(results: pa.RecordBatch, lines: pa.RecordBatch) -> pa.RecordBatch:
    """The last line of each row of the results, beside it; nulls where the row has none."""
    rows = lines.column("row")
    if len(rows) == results.num_rows and rows.equals(results.column("row")):
        return lines
    if len(rows):
        following = pa.concat_arrays([rows[1:], pa.array([-1], rows.type)])
        lines = lines.filter(pc.not_equal(rows, following))
    if lines.column("row").equals(results.column("row")):
        return lines
    return lines.take(pc.index_in(results.column("row"), value_set=lines.column("row")))


def compare(
    results: pa.RecordBatch,
    lines: pa.RecordBatch,
    last: pa.RecordBatch,
    report: Report,
    absent: Collection[str],
) -> None:
    """Results beside the lines of the ledger for the same rows; ``last`` from ``last_lines``."""
    rows, attempts = results.column("row"), results.column("attempts")
    if "attempts" not in absent and "attempt" not in absent:
        found = pc.fill_null(last.column("attempt"), 0)
        report.where(
            "attempts",
            pc.fill_null(pc.not_equal(attempts, found), fill_value=True),
            lambda n: f"row {rows[n]} says {attempts[n]} attempts, the ledger has {found[n]}",
        )
    wrong = _differing(results, last, absent)
    if wrong is None:
        return
    # Never sent in the session that decided it: its request could not be made (any more).
    unsent = pc.and_(
        pc.fill_null(pc.equal(results.column("error_class"), "invalid_row"), fill_value=False),
        pc.and_(pc.is_null(results.column("endpoint")), pc.is_null(results.column("started_at"))),
    )
    taken = pc.is_valid(results.column("reused_from"))  # another run's ledger has its attempt
    wrong = pc.and_not(wrong, pc.or_(unsent, taken))
    if not pc.any(wrong).as_py():
        return
    results, last = results.filter(wrong), last.filter(wrong)
    undecided = pc.invert(_decided_earlier(results, lines, absent))
    rows = results.column("row")
    numbers = last.column("attempt")

    def tell(place: int) -> str:
        row, number = rows[place], numbers[place]
        if not number.is_valid:
            return f"row {row} has a result and no attempt in the ledger"
        one, other = results.slice(place, 1), last.slice(place, 1)
        name = next(n for n in _compared(absent) if _differing(one, other, absent, (n,)))
        mine, theirs = (batch.column(name)[0] for batch in (one, other))
        return f"row {row} has {name} {mine}, its last attempt ({number}) has {theirs}"

    report.where("ledger", undecided, tell)


def _compared(absent: Collection[str]) -> list[str]:
    return [name for name in (*ALIKE, *OF_ANSWERS) if name not in absent]


def _differing(
    results: pa.RecordBatch,
    lines: pa.RecordBatch,
    absent: Collection[str],
    names: Collection[str] | None = None,
) -> pa.Array | None:
    """Where results differ from lines beside them; None where they do nowhere."""
    wrong: pa.Array | None = None
    for name in _compared(absent) if names is None else names:
        one, other = results.column(name), lines.column(name)
        if one.equals(other):
            continue
        same = pc.coalesce(pc.equal(one, other), pc.and_(pc.is_null(one), pc.is_null(other)))
        if name in OF_ANSWERS:
            # A failure names no model; an answer that names none is booked under the asked one.
            same = pc.or_(same, pc.is_null(one))
        if not pc.all(same).as_py():
            different = pc.invert(same)
            wrong = different if wrong is None else pc.or_(wrong, different)
    return wrong


def _decided_earlier(
    results: pa.RecordBatch, lines: pa.RecordBatch, absent: Collection[str]
) -> pa.Array:
    """Which results an earlier line tells, all later ones of the row being failures."""
    rows = results.column("row")
    lines = lines.filter(pc.is_in(lines.column("row"), value_set=rows))
    places = pc.index_in(lines.column("row"), value_set=rows)
    beside = results.take(places)
    different = _differing(beside, lines, absent)
    if different is None:
        alike = pa.array([True] * lines.num_rows, pa.bool_())
    else:
        alike = pc.invert(different)
    numbers = lines.column("attempt")
    deciding = _highest(lines.column("row").filter(alike), numbers.filter(alike), rows)
    answered = pc.is_null(lines.column("error_class"))
    success = _highest(lines.column("row").filter(answered), numbers.filter(answered), rows)
    later = pc.fill_null(pc.greater(success, deciding), fill_value=False)
    return pc.and_not(pc.is_valid(deciding), later)


def _highest(rows: pa.Array, numbers: pa.Array, wanted: pa.Array) -> pa.Array:
    """The highest number of each wanted row, null where it has none."""
    table = pa.table({"row": rows, "number": numbers})
    found = table.group_by("row", use_threads=False).aggregate([("number", "max")])
    places = pc.index_in(wanted, value_set=found.column("row").combine_chunks())
    column = found.column("number_max").combine_chunks()
    return column.take(places)
