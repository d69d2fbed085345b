"""Scoring while a run goes on, and its metrics and gates at the end.

A shard is scored in a separate thread once its part of the results is final. At the end, every part
that is not current is scored, whatever the reason: an interrupted session, a retry, a changed
expression. The parts themselves record what they were made from.

Nothing here can stop a run or touch its results. Errors are kept and reported at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import pyarrow as pa

from batchrun.adapters.scoring import metrics, plan
from batchrun.adapters.scoring.database import Database
from batchrun.adapters.scoring.database import require as require_duckdb
from batchrun.adapters.scoring.label_agreement import measure_agreement, require_labels
from batchrun.adapters.scoring.plan import Plan, PlannedJudge, PlannedScore
from batchrun.adapters.scoring.python_scorer import PythonScorers
from batchrun.adapters.scoring.score_parts import ScoreParts, kept_column, made
from batchrun.adapters.scoring.verdicts import Counts
from batchrun.adapters.storage.store import Store, StoreReader, part_name, part_names
from batchrun.core.evaluation import gates
from batchrun.core.evaluation.definitions import Evaluation
from batchrun.core.evaluation.judges import JUDGE, Asked
from batchrun.errors import BatchrunError, ScoringError, StorageError
from batchrun.ports import Publisher
from batchrun.rundir.evaluate import figures
from batchrun.rundir.evaluate.figures import Figures
from batchrun.rundir.judges.standing import standing

if TYPE_CHECKING:  # loaded only by runs with a baseline
    from batchrun.rundir.comparison.gates import Judged

NEEDED_FOR = "[scores] and [metrics]"
SILENT_S = 3.0
COMPLETE = ("complete", "complete_with_errors")
UNFINISHED = 3
Digest = Callable[[str], str]
"""The digest of a part of the results, by its file name."""


class Differences(Protocol):
    """Judges the gates against a baseline once the figures of a run are known."""

    def __call__(self, summary: Mapping[str, Any]) -> Mapping[str, Judged]:
        """Returns the verdicts by gate name. ``summary`` has the scores and metrics."""
        ...


class Prepared:
    """An evaluation that was checked against the columns of the results, and its database."""

    def __init__(
        self,
        evaluation: Evaluation,
        kept: Mapping[str, str] | None = None,
        asked: Mapping[str, Asked] | None = None,
    ) -> None:
        """``kept`` are the Python scores that are not run again, with the digests that identify
        them; ``asked`` is what each judge is asked, by name: a judge missing from it has no
        columns. Raises ``UsageError`` if DuckDB is needed and missing.
        """
        self.evaluation = evaluation
        self.kept = kept or {}
        self._judges = [
            PlannedJudge(judge, asked[judge.name])
            for judge in evaluation.judges
            if asked is not None and judge.name in asked
        ]
        self.database: Database | None = None
        self.plan: Plan | None = None
        if evaluation.needs_sql:
            require_duckdb(NEEDED_FOR)

    def require(self, schema: pa.Schema) -> None:
        """Check it against the schema of the results. Raises ``UsageError`` naming the key."""
        if self.plan is not None:
            return
        for one in self._judges:
            require_labels(schema, one)
        if not self.evaluation.needs_sql:
            plan.with_verdicts(schema, self._judges)
            self.plan = Plan(self.evaluation, schema, judges=tuple(self._judges))
            return
        database = Database(what=NEEDED_FOR)
        try:
            self.plan = plan.make(database, self.evaluation, schema, self.kept, self._judges)
        except BaseException:
            database.close()
            raise
        self.database = database

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        if self.database is not None:
            self.database.close()


class Evaluator:
    """The scores, metrics and gates of one run directory. Leaving the context ends its thread."""

    def __init__(
        self,
        prepared: Prepared,
        store: Store,
        digest: Digest,
        state: Digest = lambda _: "",
    ) -> None:
        """``prepared`` was checked, and is closed together with this. ``state`` gives, for a
        judge's folder, what identifies its verdicts.
        """
        assert prepared.plan is not None
        self._evaluation = prepared.evaluation
        self._store = store
        self._digest = digest
        self.differences: Differences = lambda _: {}
        """Judges the gates against a baseline; see ``compare_with_baseline``."""
        self._fault: BatchrunError | None = None
        self._plan = prepared.plan
        self._database = prepared.database
        self._stack = contextlib.ExitStack()
        self._stack.callback(prepared.close)
        self._python = self._stack.enter_context(PythonScorers(store))
        self._state = state
        self._parts: ScoreParts | None = None
        self._closing = False
        self._kept = prepared.kept
        if prepared.plan.scores and not prepared.plan.judges:
            self._parts = self._opened_parts()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def compare_with_baseline(self, directory: str) -> None:
        """Judge the gates against a baseline too. ``directory`` is the run directory."""
        if self._evaluation.gates.differences:
            from batchrun.rundir.comparison.gates import differences

            self.differences = partial(differences, self._evaluation, directory, self._store)

    def close(self) -> None:
        """End the thread. Closing twice is harmless."""
        self._closing = True
        self.interrupt()
        self._thread.shutdown(cancel_futures=True)
        self._stack.close()

    def interrupt(self) -> None:
        """Interrupt the present computation, which fails."""
        if self._database is not None:
            self._database.interrupt()
        self._python.interrupt()

    def _opened_parts(self) -> ScoreParts:
        """What reads and writes the parts, for the verdicts as they are now."""
        states = {
            one.judge.name: f"{one.asked.digest}:{self._state(one.judge.folder)}"
            for one in self._plan.judges
        }
        return ScoreParts(self._store, self._plan, self._database, self._python_score, states)

    def _python_score(self, one: PlannedScore, name: str, rows: int) -> pa.Array:
        if one.score.name in self._kept:
            return kept_column(self._store, one, name)
        return self._python(one, name, rows)

    # While the run goes on

    def submit(self, shard: int) -> None:
        """Schedule the scoring of a shard with final results; judges must end first."""
        if self._parts is not None:
            self._thread.submit(self._score_shard, part_name(shard))

    def _score_shard(self, name: str) -> None:
        if self._fault is not None or self._closing:
            return
        try:
            self._score(name)
        except BatchrunError as error:
            self._fault = error  # the end of the run reports it

    def _score(self, name: str, *, anew: bool = False) -> None:
        assert self._parts is not None
        digest = self._digest(name)  # before the part is read: a newer one is noticed at the end
        if not anew and self._parts.is_current(name, digest):
            return
        try:
            self._parts.write(name, digest)
        except OSError as error:
            message = (
                f"cannot write scores/{name}: {error}. The results are intact; make room, then run "
                "the same command again"
            )
            raise StorageError(message) from error

    # At the end

    async def finish(
        self, stopped: Callable[[], Any], say: Callable[[str], None]
    ) -> tuple[Figures, BatchrunError | None]:
        """Score what is not scored and compute the metrics. ``stopped`` is awaited meanwhile: when
        it returns, the computation is interrupted. ``say`` gets a line about steps that take long.
        Returns the figures (empty after a failure) and the error.
        """
        loop = asyncio.get_running_loop()
        told = loop.call_later(SILENT_S, say, "computing scores and metrics")
        work = loop.run_in_executor(self._thread, self.compute)
        watch = asyncio.ensure_future(stopped())
        try:
            while not work.done():
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.interrupt()
                    await asyncio.wait({work}, timeout=0.1)
            return work.result()
        finally:
            told.cancel()
            watch.cancel()

    def without_judges(self, failed: BatchrunError) -> tuple[Figures, BatchrunError]:
        """The result if a judge failed: no figures, and the error."""
        return Figures(), failed

    def compute(self, *, anew: bool = False) -> tuple[Figures, BatchrunError | None]:
        """Like ``finish``, in this thread; with ``anew``, current parts are written again too."""
        try:
            return self._compute(anew=anew), None
        except BatchrunError as error:
            return Figures(), error

    def _compute(self, *, anew: bool) -> Figures:
        if self._fault is not None:
            # The disk may have been full: try once more.
            self._fault = None
        if self._plan.judges:
            self._parts = self._opened_parts()
        if self._plan.has_parts:
            for name in part_names(self._store, "results"):
                self._score(name, anew=anew)
        judged = {
            one.judge.name: standing(self._store, one, self._counts(one.judge.name))
            for one in self._plan.judges
        }
        if self._database is None:
            return Figures(judges=judged)
        counted = metrics.count_scores(self._database, self._store, self._plan)
        if self._plan.scores:
            error_rows = next(iter(counted.values())).error_rows
        else:
            error_rows = metrics.count_errors(self._database, self._store, self._plan)
        measured = metrics.measure(self._database, self._store, self._plan, error_rows)
        measured |= measure_agreement(self._database, self._store, self._plan)
        return Figures(
            counted,
            measured,
            self._plan.digests,
            {one.metric.name: one.scores for one in self._plan.metrics},
            judged,
        )

    def _counts(self, judge: str) -> Counts:
        """The counts of a judge's verdicts, summed over the parts."""
        counts = Counts()
        for name in part_names(self._store, "results"):
            part = made(self._store, name)
            assert part is not None  # it was written, or found current
            counts.add(Counts(**part.judged[judge]))
        return counts

    @property
    def is_current(self) -> bool:
        """Whether every part of the results has its scores."""
        if not self._plan.has_parts:
            return True
        parts = self._opened_parts() if self._plan.judges else self._parts
        assert parts is not None
        names = part_names(self._store, "results")
        return all(parts.is_current(name, self._digest(name)) for name in names)

    def judged(
        self,
        summary: Mapping[str, Any],
        evaluated: tuple[Figures, BatchrunError | None] | None,
        stop_exit_code: int | None = None,
    ) -> tuple[dict[str, Any], BatchrunError | None]:
        """The summary with scores, metrics and gates, the exit code that they lead to, and the
        error. ``evaluated`` is None if nothing was computed; ``stop_exit_code`` is that of the
        signal that ended it.
        """
        evaluation = self._evaluation
        found, fault = evaluated or (Figures(), None)
        whole, code = summary["status"] in COMPLETE, summary["exit_code"]
        interrupted = evaluated is None or is_interrupted(fault)
        unfinished = found.unfinished_judge
        if not whole:
            judged = figures.unjudged(evaluation, "the run is not finished")
        elif interrupted:
            judged = figures.unjudged(evaluation, "scores and metrics were interrupted")
            code = code if stop_exit_code is None else stop_exit_code
        elif fault is not None:
            judged = figures.unjudged(evaluation, "a score or metric could not be computed")
            code = fault.exit_code
        elif unfinished is not None:
            judged = figures.unjudged(evaluation, f"the judge {unfinished} is not finished")
            code = UNFINISHED if stop_exit_code is None else stop_exit_code
        else:
            differences = self.differences({**summary, **found.public()})
            judged = figures.judge(evaluation, found, {**summary, **found.public()}, differences)
        verdicts = [verdict for _, _, verdict in judged.values()]
        more = {**found.public(), **({"gates": figures.gates_public(judged)} if judged else {})}
        own = {name: value for name, value in summary.items() if name != "version"}
        if found.judges:
            own["totals"] = figures.with_judges(summary["totals"], found.judges)
        built = {
            **own,
            "exit_code": gates.exit_code(verdicts, code),
            **more,
            "version": summary["version"],
        }
        return built, None if interrupted else fault

    def following(self, publisher: Publisher) -> Publisher:
        """A publisher that has every shard with final results scored."""
        return _Following(publisher, self)

    def is_in_step(self, summary: Mapping[str, Any]) -> bool:
        """Whether a summary, and the scores of every part, are what would be computed now."""
        return in_step(self._evaluation, summary) and self.is_current


class _Following:
    """``ports.Publisher``: publishes with another one, then scores."""

    def __init__(self, publisher: Publisher, evaluator: Evaluator) -> None:
        self._publisher = publisher
        self._evaluator = evaluator

    async def publish(self, shard: int, *, complete: bool) -> None:
        """See ``ports.Publisher``."""
        await self._publisher.publish(shard, complete=complete)
        if complete:
            self._evaluator.submit(shard)


def is_interrupted(fault: BatchrunError | None) -> bool:
    """Whether something was stopped on purpose rather than by a failure."""
    return isinstance(fault, ScoringError) and fault.interrupted


def in_step(evaluation: Evaluation, summary: Mapping[str, Any]) -> bool:
    """Whether a summary was made by this evaluation, without a kill or failure before its end."""
    settings = summary.get("settings")
    wanted = evaluation.public()
    if not isinstance(settings, Mapping) or summary.get("exit_code") not in (
        0,
        1,
        gates.GATE_FAILED,
    ):
        return False
    return all(
        settings.get(name) == wanted.get(name) and (name not in wanted or name in summary)
        for name in ("scores", "metrics", "gates")
    ) and settings.get(JUDGE) == wanted.get(JUDGE)


def hashed(store: StoreReader, name: str) -> str:
    """The digest of a part of the results, read whole."""
    digest = hashlib.sha256()
    with store.open(f"results/{name}") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
