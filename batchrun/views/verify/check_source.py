"""A chained run (``--from``) beside its source: every row is of a row that is there, and of the
answer that is there.

Hashes are computed here once more. Where the source is not what the run read last, a row whose
answer is another one by now is stale and no damage: the run's own command says so too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.storage.store import StoreReader, part_names, part_number
from batchrun.core.text.legible import shell_word
from batchrun.core.text.wording import counted, verb
from batchrun.errors import BatchrunError
from batchrun.rundir import inspect, state_reader
from batchrun.rundir.inspect import Look
from batchrun.rundir.state_reader import Recorded
from batchrun.views.verify.findings import Report

_OWN = ("row", "source_row", "source_hash")
_THEIRS = ("row", "content", "refusal", "tool_calls")


def check_source(
    store: StoreReader, summary: Mapping[str, Any] | None, known: Recorded | None, report: Report
) -> None:
    """Check ``source_row`` and ``source_hash`` of a run that was made from another one."""
    settings = (summary or {}).get("settings")
    named = settings.get("input.from") if isinstance(settings, dict) else None
    recorded = known.meta.get("source") if known is not None else None
    place = recorded.get("directory") if isinstance(recorded, dict) else None
    places = [each for each in (place, named) if isinstance(each, str)]
    found = next(filter(None, map(_looked, places)), None)
    if found is None:
        where = " and ".join(places) or "of the run"
        note = f"the source {where} is not there; source_row and source_hash were not compared"
        report.notes.append(note)
        _compare(store, None, report, sure=False)
        return
    named, look = found
    resent = known is None or known.meta.get("resending") is None
    theirs = None if look.checkpoint is None else state_reader.read(look.checkpoint)
    sure = resent and known is not None and _is_unchanged(known, theirs)
    stale, first = _compare(store, look.store, report, sure=sure)
    if stale:
        report.notes.append(
            f"{counted(stale, 'row')} {verb(stale, 'is', 'are')} about an answer of "
            f"{shell_word(named)} that is another one by now, or gone (the first is row {first}): "
            "the command of this run with --resend-changed asks again"
        )


def _looked(named: str) -> tuple[str, Look] | None:
    """The source under one of its names; None where it is not there."""
    try:
        look = inspect.look_at(named, None)
        return (named, look) if part_names(look.store, "results") else None
    except (OSError, BatchrunError):
        return None


def _is_unchanged(known: Recorded, theirs: Recorded | None) -> bool:
    """Whether the source surely is what the run read last: it records the same digests."""
    before = known.meta.get("input")
    if theirs is None or not isinstance(before, list):
        return False
    now = [f"sha256:{one.results_sha256}" for _, one in sorted(theirs.shards.items())]
    return [each.get("etag") for each in before if isinstance(each, dict)] == now


def _compare(
    store: StoreReader, source: StoreReader | None, report: Report, *, sure: bool
) -> tuple[int, int | None]:
    """Compare all rows; returns how many are stale, and the first of them. Where the source surely
    is what was read, they are damage.
    """
    answers = iter(()) if source is None else _answers(source)
    ahead = next(answers, None)
    last, stale = -1, 0
    first: int | None = None
    for row, source_row, hashed in _rows(store):
        if source_row is None or source_row < last or hashed is None:
            text = f"row {row} has source_row {source_row} after {last}"
            report.found("source_row", text if hashed else f"row {row} has no source_hash")
            continue
        last = source_row
        if source is None:
            continue
        while ahead is not None and ahead["row"] < source_row:
            ahead = next(answers, None)
        if ahead is not None and ahead["row"] == source_row and _hash(ahead) == hashed:
            continue
        if sure:
            text = f"row {row} is not of the answer in row {source_row} of its source"
            report.found("source_hash", text)
        else:
            stale += 1
            first = row if first is None else first
    return stale, first


def _hash(answer: Mapping[str, Any]) -> str:
    told = {name: answer.get(name) for name in _THEIRS[1:]}
    text = json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _rows(store: StoreReader) -> Iterator[tuple[int, int | None, str | None]]:
    for line in _lines(store, _OWN):
        yield line["row"], line.get("source_row"), line.get("source_hash")


def _answers(store: StoreReader) -> Iterator[dict[str, Any]]:
    yield from _lines(store, _THEIRS)


def _lines(store: StoreReader, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Some columns of all results, row by row. Parts that cannot be read are passed over: for the
    run's own, other checks report them.
    """
    for name in sorted(part_names(store, "results"), key=lambda name: part_number(name) or 0):
        try:
            with store.open(f"results/{name}") as file, pq.ParquetFile(file) as part:
                there = [each for each in names if each in part.schema_arrow.names]
                for group in range(part.num_row_groups):
                    yield from part.read_row_group(
                        group, columns=there, use_threads=False
                    ).to_pylist()
        except (OSError, pa.ArrowException):
            continue
