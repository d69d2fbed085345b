"""``batchrun validate``: every row checked as the run would, and nothing sent.

Rows come from the run's own readers and become requests by the run's own ``body.build``, so that
this report and the run never differ.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyarrow as pa

from batchrun.adapters.columns.schema import results_schema
from batchrun.adapters.environment.ids import IdPiles, Repeats
from batchrun.adapters.environment.tokenizers import Tokenizers
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Reader
from batchrun.adapters.sources.splitting import (
    Splitter,
    needs_of,
    reserved_by,
    roles_of,
    schema_splitter,
)
from batchrun.core.estimate.prompt_tokens import prompt
from batchrun.core.reply import media
from batchrun.core.request import body, remedies
from batchrun.core.request import prompt as prompts
from batchrun.core.request.column_roles import notice
from batchrun.core.request.turns import wording_of
from batchrun.core.settings.resolve import Settings
from batchrun.core.text.wording import counted, verb
from batchrun.errors import RowError
from batchrun.records import JsonObject, Position, Request, Row, Span
from batchrun.rundir.chain import inputs
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


@dataclass(frozen=True, slots=True)
class Measured:
    """The shortest or the longest request: its size as it is sent, the tokens of its prompt as
    they are estimated, and the row that it is made of.
    """

    row: int
    file: str
    line: int
    where: str
    custom_id: str | None
    size_bytes: int
    prompt_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "row": self.row,
            "file": self.file,
            "line": self.line,
            "custom_id": self.custom_id,
            "bytes": self.size_bytes,
            "prompt_tokens": self.prompt_tokens,
        }

    def __str__(self) -> str:
        named = "" if self.custom_id is None else f", custom_id {safe(self.custom_id[:100])!r}"
        return f"{self.size}: {safe(self.where)} (row {self.row}{named})"

    @property
    def size(self) -> str:
        """Bytes and tokens in words."""
        tokens = counted(self.prompt_tokens, "prompt token")
        return f"{counted(self.size_bytes, 'byte')}, about {tokens}"


@dataclass(frozen=True, slots=True)
class ShownRequest:
    """A request that is shown, and the images, sounds and files in it."""

    row: int
    body: bytes
    attachments: tuple[tuple[str, int], ...]
    """The media type, else the kind, and the bytes of each."""

    def __str__(self) -> str:
        text = f"row {self.row}: {counted(len(self.body), 'byte')}"
        if not self.attachments:
            return text
        held = ", ".join(f"{safe(kind)} of {size:,} bytes" for kind, size in self.attachments)
        return f"{text}, with {held}"


KEYS = {
    "ok": "Whether every row can be sent.",
    "rows": "Rows checked.",
    "bad": "Rows that cannot be sent.",
    "reasons": "Bad rows by reason, without the details that differ from row to row.",
    "problems": (
        "The first 20 bad rows, repeats that are bad alike as one: `row`, `file`, `line` (from 1; "
        "in Parquet the row in its file, from 0), `reason`, `remedy`."
    ),
    "duplicate_ids": (
        "`ids` that occur more than once, the `rows` they occur in, and the `first` 20 of them, "
        "each with the first two rows that have it. Exact, however large the input is."
    ),
    "sent": "Input columns that are sent as request parameters.",
    "carried": "Input columns that are copied to the results, by their names in the input.",
    "identical_requests": (
        "`requests` that more than one row makes, the `rows` that make them, and the `first` 20 of "
        "them, each with the first two rows that make it. Exact, however large the input is."
    ),
    "shortest": (
        "The request with the fewest `bytes`: its `row`, `file`, `line` and `custom_id`, and its "
        "estimated `prompt_tokens`. Null if no row can be sent."
    ),
    "longest": "The request with the most `bytes`, with the same keys.",
    "requests": "With `--show N`, the first N requests as they would be sent; else empty.",
    "attachments": (
        "The images, sounds and files in these requests: `row`, `kind` (the media type), `bytes`."
    ),
    "notices": "How files are read if that is unusual: delimiter, encoding, names given.",
    "warnings": (
        "What is suspicious and makes no row bad: repeated ids, identical requests, rows of "
        "different kinds."
    ),
}
"""What the keys of ``validate --json`` mean, for the reference."""


@dataclass(slots=True)
class Report:
    """What was found in the input. ``done`` rows are those of a run directory that need not be
    sent: they are neither checked nor counted elsewhere.
    """

    rows: int = 0
    bad: int = 0
    done: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    noted: int = 0
    """Bad rows that the problems stand for: one of them for all repeats of a row that are alike."""
    repeats: Repeats = field(default_factory=Repeats)
    alike: Repeats = field(default_factory=Repeats)
    shortest: Measured | None = None
    longest: Measured | None = None
    kinds: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    """What the input is read as, where that is not the usual."""
    remarks: list[str] = field(default_factory=list)
    sent: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    model: str | None = None
    shown: list[ShownRequest] = field(default_factory=list)

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
                f"{counted(ids, 'custom_id')} {verb(ids, 'occurs', 'occur')} more than once, in "
                f"{self.repeats.rows:,} rows (first {safe(first.custom_id[:100])!r}, rows "
                f"{first.rows[0]} and {first.rows[1]}); use `row` to tell them apart"
            )
        if len(self.kinds) > 1:
            kinds = ", ".join(f"{kind} ({count:,})" for kind, count in self.kinds.most_common())
            found.append(f"the rows are of different kinds: {kinds}")
        if self.alike.ids:
            first = self.alike.first[0]
            more = self.alike.rows - self.alike.ids
            found.append(
                f"{counted(more, 'row')} {verb(more, 'makes', 'make')} the same request as an "
                f"earlier row (first rows {first.rows[0]} and {first.rows[1]}); every row is sent "
                "and billed"
            )
        return found

    def sizes(self) -> list[str]:
        """The shortest and the longest request, a sentence each."""
        if self.shortest is None or self.longest is None:
            return []
        if self.shortest.size_bytes == self.longest.size_bytes:
            every = "every request has" if self.rows - self.bad > 1 else "the request has"
            return [f"{every} {self.shortest.size}"]
        return [f"shortest request: {self.shortest}", f"longest request: {self.longest}"]

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
            "identical_requests": {
                "requests": self.alike.ids,
                "rows": self.alike.rows,
                "first": [list(found.rows) for found in self.alike.first],
            },
            "shortest": None if self.shortest is None else self.shortest.as_dict(),
            "longest": None if self.longest is None else self.longest.as_dict(),
            "requests": [json.loads(shown.body) for shown in self.shown],
            "attachments": [
                {"row": shown.row, "kind": kind, "bytes": size}
                for shown in self.shown
                for kind, size in shown.attachments
            ],
            "notices": self.notices,
            "warnings": self.warnings(),
        }

    def lines(self, *, quiet: bool = False) -> Iterator[str]:
        """For people. ``quiet`` leaves out what is no fault."""
        for problem in self.problems:
            yield f"{safe(problem.where)} (row {problem.row}): {safe(problem.reason)}"
            yield f"    {problem.remedy}"
        if self.bad > self.noted:
            yield f"... and {self.bad - self.noted:,} more"
        if self.bad:
            yield (
                f"{self.bad:,} of {counted(self.rows, 'row')} {verb(self.bad, 'is', 'are')} bad:"
            )
            width = len(f"{self.bad:,}")
            for reason, count in self.reasons.most_common():
                yield f"  {count:{width},}  {safe(reason)}"
        if quiet:
            return
        told = notice(self.sent, self.carried, self.model)
        yield safe(told[0].upper() + told[1:])
        yield from map(safe, self.notices)
        for warning in self.warnings():
            yield f"warning: {warning}"
        yield from self.sizes()
        if self.bad:
            return
        if self.done and not self.rows:
            yield "valid: there is nothing left to send"
        elif self.rows == 1:
            yield "valid: the row can be sent"
        else:
            yield f"valid: all {self.rows:,} rows can be sent"


def require_evaluation(settings: Settings, schema: pa.Schema) -> None:
    """Check scores, metrics and gates against the columns of the results. Raises ``UsageError``."""
    if settings.evaluation:
        from batchrun.rundir.evaluate.evaluator import Prepared

        asked = None
        if settings.evaluation.judges:
            from batchrun.rundir.judges.prepare import asked_by_configs

            asked = asked_by_configs(settings)
        prepared = Prepared(settings.evaluation, asked=asked)
        try:
            prepared.require(schema)
        finally:
            prepared.close()


def check(
    settings: Settings,
    *,
    body_bytes_max: int,
    show: int = 0,
    showing: Callable[[ShownRequest], None] | None = None,
) -> Report:
    """Check every row of the input, at most ``settings.limit`` of them.

    The first ``show`` requests are handed to ``showing`` as they are met; without it they are kept
    in the report. Raises what the run raises where the input cannot be opened (``InputError``,
    ``UsageError``) or read on (``InputLostError``), and ``StorageError`` where temporary files
    cannot be written.
    """
    plan = prompts.plan(settings)
    given = inputs.find(settings, plan, settings.reading)
    if settings.sample is not None:
        given = given.sampled(settings.sample, settings.sample_seed)
    given.require_model(settings, of_rows=False)
    carry = given.carry(settings.carry, settings.shard_rows)
    turns = settings.turns is not None
    require_evaluation(settings, results_schema(carry.schema, turns=turns))
    report = Report(sent=carry.sent, carried=carry.names, model=settings.one_model)
    counting = Counting(given.splitter, report.kinds)
    reader = replace(given, splitter=counting).reader(carry, settings.shard_rows)
    if given.pipe is not None:
        given.pipe.release()
    build = body.builder(settings, body_bytes_max=body_bytes_max)
    with Checking(report, settings, given, reader, build, show=show, showing=showing) as checking:
        for block in reader.blocks([Span(0, None, Position())], limit=settings.limit):
            for row in block.rows:
                checking.add(row)
    report.notices, report.remarks = list(given.notices), list(reader.remarks())
    return report


class Checking:
    """Takes the rows of an input one after the other and fills the report of them, whole when the
    block is left without an error.
    """

    def __init__(
        self,
        report: Report,
        settings: Settings,
        given: Input,
        reader: Reader,
        build: Callable[[Row], Request],
        *,
        show: int = 0,
        showing: Callable[[ShownRequest], None] | None = None,
    ) -> None:
        self._report = report
        self._endpoints = settings.endpoints
        self._repeat = settings.repeat
        self._given = given
        self._reader = reader
        self._build = build
        self._first: Callable[[Request], Request] = lambda request: request
        if settings.turns is not None:
            self._first = replace(wording_of(settings), bounded=False).first
        self._left = show
        self._show = showing or report.shown.append
        self._ids, self._hashes = IdPiles(), IdPiles()
        self._stack = contextlib.ExitStack()
        self._ends: tuple[tuple[Row, Request], tuple[Row, Request]] | None = None

    def __enter__(self) -> Self:
        self._stack.enter_context(self._ids)
        self._stack.enter_context(self._hashes)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        with self._stack:
            if kind is None:
                self._finish()

    def add(self, row: Row) -> Request | None:
        """The row's request, checked and counted; None for a bad row."""
        report = self._report
        report.rows += 1
        is_first = row.number % self._repeat == 0  # of its repeats, which are no duplicates
        if row.custom_id is not None and is_first:
            self._ids.add(row.number, row.custom_id)
        try:
            request = self._build(row)
        except RowError as error:
            file = self._given.stamps[row.file].name
            _note(report, row, str(error), file, self._reader.where(row))
            return None
        if is_first:
            self._hashes.add(row.number, request.hash)
        size = len(request.body)
        if self._ends is None:
            self._ends = ((row, request), (row, request))
        elif size < len(self._ends[0][1].body):
            self._ends = ((row, request), self._ends[1])
        elif size > len(self._ends[1][1].body):
            self._ends = (self._ends[0], (row, request))
        if self._left > 0:
            self._left -= 1
            first = self._first(request)
            self._show(ShownRequest(row.number, body.as_sent(first, self._endpoints), _held(first)))
        return request

    def _finish(self) -> None:
        report = self._report
        report.repeats = self._ids.repeats()
        report.alike = self._hashes.repeats()
        if self._ends is not None:
            report.shortest, report.longest = (self._measured(*end) for end in self._ends)

    def _measured(self, row: Row, request: Request) -> Measured:
        counted_by, first = Tokenizers().count(request.model), self._first(request)
        return Measured(
            row=row.number,
            file=self._given.stamps[row.file].name,
            line=row.line,
            where=self._reader.where(row),
            custom_id=row.custom_id,
            size_bytes=len(body.as_sent(first, self._endpoints)),
            prompt_tokens=round(prompt(json.loads(first.body), counted_by).tokens),
        )


def _held(request: Request) -> tuple[tuple[str, int], ...]:
    """The images, sounds and files in a request."""
    return tuple(
        (medium.mime or medium.kind, len(medium.data))
        for message in json.loads(request.body)["messages"]
        for medium in media.media_of(message) or ()
        if medium.data is not None
    )


class Counting:
    """A splitter that counts the kinds of rows."""

    def __init__(self, splitter: Splitter, kinds: Counter[str]) -> None:
        self._splitter = splitter
        self._kinds = kinds
        self.needs = needs_of(splitter)
        self.data: frozenset[str] = getattr(splitter, "data", frozenset())
        self.apart = schema_splitter(splitter)
        self.roles = roles_of(splitter)
        self.reserved = reserved_by(splitter)

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
    last = report.problems[-1] if report.problems else None
    if last is not None and (last.where, last.reason) == (where, text[:TEXT_MAX]):
        report.noted += 1  # another repeat of the same row
        return
    if len(report.problems) < SHOWN:
        report.noted += 1
        report.problems.append(
            Problem(row.number, file, row.line, where, text[:TEXT_MAX], remedies.remedy(text))
        )
