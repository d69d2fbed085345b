"""Failed rows that are withheld from journal and totals, until it shows who is to blame.

Their attempts are in the ledger at once. Whatever ends the process leaves them pending: they are
rows without an outcome, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Never

from batchrun.core.settings.bounds import Finished
from batchrun.core.verdict.decide import Decision, kind_of
from batchrun.engine.lane import Lane
from batchrun.engine.open_row import AgainError, Phase, RowRun, Withheld, WithheldError
from batchrun.engine.pool import Pool
from batchrun.engine.session.guards import Cause, LeftPendingError, Stop
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.tally import Tally
from batchrun.ports import Journal
from batchrun.records import Outcome

GUARD = "repeated_failure"


class Withholding:
    """Keeps rows that failed for good until it is known who is to blame, for all endpoints."""

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

    @property
    def on(self) -> bool:
        """Whether failed rows are withheld: at the beginning, another guard counts them."""
        return not self._finished.may_be_misconfigured(succeeded=self._tally.succeeded)

    def withhold(self, lane: Lane, run: RowRun, outcome: Outcome, decision: Decision) -> Never:
        """Withhold a row, which would end so. Raises ``WithheldError``, or ``LeftPendingError``
        where it is one too many and the run stops.
        """
        assert outcome.attempt is not None
        ends = asyncio.get_running_loop().create_future()
        withheld = Withheld(run, outcome, decision, ends)
        lane.repeated.withhold(kind_of(decision), withheld, sent=run.failing_from)
        self.begun = True
        self._journal.post(outcome.attempt)
        run.phase = Phase.WAITING
        if decision.too_many:
            self._stop(lane, run, decision)
        self.take_back(lane)
        if self.one_more is not None:
            self.one_more()
        raise WithheldError(withheld)

    def _stop(self, lane: Lane, run: RowRun, decision: Decision) -> None:
        """Stop the run, or leave the endpoint out where others serve its rows: they go there."""
        status = "" if decision.http_status is None else f" (HTTP {decision.http_status})"
        count = lane.repeated.in_a_row
        stop = Stop(
            GUARD,
            f"{count} rows in a row failed and none was answered in between, the last one with "
            f"{decision.error_class}{status}: {decision.verdict.message.rstrip('.')}. These rows "
            "stay pending: correct the cause, and the same command sends them again (with "
            "--keep-done if that changes the requests). If the rows themselves are bad, "
            "--no-repeated-failure continues past them",
            cause=Cause(
                decision.error_class or "", decision.verdict.message, decision.verdict.rule
            ),
        )
        if self._pool.replaceable(lane, run.request.model):
            self._pool.leave(lane, stop)
        else:
            self._pool.stop(lane, stop)
            raise LeftPendingError

    def take_back(self, lane: Lane) -> None:
        """If an endpoint is left out, what is withheld there goes to others; if it turned out to
        be down, what failed for that is sent again.
        """
        for withheld in lane.repeated.take_back(
            lambda withheld: lane.closed is not None or withheld.run.was_outage
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
                known_elsewhere = self._pool.known_elsewhere(withheld.run, lane)
                if self._pool.only is None:
                    withheld.run.lack(lane.number)
                self._rule(withheld, ends=not known_elsewhere)

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
            run.phase = Phase.SETTLED
            return withheld.outcome
        if run.was_outage:
            run.forgive()
        else:
            run.charged = 0
            run.rulings.clear()
            run.failing_as = None
        raise AgainError(withheld.decision._replace(avoid=True))
