"""Fresh rows held back while many others fail and none is answered.

A row that is tried again takes seconds until it is known to have failed for good. Where every reply
is a login page, all rows of an input could be sent in these seconds, each in vain. So once many
rows have failed at their first try, with no answer meanwhile, no further one is sent until one of
them is answered, or all of them are through.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from batchrun.core.verdict.rules import Action

ROWS = 100
"""So many rows that failed at their first try, with no answer meanwhile, are many."""


class HoldingBack:
    """Counts them for all endpoints of a run together."""

    def __init__(self) -> None:
        self.failed_first = 0
        """Rows whose first try failed since the last answer."""
        self._trying = 0
        self._eased = asyncio.Event()

    @contextlib.contextmanager
    def trying_again(self) -> Iterator[None]:
        """A row is tried again, until it has an outcome or is withheld."""
        self._trying += 1
        try:
            yield
        finally:
            self._trying -= 1
            if not self._trying:
                self._eased.set()

    def failed(self, charged: int, action: Action) -> None:
        """An exchange failed and ``action`` follows; ``charged`` attempts count against the row."""
        self.failed_first += action is Action.AGAIN and charged == 1

    def answered(self) -> None:
        """A row was answered."""
        self.failed_first = 0
        self._eased.set()

    async def room(self) -> None:
        """Return when a fresh row may be sent."""
        while self.failed_first >= ROWS and self._trying:
            self._eased.clear()
            await self._eased.wait()
