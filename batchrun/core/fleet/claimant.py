"""The claimant: a worker's side of the protocol by which a fleet shares shards.

It decides by its board and its store, and owns no clock and no IO: a worker process calls it from
threads, the simulation of whole fleets on virtual time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from batchrun.core.fleet import claims, leases
from batchrun.core.fleet.board import Board, Place
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.leases import Lease
from batchrun.errors import DamagedError
from batchrun.ports import ClaimStore


class Claimant:
    """One worker among the others of its fleet. Its methods may be called from any thread."""

    def __init__(
        self,
        store: ClaimStore,
        board: Board,
        place: Place,
        worker: str,
        *,
        monotonic_s: Callable[[], float],
        machine: str = "",
        is_dead: Callable[[Lease], bool] = lambda _: False,
        lease_s: float = leases.LEASE_S,
        status: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        """``worker`` is a name that no other process has; ``is_dead`` may know of a worker's death
        before its lease expires. ``monotonic_s`` tells how much time has passed, nothing else.
        ``status`` is what others cannot see of this worker's progress but in its lease.
        """
        self.worker = worker
        self.held: dict[int, Claim] = {}
        """The claims of this worker that are neither published nor lost, by shard."""
        self.lost: set[int] = set()
        """Shards that another worker took over while this one was thought dead."""
        self._store = store
        self._board = board
        self._place = place
        self._monotonic_s = monotonic_s
        self._machine = machine
        self._is_dead = is_dead
        self._lease_s = lease_s
        self._status = status
        self._last: int | None = None
        self._beat: tuple[float, float] | None = None
        self._living: set[str] = set()
        self._turn = threading.RLock()
        self._renewing = threading.Lock()
        self._left = False

    # The lease

    def beat(self) -> None:
        """Renew the lease, and find out which claims were taken over although this worker lives.

        It waits for no other call: where the store is slow, looking at all claims may take longer
        than a lease lasts.
        """
        with self._renewing:
            if not self._left:
                self._put_lease(ended=False)
        for shard, claim in list(self.held.items()):
            content = self._store.read(claims.record_name(shard, claim.epoch + 1))
            if content is not None and not self._made(shard, claim.epoch + 1, content):
                self._lose(shard)

    def _made(self, shard: int, epoch: int, content: bytes) -> bool:
        """Whether this worker made a record: it may be publishing at this moment."""
        with contextlib.suppress(DamagedError):
            return claims.parse(shard, epoch, content).worker == self.worker
        return False

    def leave(self) -> None:
        """End the lease: what this worker still holds is free at once."""
        with self._turn:
            with self._renewing:
                self._left = True
                self._put_lease(ended=True)
            self.held.clear()

    def _put_lease(self, *, ended: bool) -> None:
        mine = Lease(self.worker, 0.0, ended, self._machine, self._status())
        renewed_s = self._store.put(leases.lease_name(self.worker), mine.as_bytes())
        self._beat = renewed_s, self._monotonic_s()

    @property
    def silent_s(self) -> float:
        """Seconds since the lease was renewed."""
        return 0.0 if self._beat is None else self._monotonic_s() - self._beat[1]

    def _lose(self, shard: int) -> None:
        self.held.pop(shard, None)
        self.lost.add(shard)

    # The board

    @property
    def all_published(self) -> bool:
        """Whether every shard is published, as far as this worker has looked."""
        return self._board.all_published

    @property
    def others_living(self) -> bool:
        """Whether another worker was alive at the last look."""
        return bool(self._living - {self.worker})

    def look(self) -> None:
        """Bring board and leases up to date."""
        with self._turn:
            for claim in read_claims(self._store, self._board.knows):
                self._board.see(claim)
            self._look_at_leases()

    def _look_at_leases(self) -> None:
        if self._beat is None:
            self.beat()
        assert self._beat is not None
        now_s = self._beat[0] + self.silent_s
        self._living = {
            lease.worker
            for lease in read_leases(self._store)
            if lease.worker == self.worker
            or (lease.lives(now_s, self._lease_s) and not self._is_dead(lease))
        }

    def claim(self) -> Claim | None:
        """Claim a shard; None if there is none to claim now. Shards of a dead worker come last."""
        with self._turn:
            looked = False
            while True:
                choice = self._board.next(self._place, self._last, self._living.__contains__)
                orphaned = choice is not None and choice[1] is not None
                if (choice is None or orphaned) and not looked:
                    self.look()  # who is dead, and what is free, is judged by what is so now
                    looked = True
                    continue
                if choice is None:
                    return None
                shard, before = choice
                wanted = Claim(shard, 1, self.worker)
                if before is not None:
                    wanted = before.taken_over(self.worker)
                if self._store.create(wanted.name, wanted.as_bytes()):
                    self._board.see(wanted)
                    self.held[shard] = wanted
                    self._last = shard
                    return wanted
                self.look()
                looked = True
                if not self._board.knows(shard, wanted.epoch):
                    return None  # the store neither creates the record nor has it: the fleet ended

    def publish(self, shard: int, published: Mapping[str, Any]) -> bool:
        """Commit a shard's parts. False: it was taken over, and another worker publishes it."""
        with self._turn:
            claim = self.held.get(shard)
            if claim is None:
                return False
            committed = claim.committed(published)
            if not self._store.create(committed.name, committed.as_bytes()):
                self._lose(shard)
                return False
            self._board.see(committed)
            self.held.pop(shard, None)
            return True


def read_claims(
    store: ClaimStore, knows: Callable[[int, int], bool] = lambda _shard, _epoch: False
) -> Iterator[Claim]:
    """The latest record of every shard that has one, without those that the caller ``knows``."""
    latest: dict[int, int] = {}
    for name in store.names(claims.FOLDER):
        found = claims.parse_name(name)
        if found is not None:
            latest[found[0]] = max(found[1], latest.get(found[0], 0))
    for shard, epoch in latest.items():
        if not knows(shard, epoch):
            claim = read_claim(store, shard, epoch)
            if claim is not None:
                yield claim


def read_claim(store: ClaimStore, shard: int, epoch: int) -> Claim | None:
    """One record; None where there is none."""
    content = store.read(claims.record_name(shard, epoch))
    return None if content is None else claims.parse(shard, epoch, content)


def read_leases(store: ClaimStore) -> list[Lease]:
    """The leases of all workers that a fleet has had."""
    found = []
    for worker in store.names(leases.FOLDER):
        name = leases.lease_name(worker)
        renewed_s, content = store.written_s(name), store.read(name)
        if renewed_s is not None and content is not None:
            found.append(leases.parse(worker, renewed_s, content))
    return found
