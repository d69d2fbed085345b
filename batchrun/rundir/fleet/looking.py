"""A fleet seen from outside: which processes work on the run, and which rows are durable.

Nothing is written and no claim, lease or lock is touched, so read permission is enough. Whether a
worker is alive is judged by its lock on its own machine, and by the age of its lease on another;
the latter compares the store's time with this machine's clock, which is good enough for a view.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.journal import log_name
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import StoreReader, read_json
from batchrun.core.fleet import controls, leases, quota
from batchrun.core.fleet.claimant import read_claims, read_leases
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.controls import Control
from batchrun.core.fleet.leases import Lease
from batchrun.core.fleet.quota import Book
from batchrun.core.settings.addresses import format_address, local_path
from batchrun.core.text.legible import shell_word
from batchrun.core.text.wording import counted
from batchrun.errors import DamagedError, RunLockedError, StorageError
from batchrun.ports import ClaimStore
from batchrun.rundir.claim import FLEET, LAUNCH
from batchrun.rundir.fleet import launches
from batchrun.rundir.fleet.claimed_shards import before
from batchrun.rundir.fleet.launches import (
    FOLDED,
    WORKERS,
    DiskLaunches,
    Launch,
    Launches,
    Plan,
)
from batchrun.rundir.lock import NAME, is_locked
from batchrun.rundir.open_run import STATUS

ALIVE, DEAD, LEFT = "alive", "dead", "left"
NAMES_MAX = 3
"""So many processes a message names."""


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A process of a fleet. ``state`` is ``alive``, ``dead`` or ``left`` (it ended in an orderly
    way); ``silent_s`` is how long ago it renewed its lease.
    """

    name: str
    state: str
    silent_s: float
    host: str | None
    pid: int | None
    status: Mapping[str, Any] = field(default_factory=dict)
    """What it last wrote of its progress."""
    renewed_s: float = 0.0
    """When it renewed its lease, by the store's clock."""


@dataclass(frozen=True, slots=True)
class SeenFleet:
    """A snapshot of a fleet that is not folded."""

    launch: Launch
    plan: Plan
    workers: tuple[SeenWorker, ...]
    published: Mapping[int, Published]
    """The records of the shards that it published."""
    publishers: Mapping[int, str]
    """By shard, the worker that published it."""
    claims: Mapping[int, Claim]
    """By shard, the claims on unpublished shards."""
    logs: Mapping[int, Path]
    """By shard, the log of outcomes that are durable but not published."""
    book: Book
    changes: tuple[Control, ...]
    """The changes made by `batchrun ctl`."""

    @property
    def alive(self) -> list[SeenWorker]:
        """The workers that may be at work."""
        return [worker for worker in self.workers if worker.state == ALIVE]

    @property
    def pending_shards(self) -> int:
        """Shards that are not complete."""
        done = self.plan.done | {n for n, one in self.published.items() if one.state.complete}
        return len(self.plan.starts) - len(done)

    @property
    def elapsed_s(self) -> float:
        """Seconds from the launch to the last sign of life."""
        latest = (worker.renewed_s for worker in self.workers)
        return max(self.launch.begun_s, *latest) - self.launch.begun_s


def launches_in(directory: str, checkpoint: Path | None, store: StoreReader) -> Launches | None:
    """The launches of a run directory; None if all are folded. Without a ``checkpoint``, workers
    that use it on this machine cannot be told from others. Raises ``UsageError`` for a store that
    cannot be shared.
    """
    local = local_path(directory)
    if local is not None:
        return DiskLaunches(Path(local))
    note = read_json(store, f"{FLEET}/{LAUNCH}")
    if not isinstance(note, dict) or note.get("state") in (None, FOLDED):
        return None
    from batchrun.rundir.fleet.in_bucket import BucketLaunches

    return BucketLaunches(directory, checkpoint or Path(tempfile.gettempdir()))


def _unfolded_in(
    directory: str, checkpoint: Path | None, store: StoreReader
) -> tuple[Launches, Launch] | None:
    """The same with the launch that is not folded; None if there is none."""
    found = launches_in(directory, checkpoint, store)
    launch = None if found is None else found.unfolded()
    return None if found is None or launch is None else (found, launch)


def lives(found: Launches) -> bool:
    """Whether a process of a fleet may be at work on a run directory."""
    launch = found.current()
    return launch is not None and bool(alive(launch))


def alive(launch: Launch) -> list[str]:
    """The workers of a launch that may be at work, by name."""
    try:
        found = read_leases(_store(launch))
    except StorageError:
        return []
    return [lease.worker for lease in found if _state(launch, lease) == ALIVE]


def require_ended(directory: str, checkpoint: Path | None, store: StoreReader) -> None:
    """Raise ``RunLockedError`` if several processes work on a run directory, naming them, or ended
    before their results were put together.
    """
    unfolded = _unfolded_in(directory, checkpoint, store)
    if unfolded is None:
        return
    found, launch = unfolded
    where = shell_word(format_address(directory))
    names = alive(launch)
    if not names:
        message = (
            f"the processes that worked on {found.shown} ended before their results were put "
            "together: run the same `batchrun run` command again first"
        )
        raise RunLockedError(message, holder="")
    shown = ", ".join(names[:NAMES_MAX]) + (", ..." if len(names) > NAMES_MAX else "")
    message = (
        f"{found.shown} is in use by {counted(len(names), 'process', 'processes')} that share the "
        f"run ({shown}). Wait for them (batchrun status {where}), or stop them: "
        f"batchrun ctl {where} drain"
    )
    raise RunLockedError(message, holder=shown)


def logs(folder: Path) -> dict[int, Path]:
    """By shard, the log of outcomes that are durable but not published; raises as ``seen`` does."""
    fleet = seen(folder)
    return {} if fleet is None else dict(fleet.logs)


def seen(folder: Path) -> SeenFleet | None:
    """The fleet of a run directory; None if there is none, or it is folded. Raises ``UsageError``
    for one of an incompatible version, ``DamagedError``, and ``StorageError``.
    """
    launch = launches.unfolded(folder)
    if launch is None:
        return None
    try:
        return _seen(launch)
    except (StorageError, DamagedError):
        if launches.unfolded(folder) != launch:  # it was folded at this moment
            return seen(folder)
        raise


def seen_in_store(
    directory: str, checkpoint: Path | None, store: StoreReader
) -> tuple[SeenFleet, bool] | None:
    """The fleet of a run directory in an object store, without the logs of its workers, which are
    on their disks; and whether a process has the directory to itself. None where there is none.
    """
    unfolded = _unfolded_in(directory, checkpoint, store)
    if unfolded is None:
        return None
    found, launch = unfolded
    from batchrun.rundir.fleet.in_bucket import BucketLaunches

    try:
        with tempfile.TemporaryDirectory() as room:  # nothing is written where the run is
            aside = replace(launch, folder=Path(room, FLEET, launch.id))
            plan = BucketLaunches(directory, Path(room)).plan(aside)
        return _seen(launch, plan), found.is_locked()
    except (StorageError, DamagedError):
        if found.unfolded() != launch:  # it was folded at this moment
            return None
        raise


def _seen(launch: Launch, plan: Plan | None = None) -> SeenFleet:
    """``plan`` is that of a launch whose workers' files cannot be seen."""
    store, on_disk = _store(launch), plan is None
    plan = plan or launches.read_plan(launch)
    claims: dict[int, Claim] = {}
    published: dict[int, Published] = {}
    publishers: dict[int, str] = {}
    # Claims are read before logs: if a shard is published meanwhile, its log is gone, and there is
    # a part.
    try:
        for claim in read_claims(store):
            if claim.published is None:
                claims[claim.shard] = claim
            else:
                published[claim.shard] = published_json.from_json(claim.published)
                publishers[claim.shard] = claim.worker
        book = quota.latest(store)
        changes = tuple(controls.read_after(store, 0))
    except ValueError as error:
        raise DamagedError(str(error), path=str(launch.folder)) from None
    return SeenFleet(
        launch=launch,
        plan=plan,
        workers=tuple(_worker(launch, lease) for lease in read_leases(store)),
        published=published,
        publishers=publishers,
        claims=claims,
        logs=_logs(launch, plan, store, claims) if on_disk else {},
        book=book,
        changes=changes,
    )


def _store(launch: Launch) -> ClaimStore:
    return launch.records("look")


def _logs(
    launch: Launch, plan: Plan, store: ClaimStore, claims: Mapping[int, Claim]
) -> dict[int, Path]:
    """By shard, the latest log: from the worker that holds the shard, or from an earlier holder if
    it has not taken over that log yet.
    """
    found = {}
    for shard, claim in claims.items():
        begun = plan.begun.get(shard)
        name = log_name(shard, 1 if begun is None else begun.state.generation + 1)
        own = launch.file_of(claim.worker, name)
        earlier = (launch.file_of(worker, name) for worker in before(store, claim))
        path = own if own.exists() else next((p for p in earlier if p.exists()), None)
        if path is not None:
            found[shard] = path
    return found


def _worker(launch: Launch, lease: Lease) -> SeenWorker:
    checkpoint = launch.folder / WORKERS / lease.worker
    status = files.read_json(checkpoint / STATUS)
    status = status if isinstance(status, dict) else lease.status or {}
    pid, host = _noted(checkpoint / NAME)
    return SeenWorker(
        lease.worker,
        _state(launch, lease),
        max(0.0, time.time() - lease.renewed_s),
        status.get("host", host),
        status.get("pid", pid),
        status,
        lease.renewed_s,
    )


def _state(launch: Launch, lease: Lease) -> str:
    if lease.ended:
        return LEFT
    if lease.machine == launch.machine and not is_locked(launch.folder / WORKERS / lease.worker):
        return DEAD
    age_s = abs(time.time() - lease.renewed_s)
    return ALIVE if age_s <= leases.LEASE_S else DEAD


def _noted(note: Path) -> tuple[int | None, str | None]:
    """The process id and machine in a worker's lock (``rundir/lock.py``)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = note.read_text(errors="replace").partition(",")[0].split()
        return int(words[1]), words[3]
    return None, None
