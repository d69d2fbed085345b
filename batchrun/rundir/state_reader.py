"""Reads a state file without its lock and without writing, for checks and views.

It shares no code with ``states``, which writes the file: problems are returned, not raised.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchrun.records import Position

STATES = "journal.db"
FORMATS = (1, 2)
"""Format 2 has the sizes and marks of parts."""
APPLICATION_ID = 0x62617472


@dataclass(frozen=True, slots=True)
class RecordedShard:
    """The record of one shard's parts."""

    shard: int
    rows_read: int
    digest: bytes
    end: Position
    generation: int
    complete: bool
    results_sha256: str
    attempts_sha256: str
    totals: dict[str, Any]
    requests: tuple[str, int] | None = None
    """Digest and rows of the part of requests; None if the shard has none."""
    results_mark: tuple[int, str] | None = None
    """Size and mark of the part of results; None if they are not recorded."""


@dataclass(slots=True)
class Recorded:
    """A state file: its values, its shards by number, and what is wrong with it."""

    meta: dict[str, Any] = field(default_factory=dict)
    shards: dict[int, RecordedShard] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that shape requests and parts; empty where none are recorded."""
        found = self.meta.get("settings")
        return found if isinstance(found, dict) else {}

    @property
    def carried(self) -> pa.Schema | None:
        """The carried columns; None if they are not recorded, or not as a schema."""
        data = self.meta.get("carry_schema")
        if not isinstance(data, bytes):
            return None
        try:
            return pa.ipc.read_schema(pa.BufferReader(data))
        except (OSError, pa.ArrowException):
            return None


def read(checkpoint: Path) -> Recorded | None:
    """The content of a checkpoint's state file; None if there is no such file."""
    path = checkpoint / STATES
    if not path.is_file():
        return None
    found = Recorded()
    try:
        with _opened(path) as db:
            _check_file(db, found)
            for key, value in db.execute("SELECT key, value FROM meta"):
                found.meta[key] = _value(key, value, found)
            for row in db.execute("SELECT * FROM shards ORDER BY shard"):
                _shard(row, found)
    except (OSError, sqlite3.Error) as error:
        found.faults.append(f"it cannot be read: {error}")
    for key in ("settings", "input", "input_format", "carry_schema", "carry_names"):
        if key not in found.meta and not found.faults:
            found.faults.append(f"it does not record {key!r}")
    if "carry_schema" in found.meta and found.carried is None:
        found.faults.append("what it records as 'carry_schema' is no schema")
    return found


def values(checkpoint: Path, *keys: str) -> dict[str, Any]:
    """The requested values of the state file that exist and are sound. Problems with the file are
    reported when the run itself opens it.
    """
    path = checkpoint / STATES
    found = Recorded()
    try:
        if path.is_file() and path.stat().st_size:
            with _opened(path) as db:
                marks = ", ".join("?" * len(keys))
                rows = db.execute(f"SELECT key, value FROM meta WHERE key IN ({marks})", keys)  # noqa: S608 - marks alone
                found.meta = {key: _value(key, value, found) for key, value in rows}
    except (OSError, sqlite3.Error):
        return {}
    return found.meta


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, opened for reading. Transactions that a kill left in its write-ahead log are read
    from a copy, since reading them in place would write.
    """
    wal = path.with_name(path.name + "-wal")
    with contextlib.ExitStack() as stack:
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        if wal.exists() and wal.stat().st_size:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batchrun-verify-"))
            for one in (path, wal):
                shutil.copyfile(one, Path(folder, one.name))
            address = Path(folder, path.name).as_uri()
        db = stack.enter_context(contextlib.closing(sqlite3.connect(address, uri=True)))
        yield db


def _check_file(db: sqlite3.Connection, found: Recorded) -> None:
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if mark != APPLICATION_ID:
        found.faults.append("it is not a batchrun checkpoint")
    if version not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        found.faults.append(f"it has format {version}; this version reads formats {known}")
    if sound != "ok":
        found.faults.append(str(sound))


def _value(key: str, value: object, found: Recorded) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        found.faults.append(f"what it records as {key!r} is not JSON")
        return None


def _shard(row: tuple[Any, ...], found: Recorded) -> None:
    shard, rows_read, digest, *end, generation, complete, results, attempts, text = row[:11]
    marks = row[11:]
    totals = _value(f"totals of shard {shard}", text, found)
    totals = totals if isinstance(totals, dict) else {}
    crc = totals.pop("crc32", None)
    marked = () if all(mark is None for mark in marks) else marks
    told = (*row[:10], *marked, totals)
    whole = json.dumps(told, default=bytes.hex, sort_keys=True).encode()
    if crc is not None and crc != zlib.crc32(whole):
        found.faults.append(f"what it says of shard {shard} changed on the disk")
    kept = totals.pop("requests", None)
    if generation < 1:
        found.faults.append(f"it records generation {generation} of shard {shard}'s parts")
    if not results or not attempts:
        found.faults.append(f"a --repair of shard {shard} did not finish")
    found.shards[shard] = RecordedShard(
        shard,
        rows_read,
        digest,
        Position(*end),
        generation,
        bool(complete),
        results,
        attempts,
        totals,
        None if kept is None else (kept[0], kept[1]),
        (marks[0], marks[1]) if len(marks) > 1 and None not in marks[:2] else None,
    )
