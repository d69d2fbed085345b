"""What another try of a row sends in place of its request: a higher limit, or another model.

Either takes the place of ``RowRun.request``, so that gates, budgets and the ledger go by what is
really sent; its hash stays that of the original.
"""

from __future__ import annotations

from tenacity import RetryCallState

from batchrun.core.reply import answer
from batchrun.core.request.body import asking, with_raised_limit
from batchrun.core.verdict import answer_checks
from batchrun.core.verdict.backoff import backoff_s
from batchrun.core.verdict.judge import Action, Verdict
from batchrun.engine.open_row import AgainError, RowRun
from batchrun.engine.pace.gate import Dice
from batchrun.engine.policy import Policy
from batchrun.engine.pool import Pool
from batchrun.engine.session.tally import Tally
from batchrun.ports import Journal
from batchrun.records import Outcome, Request

OF_THE_MODEL = ("forbidden", "not_found")
"""What would stop the run, of its own model, says of another one that it is not to be had."""


def raise_limit(run: RowRun, verdict: Verdict, policy: answer_checks.Policy | None) -> None:
    """Give the next try of a row whose answer was cut off a higher limit, where that is wanted."""
    if verdict.rule == "truncated_output" and policy is not None:
        most = policy.truncation_limit
        if most is not None:
            run.request = with_raised_limit(run.request, most)


def wait_s(state: RetryCallState, dice: Dice) -> float:
    """How long a row waits before its next try; 0 where its gate does the waiting."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, AgainError)
    if error.at_gate:
        return 0.0
    return backoff_s(error.verdict, state.attempt_number, dice.random())


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

    def given_up(self, run: RowRun, verdict: Verdict) -> bool:
        """Whether the other model is not to be had, and the run goes on without it."""
        return run.before is not None and verdict.error_class in OF_THE_MODEL

    def instead(self, run: RowRun, outcome: Outcome, verdict: Verdict) -> Outcome | None:
        """The outcome of a row that would end like this; None where it stands. Raises
        ``AgainError`` where the other model is asked first.
        """
        before, attempt = run.before, outcome.attempt
        assert attempt is not None
        if before is not None:
            if outcome.ok:
                return None
            self._journal.post(attempt)
            return before._replace(attempts=run.number)
        if not self._asks(run, verdict):
            return None
        self._journal.post(attempt)
        if verdict.action is Action.DONE:
            self._tally.wasted_pd += attempt.cost_pd or 0
        run.before = outcome
        run.start_anew(asking(run.request, self._model))
        self._tally.retries += 1
        raise AgainError(verdict, at_gate=True)

    def _asks(self, run: RowRun, verdict: Verdict) -> bool:
        if run.request.model == self._model or all(lane.closed for lane in self._route):
            return False
        if verdict.error_class == "content_filter":
            return True
        return verdict.completion is not None and answer.is_withheld(verdict.completion)


def fallback_of(policy: Policy, pool: Pool, *, journal: Journal, tally: Tally) -> Fallback | None:
    """The fallback of a run; None where there is none."""
    if policy.fallback_model is None:
        return None
    return Fallback(policy.fallback_model, pool, journal=journal, tally=tally)
