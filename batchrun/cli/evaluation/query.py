"""``batchrun query``: SQL over the files of a run."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from batchrun.cli.console import exit_codes, print_message, terminal_width, writing
from batchrun.cli.paths import FOLDER, PATH
from batchrun.core.text.wording import counted


@click.command("query")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("sql", metavar="SQL")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="Format of the output; with -o the suffix of the file sets it [default: table].",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=PATH,
    metavar="FILE",
    help="Write the output to this file: .csv, .json or .parquet.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
def command(
    folder: str,
    sql: str,
    kind: str | None,
    target: str | None,
    force: bool,
    checkpoint: str | None,
    as_json: bool,
) -> None:
    """Run one SELECT over the views results, attempts, usage and scores of the run in DIR.

    The SQL is DuckDB's, plus batchrun's scoring functions, and reads nothing but these views. Also
    works on a live run.
    """
    from batchrun.cli.run import interrupts

    with exit_codes(as_json=as_json), interrupts():
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.views.evaluation import query

        make_lean()
        chosen = query.format_of(target, kind or ("json" if as_json else None))
        try:
            with writing():
                rows = query.query(
                    folder,
                    sql,
                    chosen,
                    stdout=sys.stdout.buffer,
                    target=target,
                    checkpoint=checkpoint,
                    force=force,
                    width=terminal_width(),
                )
                sys.stdout.flush()
        except BrokenPipeError:
            # The reader of the lines stopped early. Python would flush once more at the end.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        if target is not None:
            print_message(f"wrote {counted(rows, 'row')} to {target}")
