"""``batchrun verify``: prove the accounting of a run directory."""

from __future__ import annotations

import sys

import click

from batchrun.cli.console import exit_codes, print_json, print_output
from batchrun.cli.paths import FOLDER, PATH
from batchrun.core.settings.table import BY_NAME


@click.command("verify")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option(
    "--against",
    "inputs",
    type=PATH,
    metavar="INPUT",
    multiple=True,
    help="Also compare every row with this input: custom_id, carried columns and request. "
    "Repeat for each INPUT of the run, in the same order.",
)
@click.option(
    "--format",
    "input_format",
    type=click.Choice(BY_NAME["input.format"].choices),
    default="auto",
    show_default=True,
    help="Format of the input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def command(
    folder: str,
    checkpoint: str | None,
    inputs: tuple[str, ...],
    input_format: str,
    as_json: bool,
) -> None:
    """Check the accounting of the run in DIR: every row once, in order, every sum equal.

    Recomputes everything from the files. Exits with 0 if all of it holds, else 1.
    """
    with exit_codes(as_json=as_json):
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.views.verify import verify

        make_lean()
        report = verify.check(folder, checkpoint, against=inputs, input_format=input_format)
        if as_json:
            print_json(report.as_dict())
        else:
            for line in report.lines():
                print_output(line)
        sys.exit(0 if report.ok else 1)
