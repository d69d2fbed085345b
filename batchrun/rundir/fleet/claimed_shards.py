"""The shards that a worker claims, and what other workers left of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchrun.adapters.journal.flight_log import FLIGHTS
from batchrun.adapters.journal.journal import Journal, log_name
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage import files
from batchrun.core.fleet.claimant import read_claim
from batchrun.core.fleet.claims import Claim
from batchrun.errors import StorageError
from batchrun.ports import ClaimStore
from batchrun.records import Span
from batchrun.rundir import resend
from batchrun.rundir.fleet.launches import Launch
from batchrun.rundir.fleet.workers import Worker
from batchrun.rundir.open_run import RunDirectory
from batchrun.rundir.recover_flights import recover_flights

ALL_KNOWN = 2**31 - 1
"""Higher than the number of any attempt: a row with this as its last attempt has no unknown ones.
"""


class ClaimedShards:
    """Spans, one for each claimed shard, produced when the reader asks for the next."""

    def __init__(self, worker: Worker, opened: RunDirectory, endpoints: Sequence[str]) -> None:
        """``endpoints`` are the names by which flight logs number them."""
        self._worker = worker
        self._opened = opened
        self._endpoints = endpoints
        self._first: Claim | None = None

    def __iter__(self) -> Iterator[Span]:
        claim, self._first = self._first, None
        while True:
            claim = claim or self._worker.claimant.claim()
            if claim is None:
                return
            self._prepare(claim)
            yield Span(claim.shard, claim.shard, self._worker.plan.starts[claim.shard])
            claim = None

    def __bool__(self) -> bool:
        return True

    def claim_first(self) -> bool:
        """Claim the shard that the next reader begins with; False if there is none to claim now."""
        self._first = self._worker.claimant.claim()
        return self._first is not None

    def _prepare(self, claim: Claim) -> None:
        """Enter what exists of a shard into the journal, before its first row is read."""
        opened, worker, shard = self._opened, self._worker, claim.shard
        journal, begun = opened.journal, worker.plan.begun.get(shard)
        if begun is not None and journal.state(shard) is None:
            journal.states.mark([begun])
            journal.adopt(begun.state)
        earlier = before(worker.store, claim)
        take_log(worker.launch, journal, shard, earlier, own=worker.name)
        take_flights(worker.launch, journal, opened.parts, shard, earlier, self._endpoints)
        if shard in journal.logs:
            opened.answered.update(journal.turns(shard))
        if begun is not None or shard in journal.logs:
            opened.known[shard] = resend.known(opened.parts, journal, shard)


def before(store: ClaimStore, claim: Claim) -> list[str]:
    """Earlier holders of a shard, the latest first."""
    found: list[str] = []
    for epoch in range(claim.epoch - 1, 0, -1):
        earlier = read_claim(store, claim.shard, epoch)
        if earlier is not None and earlier.worker not in found:
            found.append(earlier.worker)
    return found


def take_log(
    launch: Launch, journal: Journal, shard: int, workers: Sequence[str], *, own: str = ""
) -> None:
    """Copy the log of a shard from the latest worker that has one; it includes what that worker
    took over from earlier ones. A live worker may continue to append to its log: what it appends
    later is not taken. ``own`` is the worker that owns this journal.

    Raises ``StorageError``, or ``DamagedError`` for a log that is not sound.
    """
    if shard in journal.logs and (not workers or workers[0] == own):
        return
    state = journal.state(shard)
    name = log_name(shard, 1 if state is None else state.generation + 1)
    for worker in workers:
        if worker == own or not (source := launch.file_of(worker, name)).exists():
            continue
        if shard in journal.logs:
            journal.logs.pop(shard).remove()
        try:
            with source.open("rb") as file:
                files.copy_whole(file, journal.folder / name)
        except OSError as error:
            message = f"cannot take over {source}: {error.strerror}"
            raise StorageError(message) from error
        files.reached("log.copied", journal.folder / name)
        journal.log_of(shard)
        return


def take_flights(
    launch: Launch,
    journal: Journal,
    parts: Parts,
    shard: int,
    workers: Sequence[str],
    endpoints: Sequence[str],
) -> None:
    """Enter the requests that workers had in flight for rows of a shard as unanswered attempts."""
    if not workers:
        return
    numbers = resend.last_attempts(parts, journal, shard)

    def known(row: int) -> int:
        return numbers.get(row, 0) if row // journal.shard_rows == shard else ALL_KNOWN

    for worker in workers:
        if recover_flights(journal, launch.file_of(worker, FLIGHTS), known, endpoints):
            numbers |= resend.last_attempts(parts, journal, shard)
