"""``batchrun compare``: two runs over the same rows, paired."""

from __future__ import annotations

import sys
from typing import Any

import click

from batchrun.cli.ci import ci_flags, reporting
from batchrun.cli.console import exit_codes, print_json, print_output
from batchrun.cli.paths import FOLDER, config_flag
from batchrun.core.settings.addresses import format_address


@click.command("compare")
@click.argument("a", type=FOLDER, metavar="A")
@click.argument("b", type=FOLDER, metavar="B")
@config_flag("Take scores, metrics and gates from this file, not from B's recorded config.")
@click.option("--key", metavar="COL", help="Pair rows by this column [default: custom_id].")
@click.option(
    "--only",
    type=click.Choice(["worse", "better", "changed"]),
    help="List only rows that got worse, got better, or whose answer changed.",
)
@click.option(
    "-n",
    "rows",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="List at most N rows of each kind.",
)
@ci_flags
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
def command(
    a: str,
    b: str,
    config_file: str | None,
    key: str | None,
    only: Any,
    rows: int,
    junit: str | None,
    markdown: str | None,
    as_json: bool,
) -> None:
    """Compare run B with run A row by row: regressions, improvements, metrics, tokens, cost.

    Exits with 4 if a gate in [gates.compare] fails.
    """
    title = f"batchrun compare {format_address(a)} {format_address(b)}"
    with exit_codes(as_json=as_json), reporting(title, junit, markdown) as reports:
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.rundir.evaluate.settings import evaluation_of
        from batchrun.views.compare import compare, outcome, text

        make_lean()
        evaluation = None if config_file is None else evaluation_of(config_file, b)
        found = compare.compare(a, b, evaluation, key=key, only=only, rows=rows)
        if reports.wanted:
            reports.put(outcome.of_comparison(title, found))
        if as_json:
            print_json(found.as_dict())
        else:
            for line in text.lines(found, only):
                print_output(line)
        sys.exit(found.exit_code)
