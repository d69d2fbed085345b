"""What a run directory says of how its input is read, before the input is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchrun.adapters import looking, recorded
from batchrun.adapters.store import SUMMARY, read_json
from batchrun.core.changes import Changes
from batchrun.core.reading import RULES, Reading, recorded_reading
from batchrun.core.settings import Settings
from batchrun.errors import UsageError

READING = "reading"
"""The key of the state file for what ``Reading.public`` gives."""


def reading_of(settings: Settings, changes: Changes) -> Reading:
    """The rules that the input of these settings is read by: those that their run directory was
    begun with, if it was.

    Raises ``UsageError`` for a directory begun by rules that this version does not know.
    """
    known = None if changes.restart else _known(settings, changes)
    if known is None:
        return Reading(quoting=settings.quoting)
    reading = recorded_reading(known)
    if reading.rules > RULES:
        message = (
            f"{settings.dir} was begun with version {reading.rules} of the reading rules, and this "
            f"batchrun knows {RULES}. Go on with the version that began it, or --restart"
        )
        raise UsageError(message)
    return replace(reading, quoting=settings.quoting or reading.quoting)


def _known(settings: Settings, changes: Changes) -> Mapping[str, Any] | None:
    """What is recorded of the rules; None where nothing was begun."""
    meta = recorded.values(Path(settings.checkpoint), "settings", READING)
    if meta.get("settings") is not None:
        return _mapping(meta.get(READING))
    if not changes.repair:
        return None
    # The state file may be lost or damaged: the summary has the same words.
    summary = read_json(looking.look_at(settings.dir, settings.checkpoint).store, SUMMARY)
    return None if not isinstance(summary, dict) else _mapping(summary.get("settings"))


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}
