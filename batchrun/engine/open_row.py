"""One open row: what it has been through, and why it is not through yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrun.core.reply.completion import failure
from batchrun.core.verdict.judge import Verdict
from batchrun.records import Attempt, Failure, Outcome, Request, Row

if TYPE_CHECKING:
    from batchrun.engine.outage import Doubt


class LaterError(Exception):
    """The row is not through, and goes on by ``AttemptLoop.again``: it waits for an endpoint."""


class AgainError(LaterError):
    """An exchange failed in a way that is worth another try.

    ``at_gate`` says that the gate does the waiting, for all rows together.
    """

    def __init__(self, verdict: Verdict, *, at_gate: bool = False) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict
        self.at_gate = at_gate


@dataclass(slots=True, eq=False)
class Withheld:
    """A row that failed, and may not be to blame (``core.verdict.repeated_failures``). ``ends`` is
    set to whether its outcome stands; if not, it is sent again.
    """

    run: RowRun
    outcome: Outcome
    verdict: Verdict
    ends: asyncio.Future[bool]

    def rule(self, *, ends: bool) -> None:
        """Say what becomes of it; of a row that was given up meanwhile nobody asks."""
        if not self.ends.done():
            self.ends.set_result(ends)


class WithheldError(LaterError):
    """The row failed, and waits for what becomes of it."""

    def __init__(self, withheld: Withheld) -> None:
        super().__init__(withheld.verdict.message)
        self.withheld = withheld


@dataclass(slots=True)
class RowRun:
    """One open row: where it is, and what it has been through.

    ``phase`` is ``waiting`` (at the gate or in a backoff: may be given up when the run stops),
    ``sending`` or ``settled``. ``rulings`` counts its failures by rule; ``doubts`` are those that
    may turn out to be the endpoint's alone. ``shunned`` has a bit for each endpoint that turned it
    away since it last waited, ``lacking`` for each that has not what it asks for; ``failed_at`` is
    the one where it failed last. ``cost_pd`` is what its exchanges cost so far, as far as that is
    known. ``sent`` is the number of its latest request among all of the session, ``failing_from``
    that of the first one that failed ``failing_as`` its latest did; when that failed,
    ``answered_before`` was the latest one that its endpoint had answered. ``before`` is how the row
    would have ended, where another model is asked now.
    """

    request: Request
    number: int
    phase: str = "waiting"
    charged: int = 0
    rulings: dict[str, int] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    probes: int = 0
    shunned: int = 0
    lacking: int = 0
    failed_at: int | None = None
    cost_pd: int = 0
    sent: int = 0
    failing_from: int = 0
    failing_as: str | None = None
    answered_before: int = 0
    before: Outcome | None = None

    def start_anew(self, request: Request) -> None:
        """Send another request, to which nothing counts that became of the first."""
        self.request = request
        self.phase = "waiting"
        self.charged = self.shunned = self.lacking = 0
        self.rulings.clear()
        self.failed_at = self.failing_as = None

    def failed_as(self, kind: str | None, answered_sent: int) -> None:
        """Its latest request failed in this way; before, the row may have failed in others.
        ``answered_sent`` is the latest request that its endpoint has answered.
        """
        if kind != self.failing_as:
            self.failing_as, self.failing_from = kind, self.sent
            self.answered_before = answered_sent

    def shun(self, endpoint: int) -> None:
        """Go elsewhere, as long as there is an endpoint in service that it does not shun."""
        self.shunned |= 1 << endpoint

    def shuns(self, endpoint: int) -> bool:
        """Whether it does."""
        return bool(self.shunned >> endpoint & 1)

    def lack(self, endpoint: int) -> None:
        """Go there no more, as long as one in service may have what this one has not."""
        self.lacking |= 1 << endpoint

    def lacks(self, endpoint: int) -> bool:
        """Whether an endpoint has not what the row asks for."""
        return bool(self.lacking >> endpoint & 1)


def never_sent(row: Row, problem: str, earlier: int) -> Outcome:
    """The outcome of a row that cannot become a request; ``earlier`` attempts were made when it
    still could.
    """
    return Outcome(
        row=row.number,
        custom_id=row.custom_id,
        completion=None,
        failure=Failure("invalid_row", None, problem),
        attempts=earlier,
        attempt=None,
        request_hash=None,
        response=None,
    )


def failed(run: RowRun, attempt: Attempt, verdict: Verdict, response: str | None) -> Outcome:
    """The outcome of a row that this attempt failed for good; ``response`` is what is kept of the
    reply.
    """
    return Outcome(
        row=run.request.row,
        custom_id=run.request.custom_id,
        completion=None,
        failure=failure(verdict.error_class or "server_error", verdict.code, verdict.message),
        attempts=run.number,
        attempt=attempt,
        request_hash=run.request.hash,
        response=response,
        model_asked=run.request.model,
    )
