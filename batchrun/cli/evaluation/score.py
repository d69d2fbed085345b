"""``batchrun score``: scores, metrics and gates from the files of a run."""

from __future__ import annotations

import sys

import click

from batchrun.cli.ci import ci_flags, put_summary, reporting
from batchrun.cli.console import exit_codes, print_json, print_message, print_output
from batchrun.cli.paths import FOLDER, config_flag
from batchrun.core.settings.addresses import format_address


@click.command("score")
@click.argument("folder", type=FOLDER, metavar="DIR")
@config_flag(
    "TOML file whose [scores], [metrics] and [gates] replace those of the run; without it, the "
    "recorded SQL runs again."
)
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@ci_flags
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def command(
    folder: str,
    config_file: str | None,
    checkpoint: str | None,
    junit: str | None,
    markdown: str | None,
    as_json: bool,
) -> None:
    """Compute scores, metrics and gates of the finished run in DIR again; sends nothing.

    Writes `scores/` and the summary, never `results/`. Exits with 4 if a gate fails.
    """
    from batchrun.cli.run import interrupts

    with (
        exit_codes(as_json=as_json),
        interrupts(),
        reporting(f"batchrun score {format_address(folder)}", junit, markdown) as reports,
    ):
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.rundir.evaluate import score
        from batchrun.rundir.evaluate.evaluator import UNFINISHED
        from batchrun.rundir.evaluate.settings import evaluation_of
        from batchrun.views import figures

        make_lean()
        asked = None if config_file is None else evaluation_of(config_file, folder)
        found = score.score(folder, checkpoint, asked, print_message)
        for text in found.left_out:
            print_message(text)
        if found.failed is not None:
            print_message(f"batchrun: {found.failed}")
        if found.exit_code == UNFINISHED:
            print_message("the run is not finished, so its gates are not evaluated")
        if as_json:
            print_json(found.summary)
        else:
            for line in figures.lines(found.summary):
                print_output(line)
        unwritten = put_summary(reports, "score", found.summary, folder)
        sys.exit(found.exit_code or unwritten or 0)
