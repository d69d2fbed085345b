"""``batchrun runs``: the runs below a folder as a table."""

from __future__ import annotations

import click

from batchrun.cli.console import (
    exit_codes,
    print_csv,
    print_json,
    print_lines,
    print_message,
    takes_blocks,
    terminal_width,
)
from batchrun.cli.paths import FOLDER
from batchrun.core.settings.values import parse_label
from batchrun.errors import UsageError


@click.command("runs")
@click.argument("folder", type=FOLDER, metavar="FOLDER")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="List only runs with this label; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the runs as one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
def command(folder: str, labels: tuple[str, ...], as_json: bool, as_csv: bool) -> None:
    """List the runs in FOLDER and below: date, status, verdict, metrics with their trend, cost.

    A run inside a run directory, such as a judge's, belongs to that run and is not listed.
    """
    with exit_codes(as_json=as_json):
        if as_json and as_csv:
            message = "--json and --csv exclude each other"
            raise UsageError(message)
        from batchrun.cli.process import load_arrow

        load_arrow()
        from batchrun.views.history import runs

        found = runs.find(folder, dict(map(parse_label, labels)))
        if as_json:
            print_json({"runs": [run.public() for run in found]})
        elif as_csv:
            print_csv(*runs.table_rows(found))
        elif found:
            print_lines(list(runs.lines(found, width=terminal_width(), plain=not takes_blocks())))
        else:
            print_message(f"no runs found in {folder}")
