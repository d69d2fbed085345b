"""The state of a run's judges, from their own run directories inside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.scoring.plan import PlannedJudge
from batchrun.adapters.scoring.verdicts import Counts
from batchrun.adapters.storage.store import (
    SUMMARY,
    USAGE,
    StoreReader,
    part_names,
    part_number,
    read_json,
)
from batchrun.core.cost.money import picodollars, usd
from batchrun.core.evaluation.definitions import Evaluation, judges_of_recorded
from batchrun.core.evaluation.judges import SWAPPED, Asked, Judge, asked_by
from batchrun.errors import UsageError
from batchrun.rundir import inspect, state_reader


def _pending(summary: Mapping[str, Any]) -> int | None:
    """Rows that a judge still has to judge; None if that is not known."""
    pending: int | None = (summary.get("rows") or {}).get("pending")
    return pending


def standing(store: StoreReader, one: PlannedJudge, counts: Counts) -> dict[str, Any]:
    """The entry of a judge in ``summary.json``: how many answers it judged, and at what cost.
    ``pending`` is None if it has never ended.
    """
    folders = [one.judge.folder]
    if one.asked.both_orders:
        folders.append(f"{one.judge.folder}/{SWAPPED}")
    found = [read_json(store, f"{folder}/{SUMMARY}") for folder in folders]
    summaries = [summary if isinstance(summary, dict) else {} for summary in found]
    summary = next((each for each in summaries if _pending(each) != 0), summaries[0])
    pending = [_pending(each) for each in summaries]
    totals = [each.get("totals") or {} for each in summaries]
    counted = counts.as_dict()
    if not one.asked.both_orders:
        del counted["flips"]
    labelled = one.judge.agreement is not None
    return {
        **counted,
        **({"compared": one.asked.compared(one.judge).name} if labelled else {}),
        "pending": None if None in pending else sum(filter(None, pending)),
        "status": summary.get("status"),
        "stopped_by": summary.get("stopped_by"),
        "model": (summary.get("settings") or {}).get("request.model"),
        "attempts": sum(each.get("attempts") or 0 for each in totals),
        "cost_usd": _dollars(totals, "cost_usd"),
        "wasted_cost_usd": _dollars(totals, "wasted_cost_usd"),
        "sha256": one.asked.digest,
    }


def _dollars(totals: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The sum of an amount; None if none is known."""
    told = [each.get(name) for each in totals]
    known = [picodollars(amount) for amount in told if amount is not None]
    return usd(sum(known)) if known else None


def state_of(store: StoreReader, checkpoint: Path, folder: str) -> str:
    """What identifies the verdicts in a judge's folder: the digests of its parts, from its
    checkpoint, or else from the files.
    """
    names = part_names(store, f"{folder}/results")
    recorded = state_reader.read(checkpoint) if names else None
    shards = {} if recorded is None else recorded.shards
    digests: list[Any] = []
    if part_names(store, f"{folder}/{SWAPPED}/results"):
        inner = checkpoint / SWAPPED if checkpoint.name != "checkpoint" else None
        place = checkpoint.parent / SWAPPED / "checkpoint" if inner is None else inner
        digests.append([SWAPPED, state_of(store, place, f"{folder}/{SWAPPED}")])
    for name in names:
        shard = shards.get(part_number(name) or 0)
        known = shard.results_sha256 if shard is not None else ""
        digests.append([name, known or _hashed(store, f"{folder}/results/{name}")])
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _hashed(store: StoreReader, name: str) -> str:
    with store.open(name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_judges(store: StoreReader) -> tuple[Judge, ...]:
    """The judges that the summary of a run names."""
    found = read_json(store, SUMMARY)
    settings = found.get("settings") if isinstance(found, dict) else None
    return judges_of_recorded(settings) if isinstance(settings, Mapping) else ()


def with_recorded(evaluation: Evaluation, directory: str) -> Evaluation:
    """An evaluation plus the judges that a run directory has but its config does not name."""
    store = inspect.look_at(directory, None).store
    own = {judge.name for judge in evaluation.judges}
    more = tuple(judge for judge in recorded_judges(store) if judge.name not in own)
    return replace(evaluation, judges=(*evaluation.judges, *more))


def asked_in(directory: str, judges: Sequence[Judge]) -> dict[str, Asked]:
    """What the judges of a run directory were asked, by name. Judges without a summary are left
    out.
    """
    return asked_among(inspect.look_at(directory, None).store, judges)


def asked_among(store: StoreReader, judges: Sequence[Judge]) -> dict[str, Asked]:
    """Like ``asked_in``, for an open store."""
    found = {judge.name: asked_of(store, judge) for judge in judges}
    return {name: asked for name, asked in found.items() if asked is not None}


def asked_of(store: StoreReader, judge: Judge) -> Asked | None:
    """What a judge was asked, from its run directory; None if it has no summary yet."""
    found = read_json(store, f"{judge.folder}/{SUMMARY}")
    settings = found.get("settings") if isinstance(found, dict) else None
    if not isinstance(settings, Mapping):
        return None
    try:
        return asked_by(settings, judge.name)
    except UsageError:
        return None


def models_of(store: StoreReader) -> list[str | None]:
    """The models of a run: the requested ones, and those that answered."""
    summary = read_json(store, SUMMARY)
    settings: Any = summary.get("settings") if isinstance(summary, Mapping) else None
    found = [settings.get("request.model")] if isinstance(settings, Mapping) else []
    try:
        with store.open(USAGE) as file:
            usage = pq.read_table(file, columns=["model", "rows_ok"])
    except (OSError, pa.ArrowException):
        return found
    return [*found, *(line["model"] for line in usage.to_pylist() if line["rows_ok"])]
