"""One open row: what it has been through, and why it is not through yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from batchrun.core.reply.completion import failure
from batchrun.core.verdict.decide import Decision
from batchrun.engine.outage import Doubt
from batchrun.records import Attempt, Failure, Outcome, Request, Row

if TYPE_CHECKING:  # loaded by runs of conversations alone
    from batchrun.core.request.conversation import OpenConversation


class LaterError(Exception):
    """The row is not through, and goes on by ``AttemptLoop.again``: it waits for an endpoint."""


class AgainError(LaterError):
    """An exchange ended in a decision that has the row sent again."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.verdict.message)
        self.decision = decision


@dataclass(slots=True, eq=False)
class Withheld:
    """A row that failed, and may not be to blame (``core.verdict.repeated_failures``). ``ends`` is
    set to whether its outcome stands; if not, it is sent again.
    """

    run: RowRun
    outcome: Outcome
    decision: Decision
    ends: asyncio.Future[bool]

    def rule(self, *, ends: bool) -> None:
        """Say what becomes of it; of a row that was given up meanwhile nobody asks."""
        if not self.ends.done():
            self.ends.set_result(ends)


class WithheldError(LaterError):
    """The row failed, and waits for what becomes of it."""

    def __init__(self, withheld: Withheld) -> None:
        super().__init__(withheld.decision.verdict.message)
        self.withheld = withheld


class Phase(Enum):
    """Where an open row is."""

    WAITING = auto()
    """At the gate or in a backoff: it may be given up when the run stops."""
    SENDING = auto()
    """Its request is out."""
    SETTLED = auto()
    """It has an outcome, or was left pending."""


class RowRun:
    """One open row: where it is, and what it has been through. Decisions read it as
    ``core.verdict.decide.RowView``.

    ``rulings`` counts its failures by rule; ``doubts`` are those that
    may turn out to be the endpoint's alone. ``shunned`` has a bit for each endpoint that turned it
    away since it last waited, ``lacking`` for each that has not what it asks for; ``failed_at`` is
    the one where it failed last. ``cost_pd`` is what its exchanges cost so far, as far as that is
    known. ``sent`` is the number of its latest request among all of the session, ``failing_from``
    that of the first one that failed ``failing_as`` its latest did; when that failed,
    ``answered_before`` was the latest one that its endpoint had answered. ``before`` is how the row
    would have ended, where another model is asked now. ``key``, ``wall_us``, ``sent_at_s`` and
    ``awake_s`` are of the latest request: the key that it is sent with, and when it went out, by
    the wall clock, in loop time, and in time awake (``now_s - missed_s`` of ``ports.Clock``).
    ``turn`` is the turn that it asks, of the ``conversation`` that is going on; ``resumed_pd`` is
    what the answers cost that earlier sessions had of it.
    """

    # What a row never changes stays with the class: nearly all of them change a third of it.
    phase: Phase = Phase.WAITING
    charged: int = 0
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
    key: int = 0
    wall_us: int = 0
    sent_at_s: float = 0.0
    awake_s: float = 0.0
    turn: int | None = None
    conversation: OpenConversation | None = None
    resumed_pd: int = 0

    def take_turn(self, request: Request, turn: int) -> None:
        """Send the request of a turn. What became of the turns before counts for nothing, but that
        an endpoint lacks what the row asks for.
        """
        lacking = self.lacking
        self.start_anew(request)
        self.lacking, self.turn = lacking, turn
        self.doubts.clear()
        self.probes, self.before = 0, None

    def __init__(self, request: Request, number: int) -> None:
        self.request = request
        self.number = number
        self.rulings: dict[str, int] = {}
        self.doubts: list[Doubt] = []

    def start_anew(self, request: Request) -> None:
        """Send another request, to which nothing counts that became of the first."""
        self.request = request
        self.phase = Phase.WAITING
        self.charged = self.shunned = self.lacking = 0
        self.rulings.clear()
        self.failed_at = self.failing_as = None

    def failed_as(self, kind: str | None, answered_sent: int) -> None:
        """Its latest request failed in this way; before, the row may have failed in others.
        ``answered_sent`` is the latest request that its endpoint has answered.
        """
        self.failing_from, self.answered_before = self.failing(kind, answered_sent)
        self.failing_as = kind

    def failing(self, kind: str | None, answered_sent: int) -> tuple[int, int]:
        """``failing_from`` and ``answered_before``, if its latest request failed in this way."""
        if kind != self.failing_as:
            return self.sent, answered_sent
        return self.failing_from, self.answered_before

    @property
    def was_outage(self) -> bool:
        """Whether it was charged for something that turned out to be an outage."""
        return any(doubt.outage.was(doubt.period) for doubt in self.doubts)

    def forgive(self) -> None:
        """Take back what it was charged in times that turned out to be outages."""
        doubts = []
        for doubt in self.doubts:
            if doubt.outage.was(doubt.period):
                self.charged -= 1
                self.rulings[doubt.rule] -= 1
            elif doubt.outage.goes_on(doubt.period):
                doubts.append(doubt)
        self.doubts = doubts

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


def unsendable(request: Request, problem: str, attempts: int) -> Outcome:
    """The outcome, after ``attempts`` attempts, of a row whose next request cannot be made."""
    failure = Failure("invalid_row", None, problem)
    return Outcome(
        request.row,
        request.custom_id,
        None,
        failure,
        attempts,
        None,
        request_hash=None,
        response=None,
    )


def failed(run: RowRun, attempt: Attempt, decision: Decision, response: str | None) -> Outcome:
    """The outcome of a row that this attempt failed for good; ``response`` is what is kept of the
    reply.
    """
    code, message = decision.verdict.code, decision.verdict.message
    return Outcome(
        row=run.request.row,
        custom_id=run.request.custom_id,
        completion=None,
        failure=failure(decision.error_class or "server_error", code, message),
        attempts=run.number,
        attempt=attempt,
        request_hash=run.request.hash,
        response=response,
        model_asked=run.request.model,
    )
