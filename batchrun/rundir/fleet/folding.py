"""Folding a fleet: what its workers published and recorded becomes the run's own checkpoint.

The next process that takes the run directory's lock does it. It may be interrupted at any moment:
every step can be repeated. Afterwards the directory is as a single process would have left it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.adapters.environment import series_file
from batchrun.adapters.environment.series_file import SeriesFile
from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage import files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import Store
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
from batchrun.rundir.budget_account import BudgetAccount, ledger_sums
from batchrun.rundir.claim import SharedDirectory
from batchrun.rundir.compare import RESENDING, recorded_carry
from batchrun.rundir.fleet.claimed_shards import before, take_flights, take_log
from batchrun.rundir.fleet.launches import (
    CLOCK,
    OPERATIONS,
    TOLD,
    DiskLaunches,
    Launch,
    Launches,
    Plan,
    naming_records,
)
from batchrun.rundir.fleet.workers import living
from batchrun.rundir.open_run import NOTICES, STATUS
from batchrun.rundir.spent import spent

if TYPE_CHECKING:  # loaded only for directories in a store
    from batchrun.rundir.fleet.handing_on import SharedLock

_MARKED_AT_ONCE = 1000
LEAVING_S = 5.0
"""A process that has published its last shard leaves within this time, if it can."""
_WALL = "wall_s"
_FOLDED = "folded"
"""The key in the state file for the launch with the latest figures added."""


def settle(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
    """Fold the fleet of a locked run directory, if there is one that is not folded.

    Raises ``RunLockedError`` while one of its processes is alive and has rows left,
    ``DamagedError``, or ``StorageError``.
    """
    _settle(DiskLaunches(folder), DiskStore(folder), checkpoint, say, str(folder))


def take_shared(shared: SharedDirectory) -> SharedLock:
    """Take a run directory in an object store for this process, and fold its fleet; see
    ``claim.TakeShared``, and ``settle`` for the errors.
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
        # From here on no process can claim or commit: the records are final.
        launch = launches.end(launch, refuse)
        published = _fold(launches, launch, plan, store, checkpoint)
    except OSError as error:
        message = f"cannot put together the results of the processes in {launch.folder}: {error}"
        raise StorageError(message) from error
    left = len(plan.starts) - len(plan.done) - published
    if left:
        say(f"the processes that worked here left {counted(left, 'shard')} unfinished")


def _latest(launch: Launch) -> list[Claim]:
    """The latest record of every shard. Raises ``DamagedError`` naming an invalid one."""
    with naming_records(launch):
        return list(read_claims(launch.records(_owner())))


def _owner() -> str:
    return f"fold-{secrets.token_hex(4)}"


def _refuse_living(launch: Launch, plan: Plan, shown: str) -> None:
    """Raises ``RunLockedError`` while a process is alive and has rows left. The one that published
    the last rows gets a moment to record what it learned.
    """
    published = sum(claim.published is not None for claim in _latest(launch))
    records = launch.records(_owner())
    if published + len(plan.done) == len(plan.starts):
        until_s = time.monotonic() + LEAVING_S
        while living(launch, records) and time.monotonic() < until_s:
            time.sleep(LEAVING_S / 20)
        return
    at_work = living(launch, records)
    if at_work:
        names = ", ".join(sorted(lease.worker for lease in at_work)[:3])
        message = (
            f"{shown} is in use by {counted(len(at_work), 'process', 'processes')} that share "
            f"the run ({names}). Wait for them, or stop them"
        )
        raise RunLockedError(message, holder=names)


def _fold(
    launches: Launches, launch: Launch, plan: Plan, run_store: Store, checkpoint: Path
) -> int:
    """Fold a launch that has ended; returns how many shards it published."""
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
        _take_figures(launch, journal, now_s, sent=bool(latest))
        _take_charges(launch, store, plan, journal)
        _note_operation(launch, plan, journal, {record.state.shard for record in records})
        files.sync_folder(checkpoint)
    finally:
        journal.close()
    launches.finish(launch)
    return len(records)


def _endpoints(launch: Launch, workers: Sequence[str]) -> list[str]:
    """The names by which the flight logs of these workers number endpoints."""
    found = (launch.figures_of(worker).get("endpoints") for worker in workers)
    return next((names for names in found if names), ["unknown"])


def _take_figures(launch: Launch, journal: Journal, now_s: float, *, sent: bool) -> None:
    """Merge what each worker recorded: the cost of rows, an example of each error class, notices,
    and the changes by ``batchrun ctl``. It is done once per launch, since an earlier attempt may
    have come this far. A launch that had nothing to send keeps the notices of the previous one.
    """
    if journal.states.get(_FOLDED) == launch.id:
        return
    costs = RowCosts.of(journal.states.get("row_costs"))
    examples: dict[str, Any] = dict(journal.states.get("examples") or {})
    for worker in launch.workers():
        known = launch.figures_of(worker)
        costs.merge(RowCosts.of(known.get("row_costs")))
        _add_examples(examples, known.get("examples"))
    before_s = journal.states.get(_WALL) or 0.0
    changes = controls.read_after(launch.records(_owner()), 0)
    history = [*(journal.states.get("controls") or ()), *(each.as_history() for each in changes)]
    journal.states.put(
        controls=history[-KEPT_MAX:] or None,
        **({NOTICES: merged(told_by(launch)) or None} if sent else {}),
        row_costs=costs.recorded(),
        examples=examples or None,
        **{_WALL: before_s + max(0.0, now_s - launch.begun_s), _FOLDED: launch.id},
    )
    # After what must not be done twice: without its series, a run only lacks plots.
    series = SeriesFile(journal.folder / series_file.NAME)
    series.take_in([launch.file_of(name, series_file.NAME) for name in launch.workers()])


def _take_charges(launch: Launch, store: ClaimStore, plan: Plan, journal: Journal) -> None:
    """Enter the charge to the budgets: what processes that left have spent, and the most that those
    that died may have spent.
    """
    if not plan.caps:
        return
    latest = max(map(quota.number_of, store.names(quota.FOLDER)), default=0)
    content = store.read(quota.record_name(latest)) if latest else None
    with naming_records(launch):
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
    """Note that the operation of a launch is done, if no row is left to send again."""
    if not plan.again.issubset(published):
        return
    if plan.changes.resend_changed:
        journal.states.put(**{RESENDING: None})
    if launch.operation is not None:
        places = {int(worker.partition("-")[0]) for worker in launch.workers()}
        done = done_of(journal.states.get(OPERATIONS))
        anew = plan.changes != Changes()
        noted = with_done(done, launch.operation, places, anew=anew)
        journal.states.put(**{OPERATIONS: noted})


def _add_examples(examples: dict[str, Any], more: Mapping[str, Any] | None) -> None:
    """Add examples of error classes, keeping for each class the one of the first row."""
    for name, (row, said) in (more or {}).items():
        if name not in examples or row < examples[name][0]:
            examples[name] = [row, said]


def remember(journal: Journal, examples: Mapping[str, Any] | None, notices: Sequence[str]) -> None:
    """Keep the notices of a worker's pass for the summary of the run, and the ``examples`` of
    failures from before it.
    """
    before = journal.states.get(TOLD) or []
    told = all_told(before, notices)
    if told != before:
        journal.states.put(**{TOLD: told})
    now = journal.states.get("examples") or {}
    kept = dict(now)
    _add_examples(kept, examples)
    if kept != now:
        journal.states.put(examples=kept)


def told_by(launch: Launch) -> dict[str, list[str]]:
    """The notices of each worker, by its name: from earlier passes, and from the one it is in or
    was killed in.
    """
    found = {}
    for worker in launch.workers():
        earlier = launch.figures_of(worker).get(TOLD) or []
        status = files.read_json(launch.file_of(worker, STATUS))
        now = status.get("notices") if isinstance(status, dict) else None
        found[worker] = all_told(earlier, map(str, now or ()))
    return found
