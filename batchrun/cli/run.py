"""``batchrun run``: the main job. Its flags are made from the table of settings."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from batchrun.adapters.environment.configuration import read_config, read_environment, read_schema
from batchrun.adapters.storage.home import located
from batchrun.announcing import Announcing
from batchrun.cli import logs
from batchrun.cli.ci import Reports, ci_flags, put_summary, reporting
from batchrun.cli.console import (
    OutputLostError,
    exit_codes,
    print_json,
    print_message,
    print_unwrapped,
)
from batchrun.cli.flags.completing import completer_of, files, retry_classes
from batchrun.cli.flags.help_pages import Flag, Grouped
from batchrun.cli.main import STARTED_S
from batchrun.cli.paths import config_flag
from batchrun.cli.standard_streams import unblocked
from batchrun.cli.stop_advice import advice_on
from batchrun.core.settings import (
    commands,
    parameter_flags,
)
from batchrun.core.settings import resolve as config
from batchrun.core.settings import (
    table as setting_table,
)
from batchrun.core.settings import (
    values as setting_values,
)
from batchrun.core.text.legible import shell_word
from batchrun.core.text.template_syntax import is_template
from batchrun.core.text.wording import counted
from batchrun.errors import BatchrunError, UsageError

if TYPE_CHECKING:
    from batchrun.cli.logs import Log
    from batchrun.core.run.changes import Changes
    from batchrun.engine.session.guards import Stop
    from batchrun.ports import Observer

_SHORT = {"output.dir": "-o"}
_TYPES: dict[str, click.ParamType[Any]] = {
    "int": click.INT,
    "number": click.FLOAT,
    "bool": click.BOOL,
}
NOWHERE = ".no-run-directory"
"""The run directory of a dry run that names none."""
_REPEATED = ("object", "names", "headers", "dirs", "labels")
_COMMANDS = ("--api-key-command", "--on-finish")
"""Flags whose values are commands, with arguments that may be credentials."""
_NOT_REPEATED = (
    "--dry-run",
    "--restart",
    "--keep-done",
    "--retry-failed",
    "--retry-class",
    "--repair",
)


def setting_flags(
    function: Callable[..., Any],
    settings: Sequence[setting_table.Setting] = setting_table.FLAGGED,
) -> Callable[..., Any]:
    """A flag for every one of the settings that has one."""
    for setting in reversed(settings):
        if setting.flag is None:
            continue
        names = [setting.flag, setting.name.replace(".", "__")]
        if setting.name in _SHORT:
            names.insert(0, _SHORT[setting.name])
        kind = click.Choice(setting.choices) if setting.kind == "choice" else None
        function = click.option(
            *names,
            cls=Flag,
            group=setting.heading,
            brief=setting.brief,
            type=kind or _type_of(setting),
            default=None,
            multiple=setting.kind in _REPEATED,
            metavar=setting.metavar,
            shell_complete=completer_of(setting),
            help=_help(setting),
        )(function)
    return function


class _Dollars(click.types.FloatParamType):
    """An amount in USD, with or without a dollar sign."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The amount as a float. Raises ``click.BadParameter`` for anything else."""
        number: Any = value.strip().removeprefix("$") if isinstance(value, str) else value
        return super().convert(number, param, ctx)


def _type_of(setting: setting_table.Setting) -> click.ParamType[Any]:
    """A short parameter may be a template, and keeps the spelling of its number."""
    short = setting in setting_table.SHORT
    if setting.metavar == "USD":
        return _Dollars()
    return click.STRING if short else _TYPES.get(setting.kind, click.STRING)


def _help(setting: setting_table.Setting) -> str:
    if setting.kind == "bool" or setting.default in (None, (), {}):
        return setting.help
    default = setting.default
    shown = f"{default:g}" if isinstance(default, float) else default
    return f"{setting.help} [default: {shown}]"


flag = partial(click.option, cls=Flag)
"""``click.option`` for a flag with a group."""
_EXAMPLES = (
    "batchrun run rows.jsonl -o out --model gpt-4.1-mini",
    "batchrun run quiz.csv -o out --prompt '{{ question }}' --provider simulator",
    "batchrun run -c config.toml --max-cost 5",
)


@click.command("run", cls=Grouped, examples=_EXAMPLES)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1, shell_complete=files)
@config_flag("TOML file with the settings.", group=setting_table.INPUT, brief="Settings in TOML")
@setting_flags
@flag(
    "--limit",
    type=int,
    metavar="N",
    group=setting_table.INPUT,
    brief="Run only the first N rows",
    help="Run only the first N rows; without it, a later run continues with the rest.",
)
@flag(
    "--dry-run",
    is_flag=True,
    group=setting_table.GUARDS,
    brief="Check every row, estimate the cost, send nothing",
    help="Report what `validate` and `estimate` would, and print the first two requests; send and "
    "write nothing.",
)
@flag(
    "--retry-failed",
    is_flag=True,
    group=setting_table.RESUME,
    help="Send all failed rows again.",
)
@flag(
    "--retry-class",
    metavar="C,...",
    multiple=True,
    shell_complete=retry_classes,
    group=setting_table.RESUME,
    help="Send rows that failed with these error classes again. `truncated` and `empty` select "
    "kept answers, which only a better answer replaces.",
)
@flag(
    "--keep-done",
    is_flag=True,
    group=setting_table.RESUME,
    help="After a change of settings or input: keep all done rows, continue with the rest.",
)
@flag(
    "--resend-changed",
    is_flag=True,
    group=setting_table.RESUME,
    help="After a change of settings or input: send done rows again if their request changed.",
)
@flag(
    "--restart",
    is_flag=True,
    group=setting_table.RESUME,
    help="Start over; the old contents move to DIR.old-TIME.",
)
@flag(
    "--repair",
    is_flag=True,
    group=setting_table.RESUME,
    help="Set damaged parts or a damaged journal aside, and send their rows again.",
)
@ci_flags
@flag(
    "--shard",
    metavar="I/N|auto",
    group=setting_table.FLEET,
    help="Run as process I of N that share DIR; `auto` reads both from the variables of Slurm, "
    "Kubernetes, AWS Batch or SkyPilot.",
)
@flag(
    "--workers",
    type=int,
    metavar="N",
    group=setting_table.FLEET,
    help="Start N processes and show them as one command.",
)
@flag(
    "--engine",
    type=click.Choice(["ray"]),
    group=setting_table.FLEET,
    help="Start the workers as actors on a Ray cluster; needs the extra `ray`.",
)
@flag(
    "--address",
    metavar="A",
    group=setting_table.FLEET,
    help="Address of the Ray cluster [default: RAY_ADDRESS, else one on this machine].",
)
@flag(
    "--worker-cpus",
    type=float,
    metavar="X",
    group=setting_table.FLEET,
    help="CPUs of the Ray cluster that each worker reserves [default: 1].",
)
@flag(
    "--no-wait",
    is_flag=True,
    group=setting_table.FLEET,
    help="Exit when nothing is left to claim, instead of waiting for the other processes.",
)
@flag("--quiet", is_flag=True, group=setting_table.DISPLAY, help="Print errors only.")
@flag("--no-progress", is_flag=True, group=setting_table.DISPLAY, help="Do not show the progress.")
@flag(
    "--log-level",
    type=click.Choice(logs.LEVELS, case_sensitive=False),
    group=setting_table.DISPLAY,
    help="Log level; lines go to stderr unless --log-file is given [default with a file: info].",
)
@flag(
    "--log-file",
    metavar="F",
    shell_complete=files,
    group=setting_table.DISPLAY,
    help="Append log lines to this file: UTC time, level, message.",
)
@flag(
    "--json",
    "as_json",
    is_flag=True,
    group=setting_table.DISPLAY,
    help="Print the summary as one JSON object on stdout.",
)
def command(
    inputs: tuple[str, ...],
    config_file: str | None,
    limit: int | None,
    dry_run: bool,
    shard: str | None,
    workers: int | None,
    no_wait: bool,
    engine: str | None,
    address: str | None,
    worker_cpus: float | None,
    quiet: bool,
    no_progress: bool,
    log_level: str | None,
    log_file: str | None,
    junit: str | None,
    markdown: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Send the rows of INPUT as chat completions and write the answers to Parquet.

    Run the same command again to resume: rows with an answer are not sent again. Settings can also
    come from a config file; docs/reference.md lists its keys.
    """
    with unblocked(), exit_codes(as_json=as_json), interrupts():
        if shard is not None:
            from batchrun.fleet import parent

            parent.stop_without_it()
        if no_wait and shard is None and workers is None:
            message = "--no-wait is for one of several processes: give --shard or --workers too"
            raise UsageError(message)
        changes = _changes(flags)
        environment = read_environment()
        place = NOWHERE if dry_run else None
        settings, warnings = settings_of(
            inputs, config_file, flags, environment, limit, place=place
        )
        if dry_run:
            from batchrun.cli.dry_run import report_dry_run

            for warning in () if quiet else warnings:
                print_message(f"warning: {warning}")
            nowhere = settings.dir == NOWHERE
            sys.exit(
                report_dry_run(
                    settings, environment, changes, nowhere=nowhere, quiet=quiet, as_json=as_json
                )
            )
        if {workers, engine, address, worker_cpus} != {None}:
            from batchrun.cli.workers import Launching, run_with_workers

            launching = Launching(shard, workers, engine, address, worker_cpus)
            shows = not (quiet or no_progress)
            sys.exit(
                run_with_workers(
                    launching,
                    settings,
                    changes,
                    environment,
                    progress=partial(progress_on, print_unwrapped) if shows else None,
                    as_json=as_json,
                )
            )
        with (
            logs.logging_to(
                log_file, log_level, settings, environment, quiet=quiet, process=_named(shard)
            ) as log,
            reporting(f"batchrun run {settings.dir}", junit, markdown) as reports,
        ):
            for warning in warnings:
                log.tell(f"warning: {warning}")
            try:
                with Announcing(settings, log.tell) as announcing:
                    code = _run(
                        settings,
                        environment,
                        announcing,
                        changes=changes,
                        shard=shard,
                        waits=not no_wait,
                        log=log,
                        progress=not (quiet or no_progress),
                        as_json=as_json,
                        reports=reports,
                    )
            except BatchrunError as error:
                if error.exit_code == BatchrunError.exit_code:  # it failed midway
                    error.add_note(f"to resume: {typed(arguments_to_resume(sys.argv[1:]))}")
                raise
        sys.exit(code)


def _run(
    settings: config.Settings,
    environment: Mapping[str, str],
    announcing: Announcing,
    *,
    changes: Changes,
    shard: str | None,
    waits: bool,
    log: Log,
    progress: bool,
    as_json: bool,
    reports: Reports,
) -> int:
    """One session; returns the exit code."""
    tell = log.tell
    logs.begun(settings)
    from batchrun.cli.process import load_arrow, make_lean

    load_arrow()
    from batchrun import assemble
    from batchrun.adapters.environment import open_files
    from batchrun.builtin_simulators import judges_of, standing_in
    from batchrun.views import ending

    make_lean()
    with contextlib.ExitStack() as stack:
        settings = replace(settings, endpoints=standing_in(settings.endpoints, stack, tell))
        open_files.raise_limit(settings)
        observers = [stack.enter_context(progress_on(print_unwrapped))] if progress else []
        observers += logs.observers()
        observers += announcing.observers
        judges = judges_of(settings, environment, stack, tell)
        run = partial(assemble.run, judges=judges)
        if shard is not None:
            from batchrun.core.fleet.places import place_of
            from batchrun.fleet import worker

            run = partial(worker.run, place=place_of(shard, os.environ), judges=judges, waits=waits)
        result = run(
            settings,
            environment,
            changes=changes,
            observers=observers,
            say=tell,
            started_s=STARTED_S,
        )
    announcing.ended(result.summary, elsewhere=result.elsewhere)
    if result.stop is not None and result.elsewhere:
        return _left(result.stop, settings.dir, log)
    if result.stop is not None:
        log.error(result.stop.message)
    if result.observer_failures:
        tell(f"warning: the display failed {counted(result.observer_failures, 'time')}")
    if result.duplicate_id is not None:
        tell(
            f"warning: custom_id {result.duplicate_id!r} occurs more than once; use "
            "`row` to tell the rows apart"
        )
    if result.sent_nothing:
        tell("nothing left to send")
    advice = advice_on(
        result.stop,
        result.summary,
        settings,
        environment,
        arguments_to_resume(sys.argv[1:]),
    )
    apart = settings.checkpoint != str(PurePath(settings.dir, "checkpoint"))
    for text in ending.lines(
        result.summary,
        settings.dir,
        resume=typed(advice.arguments),
        bound_by=result.bound_by,
        fix=advice.lines,
        checkpoint=settings.checkpoint if apart else None,
    ):
        log.show(text)
    logs.ended(result.summary)
    if result.failed is not None:
        log.error(str(result.failed))
    if as_json:
        try:
            print_json(result.summary)
        except OutputLostError as error:  # the run itself ended as it did
            print_message(f"batchrun: {error}; the summary is in {settings.dir}")
    code = int(result.summary["exit_code"])
    unwritten = put_summary(reports, "run", result.summary, settings.dir)
    return unwritten if unwritten is not None and code in (0, 1) else code


def _named(shard: str | None) -> str | None:
    """What log lines call this process, where it is one of several."""
    if shard is None:
        return None
    from batchrun.core.fleet.places import place_of

    place = place_of(shard, os.environ)
    return f"{place.index + 1}/{place.count}"


def _left(stop: Stop, folder: str, log: Log) -> int:
    """Say how a process of a fleet left while others are at work; returns its exit code."""
    if stop.exit_code == 0:
        log.tell(f"{stop.message}; the other processes finish {folder}")
        return 0
    log.error(stop.message)
    others = "stop as well" if stop.by == "drain" else f"continue with {folder}"
    log.tell(f"the other processes {others}; the same command joins them")
    return stop.exit_code


def _changes(flags: dict[str, Any]) -> Changes:
    """What the flags allow to become of done rows; takes those flags out of the others."""
    from batchrun.core.run.changes import Changes, parse_classes

    classes = flags.pop("retry_class")
    names = ("keep_done", "resend_changed", "restart", "retry_failed", "repair")
    return Changes(
        retry_classes=parse_classes(",".join(classes)) if classes else (),
        **{name: flags.pop(name) for name in names},
    )


@contextlib.contextmanager
def progress_on(tell: Callable[[str], None]) -> Iterator[Observer]:
    """The display that suits stderr."""
    from batchrun.views.progress import LiveProgress, PlainProgress

    if not sys.stderr.isatty():
        yield PlainProgress(tell)
        return
    with LiveProgress.on_stderr() as live:
        yield live


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Signals while no engine listens for them: before the first request, and after the last."""
    from batchrun.adapters.environment.signals import SignalledError, raising

    try:
        with raising():
            yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, SignalledError) else signal.SIGINT
        print_message(f"batchrun: stopped by {number.name} while nothing was being sent")
        sys.exit(128 + number)


def settings_of(
    inputs: Sequence[str],
    config_file: str | None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    limit: int | None,
    *,
    place: str | None = None,
) -> tuple[config.Settings, list[str]]:
    """Lay the sources over each other: flag, environment, file. ``place`` is the run directory
    where none of them names one.
    """
    raw = {} if config_file is None else read_config(config_file)
    given = given_settings(flags)
    if inputs:
        given["input.files"] = list(inputs)
    raw, warnings = config.lay_over(raw, environment, located(given))
    if place is not None:
        raw.setdefault("output.dir", place)
    settings = config.resolve(read_schema(raw), limit=limit)
    texts = [settings.system, settings.prompt, *settings.messages]
    shows = is_template(texts) or settings.image or settings.file
    if settings.makes_messages and settings.turns is None and not shows:
        warnings.append(
            "the prompt uses no column, so every row asks the same: {{ NAME }} inserts the column "
            "NAME"
        )
    return settings, warnings


def given_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags give, as a config file would have them."""
    given = {}
    for name, value in flags.items():
        if value is not None and value != ():
            setting = name.replace("__", ".")
            given[setting] = _flag_value(setting, value)
    return given


def _flag_value(name: str, value: Any) -> Any:
    """A flag's text as the config file would have it."""
    if setting_table.BY_NAME[name] in setting_table.SHORT:
        return parameter_flags.number(value)
    match setting_table.BY_NAME[name].kind:
        case "object":
            return dict(setting_values.parse_param(text) for text in value)
        case "names" | "dirs":
            return list(value)
        case "headers":
            return dict(setting_values.parse_header(text) for text in value)
        case "labels":
            return dict(setting_values.parse_label(text) for text in value)
        case "concurrency" if value.isdecimal():
            return int(value)
        case _:
            return value


def typed(arguments: Sequence[str]) -> str:
    """A command as it is typed."""
    return " ".join(map(shell_word, ["batchrun", *arguments]))


def arguments_to_resume(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command that resumes. Header values and a command's arguments are left
    out: they may be credentials.
    """
    kept: list[str] = []
    valued = False
    for argument in arguments:
        if valued or argument.partition("=")[0] in _NOT_REPEATED:
            valued = argument == "--retry-class"  # its value is the next argument
            continue
        flag, equals, value = argument.partition("=")
        if (kept and kept[-1] == "--header") or argument.startswith("--header="):
            argument = argument.partition(":")[0] + ": ..."  # noqa: PLW2901
        elif kept and kept[-1] in _COMMANDS:
            argument = commands.redact_command(argument)  # noqa: PLW2901
        elif equals and flag in _COMMANDS:
            argument = f"{flag}={commands.redact_command(value)}"  # noqa: PLW2901
        elif "://" in argument and "?" in argument:
            argument = argument.partition("?")[0] + "?..."  # noqa: PLW2901
        kept.append(argument)
    return kept
