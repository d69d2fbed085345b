"""``batchrun validate``: every row looked at as the run would, and nothing sent.

Rows come from the run's own readers and become requests by the run's own ``body.build``, so that
this report and the run never differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from batchrun.adapters.ids import IdPiles, Repeats
from batchrun.adapters.sources import opening
from batchrun.adapters.sources.opening import Splitter
from batchrun.core import body, remedies, shaping
from batchrun.core.roles import notice
from batchrun.core.settings import Settings
from batchrun.errors import RowError
from batchrun.records import JsonObject, Position, Row, Span
from batchrun.views.text import safe

SHOWN = 20
REASONS_MAX = 100
"""Different reasons that are counted apart; what comes after them is counted as ``OTHER``."""
OTHER = "other reasons"
TEXT_MAX = 500


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad row. ``line`` counts from 1, in an array of JSON the elements; in Parquet and
    workbooks it is the row in its file, from 0.
    """

    row: int
    file: str
    line: int
    where: str
    reason: str
    remedy: str


@dataclass(slots=True)
class Report:
    """What was found in the input."""

    rows: int = 0
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    repeats: Repeats = field(default_factory=Repeats)
    kinds: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    sent: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    model: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every row can be sent."""
        return not self.bad

    def warnings(self) -> list[str]:
        """What makes no row bad but is worth knowing."""
        found = [text.removeprefix("warning: ") for text in self.remarks]
        if self.repeats.ids:
            first = self.repeats.first[0]
            ids = self.repeats.ids
            found.append(
                f"{ids:,} custom_id{'s come' if ids > 1 else ' comes'} more than once, in "
                f"{self.repeats.rows:,} rows (first {safe(first.custom_id[:100])!r}, rows "
                f"{first.rows[0]} and {first.rows[1]}); rows are told apart by `row`"
            )
        if len(self.kinds) > 1:
            kinds = ", ".join(f"{kind} ({count:,})" for kind, count in self.kinds.most_common())
            found.append(f"the rows are of different kinds: {kinds}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "bad": self.bad,
            "reasons": dict(self.reasons.most_common()),
            "problems": [
                {
                    "row": problem.row,
                    "file": problem.file,
                    "line": problem.line,
                    "reason": problem.reason,
                    "remedy": problem.remedy,
                }
                for problem in self.problems
            ],
            "duplicate_ids": {
                "ids": self.repeats.ids,
                "rows": self.repeats.rows,
                "first": [
                    {"custom_id": found.custom_id, "rows": list(found.rows)}
                    for found in self.repeats.first
                ],
            },
            "sent": list(self.sent),
            "carried": list(self.carried),
            "warnings": self.warnings(),
        }

    def lines(self, *, quiet: bool = False) -> Iterator[str]:
        """For people. ``quiet`` leaves out what is no fault."""
        for problem in self.problems:
            yield f"{safe(problem.where)} (row {problem.row}): {safe(problem.reason)}"
            yield f"    {problem.remedy}"
        if self.bad > len(self.problems):
            yield f"... and {self.bad - len(self.problems):,} more"
        if self.bad:
            yield f"{self.bad:,} of {self.rows:,} rows are bad:"
            width = len(f"{self.bad:,}")
            for reason, count in self.reasons.most_common():
                yield f"  {count:{width},}  {safe(reason)}"
        if quiet:
            return
        told = notice(self.sent, self.carried, self.model)
        yield safe(told[0].upper() + told[1:])
        for warning in self.warnings():
            yield f"warning: {warning}"
        if not self.bad:
            yield f"valid: all {self.rows:,} rows can be sent"


def check(settings: Settings, *, body_bytes_max: int) -> Report:
    """Look at every row of the input, at most ``settings.limit`` of them.

    Raises what the run raises where the input cannot be opened (``InputError``, ``UsageError``) or
    read on (``InputLostError``), and ``StorageError`` where temporary files cannot be written.
    """
    plan = shaping.plan(settings)
    given = opening.find(settings.files, settings.format, plan, settings.reading)
    if settings.sample is not None:
        given = given.sampled(settings.sample, settings.sample_seed)
    given.require_model(settings, of_rows=False)
    carry = given.carry(settings.carry, settings.shard_rows)
    report = Report(sent=carry.sent, carried=carry.names, model=settings.one_model)
    counting = _Counting(given.splitter, report.kinds)
    reader = replace(given, splitter=counting).reader(carry, settings.shard_rows)
    if given.pipe is not None:
        given.pipe.release()
    build = body.builder(settings, body_bytes_max=body_bytes_max)
    with IdPiles() as ids:
        for block in reader.blocks([Span(0, None, Position())], limit=settings.limit):
            for row in block.rows:
                if row.custom_id is not None:
                    ids.add(row.number, row.custom_id)
                try:
                    build(row)
                except RowError as error:
                    file = given.stamps[row.file].name
                    _note(report, row, str(error), file, reader.where(row))
            report.rows += len(block.rows)
        report.repeats = ids.repeats()
    report.remarks = [*given.notices, *reader.remarks()]
    return report


class _Counting:
    """A splitter that counts the kinds of rows."""

    def __init__(self, splitter: Splitter, kinds: Counter[str]) -> None:
        self._splitter = splitter
        self._kinds = kinds
        self.needs = opening.needs_of(splitter)
        self.data: frozenset[str] = getattr(splitter, "data", frozenset())
        self.apart = opening.schema_splitter(splitter)
        self.roles = opening.roles_of(splitter)

    def __call__(self, fields: JsonObject) -> body.Split:
        """The row told apart, and counted."""
        prompted = self.roles is not None and self.roles.prompted
        self._kinds["data row" if prompted else body.kind_of(fields)] += 1
        return self._splitter(fields)


def _note(report: Report, row: Row, text: str, file: str, where: str) -> None:
    """Count a bad row, and keep it if it is among the first."""
    report.bad += 1
    reason = remedies.reason(text)[:TEXT_MAX]
    known = reason in report.reasons or len(report.reasons) < REASONS_MAX
    report.reasons[reason if known else OTHER] += 1
    if len(report.problems) < SHOWN:
        report.problems.append(
            Problem(row.number, file, row.line, where, text[:TEXT_MAX], remedies.remedy(text))
        )
