"""The journal: a SQLite file that holds what is known of every row whose part is not published.

One thread writes, in groups: entries that arrive within ``GROUP_S`` of each other share one
transaction and one flush to the disk. ``append`` resolves when that transaction is committed, so
whatever it resolved for survives a power cut (WAL with ``synchronous=FULL``). Rows are taken out
again, in slices between commits, after their shard was published; the file therefore stays small
however many rows a run has.

Tables (format ``FORMAT``, in ``PRAGMA user_version``):

- ``meta``: settings, input and schema fingerprints, one JSON or binary value a key.
- ``shards``: per shard, how far its input was read (rows, digest, end), which generation of its
  parts is published, their digests and totals, and whether its rows are being cleared.
- ``outcomes``: one record a row, keyed by row: a second outcome of a row cannot be inserted.
- ``attempts``: exchanges that decided nothing, in order of arrival.
- ``blocks``: the carried columns of consecutive rows, as Arrow IPC.

Every record carries a CRC-32 of its own, because SQLite has no page checksums.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from batchrun.adapters import arrow, files
from batchrun.adapters.flight import FlightLog, read_notes
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.records import Attempt, Block, Outcome, Position, ShardState, Usage

FORMAT = 1
APPLICATION_ID = 0x62617472  # "batr"
GROUP_S = 0.025
CLEAR_ROWS = 500
INTERRUPTED = "interrupted"
"""``error_code`` of attempts that a kill cut off."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY, rows_read INTEGER NOT NULL, digest BLOB NOT NULL,
    file INTEGER NOT NULL, offset INTEGER NOT NULL, line INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, complete INTEGER NOT NULL DEFAULT 0,
    results_sha256 TEXT, attempts_sha256 TEXT, totals TEXT, clearing INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE outcomes (
    row INTEGER PRIMARY KEY, ok INTEGER NOT NULL, crc INTEGER NOT NULL, record BLOB NOT NULL
);
CREATE TABLE attempts (
    seq INTEGER PRIMARY KEY, row INTEGER NOT NULL, crc INTEGER NOT NULL, record BLOB NOT NULL
);
CREATE INDEX attempts_row ON attempts (row);
CREATE TABLE blocks (
    first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL, crc INTEGER NOT NULL, ipc BLOB NOT NULL
);
"""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True, slots=True)
class Published:
    """What is recorded of a shard's published parts."""

    shard: int
    generation: int
    complete: bool
    results_sha256: str
    attempts_sha256: str
    totals: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OpenShard:
    """What the journal holds of a shard in progress: rows with an outcome, and the number of the
    last known attempt of rows without one."""

    done: list[int]
    attempts: dict[int, int]


class JournalFile:
    """The SQLite file itself: opening, reading, and the transactions, all synchronous.

    Reading happens in other threads than writing, on the same connection: SQLite serialises the
    calls, and every read here is one short statement.
    """

    def __init__(self, path: Path, shard_rows: int | None = None) -> None:
        """Open the journal, making it if it is not there.

        Raises ``DamagedError`` for a file that is not a sound journal, ``UsageError`` for one of
        another format version.
        """
        self.path = path
        self.shard_rows = shard_rows or 0
        fresh = not path.exists()
        if fresh:
            path.touch(files.PRIVATE_FILE)
        self._db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._open(fresh=fresh or path.stat().st_size == 0)
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
        if fresh:
            db.execute("PRAGMA page_size = 16384")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -8192")
        db.execute("PRAGMA wal_autocheckpoint = 500")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            # A new file, or one whose maker was killed before the first transaction.
            with self.transaction():
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {FORMAT}")
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            files.sync_folder(self.path.parent)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise damaged(self.path, "it is not a batchrun journal")
        if version != FORMAT:
            message = (
                f"{self.path} has format {version}, this version reads format {FORMAT}. "
                "Go on with the version that made it, or start over with --restart"
            )
            raise UsageError(message)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when left."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        self._db.close()

    def get(self, key: str) -> Any | None:
        """A value of ``meta``."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        return json.loads(found[0]) if isinstance(found[0], str) else found[0]

    def put(self, **values: Any) -> None:
        """Set values of ``meta``, durably and together: bytes as they are, the rest as JSON."""
        rows = [
            (key, value if isinstance(value, bytes) else json.dumps(value))
            for key, value in values.items()
        ]
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def shards(self) -> list[ShardState]:
        """All shards the input was read into, in order."""
        return [
            ShardState(shard, rows, digest, Position(file, offset, line), generation, bool(complete))
            for shard, rows, digest, file, offset, line, generation, complete in self._db.execute(
                "SELECT shard, rows_read, digest, file, offset, line, generation, complete "
                "FROM shards ORDER BY shard"
            )
        ]

    def published(self) -> Iterator[Published]:
        """Recorded parts, in order."""
        for shard, generation, complete, results, attempts, totals in self._db.execute(
            "SELECT shard, generation, complete, results_sha256, attempts_sha256, totals "
            "FROM shards WHERE generation > 0 ORDER BY shard"
        ).fetchall():
            yield Published(
                shard, generation, bool(complete), results, attempts, json.loads(totals)
            )

    def touched_shards(self) -> set[int]:
        """Shards that have rows or attempts here that no part holds yet."""
        size = self.shard_rows
        rows = self._db.execute(
            "SELECT DISTINCT row / ? FROM outcomes UNION SELECT DISTINCT row / ? FROM attempts",
            (size, size),
        )
        clearing = {
            shard for (shard,) in self._db.execute("SELECT shard FROM shards WHERE clearing")
        }
        return {shard for (shard,) in rows} - clearing

    def unpublished(self) -> tuple[int, int]:
        """Rows ok and rows failed that are here and in no part yet; call it when nothing is being
        cleared."""
        counts = dict(self._db.execute("SELECT ok, count(*) FROM outcomes GROUP BY ok").fetchall())
        return counts.get(1, 0), counts.get(0, 0)

    def open_shard(self, shard: int) -> OpenShard:
        """What is known of a shard in progress."""
        low, high = shard * self.shard_rows, (shard + 1) * self.shard_rows
        done = [
            row
            for (row,) in self._db.execute(
                "SELECT row FROM outcomes WHERE row >= ? AND row < ? ORDER BY row", (low, high)
            )
        ]
        attempts: dict[int, int] = {}
        for values in self.attempts_between(low, high):
            attempts[values[0]] = max(attempts.get(values[0], 0), values[1])
        return OpenShard(done, attempts)

    def outcomes_between(
        self, low: int, high: int, *, rows_max: int, bytes_max: int
    ) -> list[tuple[int, list[Any]]]:
        """Records with ``low`` <= row < ``high`` in row order, as many as the bounds allow and
        at least one: the row, and [result values, deciding attempt's values or None]."""
        cursor = self._db.execute(
            "SELECT row, crc, record FROM outcomes WHERE row >= ? AND row < ? ORDER BY row LIMIT ?",
            (low, high, rows_max),
        )
        records, size = [], 0
        for row, crc, data in cursor:
            records.append((row, self._record(row, crc, data)))
            size += len(data)
            if size >= bytes_max:
                break
        cursor.close()
        return records

    def attempts_between(self, low: int, high: int) -> list[list[Any]]:
        """Attempts that decided nothing, with ``low`` <= row < ``high``, in order of arrival."""
        found = self._db.execute(
            "SELECT row, crc, record FROM attempts WHERE row >= ? AND row < ? ORDER BY seq",
            (low, high),
        ).fetchall()
        return [self._record(row, crc, data) for row, crc, data in found]

    def blocks_between(self, low: int, high: int) -> list[tuple[int, int, bytes]]:
        """Carried columns that overlap the rows: first row, number of rows, IPC stream."""
        found = self._db.execute(
            "SELECT first_row, rows, crc, ipc FROM blocks "
            "WHERE first_row < ? AND first_row + rows > ? AND first_row >= ? ORDER BY first_row",
            (high, low, low - low % self.shard_rows),
        ).fetchall()
        for first_row, _, crc, data in found:
            if zlib.crc32(data) != crc:
                raise damaged(self.path, f"the carried columns from row {first_row} on changed")
        return [(first_row, rows, data) for first_row, rows, _, data in found]

    def _record(self, row: int, crc: int, data: bytes) -> list[Any]:
        if zlib.crc32(data) != crc:
            raise damaged(self.path, f"the record of row {row} changed on the disk")
        record: list[Any] = _unpack(data)
        return record

    def write(self, entries: Sequence[Outcome | Attempt | Block]) -> None:
        """One transaction with these entries, in order."""
        outcomes, attempts, blocks = [], [], []
        for entry in entries:
            if isinstance(entry, Outcome):
                last = arrow.attempt_values(entry.attempt) if entry.attempt else None
                data = _pack((arrow.result_values(entry), last))
                outcomes.append((entry.row, entry.ok, zlib.crc32(data), data))
            elif isinstance(entry, Attempt):
                data = _pack(arrow.attempt_values(entry))
                attempts.append((entry.row, zlib.crc32(data), data))
            else:
                blocks.append(entry)
        with self.transaction() as db:
            for block in blocks:
                self._write_block(db, block)
            if attempts:
                db.executemany(
                    "INSERT INTO attempts (row, crc, record) VALUES (?, ?, ?)", attempts
                )
            if outcomes:
                db.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?)", outcomes)
            files.reached("journal.written")
        files.reached("journal.committed")

    @staticmethod
    def _write_block(db: sqlite3.Connection, block: Block) -> None:
        db.execute(
            "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?)",
            (block.first_row, len(block.rows), zlib.crc32(block.carried), block.carried),
        )
        end = block.end
        # A resumed run reads an open shard again from its start: what is known is only extended.
        db.execute(
            "INSERT INTO shards (shard, rows_read, digest, file, offset, line) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (shard) DO UPDATE SET "
            "rows_read = excluded.rows_read, digest = excluded.digest, file = excluded.file, "
            "offset = excluded.offset, line = excluded.line "
            "WHERE excluded.rows_read >= shards.rows_read",
            (block.shard, block.rows_read, block.digest, end.file, end.offset, end.line),
        )

    def seal(self, published: Published) -> None:
        """Record a shard's new parts and mark its rows for clearing."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO shards (shard, rows_read, digest, file, offset, line) "
                "VALUES (?, 0, x'', 0, 0, 0)",
                (published.shard,),
            )
            db.execute(
                "UPDATE shards SET generation = ?, complete = ?, results_sha256 = ?, "
                "attempts_sha256 = ?, totals = ?, clearing = 1 WHERE shard = ?",
                (
                    published.generation,
                    published.complete,
                    published.results_sha256,
                    published.attempts_sha256,
                    json.dumps(published.totals),
                    published.shard,
                ),
            )
            files.reached("seal.written")
        files.reached("seal.committed")

    def clear_slice(self, rows: int = CLEAR_ROWS) -> bool:
        """Take out up to ``rows`` rows of a published shard; False when there are none left."""
        found = self._db.execute("SELECT shard FROM shards WHERE clearing LIMIT 1").fetchone()
        if found is None:
            return False
        low, high = found[0] * self.shard_rows, (found[0] + 1) * self.shard_rows
        with self.transaction() as db:
            gone = 0
            for table, key in (("outcomes", "row"), ("attempts", "seq"), ("blocks", "first_row")):
                place = "first_row" if table == "blocks" else "row"
                gone += db.execute(
                    f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} "  # noqa: S608
                    f"WHERE {place} >= ? AND {place} < ? LIMIT ?)",
                    (low, high, rows),
                ).rowcount
            if not gone:
                db.execute("UPDATE shards SET clearing = 0 WHERE shard = ?", (found[0],))
        files.reached("journal.cleared")
        return True

    def refresh(self, states: Sequence[ShardState]) -> None:
        """Replace what is known of shards' input; completeness included."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE shards SET rows_read = ?, digest = ?, file = ?, offset = ?, line = ?, "
                "complete = ? WHERE shard = ?",
                [
                    (s.rows_read, s.digest, s.end.file, s.end.offset, s.end.line, s.complete, s.shard)
                    for s in states
                ],
            )

    @property
    def live_bytes(self) -> int:
        """Bytes of pages in use."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


def damaged(path: Path, why: str) -> DamagedError:
    """The error for a journal that cannot be trusted."""
    message = (
        f"{path} is damaged: {why}. Nothing was sent and nothing was changed. "
        "Restore it from a copy, or start over with --restart (the old contents are kept aside)"
    )
    return DamagedError(message, path=str(path))


Item = tuple[Any, asyncio.Future[None] | None]
"""An entry and the future of its append, or a call of the sealing thread and None."""


class SqliteJournal:
    """The journal of a running engine: ``ports.Journal`` over a ``JournalFile`` and its writer
    thread."""

    def __init__(self, file: JournalFile, flight: FlightLog) -> None:
        self._file = file
        self._flight = flight
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._fault: BaseException | None = None
        self.backlog_bytes = file.live_bytes
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def append(self, entry: Outcome | Attempt | Block) -> asyncio.Future[None]:
        """See ``ports.Journal``."""
        future = self._loop.create_future()
        if self._fault is not None:
            future.set_exception(self._fault)
            return future
        self._queue.append((entry, future))
        if not self._wake.is_set():
            self._wake.set()
        return future

    def sending(self, row: int, attempt: int, endpoint: int) -> None:
        """See ``ports.Journal``."""
        self._flight.note(row, attempt, endpoint, time.time_ns() // 1000)

    def call(self, action: Callable[[], None]) -> Future[None]:
        """Run ``action`` in the writer thread between two groups; for the sealing thread."""
        result: Future[None] = Future()

        def run() -> None:
            try:
                result.set_result(action())
            except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
                result.set_exception(error)

        self._loop.call_soon_threadsafe(self._enqueue_call, run, result)
        return result

    def _enqueue_call(self, run: Callable[[], None], result: Future[None]) -> None:
        if self._fault is not None:
            result.set_exception(self._fault)
            return
        self._queue.append((run, None))
        self._wake.set()

    async def close(self) -> None:
        """Commit what was appended, clear what was published, stop the thread."""
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    # Everything below runs in the writer thread, but for _resolve.

    def _work(self) -> None:
        clearing = True
        while True:
            self._wake.wait(0 if clearing else None)
            closing = self._closing
            if self._wake.is_set() and not closing:
                time.sleep(GROUP_S)
            # Cleared before the queue is emptied: what is appended meanwhile is either taken now
            # or wakes the next turn.
            self._wake.clear()
            taken = [self._queue.popleft() for _ in range(len(self._queue))]
            try:
                called = self._commit(taken)
                clearing = called or clearing
                if clearing:
                    clearing = self._file.clear_slice()
            except BaseException as error:  # noqa: BLE001 - every appender must hear of it
                self._fail(error, taken)
                return
            if closing and not taken and not clearing:
                return
            if closing:
                self._wake.set()

    def _commit(self, taken: list[Item]) -> bool:
        """One group commit, then the calls of the sealing thread. Returns whether there were
        such calls."""
        entries = [entry for entry, future in taken if future is not None]
        if entries:
            self._file.write(entries)
            live = self._file.live_bytes
            self._loop.call_soon_threadsafe(self._resolve, taken, live)
        calls = [action for action, future in taken if future is None]
        for action in calls:
            action()
        return bool(calls)

    def _fail(self, error: BaseException, taken: list[Item]) -> None:
        if isinstance(error, (sqlite3.Error, OSError)):
            message = (
                f"cannot write {self._file.path}: {error}. What was committed before is intact; "
                "make room or mend the disk, then run the same command again"
            )
            fault: BaseException = StorageError(message)
            fault.__cause__ = error
        else:
            fault = error
        self._loop.call_soon_threadsafe(self._reject, taken, fault)

    def _resolve(self, taken: list[Item], live: int) -> None:
        self.backlog_bytes = live
        for entry, future in taken:
            if future is None:
                continue
            if isinstance(entry, Outcome):
                self._flight.wipe(entry.row, entry.attempts)
            elif isinstance(entry, Attempt):
                self._flight.wipe(entry.row, entry.number)
            if not future.done():
                future.set_result(None)

    def _reject(self, taken: list[Item], fault: BaseException) -> None:
        self._fault = fault
        for entry, future in [*taken, *self._queue]:
            if future is None:
                # A call of the sealing thread: it fails by running into the broken file.
                with contextlib.suppress(BaseException):
                    entry()
            elif not future.done():
                future.set_exception(fault)
                future.exception()  # a fire-and-forget append must not warn
        self._queue.clear()


def recover_flights(
    file: JournalFile, path: Path, known: Callable[[int], int], endpoints: Sequence[str]
) -> int:
    """Enter the exchanges that a killed process left in its flight log into the ledger.

    ``known(row)`` is the number of the last attempt that parts or journal hold of a row, and -1
    for a row that has an outcome. Returns how many were entered.
    """
    lost = []
    for note in read_notes(path):
        last = known(note.row)
        if last < 0:
            continue
        lost += [
            _unanswered(note.row, number, endpoints[note.endpoint], note.started_at_us)
            for number in range(last + 1, note.attempt + 1)
        ]
    if lost:
        file.write(lost)
    return len(lost)


def _unanswered(row: int, number: int, endpoint: str, started_at_us: int) -> Attempt:
    return Attempt(
        row=row,
        number=number,
        endpoint=endpoint,
        model=None,
        service_tier=None,
        started_at_us=started_at_us,
        queue_s=0.0,
        latency_s=0.0,
        http_status=None,
        error_class="connection",
        error_code=INTERRUPTED,
        retry_after_s=None,
        usage=Usage(),
        cost_usd=None,
        request_id=None,
        unanswered=True,
    )
