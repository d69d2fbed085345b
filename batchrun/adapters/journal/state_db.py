"""The state of a run between sessions: a small SQLite file, written once per shard.

Tables (format ``FORMAT``, in ``PRAGMA user_version``):

- ``meta``: settings, input and schema fingerprints, one JSON or binary value per key.
- ``shards``: per published shard, how far its input was read (rows, digest, end), the generation
  of its parts, their digests and totals, and the marks by which they are known again.

Format 1, of version 0.1, has no marks. It can be read, and becomes format 2 with the first write,
so that a refused start leaves it usable by the version that made it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from batchrun.adapters.journal.shard_log import damaged
from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import FileMark
from batchrun.errors import StorageError, UsageError
from batchrun.records import Position, ShardState

FORMAT = 2
OLDEST_FORMAT = 1
APPLICATION_ID = 0x62617472  # "batr"

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID",
    (
        "CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows_read INTEGER NOT NULL, "
        "digest BLOB NOT NULL, file INTEGER NOT NULL, offset INTEGER NOT NULL, "
        "line INTEGER NOT NULL, "
        "generation INTEGER NOT NULL, complete INTEGER NOT NULL, results_sha256 TEXT NOT NULL, "
        "attempts_sha256 TEXT NOT NULL, totals TEXT NOT NULL, "
        "results_bytes INTEGER, results_mark TEXT, attempts_bytes INTEGER, attempts_mark TEXT)"
    ),
)
_ADDED = (
    "results_bytes INTEGER",
    "results_mark TEXT",
    "attempts_bytes INTEGER",
    "attempts_mark TEXT",
)
"""The columns that format 1 lacks."""

_INSERT = "INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT * FROM shards"
_SELECT_OLD = "SELECT *, NULL, NULL, NULL, NULL FROM shards"
_ORDER, _ONE = " ORDER BY shard", " WHERE shard = ?"
_CRC = "crc32"
_REQUESTS = "requests"
"""The record of a part of requests is among the totals, since most runs have none."""


class KeptRequests(NamedTuple):
    """The record of a shard's part of requests: the digest of the file, its rows, and the size and
    the word of its mark (None without a mark).
    """

    sha256: str
    rows: int
    size_bytes: int | None = None
    word: str | None = None

    @property
    def mark(self) -> FileMark | None:
        """The mark that identifies the file."""
        known = self.size_bytes is not None and self.word is not None
        return FileMark(self.size_bytes, self.word) if known else None  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Published:
    """The record of a shard's published parts. ``requests`` is None for a shard without a part of
    requests.
    """

    state: ShardState
    results_sha256: str
    attempts_sha256: str
    totals: dict[str, Any]
    results_mark: FileMark | None = None
    attempts_mark: FileMark | None = None
    requests: KeptRequests | None = None


class StateFile:
    """The SQLite file. Every write is a separate transaction, durable when it returns."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it if it is missing.

        Raises ``DamagedError`` if it is not a sound state file, ``UsageError`` for another format
        version, ``StorageError`` if it cannot be opened.
        """
        self.path = path
        self._old = False
        self._writing = threading.Lock()  # shards and budgets are recorded in different threads
        fresh = not path.exists()
        try:
            if fresh or path.is_symlink():
                os.close(files.open_private(path))  # SQLite would follow a link, and share the file
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            message = f"cannot open {path}: {error}"
            raise StorageError(message) from error
        try:
            self._open(fresh=fresh)
        except sqlite3.OperationalError as error:
            self._db.close()
            message = f"cannot open {path}: {error}"
            raise StorageError(message) from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise damaged(path, str(error)) from error
        except BaseException:
            self._db.close()
            raise

    def _open(self, *, fresh: bool) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA fullfsync = ON")  # macOS' F_FULLFSYNC; nothing elsewhere
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            # A new file, or one from a process that was killed before its first transaction.
            with self._transaction():
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {FORMAT}")
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            files.reached("state.begun", self.path)
        if fresh:
            files.sync_folder(self.path.parent)
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise damaged(self.path, "it is not a batchrun checkpoint")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if not OLDEST_FORMAT <= version <= FORMAT:
            message = (
                f"{self.path} has format {version}, this version reads formats {OLDEST_FORMAT} to "
                f"{FORMAT}. Continue with the version that made it, or start over with --restart"
            )
            raise UsageError(message)
        self._old = version < FORMAT
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise damaged(self.path, verdict)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when left."""
        with self._writing:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if self._old:
                    for column in _ADDED:
                        self._db.execute(f"ALTER TABLE shards ADD COLUMN {column}")
                    self._db.execute(f"PRAGMA user_version = {FORMAT}")
                yield self._db
                self._db.execute("COMMIT")
                self._old = False
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        self._db.close()

    def copy_to(self, path: Path) -> None:
        """Copy the present content of the file into a new one, which can be opened without it."""
        with storing(path), contextlib.closing(sqlite3.connect(path)) as target:
            self._db.backup(target)

    def get(self, key: str) -> Any:
        """A value of ``meta``, or None."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        return self._parsed(found[0]) if isinstance(found[0], str) else found[0]

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise damaged(self.path, f"a value in it is not JSON: {error}") from None

    def put(self, **values: Any) -> None:
        """Set values of ``meta`` together: bytes as they are, the rest as JSON."""
        rows = [
            (key, value if isinstance(value, bytes) else json.dumps(value))
            for key, value in values.items()
        ]
        with storing(self.path), self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        files.reached("state.put", self.path)

    def published(self, shard: int | None = None) -> Iterator[Published]:
        """All published shards, in order; or only one, if it is published."""
        select = (_SELECT_OLD if self._old else _SELECT) + _ORDER
        if shard is not None:
            select = (_SELECT_OLD if self._old else _SELECT) + _ONE
        for row in self._db.execute(select, () if shard is None else (shard,)).fetchall():
            shard, rows, digest, file, offset, line, generation, complete = row[:8]
            end = Position(file, offset, line)
            state = ShardState(shard, rows, digest, end, generation, bool(complete))
            results_sha256, attempts_sha256, text = row[8:11]
            totals = self._parsed(text)
            crc = totals.pop(_CRC, None) if isinstance(totals, dict) else -1
            if crc is not None and crc != _checksum((*row[:10], *_known(row[11:]), totals)):
                raise damaged(self.path, f"what it says of shard {shard} changed on the disk")
            requests = totals.pop(_REQUESTS, None)
            yield Published(
                state,
                results_sha256,
                attempts_sha256,
                totals,
                None if row[11] is None else FileMark(*row[11:13]),
                None if row[13] is None else FileMark(*row[13:15]),
                None if requests is None else KeptRequests(*requests),
            )

    def mark(self, published: Sequence[Published]) -> None:
        """Record the marks of existing parts."""
        with storing(self.path), self._transaction() as db:
            db.executemany(_INSERT, list(map(_values, published)))
        files.reached("state.marked", self.path)

    def seal(self, published: Published) -> None:
        """Record a shard's new parts."""
        with storing(self.path), self._transaction() as db:
            db.execute(_INSERT, _values(published))
            files.reached("seal.written", self.path)
        files.reached("seal.committed", self.path)

    def forget(self, shards: Sequence[int]) -> None:
        """Remove the records of these shards."""
        with storing(self.path), self._transaction() as db:
            db.executemany("DELETE FROM shards WHERE shard = ?", [(shard,) for shard in shards])
        files.reached("state.forgotten", self.path)

    def refresh(self, states: Sequence[ShardState]) -> None:
        """Replace the record of published shards' input and completeness."""
        fresh = {state.shard: state for state in states}
        rows = [
            _values(replace(published, state=fresh[published.state.shard]))
            for published in self.published()
            if published.state.shard in fresh
        ]
        with storing(self.path), self._transaction() as db:
            db.executemany(_INSERT, rows)
        files.reached("state.refreshed", self.path)


def _values(published: Published) -> tuple[Any, ...]:
    """A row of ``shards``. SQLite does not notice a byte that flips on the disk; the checksum,
    kept among the totals, does.
    """
    state, end = published.state, published.state.end
    row = (
        state.shard,
        state.rows_read,
        state.digest,
        end.file,
        end.offset,
        end.line,
        state.generation,
        int(state.complete),
        published.results_sha256,
        published.attempts_sha256,
    )
    marks = (*(published.results_mark or _NO_MARK), *(published.attempts_mark or _NO_MARK))
    totals = published.totals
    if published.requests is not None:
        totals = totals | {_REQUESTS: list(published.requests)}
    checksum = _checksum((*row, *_known(marks), totals))
    return (*row, json.dumps(totals | {_CRC: checksum}), *marks)


_NO_MARK = (None, None)


def _known(marks: Sequence[Any]) -> Sequence[Any]:
    """The marks as covered by the checksum: empty without marks, as in format 1."""
    return marks if any(mark is not None for mark in marks) else ()


def _checksum(row: Sequence[Any]) -> int:
    return zlib.crc32(json.dumps(row, default=bytes.hex, sort_keys=True).encode())


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn SQLite's failures into a ``StorageError``."""
    try:
        yield
    except sqlite3.Error as error:
        message = (
            f"cannot write {path}: {error}. What was committed before is intact; "
            "make room or fix the disk, then run the same command again"
        )
        raise StorageError(message) from error
