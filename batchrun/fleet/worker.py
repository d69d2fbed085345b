"""``batchrun run --shard I/N``: one of several processes that do one run together.

The first process launches the fleet, each works on shards that it claims, and the process that
takes the run directory's lock at the end folds the fleet and writes the summary (docs/adr/0055).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from batchrun import assemble
from batchrun.adapters.environment.clock import LoopClock, real_s
from batchrun.adapters.environment.signals import SignalledError
from batchrun.adapters.parts.sealer import publish
from batchrun.adapters.sources.files import pipes
from batchrun.core.fleet import controls, leases
from batchrun.core.fleet.board import Place
from batchrun.core.fleet.controls import Control
from batchrun.core.fleet.operations import Operation, done_of, is_done, operation_of
from batchrun.core.fleet.quota import limits_of
from batchrun.core.fleet.shares import begun_by
from batchrun.core.request import body
from batchrun.core.run.changes import Changes
from batchrun.core.settings.addresses import is_remote, local_path
from batchrun.core.settings.resolve import Settings
from batchrun.core.text.wording import counted, verb
from batchrun.engine.controls import Controls, drained
from batchrun.engine.lane import Lane
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.row_order import Lengths
from batchrun.engine.session.guards import Stop
from batchrun.engine.session.spending import Spending
from batchrun.errors import DamagedError, RunLockedError, StorageError, UsageError
from batchrun.fleet.committing import CommittingSealer
from batchrun.fleet.sharing import Sharing
from batchrun.machinery import REAL, Machinery
from batchrun.ports import Answers, Observer
from batchrun.rundir import resend, state_reader
from batchrun.rundir.claim import SharedDirectory
from batchrun.rundir.fleet import folding
from batchrun.rundir.fleet.claimed_shards import ClaimedShards
from batchrun.rundir.fleet.folding import remember
from batchrun.rundir.fleet.joining import WorkerDirectory, commit, join
from batchrun.rundir.fleet.launches import (
    FIGURES,
    LIVE,
    OPERATIONS,
    DiskLaunches,
    Launch,
    Launches,
    Purpose,
    naming_records,
)
from batchrun.rundir.fleet.workers import Worker, living
from batchrun.rundir.lock import Held
from batchrun.session import Result, Session

if TYPE_CHECKING:  # loaded only by runs with judges
    from batchrun.rundir.judges.prepare import JudgeRun

_LOG = logging.getLogger("batchrun.run")
POLL_S, POLL_GROWTH = 0.5, 1.5
"""Pauses between two checks of the run directory, while others hold its lock or the last shards:
each is longer than the one before, up to the time between two renewals of a lease.
"""
LOCKED_S = 60.0
"""A directory is in use if its lock is held for longer than this by a process that neither launches
nor folds a fleet.
"""
NOTHING_LEFT = Stop("no_wait", "nothing left to claim", exit_code=0)
"""The status of a process that does not wait for the others (``--no-wait``)."""


def run(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    place: Place,
    changes: Changes = Changes(),  # noqa: B008 - frozen
    judges: Sequence[JudgeRun] = (),
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = lambda _: None,
    started_s: float | None = None,
    machinery: Machinery = REAL,
    waits: bool = True,
) -> Result:
    """Work as process ``place`` of a fleet until the whole run is done, or this process is stopped.
    One that does not wait ends once there is nothing left to claim.

    Returns how the run ended; for a process that was stopped while others continue, or did not wait
    for them, how far it came (without a summary if it had nothing to do). Raises as
    ``assemble.run`` does, and ``StorageError`` if this process was thought dead.
    """
    require(settings, changes)
    started_s = machinery.monotonic_s() if started_s is None else started_s
    operation = operation_of(changes, environment)
    process = _Process(
        settings,
        environment,
        place,
        operation,
        judges,
        observers,
        say,
        started_s,
        machinery,
        waits=waits,
    )
    return process.run()


def require(settings: Settings, changes: Changes) -> None:
    """Raise ``UsageError`` for settings that several processes cannot share."""
    pipe = next((path for path in settings.files if pipes.passes(path)), None)
    default = str(PurePath(settings.dir, "checkpoint"))
    refused = (
        (settings.checkpoint != default and not is_remote(settings.dir), "--checkpoint"),
        (pipe is not None, f"{pipe} as input, which can be read only once: write it to a file"),
        (
            changes.repair and is_remote(settings.dir),
            "--repair where the run directory is in an object store: repair it with one process",
        ),
    )
    for is_so, what in refused:
        if is_so:
            message = f"--workers and --shard do not work with {what}"
            raise UsageError(message)
    if is_remote(settings.dir):
        from batchrun.adapters.storage.bucket import bucket_at

        bucket_at(settings.dir)


def launches_of(settings: Settings) -> Launches:
    """The launches of the run directory of these settings. Raises ``UsageError`` for a store that
    cannot be shared.
    """
    local = local_path(settings.dir)
    if local is not None:
        return DiskLaunches(Path(local))
    from batchrun.rundir.fleet.in_bucket import BucketLaunches

    return BucketLaunches(settings.dir, Path(settings.checkpoint))


class _AlreadyDoneError(Exception):
    """The operation that this process was started for is already done."""


class _Pauses:
    """Pauses that get longer, so that many waiting processes put no load on the disk."""

    def __init__(self) -> None:
        self._next_s = POLL_S

    def sleep(self) -> None:
        """Pause."""
        time.sleep(self._next_s)
        self._next_s = min(self._next_s * POLL_GROWTH, max(POLL_S, leases.BEAT_S))


def _changes(worker: Worker, seen: int) -> list[Control]:
    """The changes requested of the fleet since. Raises ``DamagedError`` for an invalid record."""
    try:
        return controls.read_after(worker.store, seen)
    except ValueError as error:
        raise DamagedError(str(error), path=str(worker.launch.folder)) from None


class _Process:
    """One process of a fleet, from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        place: Place,
        operation: Operation | None,
        judges: Sequence[JudgeRun],
        observers: Sequence[Observer],
        say: Callable[[str], None],
        started_s: float,
        machinery: Machinery,
        *,
        waits: bool,
    ) -> None:
        self._operation = operation
        self._judges = judges
        self._took_part = False
        """Whether this process has been part of a fleet, or has tried to join one."""
        self._resends = False
        """Whether the fleet sends rows again because their request changed."""
        self._waits = waits
        self._latest: Result | None = None
        """How far this process came when it last sent something."""
        self._settings = settings
        self._environment = environment
        self._place = place
        self._observers = observers
        self._say = say
        self._started_s = started_s
        self._machinery = machinery
        self._launches = launches_of(settings)
        self._shown = self._launches.shown
        endpoints = tuple(begun_by(endpoint, place) for endpoint in settings.endpoints)
        self._shared = replace(settings, endpoints=endpoints)

    def run(self) -> Result:
        """Join, work, and end with the others."""
        worked = False
        while True:
            worker = self._enlisted()
            if isinstance(worker, Result):
                sent_nothing = worker.sent_nothing and not worked
                return replace(worker, sent_nothing=sent_nothing, elsewhere=worked)
            worked = self._took_part = True
            try:
                with naming_records(worker.launch):
                    stop = self._work(worker)
                whole = worker.claimant.all_published
            except KeyboardInterrupt as error:  # it came while waiting for the others
                worker.leave()
                return self._interrupted(error)
            finally:
                worker.leave()
            if stop is NOTHING_LEFT:
                return self._left_to_others(stop)
            if whole or stop is not None:
                return self._finished(stop)
            # The fleet was folded with rows left, by a process that was stopped and saw no other.

    # The beginning

    def _enlisted(self) -> Worker | Result:
        """This process as a worker, or the result of a run that has nothing left to do."""
        until_s, told, pauses = time.monotonic() + LOCKED_S, False, _Pauses()
        while True:
            launch = self._launches.current()
            if launch is not None and self._may_join(launch):
                worker = self._joined(launch)
                if worker is not None:
                    return worker
                continue
            try:
                return self._launched()
            except RunLockedError:
                unchanged = launch is not None and self._launches.current() == launch
                if unchanged and self._others_work():
                    raise  # on something else
                if self._launches.is_busy():
                    until_s = time.monotonic() + LOCKED_S
                elif time.monotonic() > until_s:
                    raise
                if not told:
                    self._say(f"waiting for the process that is opening {self._shown}")
                    told = True
                pauses.sleep()

    def _may_join(self, launch: Launch) -> bool:
        """Whether a launch is for the operation that this process was started for."""
        mine = self._operation
        if mine is None or mine.id == launch.operation:
            return True
        return is_done(mine, launch.done, self._place.index, took_part=self._took_part)

    def _settle(self, folder: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
        """Fold a fleet that worked here, while this process holds the directory's lock."""
        folding.settle(folder, checkpoint, say)
        self._require_undone(checkpoint)

    def _take_shared(self, shared: SharedDirectory) -> Held:
        """Fold a fleet in an object store, after taking the directory's lock there."""
        lock = folding.take_shared(shared)
        try:
            self._require_undone(shared.checkpoint)
        except BaseException:
            lock.give_back()
            raise
        return lock

    def _require_undone(self, checkpoint: Path) -> None:
        done = done_of(state_reader.values(checkpoint, OPERATIONS).get(OPERATIONS))
        mine, place = self._operation, self._place.index
        if mine is not None and is_done(mine, done, place, took_part=self._took_part):
            raise _AlreadyDoneError

    def _joined(self, launch: Launch) -> Worker | None:
        """This process as a worker of a launch; None if it was folded meanwhile."""
        # Folding may already count it as one that took part: then it must not do everything again.
        self._took_part = True
        try:
            worker = Worker(launch, self._launches.plan(launch), self._place)
        except StorageError:
            if self._launches.current() == launch:
                raise
            return None
        self._resends = worker.plan.changes.resend_changed
        _LOG.info("joined the processes working on %s, as %s", self._shown, worker.name)
        self._say(f"joined the processes working on {self._shown}")
        return worker

    def _launched(self) -> Worker | Result:
        """Open the run directory as any run does, and launch a fleet on it, unless another process
        of the same start has done so before.
        """
        self._launches.prepare()
        operation = self._operation
        if operation is not None:
            try:
                return self._launched_with(operation.changes, unless_done=True)
            except _AlreadyDoneError:
                if not self._took_part:
                    self._say(
                        "another process has already done what this command asks for; this one "
                        "helps with the rest"
                    )
        return self._launched_with(Changes(), unless_done=False)

    def _launched_with(self, changes: Changes, *, unless_done: bool) -> Worker | Result:
        with self._opened(changes, unless_done=unless_done) as session:
            if isinstance(session, Result):
                return session
            opened = session.directory
            over = opened.is_finished or (opened.is_complete and not opened.touched)
            if not over or changes != Changes():
                return self._launched_on(session, changes)
        # A fleet did everything and was folded, but the summary was not written since.
        return self._summed_up(None)

    def _launched_on(self, session: Session, changes: Changes) -> Worker:
        opened = session.directory
        opened.forget_examples()
        journal = opened.journal
        for shard in sorted(journal.touched()):
            publish(opened.parts, journal, journal.next_state(shard, complete=False))
        operation = None if self._operation is None else self._operation.id
        purpose = Purpose(changes, operation, session.judged_pd())
        launch = self._launches.begin(opened, self._settings, purpose)
        self._resends = changes.resend_changed
        worker = Worker(launch, self._launches.plan(launch), self._place)
        # Only now, so that the launch always has a live process.
        self._launches.announce(launch, LIVE)
        _LOG.info("launched a fleet on %s; this process is %s", self._shown, worker.name)
        self._say(f"{self._shown} is ready for {self._place.count:,} processes")
        shards = len(worker.plan.starts) - len(worker.plan.done)
        if shards < self._place.count:
            self._say(
                f"note: {counted(shards, 'shard')} {verb(shards, 'is', 'are')} left to do, and a "
                "shard is done by one process. A run that begins with a smaller --shard-rows has "
                "more of them"
            )
        return worker

    def _preparing(self, lock: Held) -> Callable[[], None]:
        self._launches.opened_by(lock)
        self._launches.begin_launching()
        return self._launches.withdraw

    @contextlib.contextmanager
    def _opened(self, changes: Changes, *, unless_done: bool) -> Iterator[Session | Result]:
        """The run directory opened as for any run. Others see that a launch is being prepared for
        as long as it takes. ``unless_done``: raise ``_AlreadyDoneError`` where it was.
        """
        opening = assemble.open_session(
            self._settings,
            self._environment,
            None,
            changes,
            (),
            self._say,
            self._machinery,
            self._judges,
            settle=self._settle if unless_done else None,
            take_shared=self._take_shared if unless_done else None,
            taken=self._preparing,
        )
        with opening as opened:
            try:
                yield opened
            finally:
                self._launches.withdraw()

    # The work

    def _work(self, worker: Worker) -> Stop | None:
        """Work on claimed shards until all are published; returns what stopped this process."""
        build, parts_of = body.builder(self._shared), self._machinery.parts
        try:
            opened = join(
                worker, self._shown, self._shared, build, parts_of=parts_of, say=self._say
            )
            try:
                opened.parts.prepare()
                return self._passes(worker, opened)
            finally:
                opened.close()
        except (StorageError, OSError) as error:
            if worker.is_superfluous:  # its folder may have been removed while it was opened
                return None
            if worker.is_fenced:
                raise worker.taken_over() from error
            raise

    def _passes(self, worker: Worker, opened: WorkerDirectory) -> Stop | None:
        """Run the engine over the shards that can be claimed, again whenever there are more.
        Returns what stopped it before all shards were published.
        """
        settings = self._shared.recorded_by(worker.plan.values["settings"])
        accesses = self._machinery.accesses(settings.endpoints, self._environment)
        sealer = partial(CommittingSealer, worker)
        machinery = replace(self._machinery, sealer=sealer, sharing=partial(self._sharing, worker))
        spans = opened.spans
        assert isinstance(spans, ClaimedShards)
        pauses, seen = _Pauses(), 0
        while True:
            changes = _changes(worker, seen)
            seen += len(changes)
            if controls.state_after(changes) == "stopping":
                return drained()
            if spans.claim_first():
                pauses = _Pauses()
                examples = opened.journal.states.get("examples")
                with self._answers(opened) as (answers, lengths):
                    session = Session(
                        settings,
                        opened,
                        Changes(),
                        accesses,
                        self._observers,
                        self._say,
                        machinery,
                        answers,
                        lengths,
                    )
                    result = assemble.run_session(session, self._started_s)
                self._latest = result
                remember(opened.journal, examples, result.summary["notices"])
                learned = {key: opened.journal.states.get(key) for key in FIGURES}
                worker.launch.leave_behind(worker.name, (), learned)
                if result.stop is not None:
                    return result.stop
                self._publish_cut(worker, opened)
                ok, opened.errors = resend.count_done(opened.parts, opened.journal)
                opened.done = ok, opened.errors.total()
                opened.wall_s_before = 0.0
            elif worker.claimant.all_published or self._launches.current() is None:
                return None
            elif not self._waits and worker.claimant.others_living:
                return NOTHING_LEFT
            else:
                worker.check()
                pauses.sleep()

    @contextlib.contextmanager
    def _answers(self, opened: WorkerDirectory) -> Iterator[tuple[Answers | None, Lengths | None]]:
        """The answers and lengths from earlier runs, by the indexes of the launching process, or
        its own.
        """
        settings = self._settings
        # Machines that share a store have no disk in common.
        checkpoint = None if is_remote(settings.dir) else Path(settings.checkpoint)
        with contextlib.ExitStack() as stack:
            answers = None
            if settings.reuse:
                from batchrun.rundir.reuse import lookup

                taken = lookup.taken(settings, opened, self._say, checkpoint)
                answers = stack.enter_context(taken)
            lengths = assemble.lengths_of(settings, opened, self._say, checkpoint)
            yield answers, stack.enter_context(lengths)

    def _publish_cut(self, worker: Worker, opened: WorkerDirectory) -> None:
        """Publish the shard that a limit cuts through, if this worker has it: its rows below the
        limit are done, and no more are read.
        """
        last = len(worker.plan.starts) - 1
        if worker.plan.limit is not None and last in worker.claimant.held:
            state = opened.journal.next_state(last, complete=False)
            publish(opened.parts, opened.journal, state, partial(commit, worker))

    def _sharing(
        self,
        worker: Worker,
        lanes: Sequence[Lane],
        clock: LoopClock,
        spending: Spending | None,
        steered: Controls,
        say: Callable[[str], None],
    ) -> AbstractAsyncContextManager[None]:
        """Keeps this process within its share of the limits and budgets, and makes the changes
        requested of all.
        """
        caps = {} if spending is None else {"cost": spending.cost, "tokens": spending.tokens}

        def follow(control: Control) -> None:
            lacking = steered.follow(control.do, control.values)
            if lacking is not None:
                say(f"warning: {lacking}")

        sharing = Sharing(
            store=worker.store,
            worker=worker.name,
            gates={lane.name: lane.gate for lane in lanes if isinstance(lane.gate, EndpointGate)},
            limits=limits_of(self._settings.endpoints),
            clock=clock,
            real_s=real_s,
            budgets={name: budget for name, budget in caps.items() if budget is not None},
            charged=worker.plan.charged,
            follow=follow,
            fence=worker.left_out,
        )
        return sharing.kept()

    # The end

    def _summed_up(self, stop: Stop | None) -> Result:
        """Fold the fleet, unless that was done, and write the summary. Raises ``RunLockedError``
        while others work on the run, or do the same.
        """
        return assemble.run(
            self._settings,
            self._environment,
            # Some rows were not sent again: only the same operation may continue with them.
            changes=Changes(resend_changed=self._resends and stop is not None),
            say=self._say,
            started_s=self._started_s,
            machinery=self._machinery,
            judges=self._judges,
            stop=stop,
        )

    def _others_work(self) -> bool:
        """Whether other processes of the fleet continue. The holder of the lock may only be a
        viewer.
        """
        launch = self._launches.current()
        if launch is None:
            return False
        with contextlib.suppress(StorageError):  # it was folded at this moment
            return bool(living(launch, launch.records(secrets.token_hex(4))))
        return False

    def _interrupted(self, error: KeyboardInterrupt) -> Result:
        """A signal came while this process had nothing to do. The last process to leave folds the
        fleet.
        """
        number = error.number if isinstance(error, SignalledError) else signal.SIGINT
        stop = Stop(number.name, f"stopped by {number.name}", 128 + number)
        while True:
            try:
                return self._summed_up(stop)
            except RunLockedError:
                if self._others_work():
                    raise error from None
                time.sleep(POLL_S)

    def _left_to_others(self, stop: Stop) -> Result:
        """The result of a process that leaves the rest to the others."""
        reached = {} if self._latest is None else self._latest.summary
        return Result(reached, stop, None, 0, sent_nothing=self._latest is None, elsewhere=True)

    def _finished(self, stop: Stop | None) -> Result:
        """How the run ended, folded and summed up by this process or by another one. For a process
        that was stopped while others work on: how far it came itself. One that was drained with
        nothing to do waits for the others, which stop as well.
        """
        pauses, latest = _Pauses(), self._latest
        while True:
            try:
                result = self._summed_up(stop)
            except RunLockedError:
                if latest is not None and latest.stop is not None and self._others_work():
                    return replace(latest, elsewhere=True)
                pauses.sleep()
            else:
                return replace(result, sent_nothing=False, elsewhere=result.sent_nothing)
