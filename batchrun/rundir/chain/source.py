"""The run that ``--from`` names: whether it can be read as input, and how a change to it is
noticed.

It is only read, like any other input: it needs neither lock nor permission to write, and may be in
an object store. Each of its parts is identified by the digest in its own state file, so checking
for changes reads no row.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import LOG_NAME
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.run import RunSource
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.object_store import OWNER
from batchrun.adapters.storage.store import (
    SUMMARY,
    FileMark,
    StoreReader,
    part_names,
    part_number,
    read_json,
)
from batchrun.core.request.chained_rows import SOURCE
from batchrun.core.settings.addresses import format_address, local_path
from batchrun.core.text.legible import shell_word
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.rundir import inspect, state_reader
from batchrun.rundir.inspect import Look
from batchrun.rundir.state_reader import Recorded

HOPS_MAX = 100
"""A chain longer than this is assumed to have no cycle."""
_FINISHED = ("complete", "complete_with_errors")


@dataclass(frozen=True, slots=True)
class SourceRun:
    """A run directory to read answers from, inspected once. ``known`` is what its state file says,
    None if that cannot be read; ``summary`` is empty if there is none.
    """

    name: str
    look: Look
    known: Recorded | None
    summary: Mapping[str, Any]
    parts: tuple[str, ...]

    @property
    def where(self) -> str:
        """The directory as text, valid from any working directory."""
        store = self.look.store
        return str(store.folder.resolve()) if isinstance(store, DiskStore) else store.where()

    @property
    def run(self) -> str | None:
        """The id of the run; None if a version without ids began it."""
        for found in ((self.known.meta if self.known else {}).get("run"), self.summary.get("run")):
            if isinstance(found, str) and found:
                return found
        return None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the run recorded."""
        told = self.summary.get("settings")
        return (told if isinstance(told, dict) else {}) | (
            self.known.settings if self.known else {}
        )


def look_at(name: str) -> SourceRun:
    """Inspect a run directory. Raises ``UsageError`` if it is not one or cannot be read."""
    shown = format_address(name)
    local = local_path(name)
    if local is not None and not Path(local).is_dir():
        what = "is a file" if Path(local).exists() else "does not exist"
        message = f"--from {shown} {what}. Name the directory that a run was given with -o"
        raise UsageError(message)
    try:
        look = inspect.look_at(name, _checkpoint_elsewhere(name))
        parts = tuple(part_names(look.store, "results"))
        summary = read_json(look.store, SUMMARY)
        known = None if look.checkpoint is None else state_reader.read(look.checkpoint)
    except (OSError, StorageError) as error:
        message = f"--from {shown} cannot be read: {error}"
        raise UsageError(message) from None
    summary = summary if isinstance(summary, dict) else {}
    if not parts and known is None and not summary:
        message = (
            f"--from {shown} is not a run directory: it has neither results/ nor a checkpoint. "
            "Name the directory that a run was given with -o"
        )
        raise UsageError(message)
    return SourceRun(shown, look, known, summary, parts)


def _checkpoint_elsewhere(name: str) -> str | None:
    """Where the checkpoint of a run directory is, if it is not inside it and on this machine."""
    local = local_path(name)
    if local is not None:
        if Path(local, "checkpoint").is_dir():
            return None
        summary = read_json(DiskStore(Path(local)), SUMMARY)
        told = summary.get("settings") if isinstance(summary, dict) else None
        place = told.get("output.checkpoint") if isinstance(told, dict) else None
        return place if isinstance(place, str) and Path(place).is_dir() else None
    owner = read_json(inspect.look_at(name, None).store, OWNER)
    if not isinstance(owner, dict) or owner.get("host") != socket.gethostname():
        return None
    place = owner.get("checkpoint")
    return place if isinstance(place, str) and Path(place).is_dir() else None


def require(source: SourceRun, *, allow_partial: bool) -> None:
    """Raise ``UsageError`` for an unfinished source, unless that is allowed, and ``DamagedError``
    for an incomplete one.
    """
    if not allow_partial:
        _require_finished(source)
    known = source.known
    if known is not None and known.faults:
        raise _damaged(source, f"its state file cannot be trusted: {known.faults[0]}")
    numbers = {number for name in source.parts if (number := part_number(name)) is not None}
    shards: set[int] = set() if known is None else set(known.shards)
    expected = shards or set(range(max(numbers, default=-1) + 1))
    missing = sorted(expected - numbers)
    if missing:
        part = f"results/part-{missing[0]:08d}.parquet"
        raise _damaged(source, f"{source.look.store.where(part)} is missing")


def require_another(source: SourceRun, directory: str) -> None:
    """Raise ``UsageError`` for a source that is the run directory itself, or was made from it."""
    if is_same(source.where, directory):
        message = f"--from {source.name} is the run directory itself (-o); name another one"
        raise UsageError(message)
    path, place = [source.name], source
    for _ in range(HOPS_MAX):
        recorded = recorded_source(place)
        if recorded is None:
            return
        path.append(recorded)
        if is_same(recorded, directory):
            message = (
                f"--from {source.name} was made from {format_address(directory)}, the directory of "
                f"this run ({' <- '.join(path)}): a run cannot be made from itself. Name a new "
                "directory with -o"
            )
            raise UsageError(message)
        try:
            place = look_at(recorded)
        except UsageError:
            return


def recorded_source(source: SourceRun) -> str | None:
    """The directory that a run was itself made from; None if it has no source."""
    found = (source.known.meta if source.known else {}).get(SOURCE)
    if isinstance(found, dict) and isinstance(found.get("directory"), str):
        return str(found["directory"])
    named = source.settings.get("input.from")
    return named if isinstance(named, str) else None


def is_same(one: str, other: str) -> bool:
    """Whether two names are of the same directory."""
    here, there = local_path(one), local_path(other)
    if here is None or there is None:
        return format_address(one) == format_address(other)
    return Path(here).resolve() == Path(there).resolve()


def _require_finished(source: SourceRun) -> None:
    name = shell_word(source.name)
    partial = "or use the rows that are published so far with --allow-partial"
    if source.look.live:
        message = (
            f"--from {source.name}: a run is working there, and its answers may still change. Wait "
            f"for it (batchrun status {name} --watch), {partial}"
        )
        raise UsageError(message)
    rows = source.summary.get("rows")
    pending = rows.get("pending") if isinstance(rows, dict) else None
    why = None
    if not source.summary:
        why = "it has no summary.json: the run did not end"
    elif source.summary.get("status") not in _FINISHED or pending != 0:
        count = f"{pending:,} rows are pending" if isinstance(pending, int) else "rows are pending"
        why = f"it is {source.summary.get('status')}: {count}"
    elif _waits(source):
        why = "a later session of it was killed, and some of its answers are not published yet"
    elif source.known is not None and source.known.meta.get("resending") is not None:
        why = "a --resend-changed of it did not finish"
    if why is not None:
        message = (
            f"--from {source.name} is not finished: {why}. Run its command again to finish it, "
            f"{partial}"
        )
        raise UsageError(message)


def _waits(source: SourceRun) -> bool:
    """Whether answers wait in logs to be published."""
    folder, known = source.look.checkpoint, source.known
    for path in folder.glob("shard-*.log") if folder is not None else ():
        match = LOG_NAME.fullmatch(path.name)
        shard = known.shards.get(int(match[1])) if match and known else None
        if match and int(match[2]) > (0 if shard is None else shard.generation):
            return True
    return False


def _damaged(source: SourceRun, why: str) -> DamagedError:
    message = (
        f"--from {source.name} is damaged: {why}. Nothing was sent. `batchrun verify "
        f"{shell_word(source.name)}` lists what is wrong; its own command with --repair mends it"
    )
    return DamagedError(message, path=source.where)


def stamps(source: SourceRun) -> list[Stamp]:
    """What identifies each part of the results: its size and its digest as the run recorded them;
    else the version that its store reports, or the digest of its content.

    Raises ``DamagedError`` for a part that is not the one that was published.
    """
    names = [f"results/{name}" for name in source.parts]
    marks = source.look.store.marks(names)
    return [_stamp(source, name, marks.get(name)) for name in names]


def _stamp(source: SourceRun, name: str, mark: FileMark | None) -> Stamp:
    store, where = source.look.store, source.look.store.where(name)
    if mark is None:
        raise _damaged(source, f"{where} is missing")
    number = part_number(name)
    shard = source.known.shards.get(number) if source.known and number is not None else None
    if shard is None or not shard.results_sha256:
        word = mark.word if mark.word.startswith("etag:") else _digest(store, name)
        return Stamp(where, mark.size_bytes, 0, word or None)
    recorded = shard.results_mark
    if recorded is not None and not mark.fits(FileMark(*recorded)) and not source.look.live:
        raise _damaged(source, f"{where} is not the part that was published")
    return Stamp(where, mark.size_bytes, 0, f"sha256:{shard.results_sha256}")


def _digest(store: StoreReader, name: str) -> str:
    digest = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def carried(source: SourceRun) -> pa.Schema:
    """The columns that the rows of a run carry."""
    recorded = None if source.known is None else source.known.carried
    if recorded is not None:
        return recorded
    if not source.parts:
        return pa.schema([])
    name = f"results/{source.parts[0]}"
    try:
        with source.look.store.open(name) as file:
            found = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(source, f"{source.look.store.where(name)} cannot be read: {error}") from None
    return pa.schema([f for f in found if f.name not in part_schema.RESULT_NAMES])


def run_source(source: SourceRun, status: str) -> RunSource:
    """The source in the form that its row reader takes."""
    return RunSource(
        source.name,
        source.where,
        source.look.store,
        source.parts,
        carried(source),
        status,
        source.run,
    )
