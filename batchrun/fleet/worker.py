"""``batchrun run --shard I/N``: one of several processes that do one run together.

The first process launches the fleet, each works on shards that it claims, and whoever takes the
run directory's lock at the end folds it and sums up (docs/adr/0055).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

from batchrun import assemble
from batchrun.adapters.environment.clock import LoopClock, real_s
from batchrun.adapters.environment.signals import SignalledError
from batchrun.adapters.parts.sealer import publish
from batchrun.adapters.sources.files import pipes
from batchrun.assemble import Result, Session
from batchrun.core.fleet import leases
from batchrun.core.fleet.board import Place
from batchrun.core.fleet.quota import limits_of
from batchrun.core.fleet.shares import begun_by
from batchrun.core.request import body
from batchrun.core.run.changes import Changes
from batchrun.core.settings.addresses import format_address, is_remote, local_path
from batchrun.core.settings.resolve import Settings
from batchrun.engine.lane import Lane
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.session.guards import Stop
from batchrun.errors import RunLockedError, StorageError, UsageError
from batchrun.fleet.committing import CommittingSealer
from batchrun.fleet.sharing import Sharing
from batchrun.machinery import REAL, Machinery
from batchrun.ports import Observer
from batchrun.rundir import resend
from batchrun.rundir.fleet.claimed_shards import ClaimedShards
from batchrun.rundir.fleet.joining import WorkerDirectory, join
from batchrun.rundir.fleet.launches import FIGURES, LIVE, DiskLaunches, Launch, Launches
from batchrun.rundir.fleet.workers import Worker, living

_LOG = logging.getLogger("batchrun.run")
POLL_S, POLL_GROWTH = 0.5, 1.5
"""Pauses between two looks at the run directory, while others hold its lock or the last shards:
each is longer than the one before, up to the time between two renewals of a lease.
"""
LOCKED_S = 60.0
"""A directory whose lock is held for longer by somebody who launches no fleet is in use."""


def run(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    place: Place,
    changes: Changes = Changes(),  # noqa: B008 - frozen
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = lambda _: None,
    started_s: float | None = None,
    machinery: Machinery = REAL,
) -> Result:
    """Work as process ``place`` of a fleet until the whole run is done, or this process is stopped.

    Returns how the whole ended; of a process that was stopped while others go on, how far it came.
    Raises as ``assemble.run`` does, and ``StorageError`` where this process was thought dead.
    """
    require(settings, changes)
    started_s = machinery.monotonic_s() if started_s is None else started_s
    process = _Process(settings, environment, place, observers, say, started_s, machinery)
    return process.run()


def require(settings: Settings, changes: Changes) -> None:
    """Raise ``UsageError`` for what several processes cannot do together."""
    pipe = next((path for path in settings.files if pipes.passes(path)), None)
    default = str(PurePath(settings.dir, "checkpoint"))
    refused = (
        (settings.checkpoint != default and not is_remote(settings.dir), "--checkpoint"),
        (pipe is not None, f"{pipe} as input, which can be read only once: write it to a file"),
        (changes != Changes(), "--restart, --retry-*, --keep-done, --resend-changed or --repair"),
        (settings.limit is not None, "--limit"),
        (bool(settings.reuse), "--reuse"),
        (settings.lengths_from is not None, "--lengths-from"),
        (settings.has_budget, "--max-cost or --max-total-tokens"),
        (settings.source is not None, "--from"),
        (settings.repeat > 1, "--repeat"),
        (settings.turns is not None, "--turns"),
        (bool(settings.evaluation.judges), "judges"),
    )
    for is_so, what in refused:
        if is_so:
            message = f"--shard does not work with {what}"
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


class _Pauses:
    """Pauses that get longer, so that many processes which wait are no load for the disk."""

    def __init__(self) -> None:
        self._next_s = POLL_S

    def sleep(self) -> None:
        """Pause."""
        time.sleep(self._next_s)
        self._next_s = min(self._next_s * POLL_GROWTH, max(POLL_S, leases.BEAT_S))


class _Process:
    """One process of a fleet, from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        place: Place,
        observers: Sequence[Observer],
        say: Callable[[str], None],
        started_s: float,
        machinery: Machinery,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._place = place
        self._observers = observers
        self._say = say
        self._started_s = started_s
        self._machinery = machinery
        self._launches = launches_of(settings)
        self._shown = format_address(local_path(settings.dir) or settings.dir)
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
            worked = True
            try:
                stopped = self._work(worker)
                whole = worker.claimant.all_published
            except KeyboardInterrupt as error:  # while it waited for the others
                worker.leave()
                return self._interrupted(error)
            finally:
                worker.leave()
            if whole or stopped is not None:
                return self._finished(stopped)
            # The fleet was folded with rows left, by one that was stopped and saw no other.

    # The beginning

    def _enlisted(self) -> Worker | Result:
        """This process as a worker; the result of a run that has nothing left to do."""
        until_s, told, pauses = time.monotonic() + LOCKED_S, False, _Pauses()
        while True:
            launch = self._launches.current()
            if launch is not None:
                worker = self._joined(launch)
                if worker is not None:
                    return worker
                continue
            try:
                return self._launched()
            except RunLockedError:
                if time.monotonic() > until_s and not self._launches.is_busy():
                    raise
                if not told:
                    self._say(f"waiting for the process that opens {self._shown}")
                    told = True
                pauses.sleep()

    def _joined(self, launch: Launch) -> Worker | None:
        """A worker of this launch; None if it was folded meanwhile."""
        try:
            worker = Worker(launch, self._launches.plan(launch), self._place)
        except StorageError:
            if self._launches.current() == launch:
                raise
            return None
        _LOG.info("joined the processes that work on %s, as %s", self._shown, worker.name)
        self._say(f"joined the processes that work on {self._shown}")
        return worker

    def _launched(self) -> Worker | Result:
        """Open the run directory as any run does, and launch a fleet on it."""
        self._launches.prepare()
        with self._opened() as session:
            if isinstance(session, Result):
                return session
            opened = session.directory
            self._launches.opened_by(opened.lock)
            self._launches.begin_launching()
            journal = opened.journal
            for shard in sorted(journal.touched()):
                publish(opened.parts, journal, journal.next_state(shard, complete=False))
            launch = self._launches.begin(opened)
            worker = Worker(launch, self._launches.plan(launch), self._place)
            # Only now, so that the launch is never without somebody who lives.
            self._launches.announce(launch, LIVE)
        _LOG.info("launched a fleet on %s; this process is %s", self._shown, worker.name)
        self._say(f"{self._shown} is ready for {self._place.count:,} processes")
        return worker

    def _opened(self) -> AbstractContextManager[Session | Result]:
        return assemble.open_session(
            self._settings,
            self._environment,
            None,
            Changes(),
            (),
            self._say,
            self._machinery,
        )

    # The work

    def _work(self, worker: Worker) -> Result | None:
        """Work on claimed shards until all are published; returns how this process was stopped."""
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
        except StorageError as error:
            if worker.is_superfluous:
                return None
            if worker.is_fenced:
                raise worker.taken_over() from error
            raise

    def _passes(self, worker: Worker, opened: WorkerDirectory) -> Result | None:
        """Run the engine over what can be claimed, again whenever there is something more."""
        settings = self._shared.recorded_by(worker.plan.values["settings"])
        accesses = self._machinery.accesses(settings.endpoints, self._environment)
        sealer = partial(CommittingSealer, worker)
        machinery = replace(self._machinery, sealer=sealer, sharing=partial(self._sharing, worker))
        spans = opened.spans
        assert isinstance(spans, ClaimedShards)
        pauses = _Pauses()
        while True:
            if spans.claim_first():
                pauses = _Pauses()
                session = Session(
                    settings,
                    opened,
                    Changes(),
                    accesses,
                    self._observers,
                    self._say,
                    machinery,
                )
                result = assemble.run_session(session, self._started_s)
                learned = {key: opened.journal.states.get(key) for key in FIGURES}
                worker.launch.leave_behind(worker.name, (), learned)
                if result.stop is not None:
                    return result
                ok, opened.errors = resend.count_done(opened.parts, opened.journal)
                opened.done = ok, opened.errors.total()
                opened.wall_s_before = 0.0
            elif worker.claimant.all_published or self._launches.current() is None:
                return None
            else:
                worker.check()
                pauses.sleep()

    def _sharing(
        self, worker: Worker, lanes: Sequence[Lane], clock: LoopClock
    ) -> AbstractAsyncContextManager[None]:
        """What keeps this process to its share of the limits."""
        sharing = Sharing(
            store=worker.store,
            worker=worker.name,
            gates={lane.name: lane.gate for lane in lanes if isinstance(lane.gate, EndpointGate)},
            limits=limits_of(self._settings.endpoints),
            clock=clock,
            real_s=real_s,
        )
        return sharing.kept()

    # The end

    def _summed_up(self, stop: Stop | None) -> Result:
        """Fold the fleet, if nobody did, and sum up the run. Raises ``RunLockedError`` while others
        work on it, or do the same.
        """
        return assemble.run(
            self._settings,
            self._environment,
            say=self._say,
            started_s=self._started_s,
            machinery=self._machinery,
            stop=stop,
        )

    def _others_work(self) -> bool:
        """Whether other processes of the fleet go on. Who holds the lock may only be looking."""
        launch = self._launches.current()
        if launch is None:
            return False
        with contextlib.suppress(StorageError):  # it was folded at this moment
            return bool(living(launch, launch.records(secrets.token_hex(4))))
        return False

    def _interrupted(self, error: KeyboardInterrupt) -> Result:
        """A signal came while this process had nothing to do. The last one to leave puts together
        what there is.
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

    def _finished(self, stopped: Result | None) -> Result:
        """How the whole ended: folded and summed up by this process, or by another one. Of a
        process that was ``stopped`` while others work on, how far it came itself.
        """
        stop: Stop | None = None if stopped is None else stopped.stop
        pauses = _Pauses()
        while True:
            try:
                result = self._summed_up(stop)
            except RunLockedError:
                if stopped is not None and self._others_work():
                    return replace(stopped, elsewhere=True)
                pauses.sleep()
            else:
                return replace(result, sent_nothing=False, elsewhere=result.sent_nothing)
