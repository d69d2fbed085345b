"""``batchrun judge``: judges the answers of a finished run, and scores that run again.

The judge is an ordinary run inside the directory that it judges, whose lock is held meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from batchrun.adapters.scoring.label_agreement import require_labels
from batchrun.adapters.scoring.plan import PlannedJudge
from batchrun.adapters.storage.store import SUMMARY, StoreReader, read_json
from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings
from batchrun.errors import RunLockedError, UsageError
from batchrun.rundir import claim, inspect, state_reader
from batchrun.rundir.chain import source as sources
from batchrun.rundir.evaluate.score import Scored, rescored, results_schema
from batchrun.rundir.judges.end_of_run import charged_pd
from batchrun.rundir.judges.prepare import (
    JudgeRun,
    changes_for,
    in_swapped_order,
    require_other,
    with_budget,
)
from batchrun.rundir.judges.standing import models_of

if TYPE_CHECKING:
    from batchrun.session import Result


class RunSession(Protocol):
    """Runs one session to its end: ``assemble.run``, or another function that runs
    ``assemble.session``.
    """

    def __call__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        *,
        changes: Changes,
        say: Callable[[str], None],
    ) -> Result:
        """See ``assemble.run``."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """How the sessions of the judge ended, one for each order of the answers, and the scores of the
    run with its verdicts.
    """

    results: tuple[Result, ...]
    scored: Scored

    @property
    def exit_code(self) -> int:
        """The exit code of the judge's run or, if that finished, a 4 or 5 from the scores and gates
        of the judged run.
        """
        codes = [int(result.summary["exit_code"]) for result in self.results]
        own = codes[-1] if codes[-1] not in (0, 1) else max(codes)
        return self.scored.exit_code if own in (0, 1) and self.scored.exit_code in (4, 5) else own


def judge(
    directory: str,
    checkpoint: str | None,
    run: JudgeRun,
    environment: Mapping[str, str],
    changes: Changes,
    run_session: RunSession,
    say: Callable[[str], None] = lambda _: None,
) -> JudgedRun:
    """Judge the answers that are new or changed, and score the run again. The sessions of the judge
    are run by ``run_session``.

    Raises ``RunLockedError`` while a run is live, ``UsageError`` for a run that is not finished or
    was answered by the judge itself, and the errors of a run.
    """
    from batchrun.rundir.fleet.folding import take_shared
    from batchrun.rundir.fleet.looking import require_ended

    look = inspect.look_at(directory, checkpoint)
    if look.checkpoint is None:
        message = f"{look.store.where()} is in an object store; name its checkpoint: --checkpoint"
        raise UsageError(message)
    if look.live:
        message = f"a run is working on {look.store.where()}; judge it when it has ended"
        raise RunLockedError(message, holder="")
    require_ended(directory, look.checkpoint, look.store)
    sources.require(sources.look_at(directory), allow_partial=False)
    require_other(run, models_of(look.store))
    schema = results_schema(look.store, state_reader.read(look.checkpoint))
    require_labels(schema, PlannedJudge(run.judge, run.asked))
    store, lock = claim.take(directory, look.checkpoint, Changes(), say, take_shared=take_shared)
    try:
        orders = [run, in_swapped_order(run)] if run.settings.both_orders else [run]
        results: list[Result] = []
        for order in orders:
            covered = _covered(order, orders, store)
            allowed = changes_for(covered, changes)
            results.append(run_session(covered.settings, environment, changes=allowed, say=say))
            if results[-1].summary["rows"]["pending"] != 0:
                break
        summary = read_json(store, SUMMARY)
        assert isinstance(summary, dict)  # it is finished
        scored = rescored(directory, store, look.checkpoint, summary, None, [run.judge])
        return JudgedRun(tuple(results), scored)
    finally:
        lock.release()


def _covered(order: JudgeRun, orders: Sequence[JudgeRun], store: StoreReader) -> JudgeRun:
    """The judge with the budget that its other order left."""
    cap = order.settings.max_cost_pd
    if cap is None:
        return order
    spent_pd = sum(
        charged_pd(store, Path(other.settings.checkpoint), other.folder)
        for other in orders
        if other is not order
    )
    return with_budget(order, max(0, cap - spent_pd))
