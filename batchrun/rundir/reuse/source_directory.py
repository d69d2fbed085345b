"""Another run directory that answers are taken from: what it is, and its answers by place.

It is only read: it needs neither lock nor permission to write, and may be in an object store. Its
published parts count, including provisional ones, and so do logs that a kill left.

A place is a row of a part (number of the part, number of the row in it), or, with the highest bit
set, an offset in a file of answers as records, which this run keeps beside its index. Answers from
logs are in that file. All answers are, once the rows of this run turn out to need them in another
order than the parts: otherwise a row group would be decoded for every row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import msgspec
import pyarrow as pa

from batchrun.adapters.columns import read_answers
from batchrun.adapters.journal.journal import LOG_NAME, read_outcome, read_reused
from batchrun.adapters.journal.shard_log import OUTCOME, PREFIX_BYTES, REUSED, sound_records
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.store import (
    SUMMARY,
    StoreReader,
    part_name,
    part_names,
    part_number,
    read_json,
)
from batchrun.core.input.repeats import answer_key
from batchrun.core.run.summary import moment
from batchrun.core.settings.differences import IMPLIED, REPEAT
from batchrun.errors import StorageError, UsageError
from batchrun.records import Outcome, Reused
from batchrun.rundir import inspect, state_reader
from batchrun.rundir.restarts import Named
from batchrun.rundir.reuse.hash_index import Builder, Index
from batchrun.rundir.reuse.source_part import NEEDED, Part
from batchrun.rundir.reuse.stretch import Stretch

SCATTERED = 1 << 63
"""The bit that marks a place in the file of answers."""
CACHE_BYTES_MAX = 4 * 2**20
"""The memory for decoded row groups; at least one is kept."""
PARTS_OPEN_MAX = 4
SPREAD_ROWS = 32
"""A row group is worth decoding for this many rows. With fewer, all answers are written to the file
one by one, once an ``EARLY``th of the directory's rows were decoded.
"""
EARLY = 8
EARLY_MIN = 16
STRETCH_ROWS_MIN = 8
"""From this many answers on, handling them as columns pays."""
STRETCH_PIECES_MAX = 2
"""A stretch may cross one border of row groups, each of which is in memory as a whole."""
_Group: TypeAlias = list[Sequence[Any]] | pa.Table
_FRONT = struct.Struct("<II")  # bytes of record, checksum
_pack = msgspec.msgpack.Encoder().encode


class Source:
    """A run directory that was opened to take answers from."""

    def __init__(self, named: Named) -> None:
        """Inspect the directory. Raises ``UsageError`` if there is no run, or one at work."""
        self.name = named.name
        try:
            look = inspect.look_at(named.directory, named.checkpoint)
            self._store: StoreReader = look.store
            self._parts = part_names(look.store, "results")
        except (OSError, StorageError) as error:
            message = f"--reuse {named.name}: it cannot be read: {error}"
            raise UsageError(message) from None
        self.directory = look.store.where()
        known = None if look.checkpoint is None else state_reader.read(look.checkpoint)
        if not self._parts and known is None:
            message = (
                f"--reuse {named.name} is not a run directory: it has neither results/ nor a "
                "checkpoint. Name the directory that a run was given with -o"
            )
            raise UsageError(message)
        if look.live:
            message = (
                f"--reuse {named.name}: a run is working there. Wait for its end, or stop it, and "
                "run the same command again"
            )
            raise UsageError(message)
        summary = read_json(look.store, SUMMARY)
        self._summary: Mapping[str, Any] = summary if isinstance(summary, dict) else {}
        told = self._summary.get("settings")
        meta = {} if known is None else known.meta
        self.settings: Mapping[str, Any] = (known and known.settings) or (
            told if isinstance(told, dict) else {}
        )
        self.repeat = self._repeats()
        """How often the other run sent each row of its input."""
        self.providers = _providers(told, meta)
        self.run = _run_id(self._summary, meta) or self._anonymous()
        self._logs = _logs(look.checkpoint, known)
        self._index: Index | None = None
        self._answers: int | None = None
        self._files: OrderedDict[str, Part] = OrderedDict()
        self._held: OrderedDict[tuple[str, int], tuple[_Group, int]] = OrderedDict()
        self._held_bytes = 0
        self._decoded = self._wanted = 0
        self._groups = 0
        self._all_differ = False
        """Whether no two answers are to the same request; known if the index was just built."""
        self._next: int | None = None
        """The place after the last stretch that was taken."""
        self._folder = Path()
        self._left_out: frozenset[str] = frozenset()
        self._identity = b""
        self.rows: dict[str, int] = {}
        """Answers that may be taken, by endpoint; known if the index was just built."""

    def _anonymous(self) -> str:
        """An id for parts that do not name their run, made from their content."""
        first = [f"results/{name}" for name in self._parts[:1]]
        return _short(json.dumps([list(mark) for mark in self._store.marks(first).values()]))

    def _repeats(self) -> int:
        """From the settings or, if they are lost, from the columns of the first part."""
        if self.settings or not self._parts:
            return int(self.settings.get(REPEAT, IMPLIED[REPEAT]))
        with contextlib.closing(Part(self._store, f"results/{self._parts[0]}")) as part:
            return part.repeat

    def endpoints(self) -> set[str]:
        """The names of endpoints that the run recorded."""
        found = self._summary.get("endpoints")
        return {*self.providers, *(found if isinstance(found, dict) else ())}

    # The index

    def index(self, folder: Path, left_out: frozenset[str]) -> bool:
        """Open the index in a folder of this run, building it if there is no matching one; returns
        whether it was built. Answers of the endpoints ``left_out`` are not in it.

        Raises ``DamagedError`` for a part that cannot be read, ``StorageError`` if the folder
        cannot be written.
        """
        self._folder, self._left_out = folder, left_out
        self._identity = self._identified()
        if self._opened():
            return False
        try:
            files.make_folder(folder, private=True)
            for draft in folder.glob(f".*{files.TEMPORARY}"):
                disk.unlink(draft)
            self._build(scattered=False)
        except OSError as error:
            message = f"cannot write into {folder}: {error.strerror}; make room"
            raise StorageError(message) from error
        self._opened()
        return True

    @property
    def count(self) -> int:
        """How many different requests have an answer."""
        return 0 if self._index is None else self._index.count

    def find(self, key: bytes) -> list[int]:
        """The places of answers to a request (``answer_key``), the first one first."""
        return [] if self._index is None else self._index.find(key)

    def close(self) -> None:
        """Close all files."""
        if self._index is not None:
            self._index.close()
            self._index = None
        if self._answers is not None:
            os.close(self._answers)
            self._answers = None
        while self._files:
            self._files.popitem()[1].close()
        self._held.clear()
        self._held_bytes = 0

    def _identified(self) -> bytes:
        """A description of the directory's content, and of which answers are taken."""
        names = [f"results/{name}" for name in self._parts]
        marks = {name: list(mark) for name, mark in sorted(self._store.marks(names).items())}
        logs = [(path.name, path.stat().st_size) for path in self._logs]
        told: list[Any] = [self.directory, self.run, marks, logs, sorted(self._left_out)]
        if self.repeat > 1:
            told.append(self.repeat)
        return hashlib.sha256(json.dumps(told).encode()).digest()

    def _paths(self) -> tuple[Path, Path]:
        return self._folder / "index", self._folder / "answers"

    def _opened(self) -> bool:
        index, answers = self._paths()
        try:
            descriptor = disk.open_file(answers, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        found = Index.opened(index, self._identity, os.fstat(descriptor).st_size)
        if found is None:
            os.close(descriptor)
            return False
        self.close()
        self._index, self._answers = found, descriptor
        return True

    def _build(self, *, scattered: bool) -> None:
        """Write the answers that places point to, then the index, which records their size."""
        index, answers = self._paths()
        rows = sum(self._part(name).rows for name in self._parts)
        counts: dict[str, int] = {}
        draft = files.Draft(answers, digests=False)
        with Builder(rows, self._folder) as builder:
            try:
                for name in self._parts:
                    if scattered:
                        self._scatter(name, builder, draft)
                    else:
                        self._enter(name, builder, counts)
                self._enter_logs(builder, draft, counts)
                draft.sync()
                draft.rename()
            finally:
                draft.discard()
            files.reached("reuse.answers", answers)
            builder.write(index, self._identity, draft.size)
            self._all_differ = builder.all_differ
            files.reached("reuse.indexed", index)
        self.rows = counts or self.rows

    def _enter(self, name: str, builder: Builder, counts: dict[str, int]) -> None:
        """Enter the answers of a part by their places in it."""
        part = self._part(name)
        base = (part_number(name) or 0) << 32
        first = 0
        for group in range(part.groups):
            table = part.read(group, NEEDED if self.repeat == 1 else (*NEEDED, "row"))
            status, hashes, endpoints = (table.column(n) for n in NEEDED)
            places = range(base + first, base + first + table.num_rows)
            wanted = self._wanted_rows(status, hashes, endpoints, counts)
            if self.repeat > 1:
                text = self._keys(table, wanted).hex()
            elif wanted is None:
                text = "".join(_joined(hashes))
            else:
                told = read_answers.values(hashes)
                text = "".join(told[n] for n in wanted)
            if wanted is not None:
                places = [places[n] for n in wanted]  # type: ignore[assignment]
            builder.add(bytes.fromhex(text), [place.to_bytes(8, "big") for place in places])
            first += table.num_rows

    def _keys(self, table: pa.Table, wanted: Sequence[int] | None) -> bytes:
        """The keys of some rows that are repeats, or of all."""
        hashes, rows = (read_answers.values(table.column(name)) for name in ("request_hash", "row"))
        return b"".join(
            answer_key(bytes.fromhex(hashes[n]), rows[n] % self.repeat)
            for n in (range(table.num_rows) if wanted is None else wanted)
        )

    def _wanted_rows(
        self,
        status: pa.ChunkedArray,
        hashes: pa.ChunkedArray,
        endpoints: pa.ChunkedArray,
        counts: dict[str, int],
    ) -> list[int] | None:
        """Which rows of a row group have an answer that may be taken; None for all of them."""
        told, names = read_answers.values(status), read_answers.values(endpoints)
        if (
            told.count("ok") == len(told)
            and hashes.null_count == 0
            and names
            and names[0] not in self._left_out
            and names.count(names[0]) == len(names)
        ):
            counts[names[0] or ""] = counts.get(names[0] or "", 0) + len(names)
            return None
        valid = [text is not None and len(text) == 64 for text in read_answers.values(hashes)]
        wanted = []
        for place, (said, sound, name) in enumerate(zip(told, valid, names, strict=True)):
            if said == "ok" and sound and name not in self._left_out:
                wanted.append(place)
                counts[name or ""] = counts.get(name or "", 0) + 1
        return wanted

    def _scatter(self, name: str, builder: Builder, draft: files.Draft) -> None:
        """Write the answers of a part to the file one by one, and enter their places."""
        part = self._part(name)
        for group in range(part.groups):
            rows = read_answers.rows(partial(part.read, group))
            found = [
                outcome
                for outcome in read_answers.answers(rows, self.run, self._content)
                if outcome is not None and not self._is_left_out(outcome)
            ]
            self._put(found, builder, draft)

    def _is_left_out(self, outcome: Outcome) -> bool:
        reused = outcome.reused
        return reused is not None and reused.attempt.endpoint in self._left_out

    def _put(self, found: Sequence[Outcome], builder: Builder, draft: files.Draft) -> None:
        hashes, places = bytearray(), []
        for outcome in found:
            assert outcome.request_hash is not None
            digest = bytes.fromhex(outcome.request_hash)
            hashes += answer_key(digest, outcome.row % self.repeat)
            places.append((SCATTERED | draft.size).to_bytes(8, "big"))
            data = _pack(outcome)
            draft.write(_FRONT.pack(len(data), crc32(data)) + data)
        builder.add(bytes(hashes), places)

    def _enter_logs(self, builder: Builder, draft: files.Draft, counts: dict[str, int]) -> None:
        """Write the answers that a kill left in logs to the file; groups with a valid checksum
        count.
        """
        for path in self._logs:
            with path.open("rb") as file, contextlib.ExitStack() as stack:
                if not path.stat().st_size:
                    continue
                data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                for _, kind, record in sound_records(data, range(2**62)):
                    for found in _outcomes_of(kind, record[PREFIX_BYTES:]):
                        outcome = self._from_log(found)
                        if outcome is not None:
                            self._put([outcome], builder, draft)
                            reused = outcome.reused
                            name = "" if reused is None else reused.attempt.endpoint
                            counts[name] = counts.get(name, 0) + 1

    def _from_log(self, outcome: Outcome) -> Outcome | None:
        """An answer from a log, in the form for reuse; None if it is not an answer."""
        reused = outcome.reused
        if reused is None and outcome.attempt is not None:
            attempt = outcome.attempt._replace(
                cost_pd=0, usage_raw=None, billed_from=None, decided_by=None
            )
            reused = Reused(f"{self.run}:{outcome.row}", attempt)
        if outcome.completion is None or outcome.request_hash is None or reused is None:
            return None
        outcome = outcome._replace(attempts=0, attempt=None, reused=reused)
        return None if self._is_left_out(outcome) else outcome

    # Answers

    def take(self, wanted: Sequence[tuple[int, str]]) -> list[Outcome | None] | Stretch:
        """The answers at these places, None for one that does not belong to the request of this
        hash. Many consecutive ones come as a ``Stretch``, if all belong to their requests. Raises
        ``StorageError`` if the directory changed meanwhile.
        """
        stretch = self._stretch(wanted) if len(wanted) >= STRETCH_ROWS_MIN else None
        if stretch is not None:
            return stretch
        found: list[Outcome | None] = [None] * len(wanted)
        by_group: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, (place, _) in enumerate(wanted):
            if place & SCATTERED:
                found[number] = self._scattered(place ^ SCATTERED)
            else:
                part = self._part(part_name(place >> 32))
                group, row, _ = part.at(place & 0xFFFFFFFF)
                by_group.setdefault((place >> 32, group), []).append((row, number))
        for (shard, group), rows in by_group.items():
            decoded = self._rows(part_name(shard), group)
            picked = [decoded[row] for row, _ in rows]
            outcomes = read_answers.answers(picked, self.run, self._content)
            for (_, number), outcome in zip(rows, outcomes, strict=True):
                found[number] = outcome
        self._wanted += len(wanted)
        if by_group and self._is_spread():
            self._build(scattered=True)
            self._opened()
        return [
            outcome if outcome is not None and outcome.request_hash == digest else None
            for outcome, (_, digest) in zip(found, wanted, strict=True)
        ]

    def _stretch(self, wanted: Sequence[tuple[int, str]]) -> Stretch | None:
        """Answers that lie in few pieces of row groups; None if they do not, or if one does not
        belong to the request of its hash.
        """
        pieces: list[tuple[str, int, int, int]] = []
        at = 0
        while at < len(wanted):
            place = wanted[at][0]
            if place & SCATTERED or len(pieces) == STRETCH_PIECES_MAX:
                return None
            name = part_name(place >> 32)
            group, row, left = self._part(name).at(place & 0xFFFFFFFF)
            end = at + 1
            while end < len(wanted) and end - at < left and wanted[end][0] == place + end - at:
                end += 1
            pieces.append((name, group, row, end - at))
            at = end
        tables = []
        for name, group, row, rows in pieces:
            table = self._table(name, group)
            if table is None:
                return None
            tables.append(table.slice(row, rows))
        if any(not table.schema.equals(tables[0].schema) for table in tables[1:]):
            return None
        stretch = Stretch(pa.concat_tables(tables), self.run, self._content)
        if stretch.hashes() != [digest for _, digest in wanted]:
            return None
        self._wanted += len(wanted)
        self._next = wanted[-1][0] + 1
        return stretch

    def following(self, digests: Sequence[str], repeats: Sequence[int] | None) -> Stretch | None:
        """The answers to the requests of these hashes, if they directly follow the stretch that was
        taken last: then nothing need be looked up. None if that is not certain. ``repeats`` is the
        repeat of each request; None if all are the first.
        """
        first = self._next
        if first is None or not self._all_differ or len(digests) < STRETCH_ROWS_MIN:
            return None
        if (first & 0xFFFFFFFF) + len(digests) > self._part(part_name(first >> 32)).rows:
            return None
        stretch = self._stretch([(first + n, digest) for n, digest in enumerate(digests)])
        if stretch is None or not stretch.are_answers(self._left_out):
            return None
        if self.repeat > 1 or repeats is not None:
            wanted = [0] * len(digests) if repeats is None else list(repeats)
            if [row % self.repeat for row in stretch.rows()] != wanted:
                return None
        return stretch

    def _is_spread(self) -> bool:
        """Whether answers are needed in another order than the parts have."""
        if not self._groups:
            self._groups = sum(self._part(name).groups for name in self._parts)
        enough = max(EARLY_MIN, self._groups // EARLY)
        return self._decoded >= enough and self._wanted < SPREAD_ROWS * self._decoded

    def _scattered(self, offset: int) -> Outcome | None:
        assert self._answers is not None
        front = os.pread(self._answers, 8192, offset)
        if len(front) < _FRONT.size:
            return None
        size, crc = _FRONT.unpack_from(front)
        data = front[_FRONT.size : _FRONT.size + size]
        if len(data) < size:
            data += os.pread(self._answers, size - len(data), offset + _FRONT.size + len(data))
        return read_outcome(data) if crc32(data) == crc else None

    def _rows(self, name: str, group: int) -> list[Sequence[Any]]:
        """The rows of a row group, kept for the next requests that need some of them."""
        found = self._group(name, group, read_answers.rows)
        if isinstance(found, pa.Table):
            found = read_answers.rows(partial(read_answers.some, found))
            self._held[name, group] = (found, self._held[name, group][1])
        return found

    def _table(self, name: str, group: int) -> pa.Table | None:
        """A row group as columns; None if it is kept as rows."""
        found = self._group(name, group, read_answers.table)
        return found if isinstance(found, pa.Table) else None

    def _group(
        self, name: str, group: int, made: Callable[[Callable[[Sequence[str]], pa.Table]], _Group]
    ) -> _Group:
        key = (name, group)
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            return held[0]
        part = self._part(name)
        size = part.size_bytes(group)
        while self._held and self._held_bytes + size > CACHE_BYTES_MAX:
            self._held_bytes -= self._held.popitem(last=False)[1][1]
        found = made(partial(part.read, group))
        self._decoded += 1
        self._held[key] = (found, size)
        self._held_bytes += size
        return found

    def _part(self, name: str) -> Part:
        part = self._files.get(name)
        if part is None:
            part = self._files[name] = Part(self._store, f"results/{name}")
            while len(self._files) > PARTS_OPEN_MAX:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(name)
        return part

    def _content(self, name: str) -> bytes:
        try:
            with self._store.open(name) as file:
                return file.read()
        except OSError as error:
            where = self._store.where(name)
            message = (
                f"{where} cannot be read, and an answer that --reuse takes is in it: {error}. "
                "Restore it, or leave that directory out of --reuse"
            )
            raise StorageError(message) from error


def _outcomes_of(kind: int, body: bytes) -> list[Outcome]:
    """The outcomes in a record of a log; empty if it cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError, pa.ArrowException):
        if kind == OUTCOME:
            return [read_outcome(body)]
        if kind == REUSED:
            return read_answers.outcomes(read_reused(body))
    return []


def _joined(column: pa.ChunkedArray) -> Iterator[str]:
    """A text column without nulls, in few chunks."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        ends = memoryview(offsets).cast("B").cast("i")
        start, end = ends[chunk.offset], ends[chunk.offset + len(chunk)]
        if data is not None:
            yield bytes(memoryview(data)[start:end]).decode("ascii", "replace")


def _providers(settings: object, meta: Mapping[str, Any]) -> dict[str, str | None]:
    """The provider of each endpoint, if it was recorded."""
    found: dict[str, str | None] = {}
    told = settings.get("endpoint") if isinstance(settings, dict) else None
    for each in told if isinstance(told, list) else ():
        if isinstance(each, dict) and isinstance(each.get("name"), str):
            found[each["name"]] = each.get("provider")
    noted = meta.get("providers")
    return found | (noted if isinstance(noted, dict) else {})


def _run_id(summary: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    """The recorded id of a run, or else one made from its start time; None if neither is known."""
    for found in (meta.get("run"), summary.get("run")):
        if isinstance(found, str) and found:
            return found
    began = meta.get("started_at_us")
    text = moment(began) if isinstance(began, int) else summary.get("started_at")
    return _short(text) if isinstance(text, str) else None


def _short(text: str) -> str:
    return hashlib.sha256(f"batchrun {text}".encode()).hexdigest()[:16]


def _logs(checkpoint: Path | None, known: state_reader.Recorded | None) -> list[Path]:
    """The logs with records that are in no part, in row order."""
    found = []
    for path in sorted(checkpoint.glob("shard-*.log")) if checkpoint is not None else ():
        match = LOG_NAME.fullmatch(path.name)
        if match is None:
            continue
        shard = known.shards.get(int(match[1])) if known is not None else None
        if int(match[2]) > (0 if shard is None else shard.generation):
            found.append(path)
    return found
