"""What another try of a row sends in place of its request: a higher limit, or another model.

Either takes the place of ``RowRun.request``, so that gates, budgets and the ledger go by what is
really sent; its hash stays that of the original.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.core.request.body import asking, with_raised_limit
from batchrun.core.verdict import answer_checks
from batchrun.core.verdict.backoff import backoff_s
from batchrun.core.verdict.decide import Decision
from batchrun.engine.open_row import AgainError, RowRun
from batchrun.engine.pace.gate import Dice
from batchrun.engine.policy import Policy
from batchrun.engine.pool import Pool
from batchrun.engine.session.tally import Tally
from batchrun.ports import Journal
from batchrun.records import Attempt, Outcome, Request

if TYPE_CHECKING:
    from tenacity import RetryCallState


def raise_limit(run: RowRun, decision: Decision, policy: answer_checks.Policy | None) -> None:
    """Give the next try of a row whose answer was cut off a higher limit, where that is wanted."""
    if decision.error_class == "truncated_output" and policy is not None:
        most = policy.truncation_limit
        if most is not None:
            run.request = with_raised_limit(run.request, most)


def wait_s(state: RetryCallState, dice: Dice) -> float:
    """How long a row waits before its next try; 0 where the gates do the waiting."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, AgainError)
    if error.decision.avoid:
        return 0.0
    return backoff_s(error.decision, state.attempt_number, dice.random())


class Fallback:
    """Asks another model where a filter or a refusal ended a row. Its answer decides; where it has
    none, the row ends as it did before.
    """

    def __init__(self, model: str, pool: Pool, *, journal: Journal, tally: Tally) -> None:
        self._model = model
        self._pool = pool
        self._journal = journal
        self._tally = tally
        self._route = pool.route(model)

    def beside(self, request: Request) -> list[tuple[str, str, str]]:
        """Where else a request may go before its row ends, for what that may cost: endpoint, model,
        and the name of the model there.
        """
        if request.model == self._model:
            return []
        return [(lane.name, self._model, lane.name_of(self._model)) for lane in self._route]

    def may_ask(self, model: str) -> bool:
        """Whether a row that asked for this model may ask the other one."""
        return model != self._model and not all(lane.closed for lane in self._route)

    def switch(self, run: RowRun, outcome: Outcome) -> None:
        """Have a row that would end so ask the other model first."""
        attempt = outcome.attempt
        assert attempt is not None
        self._journal.post(attempt)
        run.before = outcome
        run.start_anew(asking(run.request, self._model))
        self._tally.retries += 1

    def first_stands(self, run: RowRun, attempt: Attempt) -> Outcome:
        """The other model has no answer either: the outcome that the row had before."""
        assert run.before is not None
        self._journal.post(attempt)
        return run.before._replace(attempts=run.number)


def fallback_of(policy: Policy, pool: Pool, *, journal: Journal, tally: Tally) -> Fallback | None:
    """The fallback of a run; None where there is none."""
    if policy.fallback_model is None:
        return None
    return Fallback(policy.fallback_model, pool, journal=journal, tally=tally)
