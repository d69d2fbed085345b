"""The run directory: opening it, and finding out what an earlier session left there.

Opening decides, before anything is sent, whether this run may go on here: alone (the lock), with
the settings and the input it was begun with (the fingerprints), and on sound files.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchrun.adapters import arrow, files
from batchrun.adapters.flight import FlightLog
from batchrun.adapters.journal import STATES, Journal, recover_flights
from batchrun.adapters.parts import Parts
from batchrun.adapters.sources import opening
from batchrun.adapters.sources.opening import Carry, Reader, Stamp
from batchrun.core import settings as config
from batchrun.core.settings import Settings
from batchrun.core.shards import plan_reading
from batchrun.core.totals import Totals
from batchrun.errors import DamagedError, RunChangedError, StorageError, UsageError
from batchrun.records import Position, ShardState, Span

FLIGHTS, LOCK, STATUS = "inflight", "lock", "status.json"
SUMMARY, USAGE = "summary.json", "usage.parquet"


@dataclass(frozen=True, slots=True)
class Changes:
    """What the user allows when settings or input are not those of the run directory."""

    keep_done: bool = False
    restart: bool = False


@dataclass(slots=True)
class RunDirectory:
    """An opened run directory, locked until ``close``."""

    folder: Path
    checkpoint: Path
    lock: files.Lock
    journal: Journal
    parts: Parts
    reader: Reader
    carry: Carry
    spans: list[Span]
    known: dict[int, tuple[frozenset[int], dict[int, int]]] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    started_at_us: int = 0
    wall_s_before: float = 0.0

    def totals(self) -> Totals:
        """The sums over everything published."""
        totals = Totals()
        for published in self.journal.states.published():
            totals.add(published.totals)
        return totals

    def flights(self, slots: int) -> FlightLog:
        """A fresh flight log; what the last one told is in the journal by now."""
        try:
            return FlightLog(self.checkpoint / FLIGHTS, slots)
        except OSError as error:
            message = f"cannot write into {self.checkpoint}: {error.strerror}; make room"
            raise StorageError(message) from error

    def close(self) -> None:
        """Close the journal and give the lock back."""
        self.journal.close()
        self.lock.release()


def open_run(settings: Settings, changes: Changes, *, say: Callable[[str], None]) -> RunDirectory:
    """Open or make the run directory of these settings.

    ``say`` is told of what takes time or was repaired. Raises ``RunLockedError``,
    ``RunChangedError``, ``DamagedError``, ``InputError`` or ``UsageError``; then nothing was sent
    and nothing was touched.
    """
    stamps = opening.stamp(settings.files)
    kind = opening.format_of(settings.files, settings.format)
    opening.require_rows(stamps, kind)
    folder, checkpoint = Path(settings.dir), Path(settings.checkpoint)
    lock = _locked(folder, checkpoint)
    journal: Journal | None = None
    try:
        if changes.restart:
            lock = _set_aside(folder, checkpoint, lock, say)
        _refuse_lost_checkpoint(folder, checkpoint)
        journal = Journal(checkpoint, settings.shard_rows)
        if journal.states.get("settings") is None:
            carry = _begin(journal, settings, stamps, kind)
            grown = False
        else:
            carry, grown = _continue(journal, settings, stamps, kind, changes, say)
        reader = opening.open_reader(stamps, kind, carry, settings.shard_rows)
        parts = Parts(folder, journal, carry.schema)
        opened = RunDirectory(folder, checkpoint, lock, journal, parts, reader, carry, [])
        _recover(opened, settings, say)
        states = journal.shards()
        opened.spans = plan_reading(states, settings.shard_rows, grown=grown)
        opened.started_at_us = journal.states.get("started_at_us")
        opened.wall_s_before = journal.states.get("wall_s") or 0.0
    except BaseException:
        if journal is not None:
            journal.close()
        lock.release()
        raise
    return opened


def _locked(folder: Path, checkpoint: Path) -> files.Lock:
    """Make the folders where they are missing, and take the lock."""
    if folder.exists() and not folder.is_dir():
        message = f"{folder} is a file; -o names the run directory"
        raise UsageError(message)
    try:
        strangers = [] if not folder.exists() else [p.name for p in folder.iterdir()]
    except OSError as error:
        message = f"cannot look into {folder}: {error.strerror}"
        raise UsageError(message) from None
    ours = {"checkpoint", "results", "attempts", SUMMARY, USAGE}
    if strangers and not ours & set(strangers) and not (checkpoint / STATES).exists():
        message = (
            f"{folder} holds other files ({', '.join(sorted(strangers)[:3])}) and is no run "
            "directory; name a new or empty one with -o"
        )
        raise UsageError(message)
    try:
        files.make_folder(folder)
        files.make_folder(checkpoint, private=True)
        lock = files.Lock(folder, checkpoint / LOCK)
        lock.acquire()
    except OSError as error:
        message = f"cannot make the run directory {folder}: {error.strerror}"
        raise UsageError(message) from None
    return lock


def _set_aside(
    folder: Path, checkpoint: Path, lock: files.Lock, say: Callable[[str], None]
) -> files.Lock:
    """``--restart``: what is there moves to ``DIR.old-TIME``; answers are never deleted."""
    if not (checkpoint / STATES).exists() and not (folder / "results").exists():
        return lock
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    folder, checkpoint = folder.resolve(), checkpoint.resolve()
    aside = folder.with_name(f"{folder.name}.old-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = folder.with_name(f"{folder.name}.old-{stamp}-{count}")
    try:
        folder.rename(aside)
        if checkpoint.exists():  # it lives elsewhere
            shutil.move(checkpoint, aside / "checkpoint")
        files.sync_folder(folder.parent)
    except OSError as error:
        message = f"cannot move {folder} to {aside}: {error.strerror}"
        raise StorageError(message) from error
    say(f"the old contents of {folder} are in {aside}")
    lock.release()
    return _locked(folder, checkpoint)


def _refuse_lost_checkpoint(folder: Path, checkpoint: Path) -> None:
    parts = list((folder / "results").glob("part-*.parquet"))
    path = checkpoint / STATES
    if parts and (not path.exists() or path.stat().st_size == 0):
        message = (
            f"{folder}/results has {len(parts)} parts, but the journal {path} is missing or "
            "empty, so nobody knows which rows are done. Restore it, or start over with "
            "--restart (the old contents are kept aside)"
        )
        raise DamagedError(message, path=str(path))


def _begin(journal: Journal, settings: Settings, stamps: Sequence[Stamp], kind: str) -> Carry:
    schema = opening.open_reader(stamps, kind, None, settings.shard_rows).schema()
    carry = opening.choose(schema, settings.carry, json_rows=kind == "jsonl")
    journal.states.put(
        settings=settings.shaping(),
        input=[asdict(stamp) for stamp in stamps],
        input_format=kind,
        carry_schema=arrow.schema_to_bytes(carry.schema),
        carry_names=[list(carry.names), carry.everything],
        started_at_us=time.time_ns() // 1000,
    )
    return carry


def _continue(
    journal: Journal,
    settings: Settings,
    stamps: Sequence[Stamp],
    kind: str,
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
    found = config.differences(journal.states.get("settings"), settings.shaping())
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
    if kind != journal.states.get("input_format"):
        raise _changed(
            "the input has another format than the run was begun with",
            [f"format: was {journal.states.get('input_format')}, is {kind}"],
            f"{done:,} rows are done",
            ["--restart starts over; the old contents are kept aside"],
        )
    grown = _compare_input(journal, settings, stamps, kind, carry, changes, say)
    if found or grown:
        journal.states.put(
            settings=settings.shaping(),
            input=[asdict(stamp) for stamp in stamps],
            input_rows=None,
        )
    return carry, grown


def _compare_input(
    journal: Journal,
    settings: Settings,
    stamps: Sequence[Stamp],
    kind: str,
    carry: Carry,
    changes: Changes,
    say: Callable[[str], None],
) -> bool:
    """Size and modification time equal: trusted. Else what was read before is read again and
    compared by digest. Returns False where nothing changed at all.
    """
    recorded = [Stamp(**stamp) for stamp in journal.states.get("input")]
    now = [(stamp.size, stamp.mtime_ns) for stamp in stamps]
    if now == [(stamp.size, stamp.mtime_ns) for stamp in recorded]:
        return False
    states = journal.shards()
    if states:
        say(f"the input files changed on disk; comparing {len(states):,} shards with what was read")
    reader = opening.open_reader(stamps, kind, carry, settings.shard_rows)
    if kind == "parquet":
        schema = opening.choose(reader.schema(), settings.carry, json_rows=False).schema
        if not schema.equals(carry.schema):
            raise _changed(
                "the input's columns are not those that the run was begun with",
                [_schema_difference(carry.schema, schema)],
                "parts hold one schema",
                ["--restart starts over; the old contents are kept aside"],
            )
    fresh, edited = _reread(reader, states, settings.shard_rows)
    if edited and not changes.keep_done:
        touched = sum(len(_known_rows(journal, settings, carry, s)[0]) for s in edited)
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


def _known_rows(
    journal: Journal, settings: Settings, carry: Carry, shard: int
) -> tuple[frozenset[int], dict[int, int]]:
    """Rows of a shard that have an outcome, in its part or in the journal, and the last attempt
    number of rows that have none.
    """
    return _known(Parts(Path(settings.dir), journal, carry.schema), journal, shard)


def _known(parts: Parts, journal: Journal, shard: int) -> tuple[frozenset[int], dict[int, int]]:
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


def _recover(opened: RunDirectory, settings: Settings, say: Callable[[str], None]) -> None:
    """Bring what a kill interrupted to its end; see the crash table in docs/architecture.md."""
    journal = opened.journal
    try:
        opened.parts.prepare()
        for draft in opened.folder.glob(f"*{files.TEMPORARY}"):
            draft.unlink()
    except OSError as error:
        message = f"cannot write into {opened.folder}: {error.strerror}"
        raise StorageError(message) from error
    states = journal.shards()
    complete = {state.shard for state in states if state.complete}
    begun = {state.shard for state in states} - complete
    opened.touched = journal.touched()
    opened.known = {shard: _known(opened.parts, journal, shard) for shard in begun | opened.touched}

    def last_attempt(row: int) -> int:
        shard = row // settings.shard_rows
        if shard in complete:
            return -1
        done, attempts = opened.known.get(shard, (frozenset(), {}))
        return -1 if row in done else attempts.get(row, 0)

    names = [settings.endpoint.name]
    lost = recover_flights(journal, opened.checkpoint / FLIGHTS, last_attempt, names)
    if lost:
        say(f"{lost} requests were in flight when the last run ended; they are sent again")
        opened.touched = journal.touched()
        for shard in opened.touched:
            opened.known[shard] = _known(opened.parts, journal, shard)
    with contextlib.suppress(FileNotFoundError):
        (opened.checkpoint / FLIGHTS).unlink()


def summary_of(folder: Path) -> Mapping[str, Any] | None:
    """The summary in a run directory, or None."""
    found = files.read_json(folder / SUMMARY)
    return found if isinstance(found, dict) else None
