"""Asking for another key where one was refused: the only thing that a decision waits for."""

from __future__ import annotations

from batchrun.core.verdict.decide import RENEWED, Decision, Key
from batchrun.engine.open_row import RowRun
from batchrun.errors import KeyUnavailableError
from batchrun.ports import Credentials

RENEWALS_MAX = 3
"""After that many refused keys, the row itself is the cause."""


class Renewal:
    """The key of one endpoint. ``generation`` is the key in use, ``proved`` the last one that had
    an answer.
    """

    def __init__(self, credentials: Credentials | None) -> None:
        """``credentials`` is None for a key that cannot be renewed."""
        self._credentials = credentials
        self.proved = -1

    @property
    def generation(self) -> int:
        """The key that a request which goes out now is sent with."""
        return 0 if self._credentials is None else self._credentials.generation

    def may_help(self, run: RowRun, decision: Decision) -> bool:
        """Whether the key was refused, and another one may be had."""
        return (
            decision.error_class == "auth"
            and self._credentials is not None
            and run.rulings.get(RENEWED, 0) < RENEWALS_MAX
        )

    async def renew(self, key: int) -> Key:
        """Wait until it is known whether there is another key than the refused one."""
        assert self._credentials is not None
        try:
            return Key(await self._credentials.renew(key, proved=self.proved == key))
        except KeyUnavailableError as error:
            return Key(renewed=False, problem=str(error))
