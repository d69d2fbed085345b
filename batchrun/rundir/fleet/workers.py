"""A process of a fleet: its name, its lock and its lease."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from functools import partial

from batchrun.adapters.environment.clock import real_s
from batchrun.adapters.storage import disk, files
from batchrun.core.fleet import leases
from batchrun.core.fleet.board import Board, Place
from batchrun.core.fleet.claimant import Claimant, read_leases
from batchrun.core.fleet.leases import Lease
from batchrun.errors import StorageError
from batchrun.ports import ClaimStore
from batchrun.rundir.fleet.launches import CLOCK, WORKERS, Launch, Plan
from batchrun.rundir.lock import NAME, Lock, is_locked


def death_known(launch: Launch) -> Callable[[Lease], bool]:
    """Tells whether a worker on this machine is dead: then no process holds the lock of its
    checkpoint.
    """

    def is_dead(lease: Lease) -> bool:
        if lease.machine != launch.machine:
            return False
        return not is_locked(launch.folder / WORKERS / lease.worker)

    return is_dead


def living(launch: Launch, store: ClaimStore) -> list[Lease]:
    """The leases of the workers that may be at work, as of now. Raises ``StorageError``."""
    now_s, is_dead = store.put(CLOCK, b""), death_known(launch)
    found = read_leases(store)
    return [each for each in found if each.lives(now_s, leases.LEASE_S) and not is_dead(each)]


class Worker:
    """This process as a worker of a fleet, until ``leave``."""

    def __init__(self, launch: Launch, plan: Plan, place: Place) -> None:
        """Join a launch. Raises ``StorageError`` if it can no longer be joined."""
        self.name = f"{place.index:04d}-{secrets.token_hex(4)}"
        self.checkpoint = launch.folder / WORKERS / self.name
        self.launch = launch
        self.plan = plan
        self.store = launch.claims(self.name)
        self.claimant = Claimant(
            self.store,
            Board(len(plan.starts), plan.done),
            place,
            self.name,
            monotonic_s=real_s,  # a lease also expires while its machine sleeps
            machine=launch.machine,
            is_dead=death_known(launch),
            lease_s=leases.LEASE_S,
            status=partial(launch.status_to_show, self.name),
        )
        self._left = threading.Event()
        self._lock = Lock(self.checkpoint, self.checkpoint / NAME)
        try:
            # Without parents: if the launch was moved away, this must fail.
            disk.make_folder(self.checkpoint, files.PRIVATE_FOLDER)
            # Otherwise a power cut could remove the folder together with flushed logs in it.
            files.sync_folder(self.checkpoint.parent)
            self._lock.acquire()
            self.claimant.beat()
        except OSError as error:
            self._lock.release()
            message = f"cannot join the processes in {launch.folder}: {error.strerror}"
            raise StorageError(message) from error
        except StorageError:
            self._lock.release()
            raise
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._left.wait(leases.BEAT_S):
            # If the disk does not answer, the lease expires, and the next write fails.
            with contextlib.suppress(StorageError):
                self.claimant.beat()

    def check(self) -> None:
        """Raise ``StorageError`` if a shard of this worker was taken over.

        If the lease was not renewed for long, it is renewed first: this process was suspended, and
        may have woken before the thread that renews it.
        """
        if self.claimant.silent_s > leases.LEASE_S / 2:
            self.claimant.beat()
        if self.claimant.lost:
            raise self.taken_over()

    @property
    def is_fenced(self) -> bool:
        """Whether this worker was thought dead: it lost a shard, or the fleet ended without it."""
        return bool(self.claimant.lost) or self._is_over()

    def left_out(self) -> StorageError | None:
        """What to raise if this worker was thought dead; None if it was not."""
        return self.taken_over() if self.is_fenced else None

    @property
    def is_superfluous(self) -> bool:
        """Whether the fleet ended while this worker had nothing to do: it may have just joined."""
        claimant = self.claimant
        return not (claimant.held or claimant.lost) and self._is_over()

    def _is_over(self) -> bool:
        with contextlib.suppress(StorageError):
            return not self.checkpoint.exists() or self.launch.is_over()
        return False

    def taken_over(self) -> StorageError:
        """The error for a worker that was thought dead."""
        message = (
            f"the shards of this process ({self.name}) were taken over by others, because it did "
            f"not renew its lease for {leases.LEASE_S:g} s (it may have been suspended). It "
            "publishes nothing more; the answers that it had saved by then are kept. The same "
            "command joins the others, or shows how they ended"
        )
        return StorageError(message)

    def leave(self) -> None:
        """End the lease and release the lock. Leaving twice is harmless."""
        if self._left.is_set():
            return
        self._left.set()
        # A launch that was folded meanwhile accepts no records.
        with contextlib.suppress(StorageError):
            self.launch.leave_behind(self.name, list(self.claimant.held), {})
            self.claimant.leave()
        self._lock.release()
