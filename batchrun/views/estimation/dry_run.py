"""``batchrun run --dry-run``: what validate and estimate report of a run, and its first requests.

The input is read once and everything is found in that pass, so that standard input has a dry run
too. On a run directory that was begun, rows that are done are counted and passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from batchrun.adapters.environment import price_list
from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.http.access import accesses_to
from batchrun.core.request import body
from batchrun.core.run.changes import Changes
from batchrun.core.settings.addresses import format_address
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.table import OLD
from batchrun.core.text.wording import counted, verb
from batchrun.errors import UnboundedError, UsageError
from batchrun.records import Position, Request, Row, Span
from batchrun.rundir.chain import inputs
from batchrun.rundir.directory_name import require_directory_name
from batchrun.rundir.preflight import Priced
from batchrun.rundir.rehearse import Rehearsal, rehearsed
from batchrun.views import validate
from batchrun.views.estimation import estimate_report
from batchrun.views.estimation.counting import Estimate, Estimating
from batchrun.views.estimation.estimate import with_judges
from batchrun.views.text import safe

SHOWN = 2
KEYS = {
    "dry_run": "True.",
    "exit_code": "0 if every row can be sent, else 1.",
    "dir": "The run directory. Null if none is named.",
    "resumed": "Whether the directory holds a run, which would be resumed.",
    "rows": (
        "The `input` rows, those that are `done` and would not be sent again, those `to_send`, "
        "and those that are `bad`."
    ),
    "requests": "The first two requests as they would be sent.",
    "validate": "The keys of `validate --json`, for the rows that are not done.",
    "estimate": "The keys of `estimate --json`, for the rows that are not done.",
}
"""What the keys of ``run --dry-run --json`` mean, for the reference."""
"""Requests that are shown."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was found."""

    settings: Settings
    resumed: bool
    nowhere: bool
    checked: validate.Report
    estimate: Estimate

    @property
    def exit_code(self) -> int:
        """0 if every row can be sent, else 1."""
        return 0 if self.checked.ok else 1

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        checked = self.checked.as_dict()
        return {
            "dry_run": True,
            "exit_code": self.exit_code,
            "dir": None if self.nowhere else format_address(self.settings.dir),
            "resumed": self.resumed,
            "rows": {
                "input": self.checked.rows + self.checked.done,
                "done": self.checked.done,
                "to_send": self.checked.rows - self.checked.bad,
                "bad": self.checked.bad,
            },
            "requests": checked.pop("requests"),
            "validate": checked,
            "estimate": estimate_report.Report(self.estimate).as_dict(),
        }

    def lines(self, width: int, *, quiet: bool = False) -> Iterator[str]:
        """For people, without the requests. ``quiet`` leaves out what is no fault."""
        checked = self.checked
        if not quiet:
            yield "dry run: nothing is sent and nothing is written"
            place = safe(format_address(self.settings.dir))
            if self.nowhere:
                yield "no run directory is named: the run itself needs -o DIR"
            elif self.resumed:
                done = f"{counted(checked.done, 'row')} {verb(checked.done, 'is', 'are')} done"
                left = counted(checked.rows - checked.bad, "row")
                yield f"{place} would go on: {done}, {left} would be sent"
            else:
                yield f"{place} would be a new run directory"
            yield ""
        yield from checked.lines(quiet=quiet)
        if not quiet and checked.rows:
            yield ""
            yield from estimate_report.Report(self.estimate).lines(width)


def rehearse_run(
    settings: Settings,
    environment: Mapping[str, str],
    changes: Changes,
    say: Callable[[str], None],
    *,
    nowhere: bool = False,
) -> DryRun:
    """Check the run that these settings would begin or resume. ``nowhere`` means that the user
    named no run directory.

    ``say`` gets a line about what would keep the run from starting, other than its rows. Raises
    what opening the run directory raises (``rehearsal.rehearsed``), and ``UsageError`` for a row
    whose cost has no bound where there is a budget.
    """
    reuse = tuple(settings.dir if name == OLD else name for name in settings.reuse)
    settings = replace(settings, reuse=reuse)
    require_directory_name(settings.dir, Path(settings.checkpoint))
    if not any(endpoint.api_key_command for endpoint in settings.endpoints):
        try:
            accesses_to(settings.endpoints, environment)
        except UsageError as error:
            say(f"warning: the run itself would stop here: {error}")
    checked, estimating = validate.Report(), Estimating(settings)
    wall_us = LoopClock.wall_us()
    priced = None
    if settings.max_cost_pd is not None:
        priced = Priced(settings, price_list.book(settings, lambda _: None, wall_us), wall_us)
    with (
        rehearsed(
            settings,
            changes,
            body.builder(settings),
            say,
            lambda splitter: validate.Counting(splitter, checked.kinds),
            partial(validate.require_evaluation, settings),
            None if settings.source is None else inputs.find_chained(settings),
        ) as run,
        estimating,
    ):
        build = _bounded(run, priced)
        with_judges(estimating, run.carry.schema)
        checked.sent, checked.carried = run.carry.sent, run.carry.names
        checked.model, checked.notices = settings.one_model, list(run.given.notices)
        with validate.Checking(
            checked, settings, run.given, run.reader, build, show=SHOWN
        ) as checking:
            for block in run.reader.blocks([Span(0, None, Position())], limit=settings.limit):
                left = [row for row in block.rows if not run.is_done(row)]
                checked.done += len(block.rows) - len(left)
                estimating.add([checking.add(row) for row in left], block)
        checked.remarks = run.reader.remarks()
        return DryRun(settings, run.resumed, nowhere, checked, estimating.ended(()))


def _bounded(run: Rehearsal, priced: Priced | None) -> Callable[[Row], Request]:
    """Builds requests as the run does, and refuses what the run refuses before sending."""

    def build(row: Row) -> Request:
        try:
            request = run.build(row)
            if priced is not None:
                priced.require(request)
        except UnboundedError as error:
            message = f"{run.reader.where(row)}: {error}. Nothing was sent"
            raise UsageError(message) from None
        return request

    return build
