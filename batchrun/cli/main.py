"""The command group. Commands are imported when they are called, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from typing import Any

import click

from batchrun import __version__
from batchrun.cli.standard_streams import forsake, open_closed, unbreakable

STARTED_S = time.monotonic()
"""About when the process began: nothing of weight is imported before."""

COMMANDS = {
    "run": "Send rows as chat completions; run it again to resume.",
    "validate": "Check every row without sending anything.",
    "estimate": "Estimate tokens, cost and time before running.",
    "doctor": "Check an endpoint: key, URL, model, and one test request.",
    "providers": "List the endpoints known by name.",
    "status": "Show the progress of a live or finished run.",
    "ctl": "Change a live run: limits, pause, resume, drain.",
    "show": "Show single rows: request, answer, attempts, cost, scores.",
    "report": "Write one HTML page about a run: charts, cost, errors, a sample.",
    "export": "Write the results to one file: JSON Lines, Parquet or CSV.",
    "query": "Run SQL over results, attempts, usage and scores.",
    "verify": "Check the accounting: every row once, every sum equal.",
    "runs": "List the runs in a folder, with the trend of their metrics.",
    "costs": "Sum up what runs cost, by month, model or label.",
    "score": "Compute scores, metrics and gates again; sends nothing.",
    "judge": "Have a second model judge the answers; its verdicts become scores.",
    "compare": "Compare two runs over the same rows: regressions, metrics, cost.",
    "bless": "Make a run the baseline that gates compare with.",
    "init": "Write a config file and sample rows to start from.",
    "schema": "Print the JSON Schema of the config file, for editors.",
    "completion": "Print a completion script for bash, zsh or fish.",
    "simulate": "Serve a simulated OpenAI-compatible endpoint.",
}
WIDTH_MAX = 100
"""Columns of a help page on a wide terminal: longer lines are hard to read."""
SECTIONS = {
    "Run": ("run", "validate", "estimate", "doctor", "providers", "status", "ctl"),
    "Results": ("show", "report", "export", "query", "verify", "runs", "costs"),
    "Evaluation": ("score", "judge", "compare", "bless"),
}
"""The headings of the commands in the help; all others are under ``Setup``."""
FOLDERS = {
    **dict.fromkeys(("score", "judge", "query", "compare", "bless"), "evaluation."),
    **dict.fromkeys(("init", "schema", "completion", "providers"), "setup."),
    **dict.fromkeys(("status", "show", "runs", "costs", "report"), "looking."),
}
"""The folder of a command that is not in this one."""


def _explained(error: click.NoSuchOption) -> click.UsageError:
    """The error about a flag that does not exist, with what was probably meant."""
    from batchrun.cli.flags.suggestions import flag_meant

    ctx = error.ctx
    name, message = error.option_name, f"No such option {error.option_name}."
    params = [] if ctx is None else ctx.command.get_params(ctx)
    known = {word for each in params for word in (*each.opts, *each.secondary_opts)}
    if ctx is not None and isinstance(ctx.command, LazyGroup):
        hint = f"Flags go after the command: batchrun run {name} ..."
    else:
        hint = flag_meant(name, {word for word in known if word.startswith("-")})
    return click.UsageError(f"{message} {hint}".rstrip(), ctx)


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
                text = f"cannot write to standard output: {error.strerror or error}"
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
        except click.UsageError:
            from batchrun.cli.flags.suggestions import command_meant

            hint = command_meant(args[0], COMMANDS)
            message = f"No such command {args[0]!r}. {hint}".rstrip()
            raise click.UsageError(message, ctx) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what comes before the command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _explained(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; for an unknown flag of it the likely one is named."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _explained(error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        listed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in COMMANDS if name not in listed)
        for heading, names in (*SECTIONS.items(), ("Setup", others)):
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<10}", COMMANDS[name]) for name in names])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH_MAX},
)
@click.version_option(__version__, prog_name="batchrun")
def main() -> None:
    """Run chat completions over a data set, with every row accounted for.

    Try it without a key: batchrun init bulk && batchrun run -c config.toml
    """
