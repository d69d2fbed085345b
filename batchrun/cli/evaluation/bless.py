"""``batchrun bless``: make a run the baseline of gates."""

from __future__ import annotations

import click

from batchrun.cli.console import exit_codes, print_json, print_output
from batchrun.cli.paths import FOLDER, PATH, config_flag
from batchrun.core.text.legible import legible


@click.command("bless")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--as",
    "target",
    type=PATH,
    metavar="PATH",
    help="Link to set [default: gates.compare.baseline of -c, else of the run].",
)
@config_flag("Take the path of the baseline from this file.")
@click.option(
    "--force", is_flag=True, help="Accept a run that is unfinished or whose gates failed."
)
@click.option("--json", "as_json", is_flag=True, help="Print the link as one JSON object.")
def command(
    folder: str, target: str | None, config_file: str | None, force: bool, as_json: bool
) -> None:
    """Make the run in DIR the baseline: point the baseline link at it, atomically."""
    with exit_codes(as_json=as_json):
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.rundir.comparison.bless import bless
        from batchrun.rundir.evaluate.settings import evaluation_of

        make_lean()
        if target is None and config_file is not None:
            target = evaluation_of(config_file).gates.baseline
        found = bless(folder, target, force=force)
        if as_json:
            print_json({"link": found.link, "run": found.run, "before": found.before})
        else:
            before = f", before: {found.before}" if found.before else ""
            print_output(legible(f"{found.link} -> {found.run}{before}"))
