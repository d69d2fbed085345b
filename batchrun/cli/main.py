"""The command group. Commands are imported when they are called, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import time
from typing import Any

import click

from batchrun import __version__
from batchrun.cli.standard_streams import forsake, open_closed, unbreakable

STARTED_S = time.monotonic()
"""About when the process began: nothing of weight is imported before."""

COMMANDS = {
    "run": "Run chat completions over a data set; run it again to resume.",
    "validate": "Check every row without sending any.",
    "estimate": "Estimate what a run takes: tokens, dollars, time.",
    "score": "Compute scores, metrics and gates of a run again.",
    "judge": "Have a second model judge the answers of a run; verdicts become scores.",
    "query": "Answer SQL over the results, attempts, usage and scores of a run.",
    "ctl": "Change a live run: limits, pause, resume, drain.",
    "status": "Show the progress of a live or ended run.",
    "compare": "Compare two runs over the same rows: regressions, metrics, cost.",
    "bless": "Make a run the baseline that gates compare with.",
    "show": "Show single rows: request, answer, attempts, cost, scores.",
    "runs": "List the runs below a folder, with the trend of their metrics.",
    "costs": "Sum up what runs cost, by month, model or label.",
    "report": "Write one page of HTML about a run: charts, cost, errors, a sample.",
    "verify": "Prove that every row of a run is accounted for.",
    "export": "Write the results as one file: OpenAI Batch lines, Parquet or CSV.",
    "init": "Write a config and rows to begin with.",
    "providers": "List the endpoints that are known by name.",
    "doctor": "Look at an endpoint: key, URL, models, one small request.",
    "simulate": "Serve a simulated OpenAI-compatible endpoint.",
}
FOLDERS = {
    **dict.fromkeys(("score", "judge", "query", "compare", "bless", "init"), "evaluation."),
    **dict.fromkeys(("status", "show", "runs", "costs", "report"), "looking."),
}
"""The folder of a command that is not in this one."""


def _meant(word: str) -> str:
    """What was probably meant by a word that is no command."""
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    if near:
        return f" Did you mean '{near[0]}'?"
    there = os.path.exists(word)  # noqa: PTH110 - pathlib is not loaded for --help
    return f" To run the rows of a file: batchrun run {word} -o DIR" if there else ""


class LazyGroup(click.Group):
    """A group whose commands are in modules of the same name."""

    def main(self, *arguments: Any, **named: Any) -> Any:
        """Run a command, whatever state the standard streams are in."""
        open_closed()
        unbreakable()
        try:
            return super().main(*arguments, **named)
        except OSError as error:
            # --help and --version write without us.
            forsake(1)
            with contextlib.suppress(OSError):
                text = f"standard output cannot be written: {error.strerror or error}"
                click.echo(f"batchrun: {text}", err=True)
            sys.exit(5)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"batchrun.cli.{FOLDERS.get(cmd_name, '')}{cmd_name}")
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; for an unknown one the nearest is named."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(error.message + _meant(args[0]), ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batchrun")
def main() -> None:
    """Chat completions over a data set, with every answer accounted for."""
