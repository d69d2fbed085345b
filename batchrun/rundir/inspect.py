"""Opens a run directory for views, without its lock and without writing."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from batchrun.adapters.journal.flight_log import FLIGHTS, read_notes
from batchrun.adapters.storage import filesystems
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.object_store import ObjectStore
from batchrun.adapters.storage.store import PART_KINDS, SUMMARY, StoreReader, part_names
from batchrun.core.settings.addresses import local_path
from batchrun.errors import UsageError
from batchrun.rundir.claim import FLEET
from batchrun.rundir.lock import is_held_elsewhere, is_locked

BELOW_SHOWN = 5
"""Runs that an error names where a folder of runs is taken for one."""


@dataclass(frozen=True, slots=True)
class Look:
    """A run directory: its files, its checkpoint (None if its place is not known), and whether a
    process has it to itself, as far as this machine can tell.
    """

    store: StoreReader
    checkpoint: Path | None
    live: bool
    fleet: Path | None = None
    """The run directory, if several processes work or worked on it together (see
    ``rundir.fleet.looking``). Its lock is free meanwhile.
    """


def look_at(directory: str, checkpoint: str | None) -> Look:
    """Open a run directory for reading. Raises ``UsageError`` for an invalid address."""
    control = Path(checkpoint) if checkpoint else None
    local = local_path(directory)
    if local is not None:
        folder = Path(local)
        control = control or folder / "checkpoint"
        live = is_locked(folder) or is_held_elsewhere(control)
        fleet = folder if (folder / FLEET).is_dir() else None
        return Look(DiskStore(folder), control, live, fleet)
    try:
        store = ObjectStore(directory, Path(tempfile.gettempdir()))
    except filesystems.AddressError as error:
        message = f"cannot look into {error}"
        raise UsageError(message) from None
    live = control is not None and (is_locked(control) or is_held_elsewhere(control))
    return Look(store, control, live)


def no_run(look: Look, lacks: str = "results/") -> UsageError:
    """The error for a place that is not a run directory, since it has neither ``lacks`` nor a
    checkpoint. Run directories right below it are named.
    """
    message = (
        f"{look.store.where()} is not a run directory: it has neither {lacks} nor a checkpoint"
    )
    if look.checkpoint is None:
        message += " (--checkpoint names that)"
    below: list[str] = []
    if isinstance(look.store, DiskStore):
        with contextlib.suppress(OSError):
            below = sorted(
                path.name
                for path in look.store.folder.iterdir()
                if (path / SUMMARY).is_file() or (path / "checkpoint").is_dir()
            )
    if below:
        more = f" and {len(below) - BELOW_SHOWN:,} more" if len(below) > BELOW_SHOWN else ""
        message += f". The runs in it are {', '.join(below[:BELOW_SHOWN])}{more}"
    return UsageError(message)


def is_unsent(look: Look) -> bool:
    """Whether a checkpoint exists from which no request was sent: it has neither logs nor notes of
    requests, and the run directory has no parts. False for a run that is live.
    """
    checkpoint = look.checkpoint
    if look.live or checkpoint is None or not checkpoint.is_dir():
        return False
    traces = any(checkpoint.glob("shard-*.log")) or read_notes(checkpoint / FLIGHTS)
    return not traces and not any(part_names(look.store, kind) for kind in PART_KINDS)
