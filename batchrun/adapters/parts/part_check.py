"""Published parts are what was published: a look at each of them at every start.

Reading all of them would take as long as ``verify``. Size and footer of a Parquet file, or size and
etag of an object, tell a file that was cut off, replaced or restored from elsewhere, for a few
microseconds a part. What differs may have an explanation, which is then looked for:

- the content has the recorded digest: the file is a copy of what was published;
- the shard has a log, so a kill may have come between the renames of new parts and the record of
  them: then the part must be whole, of these columns, and hold at least what is recorded;
- version 0.1 recorded neither: then the part must be whole and hold as many rows as is recorded.

Anything else is damage. It is told before anything is sent: a run over it would call itself
complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage.store import KINDS, FileMark, part_names, part_number
from batchrun.core.text.wording import counted


@dataclass(slots=True)
class Looked:
    """What a look at the parts found, besides that they are sound: those whose marks are to be
    recorded, and the shards whose parts lack columns that this version has.
    """

    unmarked: list[Published] = field(default_factory=list)
    outdated: list[int] = field(default_factory=list)


COLUMNS = "columns"
"""The key of the state file for the columns that all parts have beside those of version 0.1; not
there: some parts may lack some of them.
"""
CURRENT = sorted(part_schema.ADDED_LATER)
"""What it holds where no part lacks any."""


def look_at_parts(parts: Parts, journal: Journal) -> Looked:
    """Look at every published part. Raises ``DamagedError`` naming the first one that is missing
    or not what was published.
    """
    current = journal.states.get(COLUMNS) == CURRENT
    published = list(journal.states.published())
    names = [name for one in published for name in parts.pair(one.state.shard)]
    there = parts.store.marks(names)
    looked = Looked()
    for one in published:
        _look_at_shard(parts, journal, one, there, looked, current=current)
    known = {one.state.shard for one in published} | journal.logs.keys()
    for kind in KINDS:
        for name in part_names(parts.store, kind):
            if part_number(name) not in known:
                raise damaged(parts.store.where(f"{kind}/{name}"), "no record speaks of it")
    return looked


def _look_at_shard(
    parts: Parts,
    journal: Journal,
    one: Published,
    there: dict[str, FileMark],
    looked: Looked,
    *,
    current: bool,
) -> None:
    shard, pair = one.state.shard, parts.pair(one.state.shard)
    for name in pair:
        if name not in there:
            raise damaged(parts.store.where(name), "it is missing")
    if not one.results_sha256:
        raise damaged(parts.store.where(pair[0]), "a --repair of it did not come to its end")
    logged = shard in journal.logs
    outdated = unknown = False
    for name, digest, recorded, rows in _claims(parts, one):
        now = there[name]
        if recorded is not None and recorded.fits(now):
            outdated = outdated or (not (current or logged) and parts.footer(name).lacks_columns)
            continue
        if recorded is None or logged:
            footer = parts.footer(name)
            rows_span = range(shard * journal.shard_rows, (shard + 1) * journal.shard_rows)
            if footer.rows < rows or (footer.rows > rows and not logged):
                why = f"it holds {counted(footer.rows, 'row')}, and {rows:,} were published"
                raise damaged(parts.store.where(name), why)
            if any(row not in rows_span for row in footer.ends):
                raise damaged(parts.store.where(name), "it holds rows of another part")
            outdated = outdated or footer.lacks_columns
        elif _digest(parts, name) != digest:
            raise damaged(parts.store.where(name), _difference(recorded, now))
        unknown = True
    if unknown and not logged:
        results, attempts = (there[name] for name in pair)
        looked.unmarked.append(replace(one, results_mark=results, attempts_mark=attempts))
    if outdated and not logged:
        looked.outdated.append(shard)


def _claims(parts: Parts, one: Published) -> Iterator[tuple[str, str, FileMark | None, int]]:
    """Name, digest, mark and rows of both parts of a shard, as recorded."""
    results, attempts = parts.pair(one.state.shard)
    sums = [group[3] for group in one.totals["groups"]]
    rows = sum(each["rows_ok"] + each["rows_error"] for each in sums)
    lines = sum(each["attempts"] for each in sums)
    yield results, one.results_sha256, one.results_mark, rows
    yield attempts, one.attempts_sha256, one.attempts_mark, lines


def _digest(parts: Parts, name: str) -> str:
    with parts.store.open(name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(recorded: FileMark, now: FileMark) -> str:
    if recorded.size_bytes != now.size_bytes:
        return (
            f"it has {now.size_bytes:,} bytes, and the file that was published had "
            f"{recorded.size_bytes:,}"
        )
    return "it is not the file that was published, although it is as long"
