"""Failed rows that are withheld from journal and totals, until it shows who is to blame.

Their attempts are in the ledger at once. Whatever ends the process leaves them pending: they are
rows without an outcome, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from batchrun.core.settings.bounds import Finished
from batchrun.core.verdict.judge import Verdict
from batchrun.core.verdict.repeated_failures import Kind, Step
from batchrun.engine.lane import Lane
from batchrun.engine.open_row import AgainError, RowRun, Withheld, WithheldError
from batchrun.engine.outage import forgive, was_outage
from batchrun.engine.pool import Pool
from batchrun.engine.session.guards import LeftPendingError, Stop
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.tally import Tally
from batchrun.ports import Journal
from batchrun.records import Attempt, Outcome

GUARD = "repeated_failure"


class Withholding:
    """Decides about rows that failed for good, for all endpoints of a run."""

    def __init__(
        self, pool: Pool, *, journal: Journal, room: Room, tally: Tally, finished: Finished
    ) -> None:
        """``finished`` guards the beginning of a run, when nothing has succeeded yet."""
        self._pool = pool
        self._journal = journal
        self._room = room
        self._tally = tally
        self._finished = finished
        self.begun = False
        """Whether any row was withheld in this session."""
        self.one_more: Callable[[], None] | None = None
        """Called when a row is withheld."""

    def __len__(self) -> int:
        """How many rows are withheld."""
        return sum(len(lane.repeated) for lane in self._pool.lanes)

    def failed(self, lane: Lane, run: RowRun, outcome: Outcome, verdict: Verdict) -> Outcome:
        """A row failed: its outcome, if it is to blame. Raises ``WithheldError`` where that is not
        known, and ``LeftPendingError`` where it shows that it is not.
        """
        attempt = outcome.attempt
        assert attempt is not None
        if self._finished.may_be_misconfigured(succeeded=self._tally.succeeded):
            return outcome
        withheld = Withheld(run, outcome, verdict, asyncio.get_running_loop().create_future())
        step = lane.repeated.failed(
            Kind(verdict.error_class or "", attempt.http_status, verdict.code),
            withheld,
            sent=run.failing_from,
            answered_sent=run.answered_before,
            out=lane.out,
        )
        if step is Step.END:
            return outcome
        self.begun = True
        self._journal.post(attempt)
        run.phase = "waiting"
        if step is Step.STOP:
            self._stop(lane, run, attempt, verdict)
        self.take_back(lane)
        if self.one_more is not None:
            self.one_more()
        raise WithheldError(withheld)

    def _stop(self, lane: Lane, run: RowRun, attempt: Attempt, verdict: Verdict) -> None:
        """Stop the run, or leave the endpoint out where others serve its rows: they go there."""
        status = "" if attempt.http_status is None else f" (HTTP {attempt.http_status})"
        count = lane.repeated.in_a_row
        stop = Stop(
            GUARD,
            f"{count} rows in a row failed, and none was answered in between; the last one with "
            f"{verdict.error_class}{status}: {verdict.message}. These rows are left pending. "
            "Mend what is wrong, then the same command sends them again; if the rows themselves "
            "are bad, --no-repeated-failure goes on past them",
        )
        if not self._pool.close(lane, stop, run.request.model):
            self._pool.stop(lane, stop)
            raise LeftPendingError

    def take_back(self, lane: Lane) -> None:
        """If an endpoint is left out, what is withheld there goes to others; if it turned out to
        be down, what failed for that is sent again.
        """
        for withheld in lane.repeated.take_back(
            lambda withheld: lane.closed is not None or was_outage(withheld.run)
        ):
            self._rule(withheld, ends=False)

    def answered(self, lane: Lane, sent: int) -> None:
        """An endpoint answered the request of this number."""
        for withheld in lane.repeated.answered(sent):
            withheld.rule(ends=True)

    def end_all(self) -> None:
        """Nothing else is left that could succeed: the withheld rows end, once no other endpoint
        is left for them either.
        """
        for lane in self._pool.lanes:
            for withheld in lane.repeated.let_go():
                self._rule(withheld, ends=not self._pool.known_elsewhere(withheld.run, lane))

    def _rule(self, withheld: Withheld, *, ends: bool) -> None:
        self._tally.retries += not ends
        withheld.rule(ends=ends)

    async def ruled(self, run: RowRun, withheld: Withheld) -> Outcome:
        """Wait for what becomes of a row: its outcome. Raises ``AgainError`` where it goes on,
        uncharged for what was not its fault.
        """
        with self._room.asleep():
            ends = await withheld.ends
        if ends:
            run.phase = "settled"
            return withheld.outcome
        if was_outage(run):
            forgive(run)
        else:
            run.charged = 0
            run.rulings.clear()
            run.failing_as = None
        raise AgainError(withheld.verdict, at_gate=True)
