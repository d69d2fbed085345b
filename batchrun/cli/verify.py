"""``batchrun verify``: prove the accounting of a run directory."""

from __future__ import annotations

import sys

import click

from batchrun.cli.console import exit_codes, put_json


@click.command("verify")
@click.argument("folder", metavar="DIR")
@click.option("--checkpoint", metavar="DIR", help="Where the checkpoint lives, if not in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(folder: str, checkpoint: str | None, as_json: bool) -> None:
    """Recompute everything from the files in DIR: every row once, in order, all sums equal.

    Exit 0 if all of it holds, 1 if not.
    """
    with exit_codes(as_json=as_json):
        from batchrun.views import verify

        report = verify.check(folder, checkpoint)
        if as_json:
            put_json(report.as_dict())
        else:
            for line in report.lines():
                click.echo(line)
        sys.exit(0 if report.ok else 1)
