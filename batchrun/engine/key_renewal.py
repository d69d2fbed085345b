"""What a refused key means for its row, where another key may be had."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batchrun.core.verdict.judge import Action, Verdict
from batchrun.errors import KeyUnavailableError
from batchrun.ports import Credentials, Journal
from batchrun.records import Attempt

if TYPE_CHECKING:
    from batchrun.engine.open_row import RowRun

RENEWED = "renewed_key"
RENEWALS_MAX = 3
"""A row that so many keys were refused for is refused for something else."""


class Renewal:
    """Bends the verdicts about refused keys. ``generation`` is the key in use, ``proved`` the last
    one that had an answer.
    """

    def __init__(self, credentials: Credentials | None, journal: Journal) -> None:
        """``credentials`` are None for a key that stays as it is."""
        self._credentials = credentials
        self._journal = journal
        self.proved = -1

    @property
    def generation(self) -> int:
        """The key that a request which goes out now is sent with."""
        return 0 if self._credentials is None else self._credentials.generation

    async def bend(self, verdict: Verdict, key: int, run: RowRun, line: Attempt) -> Verdict:
        """Send again, for free, if there is another key than ``key`` by now, else as before; a
        source of keys that fails stops the run. Waits for a renewal.

        Cancelled, it leaves ``line`` in the ledger: it tells of what was sent.
        """
        if self._credentials is None or run.rulings.get(RENEWED, 0) >= RENEWALS_MAX:
            return verdict
        run.phase = "waiting"
        try:
            renewed = await self._credentials.renew(key, proved=self.proved == key)
        except KeyUnavailableError as error:
            message = f"{verdict.message}; and no other key could be had: {error}"
            return verdict._replace(action=Action.STOP, message=message)
        except asyncio.CancelledError:
            self._journal.post(line)
            run.phase = "settled"
            raise
        return verdict._replace(action=Action.FREE, rule=RENEWED) if renewed else verdict
