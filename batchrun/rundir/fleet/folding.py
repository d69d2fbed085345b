"""Folding a fleet: what its workers published and recorded becomes the run's own checkpoint.

It happens under the run directory's lock, by whoever takes that next, and may be interrupted at any
moment: every step can be done again. Afterwards the directory is what one process would have left.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage import files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import Store
from batchrun.core.cost.projection import RowCosts
from batchrun.core.fleet.claimant import read_claims
from batchrun.core.fleet.claims import Claim
from batchrun.core.text.wording import counted
from batchrun.errors import DamagedError, RunLockedError, StorageError
from batchrun.rundir.claim import SharedDirectory
from batchrun.rundir.compare import recorded_carry
from batchrun.rundir.fleet.claimed_shards import before, take_flights, take_log
from batchrun.rundir.fleet.launches import CLOCK, DiskLaunches, Launch, Launches, Plan
from batchrun.rundir.fleet.workers import living
from batchrun.rundir.lock import Held

_MARKED_AT_ONCE = 1000
_WALL = "wall_s"
_FOLDED = "folded"
"""The key of the state file for the launch whose figures were added last."""


def settle(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
    """Fold the fleet of a locked run directory, if there is one that is not folded.

    Raises ``RunLockedError`` while a process of it lives and has rows left, ``DamagedError``, or
    ``StorageError``.
    """
    _settle(DiskLaunches(folder), DiskStore(folder), checkpoint, say, str(folder))


def take_shared(shared: SharedDirectory) -> Held:
    """Take a run directory in an object store for this process, and fold its fleet; see
    ``claim.TakeShared``, and ``settle`` for what is raised.
    """
    from batchrun.rundir.fleet.handing_on import SharedLock
    from batchrun.rundir.fleet.in_bucket import BucketLaunches

    lock = SharedLock(shared)
    lock.acquire()
    try:
        found = BucketLaunches(shared.address, shared.checkpoint, lock)
        if found.unfolded() is None:
            found.clear()
        else:
            shared.store.prepare()
            shown = shared.store.where()
            _settle(found, shared.store, shared.checkpoint, shared.say, shown)
    except BaseException:
        lock.give_back()
        raise
    return lock


def _settle(
    launches: Launches, store: Store, checkpoint: Path, say: Callable[[str], None], shown: str
) -> None:
    found = launches.unfolded()
    if found is None:
        return
    launch, plan = found, launches.plan(found)

    def refuse() -> None:
        _refuse_living(found, plan, shown)

    if launches.current() is not None:
        refuse()
    try:
        # From here on nobody can claim or commit: what there is now is all there will be.
        launch = launches.end(launch, refuse)
        published = _fold(launches, launch, plan, store, checkpoint)
    except OSError as error:
        message = f"cannot put together what the processes in {launch.folder} left: {error}"
        raise StorageError(message) from error
    left = len(plan.starts) - len(plan.done) - published
    if left:
        say(f"the processes that worked here ended with {counted(left, 'shard')} not complete")


def _latest(launch: Launch) -> list[Claim]:
    """The latest record of every shard. Raises ``DamagedError`` naming one that is none."""
    try:
        return list(read_claims(launch.records(_owner())))
    except ValueError as error:
        raise DamagedError(str(error), path=str(launch.folder)) from None


def _owner() -> str:
    return f"fold-{secrets.token_hex(4)}"


def _refuse_living(launch: Launch, plan: Plan, shown: str) -> None:
    """Raises ``RunLockedError`` while somebody lives and has rows left."""
    published = sum(claim.published is not None for claim in _latest(launch))
    if published + len(plan.done) == len(plan.starts):
        return
    at_work = living(launch, launch.records(_owner()))
    if at_work:
        names = ", ".join(sorted(lease.worker for lease in at_work)[:3])
        message = (
            f"{shown} is in use by {counted(len(at_work), 'process', 'processes')} that work on "
            f"it together ({names}). Wait for them, or stop them"
        )
        raise RunLockedError(message, holder=names)


def _fold(
    launches: Launches, launch: Launch, plan: Plan, run_store: Store, checkpoint: Path
) -> int:
    """Take in a launch that has ended; returns how many shards it published."""
    store = launch.records(_owner())
    latest = launches.close(launch, _latest(launch))
    now_s = store.put(CLOCK, b"")
    journal = Journal(checkpoint, launch.shard_rows)
    try:
        if journal.states.get("settings") is None:  # the state file was lost; the launch has a copy
            journal.states.put(**plan.values)
        counting = [claim for claim in latest if claim.published is not None]
        found = [published_json.from_json(claim.published or {}) for claim in counting]
        records = launches.take_in(launch, counting, found)
        for start in range(0, len(records), _MARKED_AT_ONCE):
            journal.states.mark(records[start : start + _MARKED_AT_ONCE])
        for record in records:
            journal.adopt(record.state)
        files.reached("fleet.recorded", checkpoint)
        parts = Parts(run_store, journal, recorded_carry(journal).schema)
        for claim in latest:
            if claim.published is None:
                workers = [claim.worker, *before(store, claim)]
                take_log(launch, journal, claim.shard, workers)
                endpoints = _endpoints(launch, workers)
                take_flights(launch, journal, parts, claim.shard, workers, endpoints)
        _take_figures(launch, journal, now_s)
        files.sync_folder(checkpoint)
    finally:
        journal.close()
    launches.finish(launch)
    return len(records)


def _endpoints(launch: Launch, workers: Sequence[str]) -> list[str]:
    """The names by which the flight logs of these workers number endpoints."""
    found = (launch.figures_of(worker).get("endpoints") for worker in workers)
    return next((names for names in found if names), ["unknown"])


def _take_figures(launch: Launch, journal: Journal, now_s: float) -> None:
    """Add up what each worker learned: what rows cost, and an example of each error class. Once:
    an earlier try may have come this far.
    """
    if journal.states.get(_FOLDED) == launch.id:
        return
    costs = RowCosts.of(journal.states.get("row_costs"))
    examples: dict[str, Any] = dict(journal.states.get("examples") or {})
    for worker in launch.workers():
        known = launch.figures_of(worker)
        costs.merge(RowCosts.of(known.get("row_costs")))
        for name, (row, said) in (known.get("examples") or {}).items():
            if name not in examples or row < examples[name][0]:
                examples[name] = [row, said]
    before_s = journal.states.get(_WALL) or 0.0
    journal.states.put(
        row_costs=costs.recorded(),
        examples=examples or None,
        **{_WALL: before_s + max(0.0, now_s - launch.begun_s), _FOLDED: launch.id},
    )
