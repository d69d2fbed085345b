"""``batchrun report``: a run as one page of HTML."""

from __future__ import annotations

import sys

import click

from batchrun.cli.console import exit_codes, print_json, print_output, writing
from batchrun.cli.paths import PATH


@click.command("report")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE",
    help="Where to write the page; `-` is stdout [default: DIR/report.html].",
)
@click.option(
    "--against", type=PATH, metavar="DIR", help="Compare with this earlier run directory."
)
@click.option(
    "--checkpoint", type=PATH, metavar="DIR", help="Where the checkpoint lives, if not in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    folder: str, output: str | None, against: str | None, checkpoint: str | None, as_json: bool
) -> None:
    """Write a page about the run in DIR: outcome, charts, cost, errors and a sample of its rows.

    One file of at most 512 KB that opens without a network, also while the run is live.
    """
    with exit_codes(as_json=as_json):
        from batchrun.errors import UsageError
        from batchrun.views.report import report

        if as_json and output == "-":
            message = "--json and -o - both write to stdout: give one of them"
            raise UsageError(message)
        made = report.make(folder, checkpoint, against)
        if output == "-":
            with writing():
                sys.stdout.buffer.write(made.page)
                sys.stdout.buffer.flush()
            return
        place = report.write(made, folder, output)
        if as_json:
            size = len(made.page)
            print_json({"file": place, "bytes": size, "rows": made.rows, "live": made.live})
        else:
            print_output(f"{place}: {len(made.page):,} bytes")
