"""``--junit`` and ``--markdown``: the outcome of a command as files for continuous integration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrun.cli.console import print_message
from batchrun.cli.flags.help_pages import Flag
from batchrun.cli.paths import PATH
from batchrun.core.settings.table import OUTPUT
from batchrun.errors import BatchrunError, StorageError, UsageError

if TYPE_CHECKING:
    from batchrun.views.ci.outcome import Outcome

JOB_SUMMARY = "GITHUB_STEP_SUMMARY"


def ci_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of a command that has an outcome for continuous integration."""
    for flag, text in (
        ("--markdown", "Write the outcome to this file as Markdown of at most 64 KB."),
        ("--junit", "Write the gates to this file as JUnit XML."),
    ):
        function = click.option(flag, cls=Flag, group=OUTPUT, type=PATH, metavar="F", help=text)(
            function
        )
    return function


class Reports:
    """The requested files, and the job summary of GitHub Actions, if there is one."""

    def __init__(self, title: str, junit: str | None, markdown: str | None) -> None:
        """Raises ``UsageError`` for a file that cannot be written: before anything is sent."""
        self._title, self._junit, self._markdown = title, junit, markdown
        self._job_summary = os.environ.get(JOB_SUMMARY)
        for flag, path in (("--junit", junit), ("--markdown", markdown)):
            if path is not None:
                _require_writable(flag, path)

    @property
    def wanted(self) -> bool:
        """Whether anything will be written."""
        return bool(self._junit or self._markdown or self._job_summary)

    def put(self, outcome: Outcome) -> None:
        """Write an outcome. Raises ``StorageError`` for a file requested by name."""
        from batchrun.adapters.storage.files import write_whole
        from batchrun.views.ci.junit import junit
        from batchrun.views.ci.markdown import markdown

        text = markdown(outcome).encode()
        for path, content in ((self._junit, junit), (self._markdown, lambda _: text)):
            if path is None:
                continue
            try:
                write_whole(Path(path), content(outcome))
            except OSError as error:
                message = f"cannot write {path}: {error.strerror}"
                raise StorageError(message) from error
        if self._job_summary:
            try:
                with Path(self._job_summary).open("ab") as file:
                    file.write(text)
            except OSError as error:
                print_message(f"warning: cannot append to {JOB_SUMMARY}: {error.strerror}")

    def put_error(self, error: BaseException) -> None:
        """Report that the command failed; files that cannot be written are skipped."""
        from batchrun.views.ci.outcome import of_error

        try:
            self.put(of_error(self._title, str(error)))
        except StorageError as fault:
            print_message(f"batchrun: {fault}")


@contextlib.contextmanager
def reporting(title: str, junit: str | None, markdown: str | None) -> Iterator[Reports]:
    """The reports of a command; one that fails is reported as failed."""
    reports = Reports(title, junit, markdown)
    try:
        yield reports
    except BatchrunError as error:
        if reports.wanted:
            reports.put_error(error)
        raise


def put_summary(reports: Reports, command: str, summary: Any, directory: str) -> int | None:
    """Report a summary. Returns the exit code if it cannot be written, else None: the command
    itself has finished.
    """
    if not reports.wanted:
        return None
    from batchrun.core.settings.addresses import format_address
    from batchrun.views.ci.outcome import of_summary

    try:
        reports.put(of_summary(command, summary, format_address(directory)))
    except StorageError as error:
        print_message(f"batchrun: {error}")
        return error.exit_code
    return None


def _require_writable(flag: str, path: str) -> None:
    place = Path(path)
    if place.is_dir():
        message = f"{flag} {path} is a folder; name a file"
        raise UsageError(message)
    if not place.parent.is_dir():
        message = f"{flag} {path}: the folder {place.parent} does not exist"
        raise UsageError(message)
