"""Publishing as a worker of a fleet: parts count once their shard's claim records them."""

from __future__ import annotations

from functools import partial

from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.sealer import Parts, Sealer, publish
from batchrun.rundir.fleet.joining import commit
from batchrun.rundir.fleet.workers import Worker


class CommittingSealer(Sealer):
    """``ports.Publisher`` of a worker."""

    def __init__(self, worker: Worker, parts: Parts, journal: Journal) -> None:
        super().__init__(parts, journal)
        self._commit = partial(commit, worker)

    async def publish(self, shard: int, *, complete: bool) -> None:
        """See ``ports.Publisher``. A shard with rows pending stays in its log, from which another
        worker continues.
        """
        if complete:
            await super().publish(shard, complete=True)

    def _publish(self, shard: int, complete: bool) -> None:  # noqa: FBT001 - run_in_executor
        state = self._journal.next_state(shard, complete=complete)
        publish(self._parts, self._journal, state, self._commit)
