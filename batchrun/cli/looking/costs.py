"""``batchrun costs``: what runs cost, from their ledgers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from batchrun.cli.console import (
    exit_codes,
    print_csv,
    print_json,
    print_lines,
    print_message,
    terminal_width,
)
from batchrun.cli.paths import FOLDER
from batchrun.core.cost.money import format_picodollars
from batchrun.core.text.wording import counted, verb
from batchrun.errors import UsageError

if TYPE_CHECKING:
    from batchrun.views.history.spending import Spending, Spent


@click.command("costs")
@click.argument("folders", type=FOLDER, nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--by",
    default="month",
    metavar="KEY,...",
    help="Group by month, day, model, endpoint or label.NAME [default: month].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the sums as one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
def command(folders: tuple[str, ...], by: str, as_json: bool, as_csv: bool) -> None:
    """Sum up what the runs in DIR... cost, over every attempt in their ledgers.

    The judges of a run have lines of their own. Months and days are UTC. Reused answers cost
    nothing and are counted separately.
    """
    with exit_codes(as_json=as_json):
        if as_json and as_csv:
            message = "--json and --csv exclude each other"
            raise UsageError(message)
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow(compute=True)
        from batchrun.views.history.spending import JUDGE, Spending

        make_lean()
        spending = Spending([key.strip() for key in by.split(",")])
        spending.add_all(folders)
        for notice in spending.notices:
            print_message(notice)
        if as_json:
            print_json(spending.public())
        elif as_csv:
            names = list(spending.total().public())
            rows = [[*group, *sums.public().values()] for group, sums in spending.lines()]
            print_csv([*spending.by, JUDGE, *names], rows)
        else:
            print_lines(list(_lines(spending)))
            if left := spending.total().unpriced_attempts:
                print_message(
                    f"{counted(left, 'attempt')} {verb(left, 'has', 'have')} no known price and "
                    f"{verb(left, 'is', 'are')} missing from the cost"
                )


def _lines(spending: Spending) -> Iterator[str]:
    from batchrun.views.history.text_table import table

    lines = spending.lines()
    judged = any(judge is not None for (*_, judge), _ in lines)
    keys = [*(key.upper() for key in spending.by), *(["JUDGE"] if judged else [])]
    heads = [*keys, "COST", "ATTEMPTS", "TOKENS IN", "OUT", "RUNS"]
    total = spending.total()
    reused = bool(total.reused_rows)
    rows = [
        [*(each or "-" for each in group[: len(keys)]), *_cells(sums, reused=reused)]
        for group, sums in lines
    ]
    rows.append(["total", *[""] * (len(keys) - 1), *_cells(total, reused=reused)])
    if reused:
        heads.append("REUSED")
    yield from table(heads, rows, width=terminal_width(), left=len(keys))


def _cells(sums: Spent, *, reused: bool) -> list[str]:
    return [
        "?" if sums.cost_pd is None else format_picodollars(sums.cost_pd),
        f"{sums.attempts:,}",
        *("?" if n is None else f"{n:,}" for n in (sums.prompt_tokens, sums.completion_tokens)),
        f"{len(sums.runs):,}",
        *([f"{sums.reused_rows:,}"] if reused else []),
    ]
