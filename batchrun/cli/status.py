"""``batchrun status``: watch a run from another terminal."""

from __future__ import annotations

import click

from batchrun.cli.console import exit_codes, print_json, print_output
from batchrun.cli.paths import PATH


@click.command("status")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "--checkpoint", type=PATH, metavar="DIR", help="Where the checkpoint lives, if not in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(folder: str, checkpoint: str | None, as_json: bool) -> None:
    """Show the progress of the live or finished run in DIR. Needs no write permission."""
    with exit_codes(as_json=as_json):
        from batchrun.views import run_status

        found = run_status.read(folder, checkpoint)
        if as_json:
            print_json(found)
            return
        for line in run_status.lines(found, folder, checkpoint):
            print_output(line)
