"""``--restart`` with ``--reuse``: what was set aside, and a restart that continues after a kill.

A note next to the run directory records what is moved where, before anything moves, and the intent
of the restart. As long as it exists, every start finishes the move. Then the new state file takes
it over: the same command finds its own restart there and continues it while rows are pending; any
other ``--restart`` starts over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batchrun.adapters.storage import disk, files
from batchrun.core.settings.differences import REPEAT
from batchrun.rundir import state_reader

KEY = "restart"
"""The key in the state file for the restart that a run began with."""


@dataclass(frozen=True, slots=True)
class Named:
    """A directory of ``--reuse``: its name as given, where it is, and its checkpoint if that is
    elsewhere.
    """

    name: str
    directory: str
    checkpoint: str | None = None


class Intent(NamedTuple):
    """The intent of a run with ``--reuse``: the directories named, the settings that shape
    requests, the input files. JSON values.
    """

    sources: list[str]
    settings: dict[str, Any]
    stamps: list[Any]


class Note(NamedTuple):
    """A restart: where the contents go, where their checkpoint goes, what unfinished restarts set
    aside before (``[directory, checkpoint]`` each), and its intent.
    """

    aside: str
    checkpoint: str
    earlier: list[list[str]]
    intent: list[Any]

    @property
    def old(self) -> tuple[Named, ...]:
        """What ``old`` means, the latest first."""
        places = [[self.aside, self.checkpoint], *self.earlier]
        return tuple(Named(directory, directory, kept) for directory, kept in places)


def note_path(folder: Path) -> Path:
    """The hidden note of a directory, next to it."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.restart")


def pending(folder: Path) -> Note | None:
    """The restart that was begun and not taken over yet; None if there is none."""
    return noted(files.read_json(note_path(folder)))


def taken_over(checkpoint: Path) -> Note | None:
    """The restart that the run of this checkpoint began with; None if it began otherwise."""
    return noted(state_reader.values(checkpoint, KEY).get(KEY))


def noted(found: object) -> Note | None:
    """The note in a file; None if there is none."""
    if not isinstance(found, dict):
        return None
    with contextlib.suppress(TypeError):
        return Note(**found)
    return None


def goes_on(checkpoint: Path, summary: object, intent: Intent) -> bool:
    """Whether the run of this checkpoint is the requested restart, with rows pending."""
    note = taken_over(checkpoint)
    return note is not None and note.intent == list(intent) and not is_complete(summary)


def is_complete(summary: object) -> bool:
    """Whether a summary is from a run with all rows done, including those after a ``--limit``."""
    told = summary if isinstance(summary, Mapping) else {}
    rows, settings = told.get("rows"), told.get("settings")
    if not isinstance(rows, Mapping) or rows.get("pending") != 0:
        return False
    settings = settings if isinstance(settings, Mapping) else {}
    limit, repeat = settings.get("limit"), settings.get(REPEAT, 1)
    return limit is None or rows.get("input", 0) < limit * repeat


def unfinished(checkpoint: Path, summary: object) -> Note | None:
    """The restart that the run of this checkpoint began with, if rows of it are pending."""
    return None if is_complete(summary) else taken_over(checkpoint)


def begin(folder: Path, aside: str, kept: str, before: Note | None, intent: Intent) -> None:
    """Note a restart next to ``folder``, durably, before anything moves. ``before`` is an earlier
    one that did not finish: the contents it set aside have answers that were not reused yet.
    """
    earlier = [] if before is None else [[before.aside, before.checkpoint], *before.earlier]
    path = note_path(folder)
    files.write_json(path, Note(aside, kept, earlier, list(intent))._asdict())
    files.reached("restart.noted", path)


def end(folder: Path) -> None:
    """Remove the note: the new state file records the restart."""
    path = note_path(folder)
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)
        files.sync_folder(path.parent)
        files.reached("restart.ended", path)
