"""The free space on the disks of a run: checked before it begins, and twice a second while it
works.

The check runs in a thread, never in the event loop: a network file system may be slow. It costs
nothing per row. ``core.run.free_disk`` judges the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import KINDS, SUMMARY
from batchrun.core.run.free_disk import Disk, FreeDisk, Written
from batchrun.core.settings.addresses import local_path
from batchrun.core.settings.resolve import Settings
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.engine.session.tally import Tally
from batchrun.engine.tasks import cancelled
from batchrun.errors import StorageError, UsageError

GUARD = "min_free_disk"
FIRST_SAMPLE_S, SAMPLE_S = 0.05, 0.5
"""The first pause between two checks, and the longest: it doubles."""
AHEAD = 2
"""How many pauses may pass before a shortage is noticed and the run stops writing."""

_NOTHING = Written(0.0, 0, None, 0, 0, 0, 0, 0, 0)


def require_room(settings: Settings) -> None:
    """Refuse a run if its disks have less free space than the bound, before any file is touched.
    Checks the nearest existing folders. A run that ended with every row done may start: there may
    be nothing to write. Raises ``UsageError``.
    """
    folder = local_path(settings.dir)
    summary = None if folder is None else files.read_json(Path(folder, SUMMARY))
    rows = summary.get("rows") if isinstance(summary, dict) else None
    if not (isinstance(rows, dict) and rows.get("pending") == 0):
        _refuse(settings, _NOTHING)


class FreeSpace:
    """The guard of one session. ``in_flight`` is how many requests may be in flight."""

    def __init__(
        self, settings: Settings, journal: Journal, parts: Parts, tally: Tally, in_flight: int
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._parts = parts
        self._tally = tally
        self._in_flight = in_flight
        self._log_bytes_before = journal.size_bytes
        self._old_bytes: dict[tuple[int, int], int] = {}
        self._guard = FreeDisk(settings.min_free_disk, settings.shard_rows)

    def require_room(self) -> None:
        """Refuse to continue if the content of the journal could not be published. Raises
        ``UsageError``.
        """
        _refuse(self._settings, self._written())

    @contextlib.asynccontextmanager
    async def watched(self, switch: StopSwitch) -> AsyncIterator[None]:
        """Check the disks until the block is left, and stop the run if space runs short."""
        if not self._settings.min_free_disk:
            yield
            return
        watching = asyncio.create_task(self._watch(switch), name="free space")
        try:
            yield
        finally:
            await cancelled((watching,))

    async def _watch(self, switch: StopSwitch) -> None:
        pause_s = FIRST_SAMPLE_S  # how fast this run writes is not known yet
        while not switch.stopping:
            shortage, warning = await asyncio.to_thread(self._look, AHEAD * pause_s)
            if warning is not None:
                self._tally.notices.append(warning)
            if shortage is not None:
                switch.stop(Stop(GUARD, shortage))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, SAMPLE_S)

    def _look(self, ahead_s: float) -> tuple[str | None, str | None]:
        return self._guard.check(disks(self._settings), self._written(), ahead_s)

    def _written(self) -> Written:
        journal, grown, tally = self._journal, self._parts.grown, self._tally
        held = journal.size_bytes
        left = None if tally.rows_input is None else max(0, tally.rows_input - tally.done)
        return Written(
            at_s=time.monotonic(),
            rows_done=tally.ok + tally.error,
            rows_left=left,
            log_bytes=held,
            logged_bytes=max(0, held + grown.log_bytes - self._log_bytes_before),
            part_bytes=grown.part_bytes,
            part_rows=grown.rows,
            publish_bytes=self._publish_bytes(),
            in_flight=self._in_flight,
        )

    def _publish_bytes(self) -> int:
        """The most space that publishing one shard may take: its log, assuming half the compression
        seen so far, and its present part.
        """
        grown = self._parts.grown
        shrunk = min(1.0, 2 * grown.part_bytes / grown.log_bytes) if grown.log_bytes else 1.0
        logs = list(self._journal.logs.items())
        store, pair = self._parts.store, self._parts.pair
        known, self._old_bytes = self._old_bytes, {}
        for shard, log in logs:
            key = (shard, log.generation)
            size = 0 if log.generation == 1 else known.get(key)
            if size is None:
                try:
                    size = sum(store.size(name) or 0 for name in pair(shard))
                except (OSError, StorageError):
                    size = 0  # the store does not answer now
            self._old_bytes[key] = size
        sizes = (shrunk * log.size + self._old_bytes[shard, log.generation] for shard, log in logs)
        return round(max(sizes, default=0))


def _refuse(settings: Settings, written: Written) -> None:
    if not settings.min_free_disk:
        return
    guard = FreeDisk(settings.min_free_disk, settings.shard_rows)
    shortage, _ = guard.check(disks(settings), written)
    if shortage is not None:
        message = f"{shortage}. Nothing was sent"
        raise UsageError(message)


def disks(settings: Settings) -> list[Disk]:
    """The file systems that a run writes to, with what is free on each for this user.

    One that does not report it (a size of 0, or an error) is left out: its writes will fail if it
    is full.
    """
    folder = local_path(settings.dir)
    checkpoint = (settings.checkpoint, Path(settings.checkpoint))
    if folder is None:
        # Objects are stored elsewhere; their drafts are next to the checkpoint.
        found = _free(checkpoint[1])
        return [Disk(checkpoint[0], found[1], True, True, False)] if found else []  # noqa: FBT003
    here, there = _free(Path(folder, KINDS[0])), _free(checkpoint[1])
    if here and there and here[0] == there[0]:
        return [Disk(folder, here[1], True, True, True)]  # noqa: FBT003
    found_here = [Disk(folder, here[1], False, True, True)] if here else []  # noqa: FBT003
    return found_here + ([Disk(checkpoint[0], there[1], True, False, False)] if there else [])  # noqa: FBT003


def _free(path: Path) -> tuple[int, int] | None:
    """The device of a path that may not exist yet, and the free bytes on it."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                device, space = folder.stat().st_dev, os.statvfs(folder)
            except PermissionError:
                return None
            return (device, space.f_bavail * space.f_frsize) if space.f_blocks else None
    return None
