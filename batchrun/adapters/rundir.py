"""The run directory: opening it, and finding out what an earlier session left there.

Opening decides, before anything is sent, whether this run may go on here: alone (the lock), with
the settings and the input it was begun with (the fingerprints), and on sound files.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from batchrun.adapters import arrow, comparing, files
from batchrun.adapters.comparing import Changes, known
from batchrun.adapters.flight import FlightLog
from batchrun.adapters.journal import STATES, Journal, recover_flights
from batchrun.adapters.parts import Parts
from batchrun.adapters.sources import opening
from batchrun.adapters.sources.opening import Carry, Input, Reader
from batchrun.core.settings import Settings
from batchrun.core.shards import plan_reading
from batchrun.core.totals import Totals
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.records import Span

FLIGHTS, LOCK, STATUS = "inflight", "lock", "status.json"
SUMMARY, USAGE = "summary.json", "usage.parquet"


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


def open_run(
    settings: Settings,
    changes: Changes,
    given: Input | None = None,
    *,
    say: Callable[[str], None],
) -> RunDirectory:
    """Open or make the run directory of these settings.

    ``given`` is the input, if it is not the files of the settings. ``say`` is told of what takes
    time or was repaired. Raises ``RunLockedError``, ``RunChangedError``, ``DamagedError``,
    ``InputError`` or ``UsageError``; then nothing was sent and nothing was touched.
    """
    given = given or opening.find(settings.files, settings.format)
    folder, checkpoint = Path(settings.dir), Path(settings.checkpoint)
    lock = _locked(folder, checkpoint)
    journal: Journal | None = None
    try:
        if changes.restart:
            lock = _set_aside(folder, checkpoint, lock, say)
        _refuse_lost_checkpoint(folder, checkpoint)
        journal = Journal(checkpoint, settings.shard_rows)
        if journal.states.get("settings") is None:
            carry = _begin(journal, settings, given)
            grown = False
        else:
            carry, grown = comparing.go_on(journal, settings, given, changes, say)
        reader = given.reader(carry, settings.shard_rows)
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


def _begin(journal: Journal, settings: Settings, given: Input) -> Carry:
    schema = given.reader(None, settings.shard_rows).schema()
    carry = opening.choose(schema, settings.carry, with_extra=given.has_extra)
    journal.states.put(
        settings=settings.shaping(),
        input=[asdict(stamp) for stamp in given.stamps],
        input_format=given.kind,
        carry_schema=arrow.schema_to_bytes(carry.schema),
        carry_names=[list(carry.names), carry.everything],
        started_at_us=time.time_ns() // 1000,
    )
    return carry


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
    opened.known = {shard: known(opened.parts, journal, shard) for shard in begun | opened.touched}

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
            opened.known[shard] = known(opened.parts, journal, shard)
    with contextlib.suppress(FileNotFoundError):
        (opened.checkpoint / FLIGHTS).unlink()


def summary_of(folder: Path) -> Mapping[str, Any] | None:
    """The summary in a run directory, or None."""
    found = files.read_json(folder / SUMMARY)
    return found if isinstance(found, dict) else None
