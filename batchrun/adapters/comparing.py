"""Comparing a run directory with the settings and the input of the present run.

Nothing is changed here before the whole comparison went well: a difference that the user did not
allow raises ``RunChangedError`` with what changed, which done rows it touches, and the choices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from batchrun.adapters import arrow
from batchrun.adapters.journal import Journal
from batchrun.adapters.parts import Parts
from batchrun.adapters.sources import opening
from batchrun.adapters.sources.opening import Carry, Input, Reader, Stamp
from batchrun.core.differences import differences
from batchrun.core.settings import Settings
from batchrun.errors import RunChangedError
from batchrun.records import Position, ShardState, Span


@dataclass(frozen=True, slots=True)
class Changes:
    """What the user allows when settings or input are not those of the run directory."""

    keep_done: bool = False
    restart: bool = False


def go_on(
    journal: Journal,
    settings: Settings,
    given: Input,
    changes: Changes,
    say: Callable[[str], None],
) -> tuple[Carry, bool]:
    """Compare with what is recorded. Returns the recorded columns, and whether the input may have
    grown.
    """
    names, everything = journal.states.get("carry_names")
    carry = Carry(
        arrow.schema_from_bytes(journal.states.get("carry_schema")), tuple(names), everything
    )
    done = sum(journal.unpublished())
    for published in journal.states.published():
        done += sum(
            sum(g[3][k] for k in ("rows_ok", "rows_error")) for g in published.totals["groups"]
        )
    found = differences(journal.states.get("settings"), settings.shaping())
    if found and not (changes.keep_done and all(d.keepable for d in found)):
        choices = ["--restart starts over; the old contents are kept aside"]
        if all(difference.keepable for difference in found):
            choices.insert(0, f"--keep-done keeps the {done:,} done rows and goes on with the rest")
        raise _changed(
            f"the settings are not those that {settings.dir} was begun with",
            [str(difference) for difference in found],
            f"{done:,} rows are done",
            choices,
        )
    if given.kind != journal.states.get("input_format"):
        raise _changed(
            "the input has another format than the run was begun with",
            [f"format: was {journal.states.get('input_format')}, is {given.kind}"],
            f"{done:,} rows are done",
            ["--restart starts over; the old contents are kept aside"],
        )
    grown = _compare_input(journal, settings, given, carry, changes, say)
    if found or grown:
        journal.states.put(
            settings=settings.shaping(),
            input=[asdict(stamp) for stamp in given.stamps],
            input_rows=None,
        )
    return carry, grown


def _compare_input(
    journal: Journal,
    settings: Settings,
    given: Input,
    carry: Carry,
    changes: Changes,
    say: Callable[[str], None],
) -> bool:
    """Size and modification time equal: trusted. Else what was read before is read again and
    compared by digest. Returns False where nothing changed at all.
    """
    recorded = [Stamp(**stamp) for stamp in journal.states.get("input")]
    now = [(stamp.size, stamp.mtime_ns) for stamp in given.stamps]
    if now == [(stamp.size, stamp.mtime_ns) for stamp in recorded]:
        return False
    states = journal.shards()
    if states:
        say(f"the input may have changed; comparing {len(states):,} shards with what was read")
    reader = given.reader(carry, settings.shard_rows)
    if not given.has_extra:
        schema = opening.choose(reader.schema(), settings.carry, with_extra=False).schema
        if not schema.equals(carry.schema):
            raise _changed(
                "the input's columns are not those that the run was begun with",
                [_schema_difference(carry.schema, schema)],
                "parts hold one schema",
                ["--restart starts over; the old contents are kept aside"],
            )
    fresh, edited = _reread(reader, states, settings.shard_rows)
    if edited and not changes.keep_done:
        parts = Parts(Path(settings.dir), journal, carry.schema)
        touched = sum(len(known(parts, journal, s)[0]) for s in edited)
        first = edited[0] * settings.shard_rows
        raise _changed(
            f"the input is not what {settings.dir} was begun with",
            [f"rows from {first:,} on differ ({len(edited):,} of {len(states):,} shards read)"],
            f"up to {touched:,} done rows are touched",
            [
                "--keep-done keeps every done row and goes on with the rest",
                "--restart starts over; the old contents are kept aside",
            ],
        )
    journal.refresh(fresh)
    return True


def known(parts: Parts, journal: Journal, shard: int) -> tuple[frozenset[int], dict[int, int]]:
    """Rows of a shard that have an outcome, in its part or in the journal, and the last attempt
    number of rows that have none.
    """
    published, numbers = parts.known_rows(shard)
    opened = journal.open_shard(shard)
    done = frozenset(published) | frozenset(opened.done)
    attempts = dict(numbers)
    for row, number in opened.attempts.items():
        attempts[row] = max(number, attempts.get(row, 0))
    return done, {row: number for row, number in attempts.items() if row not in done}


def _reread(
    reader: Reader, states: Sequence[ShardState], shard_rows: int
) -> tuple[list[ShardState], list[int]]:
    """Read again what was read before: the states as they are now, and the shards that differ."""
    position = Position()
    fresh, edited = [], []
    for state in states:
        span = Span(state.shard, state.shard, position)
        limit = state.shard * shard_rows + state.rows_read
        last = next(iter(deque(reader.blocks([span], limit=limit), maxlen=1)), None)
        rows, digest = (last.rows_read, last.digest) if last else (0, b"")
        position = last.end if last else position
        if state.digest and (rows, digest) != (state.rows_read, state.digest):
            edited.append(state.shard)
        # A short shard was the input's end: now there may be more of it.
        complete = state.complete and state.rows_read == shard_rows
        fresh.append(
            replace(
                state,
                rows_read=rows or state.rows_read,
                digest=digest,
                end=position,
                complete=complete,
            )
        )
    return fresh, edited


def _changed(
    what: str, details: Sequence[str], touches: str, choices: Sequence[str]
) -> RunChangedError:
    lines = [f"{what}. Nothing was sent and nothing was touched."]
    lines += [f"  {detail}" for detail in details]
    lines += [f"  {touches}. Choose:"]
    lines += [f"  {choice}" for choice in choices]
    return RunChangedError("\n".join(lines))


def _schema_difference(before: pa.Schema, now: pa.Schema) -> str:
    old = {field.name: str(field.type) for field in before}
    new = {field.name: str(field.type) for field in now}
    changed = [n for n in dict.fromkeys([*old, *new]) if old.get(n) != new.get(n)]
    return "; ".join(f"{n}: was {old.get(n, 'absent')}, is {new.get(n, 'absent')}" for n in changed)
