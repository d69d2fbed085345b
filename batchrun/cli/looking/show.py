"""``batchrun show``: single rows of a run."""

from __future__ import annotations

import click

from batchrun.cli.console import exit_codes, print_json, print_lines, print_message, terminal_width
from batchrun.cli.flags.completing import error_classes
from batchrun.cli.paths import FOLDER
from batchrun.core.text.wording import counted
from batchrun.errors import UsageError


@click.command("show")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("names", nargs=-1, metavar="[ROW|ID]...")
@click.option(
    "--id", "ids", multiple=True, metavar="ID", help="Show rows with this custom_id; repeatable."
)
@click.option("--errors", is_flag=True, help="Show failed rows; short for --status error.")
@click.option("--status", type=click.Choice(["ok", "error"]), help="Show rows with this status.")
@click.option(
    "--class",
    "error_class",
    metavar="CLASS",
    shell_complete=error_classes,
    help="Show rows that failed with this error class.",
)
@click.option(
    "--where",
    metavar="SQL",
    help="Show rows that match this SQL condition over results and scores, such as `NOT correct`; "
    "needs the extra `eval`.",
)
@click.option(
    "--sample", is_flag=True, help="Show a random sample of the rows instead of the first."
)
@click.option("--seed", type=click.INT, default=0, help="Seed for --sample [default: 0].")
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show at most N rows [default: 5, or all that are named].",
)
@click.option("--full", is_flag=True, help="Show long texts in full.")
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, without contents.")
@click.option("--content", is_flag=True, help="Include requests, answers and input in --json.")
def command(
    folder: str,
    names: tuple[str, ...],
    ids: tuple[str, ...],
    errors: bool,
    status: str | None,
    error_class: str | None,
    where: str | None,
    sample: bool,
    seed: int,
    count: int | None,
    full: bool,
    checkpoint: str | None,
    as_json: bool,
    content: bool,
) -> None:
    """Show single rows of the run in DIR: request, answer, every attempt, cost, scores.

    Name rows by number, as in `results/`, or by custom_id; without a name the first rows are
    shown. Also works on a live run, and without write permission.
    """
    with exit_codes(as_json=as_json):
        if errors and status == "ok":
            message = "--errors and --status ok exclude each other"
            raise UsageError(message)
        if content and not as_json:
            message = "--content is for --json; on a terminal contents are always shown"
            raise UsageError(message)
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.views.durable.durable_rows import DurableRows
        from batchrun.views.show import page, selection
        from batchrun.views.show.shown_row import gather

        make_lean()
        durable = DurableRows(folder, checkpoint)
        asked = selection.Selection(
            names=names,
            ids=ids,
            status="error" if errors else status,
            error_class=error_class,
            where=where,
            sample=sample,
            seed=seed,
            count=count,
        )
        chosen = selection.choose(durable, asked)
        if as_json:
            rows = gather(durable, chosen.rows)
            print_json({"rows": [row.public(contents=content) for row in rows]})
            return
        width = terminal_width()
        for place, row in enumerate(gather(durable, chosen.rows)):
            print_lines([*([""] if place else []), *page.lines(row, width=width, full=full)])
        if not chosen.rows:
            print_message("no row matches")
        elif chosen.more:
            shown = len(chosen.rows)
            print_message(
                f"{counted(shown, 'row')} shown, and more rows match; -n {2 * shown} shows more"
            )
