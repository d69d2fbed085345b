"""``--requests``: an outcome takes the body of its request along to the journal.

In one record with the outcome, the body is durable when the row is done, and no earlier and no
later: a kill loses none that belongs to a finished row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchrun.records import Outcome, Request

NOT_KEPT = b""
"""The body of a row whose request the session does not keep, although it keeps others."""


class RequestKeeping:
    """Which bodies a session keeps, and what they look like in a file."""

    def __init__(self, which: str, redactors: Sequence[Callable[[bytes], bytes]]) -> None:
        """``which`` is ``all``, or ``errors`` for failed rows. Each of ``redactors`` takes the
        credentials of an endpoint out of a body.
        """
        self.every = which == "all"
        self._redactors = redactors

    def kept(self, request: Request | Outcome | None, outcome: Outcome) -> Outcome:
        """The outcome of a row with the body of its request; ``NOT_KEPT`` for rows that are not
        to be kept, and for those that never had a request.
        """
        if not isinstance(request, Request) or not (self.every or outcome.failure is not None):
            return outcome._replace(body=NOT_KEPT)
        body = request.body
        for redacted in self._redactors:
            body = redacted(body)
        return outcome._replace(body=body)
