"""Checks at every start that published parts are unchanged.

Reading all of them would take as long as ``verify``. Size and footer of a Parquet file, or size and
etag of an object, reveal a file that was cut off, replaced or restored from elsewhere, in a few
microseconds per part. A difference may have an explanation, which is then checked:

- the content has the recorded digest: the file is a copy of what was published;
- the shard has a log, so a kill may have come between the renames of new parts and the record of
  them: then the part must be whole, of these columns, and hold at least what is recorded;
- version 0.1 recorded neither: then the part must be whole and hold as many rows as is recorded.

Anything else is damage. It is reported before anything is sent: otherwise the run would appear
complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage.store import (
    KINDS,
    PART_KINDS,
    REQUESTS,
    FileMark,
    part_names,
    part_number,
)
from batchrun.core.text.wording import counted


@dataclass(slots=True)
class Looked:
    """The result of the check, if the parts are sound: parts with marks to record, and shards with
    parts that lack columns of this version.
    """

    unmarked: list[Published] = field(default_factory=list)
    outdated: list[int] = field(default_factory=list)


COLUMNS = "columns"
"""The key in the state file for the columns that all parts have besides those of version 0.1; if it
is absent, some parts may lack some of them.
"""
CURRENT = sorted(part_schema.ADDED_LATER)
"""Its value if no part lacks any."""


def look_at_parts(parts: Parts, journal: Journal) -> Looked:
    """Check every published part. Raises ``DamagedError`` naming the first one that is missing or
    changed.
    """
    current = journal.states.get(COLUMNS) == CURRENT
    published = list(journal.states.published())
    names = [name for one in published for name in _names(parts, one)]
    there = parts.store.marks(names)
    looked = Looked()
    for one in published:
        _look_at_shard(parts, journal, one, there, looked, current=current)
    known = {kind: {one.state.shard for one in published} | journal.logs.keys() for kind in KINDS}
    kept = {one.state.shard for one in published if one.requests is not None}
    known[REQUESTS] = kept | journal.logs.keys()
    for kind in PART_KINDS:
        for name in part_names(parts.store, kind):
            if part_number(name) not in known[kind]:
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
    shard, names = one.state.shard, _names(parts, one)
    for name in names:
        if name not in there:
            raise damaged(parts.store.where(name), "it is missing")
    if not one.results_sha256:
        raise damaged(parts.store.where(names[0]), "a --repair of it did not finish")
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
            # A row that is answered later may no longer have a line in the requests.
            fewer = footer.rows < rows and not (logged and name.startswith(REQUESTS))
            if fewer or (footer.rows > rows and not logged):
                why = f"it holds {counted(footer.rows, 'row')}, and {rows:,} were published"
                raise damaged(parts.store.where(name), why)
            if any(row not in rows_span for row in footer.ends):
                raise damaged(parts.store.where(name), "it holds rows of another part")
            outdated = outdated or footer.lacks_columns
        elif _digest(parts, name) != digest:
            raise damaged(parts.store.where(name), _difference(recorded, now))
        unknown = True
    if unknown and not logged:
        looked.unmarked.append(_marked(one, [there[name] for name in names]))
    if outdated and not logged:
        looked.outdated.append(shard)


def _names(parts: Parts, one: Published) -> list[str]:
    """The parts that a shard has."""
    names = list(parts.pair(one.state.shard))
    return names if one.requests is None else [*names, parts.requests(one.state.shard)]


def _marked(one: Published, marks: Sequence[FileMark]) -> Published:
    """The record with the marks of its parts, in the order of ``_names``."""
    kept = one.requests
    if kept is not None:
        kept = kept._replace(size_bytes=marks[2].size_bytes, word=marks[2].word)
    return replace(one, results_mark=marks[0], attempts_mark=marks[1], requests=kept)


def _claims(parts: Parts, one: Published) -> Iterator[tuple[str, str, FileMark | None, int]]:
    """Name, digest, mark and rows of the parts of a shard, as recorded."""
    results, attempts = parts.pair(one.state.shard)
    sums = [group[3] for group in one.totals["groups"]]
    rows = sum(each["rows_ok"] + each["rows_error"] for each in sums)
    lines = sum(each["attempts"] for each in sums)
    yield results, one.results_sha256, one.results_mark, rows
    yield attempts, one.attempts_sha256, one.attempts_mark, lines
    if (kept := one.requests) is not None:
        yield parts.requests(one.state.shard), kept.sha256, kept.mark, kept.rows


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
