"""``batchrun run --dry-run``: prints the report of a dry run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchrun.cli.console import print_json, print_message, print_output, put_request
from batchrun.core.text.wording import counted

if TYPE_CHECKING:
    from batchrun.core.run.changes import Changes
    from batchrun.core.settings.resolve import Settings
    from batchrun.views.estimation.dry_run import DryRun

WIDTH_LEAST, WIDTH_MOST = 40, 100
WHOLE_BYTES = 10_000
"""A longer request would flood the terminal: only its beginning is shown."""


def report_dry_run(
    settings: Settings,
    environment: Mapping[str, str],
    changes: Changes,
    *,
    nowhere: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Print the report on stdout; returns the exit code. Raises ``BatchrunError`` as the run."""
    from batchrun.cli.process import load_arrow, make_lean

    load_arrow()
    from batchrun.views.estimation import dry_run

    make_lean()
    tell = (lambda _: None) if quiet else print_message
    found = dry_run.rehearse_run(settings, environment, changes, tell, nowhere=nowhere)
    if as_json:
        print_json(found.as_dict())
        return found.exit_code
    columns = shutil.get_terminal_size().columns
    with contextlib.suppress(BrokenPipeError):
        for line in found.lines(max(WIDTH_LEAST, min(WIDTH_MOST, columns)), quiet=quiet):
            print_output(line)
        if not quiet:
            _show_requests(found)
    return found.exit_code


def _show_requests(found: DryRun) -> None:
    requests = found.checked.shown
    if not requests:
        return
    print_output("")
    print_output(
        f"the first {counted(len(requests), 'request')}:" if len(requests) > 1 else "the request:"
    )
    for request in requests:
        print_output(str(request))
        if len(request.body) <= WHOLE_BYTES:
            put_request(request.body)
        else:
            print_output(request.body[:WHOLE_BYTES].decode(errors="ignore") + " ...")
            print_output("(the beginning; `batchrun validate --show 2` prints all of it)")
