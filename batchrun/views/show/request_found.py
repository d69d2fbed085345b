"""The request of a row: the body that the run kept, or one made again from the input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from batchrun.adapters.storage.store import REQUESTS
from batchrun.rundir.chain import inputs
from batchrun.rundir.chain.requests import FoundRequest, RemadeRequests
from batchrun.views.durable.durable_rows import DurableRows

__all__ = ["FoundRequest", "Requests"]


class Requests:
    """Finds the requests of rows; the input is opened for the first one that was not kept."""

    def __init__(self, durable: DurableRows) -> None:
        self._durable = durable
        self._remade = RemadeRequests(durable.look, durable.known, durable.summary, inputs.find)

    def of(self, hashes: Mapping[int, str | None], done: Sequence[int]) -> dict[int, FoundRequest]:
        """The requests of rows of one shard. ``hashes`` has the rows with their request hashes,
        ``done`` those of them that have an outcome.
        """
        rows = list(hashes)
        found: dict[int, FoundRequest] = {}
        for row, (hashed, text) in self._durable.bodies(rows).items():
            if hashed == hashes[row]:
                found[row] = FoundRequest(json.loads(text), REQUESTS)
        for row in done:
            if hashes[row] is None:
                note = "the row was never sent: it could not become a request"
                found[row] = FoundRequest(None, None, note)
        missing = sorted(row for row in rows if row not in found)
        return found | (self._remade.of(missing, hashes, done) if missing else {})
