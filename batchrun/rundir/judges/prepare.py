"""Prepares a judge before anything is sent: reads its config and checks its prompt."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.environment import price_list
from batchrun.adapters.environment.configuration import read_config, read_environment, read_schema
from batchrun.adapters.journal.journal import STATES
from batchrun.adapters.storage.home import at_home, located
from batchrun.core.evaluation.judges import (
    JUDGE,
    JUDGES,
    SWAPPED,
    Asked,
    Judge,
    asked_by,
    folder_of,
    same_model,
)
from batchrun.core.request import prompt as prompts
from batchrun.core.request.chained_rows import MESSAGES, fields_used
from batchrun.core.request.worst_case import worst_case
from batchrun.core.run.changes import Changes
from batchrun.core.settings import resolve
from batchrun.core.settings.addresses import local_path, split_query
from batchrun.core.settings.resolve import Raw, Settings
from batchrun.core.settings.table import SHORT, TABLE
from batchrun.errors import UnboundedError, UsageError
from batchrun.records import Request
from batchrun.rundir.chain.assumed_rows import shaper_over
from batchrun.rundir.preflight import Priced

_OWN = ("input.", "output.dir", "output.checkpoint")
"""Settings that a judge takes from the run that it judges."""
_KEYS = {setting.flag: setting.name for setting in TABLE if setting.flag is not None} | {
    setting.flag: f"request.params.{setting.key}" for setting in SHORT if setting.flag is not None
}
"""The config key for each flag."""
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_TWICE = re.compile(r"([\w.]+) \(\1\)")
_FROM = "../.."
"""The judged run, relative to the judge's own directory."""


@dataclass(frozen=True, slots=True)
class JudgeRun:
    """A judge, the settings of its own run, and what it is asked."""

    judge: Judge
    settings: Settings
    asked: Asked

    @property
    def folder(self) -> str:
        """Its run directory, inside that of the judged run."""
        own = self.judge.folder
        return f"{own}/{SWAPPED}" if self.settings.swapped else own


@dataclass(frozen=True, slots=True)
class Pairing:
    """The run to compare with, and whether each pair is judged in both orders."""

    against: str
    both_orders: bool


def prepare(
    judge: Judge,
    directory: str,
    checkpoint: str | None,
    environment: Mapping[str, str],
    given: Raw | None = None,
    pairs: Pairing | None = None,
) -> tuple[JudgeRun, list[str]]:
    """The run of a judge over the results in ``directory``, with its checkpoint at ``checkpoint``
    (None: inside the directory), and warnings. ``given`` are settings that override its config;
    with ``pairs`` it compares answers. Raises ``UsageError`` naming the judge.
    """
    if judge.config is None and given is None:
        message = (
            f'{judge.key} has no config; write config = "FILE.toml", with its prompt and schema'
        )
        raise UsageError(message)
    try:
        raw = {} if judge.config is None else read_config(at_home(judge.config))
    except UsageError as error:
        raise fault_of(judge, error) from None
    _refuse_own(judge, raw)
    place = {
        "input.from": directory,
        "output.dir": directory_of(directory, judge.name),
        "output.checkpoint": checkpoint_of(directory, checkpoint, judge.name),
    }
    named = {name: value for name, value in place.items() if value is not None}
    try:
        raw, warnings = resolve.lay_over(raw, environment, located({**(given or {}), **named}))
        settings = resolve.resolve(read_schema(raw))
    except UsageError as error:
        raise fault_of(judge, error, flags=given is not None) from None
    if settings.repeat > 1:
        message = (
            f"{_config_of(judge)} sets request.repeat; an answer has one verdict of a judge. Name "
            "several judges for several verdicts"
        )
        raise UsageError(message)
    if not settings.check_schema:
        message = (
            f"{judge.key}: its verdicts are checked against their JSON Schema; leave out "
            "check_schema = false"
        )
        raise UsageError(message)
    # The run's lock keeps its answers unchanged while they are judged.
    settings = replace(
        settings,
        source_recorded=_FROM,
        allow_partial=True,
        against=pairs.against if pairs is not None else None,
        both_orders=pairs is not None and pairs.both_orders,
    )
    asked = asked_by(settings.shaping(), judge.name)
    return JudgeRun(judge, settings, asked), warnings


def asked_by_configs(settings: Settings) -> dict[str, Asked]:
    """What the judges of a run are asked, by name, according to their configs. Raises
    ``UsageError``.
    """
    environment = read_environment()
    found = {}
    for judge in settings.evaluation.judges:
        run, _ = prepare(judge, settings.dir, settings.checkpoint, environment)
        require_other(run, [settings.one_model])
        found[judge.name] = run.asked
    return found


def _refuse_own(judge: Judge, raw: Raw) -> None:
    """Raises ``UsageError`` if the config of a judge sets something that it takes from the run."""
    for name in raw:
        if name == JUDGE:
            message = f"{_config_of(judge)}: a judge has no judges of its own; leave out [{JUDGE}]"
            raise UsageError(message)
        if name.startswith("notify."):
            message = (
                f"{_config_of(judge)} sets {name}, but a judge notifies no one. Set it for the run "
                "that it judges"
            )
            raise UsageError(message)
        if name.startswith(_OWN):
            message = (
                f"{_config_of(judge)} sets {name}; a judge reads the answers of the run that it "
                f"judges and writes into {JUDGES}/{judge.name} there. Leave it out"
            )
            raise UsageError(message)


def fault_of(judge: Judge, error: UsageError, *, flags: bool = False) -> UsageError:
    """The error with the name of the judge whose settings caused it. Unless ``flags`` set them, it
    names config keys instead of flags, since flags would set those of the run.
    """
    told = str(error)
    if not flags:
        told = _FLAG.sub(lambda found: _KEYS.get(found[0], found[0]), told)
        told = _TWICE.sub(r"\1", told)
    named = judge.key if told.startswith(f"{judge.config}:") else _config_of(judge)
    return type(error)(f"{named}: {told}")


def _config_of(judge: Judge) -> str:
    return judge.key if judge.config is None else f"{judge.key} ({judge.config})"


def directory_of(directory: str, name: str) -> str:
    """The run directory of a judge, inside that of the judged run."""
    bare, query = split_query(directory)
    return f"{bare.rstrip('/')}/{folder_of(name)}{query}"


def swapped_of(directory: str) -> str:
    """The run directory for verdicts on swapped answers, inside that of a judge of pairs."""
    bare, query = split_query(directory)
    return f"{bare.rstrip('/')}/{SWAPPED}{query}"


def in_swapped_order(run: JudgeRun) -> JudgeRun:
    """The judge with the answers swapped, in a run directory inside its own."""
    settings = run.settings
    inside = PurePath(settings.checkpoint).name == "checkpoint"
    own = PurePath(settings.checkpoint)
    place = own.parent / SWAPPED / "checkpoint" if inside else own / SWAPPED
    moved = replace(settings, dir=swapped_of(settings.dir), checkpoint=str(place), swapped=True)
    return replace(run, settings=moved)


def checkpoint_of(directory: str, checkpoint: str | None, name: str) -> str | None:
    """The checkpoint of a judge: next to the run's if that is outside its directory, else None."""
    local = local_path(directory)
    if checkpoint is None or (
        local is not None and PurePath(checkpoint) == PurePath(local, "checkpoint")
    ):
        return None
    return str(PurePath(checkpoint, folder_of(name)))


def place_of(directory: str, checkpoint: str | Path, name: str) -> Path:
    """The folder that contains the checkpoint of a judge."""
    apart = checkpoint_of(directory, str(checkpoint), name)
    return (
        Path(checkpoint).parent / folder_of(name) / "checkpoint" if apart is None else Path(apart)
    )


def changes_for(run: JudgeRun, asked: Changes = Changes()) -> Changes:  # noqa: B008 - frozen
    """The changes that a judge allows when it judges again: it sends answers that are new or
    changed, or have a changed prompt. ``asked`` are the other changes that the user requested.
    """
    begun = Path(run.settings.checkpoint, STATES).exists()
    return replace(asked, resend_changed=begun and not asked.restart)


def require_other(run: JudgeRun, models: Sequence[str | None]) -> None:
    """Raises ``UsageError`` if a judge is the model that answered, unless that is allowed."""
    found = None if run.judge.allow_self else same_model(run.settings.one_model, models)
    if found is not None:
        message = (
            f"{run.judge.key}: the judge is {run.settings.one_model}, which gave the answers"
            f"{'' if found == run.settings.one_model else f' (as {found})'}, and models rate their "
            "own answers too high. Name another model, or allow it with --allow-self "
            f"(allow_self = true in [{JUDGE}.{run.judge.name}])"
        )
        raise UsageError(message)


def require_templates(run: JudgeRun, schema: pa.Schema) -> None:
    """Check that the judge's templates only use fields that answers with this schema of results
    have. Raises ``UsageError``.
    """
    plan = prompts.plan(run.settings)
    if plan is None:
        return
    try:
        shaper_over(plan, _carried(schema))
    except UsageError as error:
        message = f"{_config_of(run.judge)}: {error}"
        raise UsageError(message) from None


def _carried(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in part_schema.RESULT_NAMES])


def require_messages(run: JudgeRun, settings: Settings, *, once: bool) -> None:
    """Raises ``UsageError`` if a judge is shown requests that cannot be found again: those of a run
    that reads its input ``once`` and keeps no requests.
    """
    plan = prompts.plan(run.settings)
    if plan is None or not once or settings.requests == "all":
        return
    if MESSAGES in fields_used(plan.templates.paths, plan.templates.whole):
        message = (
            f"{_config_of(run.judge)}: the judge is shown row.messages, and the input of this run "
            "can be read only once. Keep its requests with --requests all (output.requests)"
        )
        raise UsageError(message)


def require_bounded(run: JudgeRun) -> None:
    """Check that the cost of a judgement is bounded, so that a budget can cover it. Raises
    ``UsageError``.
    """
    settings = run.settings
    if settings.one_model is None or settings.templated():
        return
    body: dict[str, Any] = {**settings.defaults(), "messages": [{"role": "user", "content": ""}]}
    wall_us = time.time_ns() // 1000
    book = price_list.book(settings, lambda _: None, wall_us)
    wire = json.dumps(body).encode()
    try:
        worst = worst_case(body, wire)
        request = Request(0, None, wire, "", settings.one_model, 0, worst=worst)
        Priced(settings, book, wall_us).require(request)
    except UnboundedError as error:
        fault = fault_of(run.judge, UsageError(str(error)))
        message = (
            f"{fault}. --max-cost covers the judges too, so what a judgement may "
            "cost must be known. Nothing was sent"
        )
        raise UsageError(message) from None


def with_budget(run: JudgeRun, left_pd: int | None) -> JudgeRun:
    """The judge with the rest of the run's budget (None: it has none) as a second limit besides its
    own budget.
    """
    if left_pd is None:
        return run
    own = run.settings.max_cost_pd
    cap = left_pd if own is None else min(own, left_pd)
    return replace(run, settings=replace(run.settings, max_cost_pd=cap))
