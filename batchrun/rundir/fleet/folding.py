"""Folding a fleet: what its workers published and recorded becomes the run's own checkpoint.

It happens under the run directory's lock, by whoever takes that next, and may be interrupted at any
moment: every step can be done again. Afterwards the directory is what one process would have left.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage import files
from batchrun.adapters.storage.claims_on_disk import DiskClaims
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.staged_store import drop_staged, reveal
from batchrun.core.cost.projection import RowCosts
from batchrun.core.fleet import controls, quota
from batchrun.core.fleet.accounts import Accounts
from batchrun.core.fleet.claimant import read_claims
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.notices import all_told, merged
from batchrun.core.fleet.operations import done_of, with_done
from batchrun.core.fleet.quota import Book
from batchrun.core.run.changes import Changes
from batchrun.core.text.wording import counted
from batchrun.engine.controls import KEPT_MAX
from batchrun.errors import RunLockedError, StorageError
from batchrun.ports import ClaimStore
from batchrun.rundir import state_reader
from batchrun.rundir.budget_account import BudgetAccount, ledger_sums
from batchrun.rundir.compare import RESENDING, recorded_carry
from batchrun.rundir.fleet import launches
from batchrun.rundir.fleet.claimed_shards import before, take_flights, take_log
from batchrun.rundir.fleet.launches import CLOCK, FOLDED, OPERATIONS, WORKERS, Launch, Plan
from batchrun.rundir.fleet.workers import living
from batchrun.rundir.open_run import NOTICES, STATUS
from batchrun.rundir.spent import spent

_MARKED_AT_ONCE = 1000
_TOLD = "notices"
"""The key of a worker's state file for what its earlier passes told."""
_WALL = "wall_s"
_FOLDED = "folded"
"""The key of the state file for the launch whose figures were added last."""


def settle(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
    """Fold the fleet of a locked run directory, if there is one that is not folded.

    Raises ``RunLockedError`` while a process of it lives and has rows left, ``DamagedError``, or
    ``StorageError``.
    """
    launch = launches.unfolded(folder)
    if launch is None:
        return
    plan = launches.read_plan(launch)
    if launches.current(folder) is not None:
        _refuse_living(launch, plan, folder)
    try:
        # From here on nobody can claim or commit: what there is now is all there will be.
        launch = launches.end(launch)
        published = _fold(launch, plan, folder, checkpoint)
    except OSError as error:
        message = f"cannot put together the results of the processes in {launch.folder}: {error}"
        raise StorageError(message) from error
    left = len(plan.starts) - len(plan.done) - published
    if left:
        say(f"the processes that worked here left {counted(left, 'shard')} unfinished")


def _latest(launch: Launch) -> list[Claim]:
    """The latest record of every shard. Raises ``DamagedError`` naming one that is none."""
    with launches.naming_records(launch):
        return list(read_claims(DiskClaims(launch.folder, _owner())))


def _owner() -> str:
    return f"fold-{secrets.token_hex(4)}"


def _refuse_living(launch: Launch, plan: Plan, folder: Path) -> None:
    """Raises ``RunLockedError`` while somebody lives and has rows left."""
    published = sum(claim.published is not None for claim in _latest(launch))
    if published + len(plan.done) == len(plan.starts):
        return
    at_work = living(launch, DiskClaims(launch.folder, _owner()))
    if at_work:
        names = ", ".join(sorted(lease.worker for lease in at_work)[:3])
        message = (
            f"{folder} is in use by {counted(len(at_work), 'process', 'processes')} that share "
            f"the run ({names}). Wait for them, or stop them"
        )
        raise RunLockedError(message, holder=names)


def _fold(launch: Launch, plan: Plan, folder: Path, checkpoint: Path) -> int:
    """Take in a launch that was moved away; returns how many shards it published."""
    store, latest = DiskClaims(launch.folder, _owner()), _latest(launch)
    now_s = store.put(CLOCK, b"")
    journal = Journal(checkpoint, launch.shard_rows)
    try:
        if journal.states.get("settings") is None:  # the state file was lost; the launch has a copy
            journal.states.put(**plan.values)
        records, open_claims = [], []
        for claim in latest:
            if claim.published is None:
                open_claims.append(claim)
                continue
            # They were staged in the epoch of the claim, the one before.
            reveal(folder, claim.shard, claim.epoch - 1, claim.worker)
            records.append(published_json.from_json(claim.published))
        for start in range(0, len(records), _MARKED_AT_ONCE):
            journal.states.mark(records[start : start + _MARKED_AT_ONCE])
        for record in records:
            journal.adopt(record.state)
        files.reached("fleet.recorded", folder)
        parts = Parts(DiskStore(folder), journal, recorded_carry(journal).schema)
        for claim in open_claims:
            workers = [claim.worker, *before(store, claim)]
            endpoints = _endpoints(launch, claim.worker)
            take_log(launch, journal, claim.shard, workers)
            take_flights(launch, journal, parts, claim.shard, workers, endpoints)
        _take_figures(launch, journal, now_s, sent=bool(latest))
        _take_charges(launch, store, plan, journal)
        _note_operation(launch, plan, journal, {record.state.shard for record in records})
        files.sync_folder(checkpoint)
    finally:
        journal.close()
    drop_staged(folder)
    launches.announce(launch, FOLDED)
    files.reached("fleet.folded", folder)
    shutil.rmtree(launch.folder, ignore_errors=True)
    return len(records)


def _endpoints(launch: Launch, worker: str) -> list[str]:
    found = state_reader.values(launch.folder / WORKERS / worker, "endpoints").get("endpoints")
    return found or ["unknown"]


def _take_figures(launch: Launch, journal: Journal, now_s: float, *, sent: bool) -> None:
    """Add up what each worker learned and told: what rows cost, an example of each error class,
    notices; and what was asked of them. Once: an earlier try may have come this far. A launch that
    found nothing to send leaves the notices of the one before.
    """
    if journal.states.get(_FOLDED) == launch.id:
        return
    costs = RowCosts.of(journal.states.get("row_costs"))
    examples: dict[str, Any] = dict(journal.states.get("examples") or {})
    for worker in sorted((launch.folder / WORKERS).iterdir()):
        known = state_reader.values(worker, "row_costs", "examples")
        costs.merge(RowCosts.of(known.get("row_costs")))
        for name, (row, said) in (known.get("examples") or {}).items():
            if name not in examples or row < examples[name][0]:
                examples[name] = [row, said]
    before_s = journal.states.get(_WALL) or 0.0
    changes = controls.read_after(DiskClaims(launch.folder, _owner()), 0)
    history = [*(journal.states.get("controls") or ()), *(each.as_history() for each in changes)]
    journal.states.put(
        controls=history[-KEPT_MAX:] or None,
        **({NOTICES: merged(told_by(launch)) or None} if sent else {}),
        row_costs=costs.recorded(),
        examples=examples or None,
        **{_WALL: before_s + max(0.0, now_s - launch.begun_s), _FOLDED: launch.id},
    )


def _take_charges(launch: Launch, store: ClaimStore, plan: Plan, journal: Journal) -> None:
    """Enter what is charged to the budgets: what processes that left have spent, and of those that
    died all that they may have.
    """
    if not plan.caps:
        return
    latest = max(map(quota.number_of, store.names(quota.FOLDER)), default=0)
    content = store.read(quota.record_name(latest)) if latest else None
    with launches.naming_records(launch):
        book = Book() if content is None else quota.parse(content, quota.record_name(latest))
    ledger = ledger_sums(spent(journal))
    for name, charged in plan.charged.items():
        accounts = book.accounts.get(name) or Accounts(charged)
        charge = accounts.total
        if name == "cost":
            charge = charge._replace(spent=charge.spent - plan.judged_pd)
        BudgetAccount(journal.states, name).close(charge, ledger)


def _note_operation(
    launch: Launch, plan: Plan, journal: Journal, published: Collection[int]
) -> None:
    """Note that the operation of a launch is done, if no row is left that it was to send again."""
    if not plan.again.issubset(published):
        return
    if plan.changes.resend_changed:
        journal.states.put(**{RESENDING: None})
    if launch.operation is not None:
        workers = (launch.folder / WORKERS).iterdir()
        places = {int(worker.name.partition("-")[0]) for worker in workers}
        done = done_of(journal.states.get(OPERATIONS))
        anew = plan.changes != Changes()
        noted = with_done(done, launch.operation, places, anew=anew)
        journal.states.put(**{OPERATIONS: noted})


def remember_notices(journal: Journal, notices: Sequence[str]) -> None:
    """Keep what a pass of a worker told its user, for the summary of the whole."""
    before = journal.states.get(_TOLD) or []
    told = all_told(before, notices)
    if told != before:
        journal.states.put(**{_TOLD: told})


def told_by(launch: Launch) -> dict[str, list[str]]:
    """What each worker told its user, by its name: in earlier passes, and in the one it is in or
    was killed in.
    """
    found = {}
    for worker in sorted((launch.folder / WORKERS).iterdir()):
        earlier = state_reader.values(worker, _TOLD).get(_TOLD) or []
        status = files.read_json(worker / STATUS)
        now = status.get("notices") if isinstance(status, dict) else None
        found[worker.name] = all_told(earlier, map(str, now or ()))
    return found
