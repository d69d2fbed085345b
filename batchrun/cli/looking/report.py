"""``batchrun report``: a run as one page of HTML."""

from __future__ import annotations

import sys

import click

from batchrun.cli.console import exit_codes, print_json, print_output, writing
from batchrun.cli.paths import FOLDER, PATH


@click.command("report")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE",
    help="File to write; `-` is stdout [default: DIR/report.html].",
)
@click.option(
    "--against", type=FOLDER, metavar="DIR", help="Add a comparison with this earlier run."
)
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Print file and size as one JSON object.")
def command(
    folder: str, output: str | None, against: str | None, checkpoint: str | None, as_json: bool
) -> None:
    """Write an HTML page about the run in DIR: outcome, charts, cost, errors, a sample of rows.

    The page is one file of at most 512 KB, opens without a network, and can be written while the
    run is live.
    """
    with exit_codes(as_json=as_json):
        from batchrun.cli.process import load_arrow
        from batchrun.errors import UsageError

        if as_json and output == "-":
            message = "--json and -o - both write to stdout: give one of them"
            raise UsageError(message)
        load_arrow(compute=True)
        from batchrun.views.report import report

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
