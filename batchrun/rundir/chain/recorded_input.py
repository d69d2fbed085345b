"""The input of a run, opened again by the rules and settings that the run recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry, Reader
from batchrun.core.request import body
from batchrun.core.request import prompt as prompts
from batchrun.core.request.chained_rows import SOURCE
from batchrun.core.request.prompt import Plan
from batchrun.core.settings.reading import Reading, recorded_reading
from batchrun.core.settings.resolve import Settings, resolve
from batchrun.core.settings.table import BY_NAME
from batchrun.errors import UsageError
from batchrun.rundir.inspect import Look
from batchrun.rundir.recorded_reading import READING, files_of
from batchrun.rundir.resend import Build
from batchrun.rundir.state_reader import Recorded

_ALSO = ("output.check_schema", "output.check_tools")
"""Settings that can make a row bad without being among those that shape requests."""
Find: TypeAlias = Callable[[Settings, Plan | None, Reading], Input]
"""Opens the input of settings; see ``inputs.find``."""
_NEEDED = ("input.carry", "output.shard_rows", "request.model", "request.params", "request.stream")


class Reopened(NamedTuple):
    """The input, the columns that the run carries, what makes a row's request, and a reader."""

    given: Input
    carry: Carry
    build: Build
    reader: Reader


def reopened(
    look: Look,
    summary: Mapping[str, Any] | None,
    known: Recorded | None,
    names: Sequence[str],
    input_format: str,
    *,
    asked: str,
    find: Find,
) -> Reopened:
    """Open these files as the run would; without names, the run that it was made from (``--from``).
    ``asked`` names the caller's command or flag, for messages.

    Raises ``InputError`` or ``UsageError``, and ``InputLostError`` for input that cannot be read.
    """
    settings = _settings(look, summary, known, names, input_format, asked)
    reading = _reading(summary, known)
    given = find(settings, prompts.plan(settings), reading)
    wanted = known.meta.get("input_format") if known else None
    if wanted is not None and given.kind != wanted:
        message = f"{asked} names {given.kind} input; the run was begun with {wanted}"
        raise UsageError(message)
    recorded = known.meta.get("sample") if known else None
    if isinstance(recorded, bytes):
        given = given.with_sample(recorded)
    elif settings.sample is not None:
        given = given.sampled(settings.sample, settings.sample_seed)
    carry = _carry(known, given, settings)
    build = body.builder(settings)
    if known is not None:
        build = body.as_begun(build, known.meta.get("wording"))
    return Reopened(given, carry, build, given.reader(carry, settings.shard_rows))


def _reading(summary: Mapping[str, Any] | None, known: Recorded | None) -> Reading:
    """The rules by which the run read its input."""
    found = known.meta.get(READING) if known else (summary or {}).get("settings")
    files = files_of(known.meta) if known else 0
    return recorded_reading(found if isinstance(found, dict) else {}, files)


def _settings(
    look: Look,
    summary: Mapping[str, Any] | None,
    known: Recorded | None,
    names: Sequence[str],
    input_format: str,
    asked: str,
) -> Settings:
    """The recorded settings of the run, over this input."""
    told = summary.get("settings") if summary else None
    told = told if isinstance(told, dict) else {}
    found = dict(known.settings) if known else {}
    if not found:
        shaping_names = [n for n in told if n.startswith("request.") or n in _NEEDED]
        found = {name: told[name] for name in shaping_names}
    missing = [name for name in _NEEDED if name not in found]
    strange = [name for name in found if name not in BY_NAME]
    if missing or strange:
        where = look.store.where()
        what = (
            f"the settings {', '.join(missing)} are not recorded in {where}"
            if missing
            else f"{where} records settings that this version does not know: {', '.join(strange)}"
        )
        message = f"{asked}: {what}, so the requests cannot be made again"
        raise UsageError(message)
    found |= {name: told[name] for name in _ALSO if name in told and name in BY_NAME}
    found["output.dir"] = "."
    if names or found.get("input.from") is None:
        chained = ("input.from", "input.from_status")
        found = {name: value for name, value in found.items() if name not in chained}
        return resolve(found | {"input.files": list(names), "input.format": input_format})
    place = known.meta.get(SOURCE) if known else None
    if isinstance(place, dict) and isinstance(place.get("directory"), str):
        found["input.from"] = place["directory"]  # as it is found from anywhere
    return resolve(found | {"input.allow_partial": True})


def _carry(known: Recorded | None, given: Input, settings: Settings) -> Carry:
    names = known.meta.get("carry_names") if known else None
    schema = known.carried if known else None
    if isinstance(names, list) and schema is not None:
        columns, everything = names
        return Carry(schema, tuple(columns), everything)
    return given.carry(settings.carry, settings.shard_rows)
