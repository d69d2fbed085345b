"""``batchrun judge``: a second model over the answers of a run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from batchrun.adapters.environment.configuration import read_environment
from batchrun.adapters.storage.home import at_home
from batchrun.cli.console import exit_codes, print_json, print_message, print_unwrapped
from batchrun.cli.paths import PATH, config_flag
from batchrun.core.settings.table import OF_JUDGES

if TYPE_CHECKING:
    from batchrun.session import Result


def _setting_flags(function: Any) -> Any:
    from batchrun.cli.run import setting_flags

    return setting_flags(function, OF_JUDGES)


@click.command("judge")
@click.argument("folder", type=PATH, metavar="DIR")
@config_flag("TOML file with the judge's prompt, JSON Schema, model and endpoint.")
@click.option("--name", metavar="NAME", help="Name of the judge [default: the name of FILE].")
@click.option(
    "--against",
    type=PATH,
    metavar="DIR",
    help="Compare each answer with the one that another run gave to the same row.",
)
@click.option(
    "--both-orders",
    is_flag=True,
    help="With --against: judge every pair twice, with the answers swapped; a verdict that changes "
    "is a tie.",
)
@click.option(
    "--agreement", metavar="COL", help="Compare the verdicts with this column of human labels."
)
@click.option(
    "--score",
    metavar="FIELD",
    help="Field of the schema that --agreement compares. [default: the first that is a number, "
    "a boolean or a choice]",
)
@click.option("--allow-self", is_flag=True, help="Let a model judge its own answers.")
@_setting_flags
@click.option(
    "--checkpoint", type=PATH, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option(
    "--restart", is_flag=True, help="Judge everything again; the old verdicts are set aside."
)
@click.option("--retry-failed", is_flag=True, help="Judge answers without a verdict again.")
@click.option(
    "--repair",
    is_flag=True,
    help="Set damaged files of the judge aside, and judge their rows again.",
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--no-progress", is_flag=True, help="Do not show the progress.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the summary of DIR as one JSON object."
)
def command(
    folder: str,
    config_file: str | None,
    name: str | None,
    against: str | None,
    both_orders: bool,
    agreement: str | None,
    score: str | None,
    allow_self: bool,
    checkpoint: str | None,
    restart: bool,
    retry_failed: bool,
    repair: bool,
    quiet: bool,
    no_progress: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Have a second model judge the answers of the finished run in DIR.

    The verdicts become columns of its scores. Judging again sends only what is new or changed.
    """
    from batchrun.cli.run import given_settings, interrupts

    with exit_codes(as_json=as_json), interrupts():
        from batchrun.cli.process import load_arrow, make_lean

        load_arrow()
        from batchrun.core.evaluation.judges import Judge
        from batchrun.core.run.changes import Changes
        from batchrun.errors import UsageError
        from batchrun.rundir.judges.prepare import Pairing, prepare

        make_lean()
        if config_file is None:
            message = "name the judge's config: batchrun judge DIR -c FILE"
            raise UsageError(message)
        if both_orders and against is None:
            message = "--both-orders is for pairs of answers: name the other run with --against"
            raise UsageError(message)
        named = PurePath(config_file).stem if name is None else name
        judge = Judge.checked(named, config_file, score, agreement, allow_self=allow_self)
        pairs = None if against is None else Pairing(at_home(against), both_orders)
        environment = read_environment()
        run, warnings = prepare(
            judge, folder, checkpoint, environment, given_settings(flags), pairs
        )
        for warning in () if quiet else warnings:
            print_message(f"warning: {warning}")
        changes = Changes(restart=restart, retry_failed=retry_failed, repair=repair)
        sys.exit(_judge(folder, checkpoint, run, changes, environment, quiet, no_progress, as_json))


def _judge(
    folder: str,
    checkpoint: str | None,
    run: Any,
    changes: Any,
    environment: Any,
    quiet: bool,
    no_progress: bool,
    as_json: bool,
) -> int:
    from batchrun import assemble, judging
    from batchrun.adapters.environment import open_files
    from batchrun.builtin_simulators import served
    from batchrun.cli.main import STARTED_S
    from batchrun.cli.run import arguments_to_resume, progress_on, typed
    from batchrun.views import ending, figures

    def say(text: str) -> None:
        if not quiet:
            print_message(text)

    def run_session(settings: Any, *given: Any, **more: Any) -> Result:
        open_files.raise_limit(settings)
        with contextlib.ExitStack() as stack:
            shown = not (quiet or no_progress)
            observers = [stack.enter_context(progress_on(print_unwrapped))] if shown else []
            return assemble.run(settings, *given, observers=observers, started_s=STARTED_S, **more)

    found = judging.judge(folder, checkpoint, run, environment, changes, served(run_session), say)
    resume = typed(arguments_to_resume(sys.argv[1:]))
    for result in found.results:
        if result.stop is not None:
            print_message(result.stop.message)
        folder = result.summary["settings"]["output.dir"]
        for line in ending.lines(result.summary, folder, resume=resume):
            say(line)
    for line in figures.lines(found.scored.summary):
        say(line)
    if found.scored.failed is not None:
        print_message(f"batchrun: {found.scored.failed}")
    if as_json:
        print_json(found.scored.summary)
    return found.exit_code
