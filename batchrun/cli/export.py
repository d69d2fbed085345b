"""``batchrun export``: the results as one file."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import click

from batchrun.cli.console import exit_codes, print_json, print_message, writing
from batchrun.cli.paths import FOLDER, PATH
from batchrun.cli.standard_streams import CLOSED, forsake
from batchrun.core.text.wording import counted, verb
from batchrun.errors import StorageError, UsageError

if TYPE_CHECKING:
    from batchrun.views.export import Exported


@click.command("export")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "-o",
    "--output",
    "target",
    type=PATH,
    metavar="FILE",
    required=True,
    help="File to write; its suffix sets the format: .jsonl, .parquet or .csv; `-` is stdout.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "parquet", "csv"]),
    help="Format, regardless of the suffix; on stdout jsonl (the default) or csv.",
)
@click.option(
    "--errors",
    type=PATH,
    metavar="FILE",
    help="Write failed rows to this file instead, as the Batch API does; for .jsonl.",
)
@click.option(
    "--formulas",
    is_flag=True,
    help="Write text that starts with = + - or @ to CSV as it is; by default an apostrophe keeps "
    "spreadsheets from running it.",
)
@click.option(
    "--columns",
    metavar="COL,...",
    help="Write only these columns, in this order; for Parquet and CSV.",
)
@click.option(
    "--expand",
    is_flag=True,
    help="Add a column answer.FIELD per top-level field of the JSON Schema; for Parquet and CSV.",
)
@click.option(
    "--excel",
    is_flag=True,
    help="Write CSV the way Excel opens it: with a byte order mark and semicolons.",
)
@click.option(
    "--partial",
    is_flag=True,
    help="Include rows of a live run that are not in results/ yet.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def command(
    folder: str,
    target: str,
    kind: str | None,
    errors: str | None,
    formulas: bool,
    columns: str | None,
    expand: bool,
    excel: bool,
    partial: bool,
    force: bool,
    checkpoint: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the results of the run in DIR to one FILE, in row order.

    JSON Lines are output lines of the OpenAI Batch API. Parquet has the columns of `results/`. CSV
    has them flattened, with the columns of the input first. Also works on a live run, and without
    write permission in DIR.
    """
    with exit_codes(as_json=as_json):
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.views import export

        make_lean()
        chosen = export.format_of(target, kind)
        if errors is not None and (chosen != "jsonl" or errors == "-"):
            message = "--errors names a file for the failed rows of a .jsonl export"
            raise UsageError(message)
        if target == "-" and (as_json or chosen == "parquet"):
            message = f"{'--json' if as_json else 'Parquet'} and -o - cannot be combined"
            raise UsageError(message)
        if target == "-" and 1 in CLOSED:
            message = "standard output is closed; name a file with -o"
            raise StorageError(message)
        try:
            done = export.export(
                folder,
                target,
                chosen,
                errors=errors,
                force=force,
                choice=export.Choice(
                    columns=None if columns is None else [c.strip() for c in columns.split(",")],
                    expand=expand,
                    partial=partial,
                    formulas=formulas,
                    excel=excel,
                ),
                checkpoint=checkpoint,
                stdout=sys.stdout.buffer if target == "-" else None,
            )
            with writing():
                sys.stdout.flush()
        except StorageError:
            if target == "-":
                forsake(1)  # what is left of it must not be written at the end
            raise
        except BrokenPipeError:
            # The reader of the lines stopped early. Python would flush once more at the end.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        if not quiet:
            _tell(done, target)
        if as_json:
            print_json(done.as_dict())


def _tell(done: Exported, target: str) -> None:
    """What was written and what was not, on stderr."""
    where = "" if target == "-" else f" to {target}"
    print_message(
        f"exported {counted(done.rows, 'row')}{where}: {done.ok:,} ok, {done.error:,} failed"
    )
    for name in done.renamed:
        print_message(
            f"note: `{name}` is what the run recorded; the column of the input is `input_{name}`"
        )
    left = "an unknown number of rows are"
    if done.pending is not None:
        left = f"{counted(done.pending, 'row')} {verb(done.pending, 'is', 'are')}"
    if done.live:
        print_message(f"the run is still live: {left} pending or not yet published")
    elif done.pending != 0:
        print_message(f"{left} pending and therefore not exported")
