"""The recorded rules for reading a run's input, needed before the input is opened."""

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
"""The key in the state file for ``Reading.public``."""


def reading_of(settings: Settings, changes: Changes) -> Reading:
    """The rules for reading the input of these settings: those that their run directory was begun
    with, if it exists.

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
    """The recorded rules, and the number of files; None if no run was begun."""
    meta = state_reader.values(Path(settings.checkpoint), "settings", READING, "input")
    if meta.get("settings") is not None:
        return _mapping(meta.get(READING)), files_of(meta)
    if not changes.repair:
        return None
    # The state file may be lost or damaged; the summary has the same record.
    summary = read_json(inspect.look_at(settings.dir, settings.checkpoint).store, SUMMARY)
    return None if not isinstance(summary, dict) else (_mapping(summary.get("settings")), 0)


def files_of(meta: Mapping[str, Any]) -> int:
    """How many input files a state file records."""
    found = meta.get("input")
    return len(found) if isinstance(found, list) else 0


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}
