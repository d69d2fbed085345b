"""What a run directory says of how its input is read, before the input is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.core.run.changes import Changes
from batchrun.core.settings.reading import RULES, Reading, recorded_reading
from batchrun.core.settings.resolve import Settings
from batchrun.errors import UsageError
from batchrun.rundir import inspect, state_reader

READING = "reading"
"""The key of the state file for what ``Reading.public`` gives."""


def reading_of(settings: Settings, changes: Changes) -> Reading:
    """The rules that the input of these settings is read by: those that their run directory was
    begun with, if it was.

    Raises ``UsageError`` for a directory begun by rules that this version does not know.
    """
    known = None if changes.restart else _known(settings, changes)
    if known is None:
        return settings.reading
    reading = recorded_reading(*known)
    if reading.rules > RULES:
        message = (
            f"{settings.dir} was begun with version {reading.rules} of the reading rules, and this "
            f"batchrun knows {RULES}. Continue with the version that began it, or --restart"
        )
        raise UsageError(message)
    return replace(
        reading,
        quoting=settings.quoting or reading.quoting,
        delimiter=settings.delimiter,
        encoding=settings.encoding,
    )


def _known(settings: Settings, changes: Changes) -> tuple[Mapping[str, Any], int] | None:
    """What is recorded of the rules, and of how many files; None where nothing was begun."""
    meta = state_reader.values(Path(settings.checkpoint), "settings", READING, "input")
    if meta.get("settings") is not None:
        return _mapping(meta.get(READING)), files_of(meta)
    if not changes.repair:
        return None
    # The state file may be lost or damaged: the summary has the same words.
    summary = read_json(inspect.look_at(settings.dir, settings.checkpoint).store, SUMMARY)
    return None if not isinstance(summary, dict) else (_mapping(summary.get("settings")), 0)


def files_of(meta: Mapping[str, Any]) -> int:
    """How many files of input a state file speaks of."""
    found = meta.get("input")
    return len(found) if isinstance(found, list) else 0


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}
