"""``batchrun score``: computes scores, metrics and gates of a run again, from its files.

Nothing is sent and the results are not touched: only ``scores/`` and the summary are written. What
a run recorded is data. Its SQL is run again; its Python is not, unless a config on the command line
names it: until then the values in ``scores/`` are kept, if they still belong to the results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.scoring.score_parts import made
from batchrun.adapters.storage.store import (
    SUMMARY,
    Store,
    StoreReader,
    part_names,
    part_number,
    read_json,
    write_json,
)
from batchrun.core.evaluation import definitions, gates
from batchrun.core.evaluation.definitions import Evaluation
from batchrun.core.evaluation.judges import JUDGE, JUDGES, Judge
from batchrun.core.run.changes import Changes
from batchrun.errors import (
    BatchrunError,
    RunLockedError,
    RunUnfinishedError,
    StorageError,
    UsageError,
)
from batchrun.rundir import claim, inspect, state_reader
from batchrun.rundir.evaluate.evaluator import (
    COMPLETE,
    UNFINISHED,
    Evaluator,
    Prepared,
    hashed,
    is_interrupted,
)
from batchrun.rundir.judges.prepare import place_of
from batchrun.rundir.judges.standing import asked_among, state_of
from batchrun.rundir.state_reader import Recorded


@dataclass(frozen=True, slots=True)
class Scored:
    """The summary as it is now, the command's exit code, what was left out, and what failed."""

    summary: Mapping[str, Any]
    exit_code: int
    left_out: tuple[str, ...] = ()
    failed: BatchrunError | None = None


def score(
    directory: str,
    checkpoint: str | None,
    evaluation: Evaluation | None,
    say: Callable[[str], None] = lambda _: None,
) -> Scored:
    """Compute scores, metrics and gates of a run directory and record them. ``evaluation`` replaces
    the one that the run recorded; None uses that.

    Raises ``RunLockedError`` while a run is live, ``RunUnfinishedError`` for one that was killed,
    and ``UsageError`` if it is not a run directory or the evaluation does not fit its columns.
    """
    from batchrun.rundir.fleet.folding import take_shared

    control = _require_run(directory, checkpoint)
    store, lock = claim.take(directory, control, Changes(), say, take_shared=take_shared)
    try:
        summary = read_json(store, SUMMARY)
        if not isinstance(summary, dict):
            message = (
                f"{store.where()} has no summary.json: the run did not end. Run the same command "
                "again, and then score it"
            )
            raise RunUnfinishedError(message)
        return rescored(directory, store, control, summary, evaluation)
    finally:
        lock.release()


def rescored(
    directory: str,
    store: Store,
    control: Path,
    summary: Mapping[str, Any],
    evaluation: Evaluation | None,
    judges: Sequence[Judge] = (),
) -> Scored:
    """Like ``score``, for a run directory whose lock this process holds. ``judges`` are added to
    the recorded ones, and replace those of the same name.
    """
    recorded = state_reader.read(control)
    settings = summary.get("settings") or {}
    left_out: tuple[str, ...] = ()
    kept: Mapping[str, str] = {}
    if evaluation is None:
        evaluation = definitions.of_recorded(settings)
        kept = _kept(store, evaluation, summary, recorded)
        evaluation, left_out = without_python(evaluation, kept)
    known = {judge.name: judge for judge in definitions.judges_of_recorded(settings)}
    known |= {judge.name: judge for judge in (*evaluation.judges, *judges)}
    evaluation = replace(evaluation, judges=tuple(known.values()))
    return _scored(directory, store, control, summary, recorded, evaluation, kept, left_out)


def _require_run(directory: str, checkpoint: str | None) -> Path:
    """The checkpoint of a run directory that no run works on, found without writing. Raises as
    ``score`` does.
    """
    look = inspect.look_at(directory, checkpoint)
    if look.checkpoint is None:
        message = f"{look.store.where()} is in an object store; name its checkpoint: --checkpoint"
        raise UsageError(message)
    from batchrun.rundir.fleet.looking import require_ended

    require_ended(directory, look.checkpoint, look.store)
    if not part_names(look.store, "results"):
        message = f"{look.store.where()} has no results: there is nothing to score"
        raise UsageError(message)
    if look.live:
        message = f"a run is working on {look.store.where()}; score it when it has ended"
        raise RunLockedError(message, holder="")
    return look.checkpoint


def _scored(
    directory: str,
    store: Store,
    control: Path,
    summary: Mapping[str, Any],
    recorded: Recorded | None,
    evaluation: Evaluation,
    kept: Mapping[str, str],
    left_out: tuple[str, ...],
) -> Scored:
    def digest(name: str) -> str:
        return results_digest(store, recorded, name)

    def state(folder: str) -> str:
        place = place_of(directory, control, folder.rpartition("/")[2])
        return state_of(store, place, folder)

    prepared = Prepared(evaluation, kept, asked_among(store, evaluation.judges))
    try:
        prepared.require(results_schema(store, recorded))
    except BaseException:
        prepared.close()
        raise
    finished = summary["status"] in COMPLETE
    with Evaluator(prepared, store, digest, state) as evaluator:
        evaluator.compare_with_baseline(directory)
        computed = evaluator.compute(anew=True)
        code = (1 if summary["rows"]["error"] else 0) if finished else summary["exit_code"]
        before = {
            name: value
            for name, value in summary.items()
            if name not in ("scores", "metrics", "gates", JUDGES)
        }
        own = {
            name: value
            for name, value in summary["settings"].items()
            if name not in ("scores", "metrics", "gates", JUDGE)
        }
        before |= {"exit_code": code, "settings": own | evaluation.public()}
        built, failed = evaluator.judged(before, computed)
    if failed is None and is_interrupted(computed[1]):
        raise KeyboardInterrupt
    try:
        write_json(store, SUMMARY, built)
    except OSError as error:
        message = f"cannot write the summary into {store.where()}: {error.strerror}"
        raise StorageError(message) from error
    if failed is not None:
        return Scored(built, failed.exit_code, left_out, failed)
    if not finished or built["exit_code"] == UNFINISHED:
        return Scored(built, UNFINISHED, left_out)
    blocked = built["exit_code"] == gates.GATE_FAILED
    return Scored(built, gates.GATE_FAILED if blocked else 0, left_out)


def results_digest(store: StoreReader, recorded: Recorded | None, name: str) -> str:
    """The digest of a part of the results: as recorded, else of the file."""
    number = part_number(name)
    shard = None if recorded is None or number is None else recorded.shards.get(number)
    return (shard.results_sha256 if shard else "") or hashed(store, name)


def results_schema(store: StoreReader, recorded: Recorded | None) -> pa.Schema:
    """The schema of a run's results. Raises ``DamagedError``."""
    carried = None if recorded is None else recorded.carried
    if recorded is not None and carried is not None:
        turns = part_schema.has_turns(recorded.settings)
        return part_schema.results_schema(carried, turns=turns)
    name = f"results/{part_names(store, 'results')[-1]}"
    try:
        with store.peek(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            schema: pa.Schema = part.schema_arrow.remove_metadata()
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.where(name), error) from error
    return schema


def _kept(
    store: StoreReader,
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    recorded: Recorded | None,
) -> dict[str, str]:
    """The Python scores whose values in ``scores/`` belong to the results, with their digests."""
    digests = {}
    for one in evaluation.python:
        found = (summary.get("scores") or {}).get(one.name) or {}
        if isinstance(found.get("sha256"), str):
            digests[one.name] = found["sha256"]
    for name in part_names(store, "results") if digests else ():
        part = made(store, name)
        fits = part is not None and part.results_sha256 == results_digest(store, recorded, name)
        scores = part.scores if part is not None and fits else {}
        digests = {one: known for one, known in digests.items() if scores.get(one) == known}
    return digests


def without_python(
    evaluation: Evaluation, kept: Mapping[str, str] = {}
) -> tuple[Evaluation, tuple[str, ...]]:
    """An evaluation without the Python scores that are not kept and without the metrics and gates
    that need them; and sentences about what was left out.
    """
    gone = [one.name for one in evaluation.python if one.name not in kept]
    if not gone:
        return evaluation, ()
    import re

    words = [re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE) for name in gone]
    metrics = [
        metric.name
        for metric in evaluation.metrics
        if any(
            word.search(text)
            for word in words
            for text in (metric.value, metric.by or "", metric.cluster or "")
        )
    ]
    levels = [rule for rule in evaluation.gates.levels if rule.name.split(".")[0] in metrics]
    left = replace(
        evaluation,
        scores=tuple(one for one in evaluation.scores if one.name not in gone),
        metrics=tuple(one for one in evaluation.metrics if one.name not in metrics),
        gates=replace(
            evaluation.gates,
            levels=tuple(rule for rule in evaluation.gates.levels if rule not in levels),
            differences=tuple(
                rule for rule in evaluation.gates.differences if rule.name not in metrics
            ),
        ),
    )
    names = [
        *(f"scores.{name}" for name in gone),
        *(f"metrics.{name}" for name in metrics),
        *(f"gates.{rule.name}" for rule in levels),
    ]
    why = "Python runs only from a config on the command line (-c)"
    return left, tuple(f"left out: {name}; {why}" for name in names)
