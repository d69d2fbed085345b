"""``batchrun verify``: everything recomputed from the files, in one pass with flat memory.

It shares no code with what wrote the files: rows are counted and summed here once more, by Arrow's
own aggregation, and compared with what the summary and the journal claim. Problems are reported by
kind of damage; none ends the pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal import shard_log
from batchrun.adapters.storage import files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import (
    KINDS,
    PART_KINDS,
    REQUESTS,
    SCORES,
    SUMMARY,
    StoreReader,
    part_number,
    read_json,
)
from batchrun.core.text.wording import counted
from batchrun.errors import UsageError
from batchrun.rundir import inspect, state_reader
from batchrun.rundir.inspect import Look
from batchrun.rundir.state_reader import STATES, Recorded
from batchrun.views.verify import check_totals
from batchrun.views.verify.check_parts import Expectation, Shards
from batchrun.views.verify.check_repeats import check_repeats, repeats_recorded
from batchrun.views.verify.findings import Report

_PART = re.compile(r"part-\d{8,}\.parquet")


def check(
    folder: str,
    checkpoint: str | None = None,
    *,
    against: Sequence[str] = (),
    input_format: str = "auto",
) -> Report:
    """Check a run directory; with ``against`` also compare it with these input files.

    Raises ``UsageError`` if it is not a run directory or cannot be read, ``InputError`` if an input
    cannot be opened.
    """
    look = inspect.look_at(folder, checkpoint)
    store = look.store
    try:
        names = {kind: _names(store, kind) for kind in PART_KINDS}
        known = None if look.checkpoint is None else state_reader.read(look.checkpoint)
    except PermissionError as error:
        message = f"cannot look into {store.where()}: {error.strerror}"
        raise UsageError(message) from None
    if names["results"] is None and known is None and not names["attempts"]:
        raise inspect.no_run(look)
    report = Report(store.where())
    if _is_fleet(look, names, known, report):  # what a summary says is of the session before
        summary, look = None, replace(look, live=True)
    else:
        summary = _summary(store, look, report)
    _check_state(look, known, report)
    parts = {kind: _parts_among(kind, names[kind] or (), look, report) for kind in PART_KINDS}
    _check_drafts(look, report)
    expected = _expectation(summary, known)
    shards = Shards(store, known, expected, report)
    numbers = {part_number(name): name for kind in KINDS for name in parts[kind]}
    numbers |= {n: f"part-{n:08d}.parquet" for n in (known.shards if known else ())}
    for number in sorted(n for n in numbers if n is not None):
        name = numbers[number]
        shards.check(name, [kind for kind in KINDS if name in parts[kind]])
    if parts[REQUESTS] or any(one.requests for one in (known.shards if known else {}).values()):
        from batchrun.views.verify.check_requests import check_requests

        check_requests(store, known, parts[REQUESTS], report)
    shards.responses.check_others(live=look.live)
    _check_gaps(expected, numbers.keys(), report)
    repeat = repeats_recorded(summary, known)
    if repeat > 1:
        check_repeats(store, parts["results"], repeat, expected.rows_whole, report)
    if summary is not None:
        check_totals.compare_summary(summary, report, shards.sums)
        check_totals.compare_usage(store, report, shards.sums)
        if known is not None:
            check_totals.compare_state(summary, known, report)
    if _is_evaluated(store, summary):
        from batchrun.views.verify import check_scores

        check_scores.check_scores(store, summary, report, live=look.live)
    if _is_chained(summary, known):
        from batchrun.views.verify import check_source

        check_source.check_source(store, summary, known, report)
    if against:
        from batchrun.views.verify import check_input

        check_input.compare(look, summary, known, report, against, input_format)
    return report


def _is_fleet(
    look: Look, names: dict[str, list[str] | None], known: Recorded | None, report: Report
) -> bool:
    """Whether several processes work here, or died: what they have not finished is left out."""
    if look.fleet is None:
        return False
    from batchrun.views.verify import check_fleet

    return check_fleet.check_fleet(look.fleet, look.store, names, known, report)


def _is_evaluated(store: StoreReader, summary: dict[str, Any] | None) -> bool:
    """Whether the run has scores, metrics or gates."""
    settings = (summary or {}).get("settings")
    keys = ("scores", "metrics", "gates", "judge")
    asked = isinstance(settings, dict) and any(settings.get(key) for key in keys)
    return asked or bool(store.names(SCORES))


def _is_chained(summary: dict[str, Any] | None, known: Recorded | None) -> bool:
    """Whether the run was made from another one."""
    settings = (summary or {}).get("settings")
    named = isinstance(settings, dict) and settings.get("input.from") is not None
    return named or (known is not None and known.meta.get("source") is not None)


def _names(store: StoreReader, folder: str) -> list[str] | None:
    """The names of what is in a folder, folders with a slash; None where there is none."""
    if not isinstance(store, DiskStore):
        return store.names(folder) or None
    path = store.folder / folder
    try:
        return sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _summary(store: StoreReader, look: Look, report: Report) -> dict[str, Any] | None:
    found = read_json(store, SUMMARY)
    if look.live:
        report.found("live", "a run is working here; verify it when it has ended")
    if isinstance(found, dict):
        return found
    if store.size(SUMMARY) is not None:
        report.found("summary", "summary.json holds no JSON object; run again")
    elif not look.live:
        text = "summary.json is missing: the run did not end; run it again"
        report.found("summary_missing", text)
    return None


def _check_state(look: Look, known: Recorded | None, report: Report) -> None:
    """The checkpoint: its state file is sound, and no log waits to be published."""
    folder = look.checkpoint
    if folder is None:
        report.notes.append("--checkpoint names no journal; digests were not compared")
        return
    if known is None:
        report.notes.append(f"{folder / STATES} is missing; digests were not compared")
        if folder.is_dir():
            report.found("state", f"{folder / STATES} is missing; --repair makes it again")
    if known.meta.get("rebuilt") if known else None:
        text = "new parts wait to be published (a --resend-changed was killed); run it again"
        report.found("parts_waiting", text)
    for fault in known.faults if known else ():
        report.found("state", f"{folder / STATES}: {fault}")
    for path in sorted(folder.glob("shard-*.log")):
        turns = _turns_alone(path) if known and part_schema.has_turns(known.settings) else 0
        if turns:
            report.notes.append(
                f"{path.name} keeps {counted(turns, 'turn')} of conversations that are not at "
                "their end; a resume continues from there"
            )
        else:
            report.found("log_waiting", f"{path.name} waits to be published; run again")


def _turns_alone(path: Path) -> int:
    """How many turns of conversations a log holds, where there is no outcome or attempt in it."""
    everything = range(-(2**63), 2**63)
    kinds = Counter(kind for _, kind, _ in shard_log.sound_records(path.read_bytes(), everything))
    return kinds[shard_log.TURN] if kinds.keys() <= {shard_log.TURN, shard_log.BLOCK} else 0


def _parts_among(kind: str, names: Sequence[str], look: Look, report: Report) -> set[str]:
    """The parts in a folder; everything else there is reported."""
    parts = set()
    for name in names:
        where = f"{kind}/{name}"
        if _PART.fullmatch(name):
            parts.add(name)
        elif name.endswith(files.TEMPORARY):
            if not look.live:
                report.found("left_over", f"{where} is a leftover of a kill; run again")
        elif name.startswith((".", "_")):
            report.notes.append(f"{where} is no part; readers of a data set pass it over")
        else:
            report.found("stray", f"{where} is not part of a run; remove it")
    return parts


def _check_drafts(look: Look, report: Report) -> None:
    """Drafts beside the summary and in the checkpoint."""
    store = look.store
    folders = [] if look.checkpoint is None or look.live else [look.checkpoint]
    if isinstance(store, DiskStore) and not look.live:
        folders.append(store.folder)
    for folder in folders:
        for path in sorted(folder.glob(f"*{files.TEMPORARY}")):
            report.found("left_over", f"{path.name} is a leftover of a kill; run again")


def _expectation(summary: dict[str, Any] | None, known: Recorded | None) -> Expectation:
    shard_rows = known.settings.get("output.shard_rows") if known else None
    rows_whole = None
    if summary is not None:
        settings, rows = summary.get("settings"), summary.get("rows")
        if shard_rows is None and isinstance(settings, dict):
            shard_rows = settings.get("output.shard_rows")
        if isinstance(rows, dict) and rows.get("pending") == 0:
            rows_whole = rows.get("input")
            limit = settings.get("limit") if isinstance(settings, dict) else None
            if isinstance(rows_whole, int) and isinstance(limit, int):
                # Earlier sessions may have done some of the rows behind it, and not others.
                rows_whole = min(rows_whole, limit * repeats_recorded(summary, known))
    carried = known.carried if known else None
    told = known.settings if known else summary.get("settings") if summary else None
    turns = part_schema.has_turns(told if isinstance(told, dict) else None)
    return Expectation(
        shard_rows if isinstance(shard_rows, int) and shard_rows > 0 else None,
        rows_whole if isinstance(rows_whole, int) else None,
        None if carried is None else part_schema.results_schema(carried, turns=turns),
        part_schema.attempts_schema(),
        turns,
    )


def _check_gaps(expected: Expectation, there: Any, report: Report) -> None:
    """Shards of a complete run that have no files at all."""
    size, rows = expected.shard_rows, expected.rows_whole
    if size is None or rows is None:
        return
    begun = None
    for shard in range(-(-rows // size) + 1):
        if shard * size < rows and shard not in there:
            begun = shard if begun is None else begun
        elif begun is not None:
            low, high = begun * size, min(shard * size, rows)
            text = f"rows {low} to {high - 1} are missing: no part holds them"
            report.found("row_missing", text, high - low)
            begun = None
