"""``batchrun run``: the main job. Its flags are made from the table of settings."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrun.cli.console import exit_codes, put_json, say
from batchrun.core import setting_table, setting_values
from batchrun.core import settings as config
from batchrun.errors import UsageError

if TYPE_CHECKING:
    from batchrun.ports import Observer

DOTENV = ".env"
_SHORT = {"output.dir": "-o"}
_TYPES: dict[str, click.ParamType[Any]] = {
    "int": click.INT,
    "number": click.FLOAT,
    "bool": click.BOOL,
}
_NOT_REPEATED = ("--restart", "--keep-done")


def _setting_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for every setting that has one."""
    for setting in reversed(setting_table.TABLE):
        if setting.flag is None:
            continue
        names = [setting.flag, setting.name.replace(".", "__")]
        if setting.name in _SHORT:
            names.insert(0, _SHORT[setting.name])
        kind = click.Choice(setting.choices) if setting.kind == "choice" else None
        function = click.option(
            *names,
            type=kind or _TYPES.get(setting.kind, click.STRING),
            default=None,
            multiple=setting.kind in ("object", "headers"),
            metavar=setting.metavar,
            help=_help(setting),
        )(function)
    return function


def _help(setting: setting_table.Setting) -> str:
    if setting.kind == "bool" or setting.default in (None, (), {}):
        return setting.help
    return f"{setting.help} [default: {setting.default}]"


@click.command("run")
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option(
    "-c", "--config", "config_file", metavar="FILE", help="A TOML file with the settings."
)
@_setting_flags
@click.option("--limit", type=int, metavar="N", help="Only the first N rows, in this run.")
@click.option(
    "--keep-done",
    is_flag=True,
    help="Settings or input changed: keep the done rows, go on with the rest.",
)
@click.option("--restart", is_flag=True, help="Start over; the old contents move to DIR.old-TIME.")
@click.option("--quiet", is_flag=True, help="No messages but errors.")
@click.option("--no-progress", is_flag=True, help="No progress display.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def command(
    inputs: tuple[str, ...],
    config_file: str | None,
    limit: int | None,
    keep_done: bool,
    restart: bool,
    quiet: bool,
    no_progress: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run chat completions over INPUT files and write Parquet into the run directory.

    Run the same command again to resume: rows that are done are not sent again.
    """
    with exit_codes(as_json=as_json), _interrupts():
        environment = _environment()
        settings, warnings = _settings(inputs, config_file, flags, environment, limit)
        tell: Callable[[str], None] = (lambda _: None) if quiet else say
        for warning in warnings:
            tell(f"warning: {warning}")
        sys.exit(
            _run(
                settings,
                environment,
                restart=restart,
                keep_done=keep_done,
                tell=tell,
                progress=not (quiet or no_progress),
                as_json=as_json,
            )
        )


def _run(
    settings: config.Settings,
    environment: Mapping[str, str],
    *,
    restart: bool,
    keep_done: bool,
    tell: Callable[[str], None],
    progress: bool,
    as_json: bool,
) -> int:
    """One session; returns the exit code."""
    from batchrun.cli.process import load_arrow, make_lean

    load_arrow()
    from batchrun import assemble
    from batchrun.adapters.comparing import Changes
    from batchrun.views import ending
    from batchrun.views.text import safe

    make_lean()
    with contextlib.ExitStack() as stack:
        if settings.endpoint.provider == "simulator":
            settings = _simulated(settings, stack, tell)
        observers = [stack.enter_context(_progress(tell))] if progress else []
        result = assemble.run(
            settings,
            environment,
            changes=Changes(keep_done=keep_done, restart=restart),
            observers=observers,
            say=tell,
        )
    if result.stop is not None:
        say(safe(f"batchrun: {result.stop.message}"))
    if result.observer_failures:
        tell(f"warning: the display failed {result.observer_failures} times")
    if result.duplicate_id is not None:
        tell(
            f"warning: custom_id {safe(result.duplicate_id)!r} comes more than once; rows are "
            "told apart by `row`"
        )
    if result.sent_nothing:
        tell("nothing left to send")
    resume = _command_that_goes_on(sys.argv[1:])
    for text in ending.lines(result.summary, settings.dir, resume=resume, bound_by=result.bound_by):
        tell(text)
    if as_json:
        put_json(result.summary)
    return int(result.summary["exit_code"])


def _simulated(
    settings: config.Settings, stack: contextlib.ExitStack, tell: Callable[[str], None]
) -> config.Settings:
    from batchrun.simulator.embedded import EmbeddedSimulator

    simulator = stack.enter_context(EmbeddedSimulator())
    tell(f"answers come from the built-in simulator at {simulator.base_url}, not from a model")
    return replace(settings, endpoint=replace(settings.endpoint, base_url=simulator.base_url))


@contextlib.contextmanager
def _progress(tell: Callable[[str], None]) -> Iterator[Observer]:
    """The display that suits stderr."""
    from batchrun.views.progress import LiveProgress, PlainProgress

    if not sys.stderr.isatty():
        yield PlainProgress(tell)
        return
    from rich.console import Console

    with LiveProgress(Console(stderr=True)) as live:
        yield live


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C before the engine listens for it."""
    try:
        yield
    except KeyboardInterrupt:
        say("batchrun: SIGINT; nothing was sent")
        sys.exit(130)


def _environment() -> dict[str, str]:
    """The environment over ``.env`` in the working directory. Empty counts as unset."""
    merged: dict[str, str] = {}
    if Path(DOTENV).is_file():
        from dotenv import dotenv_values

        try:
            merged = {k: v for k, v in dotenv_values(DOTENV).items() if v}
        except (OSError, UnicodeDecodeError) as error:
            message = f"{DOTENV} cannot be read: {error}"
            raise UsageError(message) from None
    return merged | {k: v for k, v in os.environ.items() if v}


def _settings(
    inputs: Sequence[str],
    config_file: str | None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    limit: int | None,
) -> tuple[config.Settings, list[str]]:
    """Lay the sources over each other: flag, environment, file."""
    raw: config.Raw = {}
    if config_file is not None:
        try:
            text = Path(config_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = f"{config_file}: {getattr(error, 'strerror', None) or error}"
            raise UsageError(message) from None
        raw = config.from_toml(text, path=config_file)
    from_environment, warnings = config.from_environment(environment)
    given = {
        name.replace("__", "."): value
        for name, value in flags.items()
        if value is not None and value != ()
    }
    if raw.get("endpoint.base_url") is None and raw.get("endpoint.provider") is not None:
        # A provider chosen in the file brings its own URL; the variable speaks of another.
        from_environment = {}
    raw |= from_environment
    if "endpoint.base_url" in given:
        if "endpoint.provider" in given:
            message = "--provider and --base-url name two endpoints; give one of them"
            raise UsageError(message)
        if raw.get("endpoint.provider") in setting_table.PROVIDERS:
            del raw["endpoint.provider"]
    raw |= {name: _flag_value(name, value, raw) for name, value in given.items()}
    if inputs:
        raw["input.files"] = list(inputs)
    return config.resolve(raw, limit=limit), warnings


def _flag_value(name: str, value: Any, raw: config.Raw) -> Any:
    """A flag's text as the config file would have it."""
    match setting_table.BY_NAME[name].kind:
        case "object":
            before = raw.get(name)
            base = before if isinstance(before, dict) else {}
            return base | dict(setting_values.parse_param(text) for text in value)
        case "headers":
            before = raw.get(name)
            base = before if isinstance(before, dict) else {}
            return base | dict(setting_values.parse_header(text) for text in value)
        case "concurrency" if value.isdecimal():
            return int(value)
        case _:
            return value


def _command_that_goes_on(arguments: Sequence[str]) -> str:
    """The command that resumes. Header values are left out: they may be credentials."""
    kept: list[str] = []
    for argument in arguments:
        if argument in _NOT_REPEATED:
            continue
        if (kept and kept[-1] == "--header") or argument.startswith("--header="):
            argument = argument.partition(":")[0] + ": ..."  # noqa: PLW2901
        elif "://" in argument and "?" in argument:
            argument = argument.partition("?")[0] + "?..."  # noqa: PLW2901
        kept.append(argument)
    return shlex.join(["batchrun", *kept])
