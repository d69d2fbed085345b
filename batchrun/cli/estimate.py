"""``batchrun estimate``: tokens, money and time before spending; with ``--pilot`` from a sample."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrun.adapters.environment.configuration import read_environment
from batchrun.cli.console import exit_codes, print_json, print_message, print_output
from batchrun.cli.flags.completing import files
from batchrun.cli.flags.help_pages import Grouped
from batchrun.cli.main import STARTED_S
from batchrun.cli.paths import FOLDER, config_flag
from batchrun.cli.run import flag, interrupts, setting_flags, settings_of
from batchrun.core.settings import table as setting_table
from batchrun.core.settings.addresses import scheme_of
from batchrun.core.settings.table import OLD
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import UsageError

if TYPE_CHECKING:
    from batchrun.adapters.environment.sample_file import Aside
    from batchrun.core.estimate.detection import Sought
    from batchrun.core.settings.resolve import Settings
    from batchrun.views.estimation.counting import Estimate
    from batchrun.views.estimation.estimate_report import Piloted, Report
    from batchrun.views.estimation.model_comparison import Comparison

WIDTH_LEAST, WIDTH_MOST = 40, 100
_GROUP = "Estimate"
_EXAMPLES = (
    "batchrun estimate rows.jsonl --model gpt-4.1-mini",
    "batchrun estimate rows.jsonl --model gpt-4.1-mini --model gpt-4.1",
    "batchrun estimate -c config.toml --pilot 100 -o pilot",
)
_OTHERS = [setting for setting in setting_table.FLAGGED if setting.name != "request.model"]


@click.command("estimate", cls=Grouped, examples=_EXAMPLES)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1, shell_complete=files)
@config_flag()
@partial(setting_flags, settings=_OTHERS)
@flag(
    "--model",
    "models",
    multiple=True,
    metavar="M",
    group=setting_table.PROMPT,
    brief="Model; repeat it to compare several",
    help="Model for rows that name none; repeat it to compare the costs of several models.",
)
@flag(
    "--limit",
    type=int,
    metavar="N",
    group=setting_table.INPUT,
    help="Read only the first N rows.",
)
@flag(
    "--pilot",
    "pilot_rows",
    type=click.IntRange(min=10),
    metavar="N",
    group=_GROUP,
    brief="Send N sampled rows and extrapolate",
    help="Send a sample of N rows, as a run in the directory -o DIR, and extrapolate from it.",
)
@flag(
    "--pilot-seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    group=_GROUP,
    help="Seed for sampling the pilot rows.",
)
@flag(
    "--detect",
    "difference",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="D",
    group=_GROUP,
    brief="Rows and dollars to detect a change of D",
    help="Report the rows, repeats and dollars needed to detect that a share changes by D.",
)
@flag(
    "--against",
    multiple=True,
    type=FOLDER,
    metavar="DIR",
    group=_GROUP,
    help="With --detect: one or two earlier runs, to measure how many answers flip by chance.",
)
@flag("--quiet", is_flag=True, group=setting_table.DISPLAY, help="Print errors only.")
@flag(
    "--no-progress",
    is_flag=True,
    group=setting_table.DISPLAY,
    help="Do not show the progress of the pilot.",
)
@flag(
    "--json",
    "as_json",
    is_flag=True,
    group=setting_table.DISPLAY,
    help="Print the estimate as one JSON object.",
)
def command(
    inputs: tuple[str, ...],
    config_file: str | None,
    models: tuple[str, ...],
    limit: int | None,
    pilot_rows: int | None,
    pilot_seed: int,
    difference: float | None,
    against: tuple[str, ...],
    quiet: bool,
    no_progress: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Estimate tokens, cost and time of a run over the INPUT files.

    Takes the flags of `run`. Reads every row and sends nothing, except with --pilot, which sends a
    sample of the rows. docs/estimate.md explains every figure.
    """
    with exit_codes(as_json=as_json), interrupts():
        environment = read_environment()
        place = flags["output__dir"]
        if pilot_rows is None:
            # No run directory is needed, but a run's settings name one.
            flags["output__dir"] = flags["output__checkpoint"] = os.curdir
        elif place is None:
            message = "--pilot sends rows: name a directory for their answers with -o DIR"
            raise UsageError(message)
        elif flags["output__checkpoint"] is None and scheme_of(place) is None:
            # The config file's, if it names one, is that of the run itself.
            flags["output__checkpoint"] = os.path.join(place, "checkpoint")  # noqa: PTH118
        models = tuple(dict.fromkeys(models))
        _comparable(models, pilot=pilot_rows is not None)
        _detectable(difference, against)
        each = []
        for model in models or (None,):
            flags["request__model"] = model
            settings, warnings = settings_of(inputs, config_file, flags, environment, limit)
            each.append(replace(settings, reuse=_without_old(settings.reuse, place)))
        settings, others = each[0], each[1:]
        tell: Callable[[str], None] = (lambda _: None) if quiet else print_message
        for warning in warnings:
            tell(f"warning: {warning}")

        from batchrun.cli.process import load_arrow, make_lean

        load_arrow()
        from batchrun.adapters.environment import sample_file
        from batchrun.views.estimation import counting, estimate
        from batchrun.views.estimation.estimate_report import Report
        from batchrun.views.estimation.model_comparison import Comparison

        make_lean()
        with sample_file.Aside() as aside:
            sampling = None
            if pilot_rows is not None:
                sample_file.require_place(settings.dir, Path(settings.checkpoint))
                sampling = counting.Sampling(pilot_rows, pilot_seed, aside)
            found, *rest = estimate.estimate_input(settings, sampling, others)
            pilot, code = None, 0
            if sampling is not None and found.strata:
                progress = not (quiet or no_progress)
                pilot, code = _pilot(found, aside, environment, tell, progress=progress)
        sought = None if difference is None else _sought(difference, against, pilot)
        report: Report | Comparison = Report(found, pilot, sought)
        if rest:
            named = zip(models, (found, *rest), strict=True)
            reports = {model: Report(one, None, sought) for model, one in named}
            report = Comparison(reports, found.rows, found.bad)
        _print(report, as_json=as_json)
        sys.exit(code)


def _print(report: Report | Comparison, *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    columns = shutil.get_terminal_size().columns
    with contextlib.suppress(BrokenPipeError):
        for line in report.lines(max(WIDTH_LEAST, min(WIDTH_MOST, columns))):
            print_output(line)


def _comparable(models: Sequence[str], *, pilot: bool) -> None:
    """Raises ``UsageError`` if several models cannot be compared."""
    if len(models) < 2:
        return
    if pilot:
        message = "--pilot sends rows to one model: give one --model, and run it once per model"
        raise UsageError(message)
    if any(map(is_template, models)):
        message = "several --model flags compare models by name, but one of them is a template"
        raise UsageError(message)


def _detectable(difference: float | None, against: Sequence[str]) -> None:
    """Raises ``UsageError`` if --against names directories that are not used."""
    if against and difference is None:
        message = "--against measures how many answers flip, for --detect D: give --detect D too"
        raise UsageError(message)
    if len(against) > 2:
        message = f"--against takes two run directories at most, not {len(against)}"
        raise UsageError(message)


def _sought(difference: float, against: Sequence[str], pilot: Piloted | None) -> Sought:
    """The difference to detect, with the rate of flips: between two runs, a pilot and a run, or
    within one run.
    """
    from batchrun.core.estimate.detection import Sought
    from batchrun.views.detection.flips import flip_rate

    piloted = [pilot.directory] if pilot is not None and pilot.told is not None else []
    compared = [*piloted, *against] if len(against) == 1 else against
    return Sought(difference, flip_rate(compared))


def _without_old(named: Sequence[str], place: str | None) -> tuple[str, ...]:
    """The directories of --reuse, with that of -o in the place of `old`: what a restart of it would
    set aside. Raises ``UsageError`` where -o names none.
    """
    if OLD not in named:
        return tuple(named)
    if place is None:
        message = "--reuse old: name the run directory that --restart would set aside with -o DIR"
        raise UsageError(message)
    return tuple(place if name == OLD else name for name in named)


def _pilot(
    found: Estimate,
    aside: Aside,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
    *,
    progress: bool,
) -> tuple[Piloted, int]:
    """Send the sample as a separate run; returns its results and the exit code."""
    from batchrun import assemble
    from batchrun.adapters.environment import open_files, sample_file
    from batchrun.builtin_simulators import standing_in
    from batchrun.cli.run import progress_on
    from batchrun.core.estimate import pilot
    from batchrun.views.estimation import pilot as looking
    from batchrun.views.estimation.estimate_report import Piloted
    from batchrun.views.text import safe

    settings = found.settings
    tickets = aside.in_order({t for stratum in found.strata for t in stratum.tickets})
    path = sample_file.write(Path(settings.checkpoint), aside.lines(tickets))
    settings = of_sample(settings, path)
    with contextlib.ExitStack() as stack:
        settings = replace(settings, endpoints=standing_in(settings.endpoints, stack, tell))
        open_files.raise_limit(settings)
        observers = [stack.enter_context(progress_on(tell))] if progress else []
        result = assemble.run(
            settings, environment, observers=observers, say=tell, started_s=STARTED_S
        )
    if result.stop is not None:
        print_message(safe(f"batchrun: {result.stop.message}"))
    summary = result.summary
    told = None
    if summary["rows"]["pending"] == 0:
        kept = [aside.kept[ticket] for ticket in tickets]
        seen = looking.seen(settings.dir, settings.checkpoint, kept)
        told = pilot.extrapolate(
            found.strata, dict(zip(tickets, seen, strict=True)), settings.endpoints
        )
    piloted = Piloted(
        rows=len(tickets),
        failed=summary["rows"]["error"],
        directory=settings.dir,
        wall_s=summary["wall_s"],
        cost_usd=summary["totals"]["cost_usd"],
        told=told,
    )
    return piloted, 0 if told is not None else int(summary["exit_code"])


def of_sample(settings: Settings, path: Path) -> Settings:
    """The settings of a run over the sample, which consists of whole requests."""
    from batchrun.core.evaluation.definitions import Evaluation
    from batchrun.core.request.conversation import TURNS

    evaluation = settings.evaluation.without_judges()
    if settings.repeat > 1:
        # What is measured over the repeats of a row has no meaning in a sample of requests.
        evaluation = Evaluation(evaluation.scores)
    return replace(
        settings,
        files=(str(path),),
        source=None,
        format="jsonl",
        quoting=None,
        delimiter=None,
        encoding=None,
        carry="all",
        send=None,
        identity=None,
        system=None,
        prompt=None,
        messages=(),
        image=(),
        file=(),
        params={},
        limit=None,
        sample=None,
        repeat=1,
        evaluation=evaluation,
        reuse=(),
        turns=None if settings.turns is None else TURNS,
    )
