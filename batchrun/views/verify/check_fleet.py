"""A run directory in which several processes work, or died: which parts of it must already be
consistent.

A shard that they published is checked like that of any run, by the digests in its record. The
others are not finished: they are counted, and nothing is expected of them.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.storage.staged_store import STAGED
from batchrun.adapters.storage.store import KINDS, REQUESTS, StoreReader, part_name, part_number
from batchrun.core.text.wording import counted
from batchrun.rundir.fleet import looking
from batchrun.rundir.fleet.looking import SeenFleet
from batchrun.rundir.state_reader import Recorded, RecordedShard
from batchrun.views.verify.findings import Report

Names = dict[str, list[str] | None]


def check_fleet(
    folder: Path, store: StoreReader, names: Names, known: Recorded | None, report: Report
) -> bool:
    """Take what is not finished out of ``names`` (by kind, what is there) and out of what is
    ``known``, and add to the latter what the processes recorded. False: there is no fleet.
    """
    fleet = looking.seen(folder)
    if fleet is None:
        return False
    recorded = dict(known.shards) if known is not None else {}
    recorded |= {shard: _recorded(one) for shard, one in fleet.published.items()}
    coming = set(fleet.plan.begun) - fleet.published.keys()
    coming |= {shard for shard in fleet.published if _is_coming(folder, store, names, fleet, shard)}
    if known is not None:
        known.shards = {n: one for n, one in recorded.items() if n not in coming}
    for kind, found in names.items():
        if found is not None:
            names[kind] = [name for name in found if _counts(name, coming)]
    _tell(fleet, report)
    return True


def _counts(name: str, coming: Container[int]) -> bool:
    number = part_number(name)
    return not name.endswith(STAGED) and (number is None or number not in coming)


def _is_coming(
    folder: Path, store: StoreReader, names: Names, fleet: SeenFleet, shard: int
) -> bool:
    """Whether a part that is recorded had not got its name yet when the names were read."""
    kept = fleet.published[shard].requests is not None
    for kind in (*KINDS, *((REQUESTS,) if kept else ())):
        name = part_name(shard)
        if name not in (names.get(kind) or ()) and (
            store.size(f"{kind}/{name}") is not None
            or any((folder / kind).glob(f".{name}.*{STAGED}"))
        ):
            return True
    return False


def _recorded(published: Published) -> RecordedShard:
    state, kept, mark = published.state, published.requests, published.results_mark
    return RecordedShard(
        state.shard,
        state.rows_read,
        state.digest,
        state.end,
        state.generation,
        state.complete,
        published.results_sha256,
        published.attempts_sha256,
        dict(published.totals),
        None if kept is None else (kept.sha256, kept.rows),
        None if mark is None else (mark.size_bytes, mark.word),
    )


def _tell(fleet: SeenFleet, report: Report) -> None:
    pending = fleet.pending_shards
    every = len(fleet.plan.starts)
    told = (
        f"{every - pending:,} of {counted(every, 'shard')} are published and were checked, "
        f"{counted(pending, 'is', 'are')} not finished"
    )
    if fleet.alive:
        processes = counted(len(fleet.alive), "process is", "processes are")
        report.found("live", f"{processes} working here: {told}")
        return
    report.found(
        "log_waiting",
        f"the processes that worked here have died, and their results are not put together: "
        f"{told}; run the same command again",
    )
