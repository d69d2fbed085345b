"""``batchrun validate``: check every row without sending one."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import Any

import click

from batchrun.adapters.environment.configuration import read_environment
from batchrun.cli.console import Printing, exit_codes, print_json, print_message, print_output
from batchrun.cli.flags.completing import files
from batchrun.cli.flags.help_pages import Grouped
from batchrun.cli.paths import config_flag
from batchrun.cli.run import flag, interrupts, setting_flags, settings_of
from batchrun.core.settings import table as setting_table

_EXAMPLES = (
    "batchrun validate rows.jsonl --model gpt-4.1-mini",
    "batchrun validate quiz.csv --prompt '{{ question }}' --model m --show 1",
    "batchrun validate -c config.toml",
)
_CHECKS = ("output.check_schema", "output.check_tools")
_SHAPING = [
    s for s in setting_table.FLAGGED if s.section in ("input", "request") or s.name in _CHECKS
]


@click.command("validate", cls=Grouped, examples=_EXAMPLES)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1, shell_complete=files)
@config_flag()
@partial(setting_flags, settings=_SHAPING)
@flag(
    "--limit",
    type=int,
    metavar="N",
    group=setting_table.INPUT,
    brief="Check only the first N rows",
    help="Check only the first N rows.",
)
@flag(
    "--max-body-bytes",
    type=click.IntRange(min=1),
    metavar="N",
    group=setting_table.LIMITS,
    help="Reject rows with a larger body [default: 67108864, the limit of `run`].",
)
@flag(
    "--show",
    "shown",
    type=click.IntRange(min=0),
    metavar="N",
    group=setting_table.DISPLAY,
    brief="Print the first N requests as they would be sent",
    help="Print the first N requests as they would be sent, one per line on stdout; the report "
    "goes to stderr.",
)
@flag("--quiet", is_flag=True, group=setting_table.DISPLAY, help="Print only what is wrong.")
@flag(
    "--json",
    "as_json",
    is_flag=True,
    group=setting_table.DISPLAY,
    help="Print the report as one JSON object.",
)
def command(
    inputs: tuple[str, ...],
    config_file: str | None,
    limit: int | None,
    max_body_bytes: int | None,
    shown: int | None,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Check every row of the INPUT files as `run` would, without sending anything.

    Reports line number and reason for every bad row. Exits with 0 if all rows can be sent, else 1.
    """
    with exit_codes(as_json=as_json), interrupts():
        # No run directory is needed, but a run's settings name one.
        flags["output__dir"] = os.curdir
        settings, warnings = settings_of(inputs, config_file, flags, read_environment(), limit)
        for warning in () if quiet else warnings:
            print_message(f"warning: {warning}")

        from batchrun.cli.process import load_arrow, make_lean

        load_arrow()
        from batchrun.core.request.body import BODY_BYTES_MAX
        from batchrun.views import validate

        make_lean()
        printing = Printing(quiet=quiet) if shown is not None and not as_json else None
        report = validate.check(
            settings,
            body_bytes_max=max_body_bytes or BODY_BYTES_MAX,
            show=shown or 0,
            showing=None if printing is None else printing.put,
        )
        if as_json:
            print_json(report.as_dict())
        elif printing is not None:
            for line in report.lines(quiet=quiet):
                print_message(line)
        else:
            with contextlib.suppress(BrokenPipeError):
                for line in report.lines(quiet=quiet):
                    print_output(line)
        sys.exit(0 if report.ok else 1)
