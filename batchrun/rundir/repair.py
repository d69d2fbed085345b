"""``--repair``: damaged files are set aside in ``checkpoint/damaged/``, and the rest continues.

Nothing is deleted. Each shard is repaired separately: the damaged part is moved away, the state
file notes that the shard has to be written again, and then it is published from the sound files:
the other part, the log. A kill in between leaves a missing part or that note; a start without
``--repair`` refuses both, and the same command continues.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from batchrun.adapters.journal import shard_log
from batchrun.adapters.journal.journal import LOG_NAME, STATES, Journal, read_reused
from batchrun.adapters.journal.state_db import Published, StateFile
from batchrun.adapters.parts.old_part import OldPart
from batchrun.adapters.parts.sealer import Parts, publish
from batchrun.adapters.sources.reader import Reader
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.store import PART_KINDS, Store, StoreReader, part_names, part_number
from batchrun.core.run.totals import Totals
from batchrun.core.text.wording import counted, verb
from batchrun.errors import DamagedError
from batchrun.records import Position, ShardState, Span
from batchrun.rundir import repair_ledger

ASIDE = "damaged"
_META = ("settings", "input", "input_format", "carry_schema", "carry_names", "started_at_us")


class Repair:
    """One repair of a run directory. The methods are called in their order here."""

    def __init__(self, store: Store, checkpoint: Path, say: Callable[[str], None]) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._say = say
        self._salvaged: set[int] = set()

    def state_file(self) -> None:
        """Set the state file aside if it is damaged."""
        path = self._checkpoint / STATES
        if not path.exists():
            return
        why = _fault_of(path)
        if why is not None:
            names = [path, *(path.with_name(STATES + end) for end in ("-wal", "-shm"))]
            places = [self._aside(name, name.name) for name in names if name.exists()]
            self._say(f"{path} is damaged: {why}. It was set aside as {places[0]}")

    def logs(self, shard_rows: int) -> None:
        """Keep every record of a damaged log with a valid checksum."""
        for path in sorted(self._checkpoint.glob("shard-*.log")):
            match = LOG_NAME.fullmatch(path.name)
            if match is None:
                continue
            shard, generation = int(match[1]), int(match[2])
            try:
                shard_log.ShardLog(path, shard, generation).close()
            except DamagedError as error:
                rows = range(shard * shard_rows, (shard + 1) * shard_rows)
                self._salvage(path, shard, generation, rows, str(error))

    def _salvage(self, path: Path, shard: int, generation: int, rows: range, why: str) -> None:
        draft = files.Draft(path)
        kept = 0
        try:
            draft.write(shard_log.head(shard, generation))
            if path.stat().st_size:
                with (
                    path.open("rb") as file,
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
                ):
                    for _, kind, record in shard_log.sound_records(data, rows):
                        draft.write(shard_log.group([record]))
                        if kind == shard_log.REUSED:
                            kept += read_reused(record[shard_log.PREFIX_BYTES :]).rows
                        kept += kind == shard_log.OUTCOME
            draft.sync()
            copy = self._copy_aside(path)
            draft.rename()
            files.sync_folder(path.parent)
        except BaseException:
            draft.discard()
            raise
        self._salvaged.add(shard)
        self._say(
            f"{why.partition(' Nothing was')[0]} A copy is in {copy}; {counted(kept, 'row')} of it "
            f"{verb(kept, 'is', 'are')} sound and kept, others of its rows are sent again"
        )

    def _copy_aside(self, path: Path) -> Path:
        """A hard link to a file that is replaced, or a copy if the disk has no hard links."""
        twin = path.with_name(path.name + ".damaged")
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(twin)
        try:
            disk.link(path, twin)
        except OSError:
            with path.open("rb") as file:
                files.copy_whole(file, twin)
        return self._aside(twin, path.name)

    def generations(self) -> None:
        """If the state file does not have a log's generation, take it from the log."""
        states = StateFile(self._checkpoint / STATES)
        try:
            known = {p.state.shard: p for p in states.published()}
            for path in sorted(self._checkpoint.glob("shard-*.log")):
                match = LOG_NAME.fullmatch(path.name)
                if match is None:
                    continue
                shard, generation = int(match[1]), int(match[2])
                before = known.get(shard)
                last = before.state.generation if before else 0
                if generation > last + 1:
                    state = before.state if before else _unread(shard)
                    totals = before.totals if before else Totals().recorded()
                    state = replace(state, generation=generation - 1, complete=False)
                    states.seal(Published(state, "", "", totals))
        finally:
            states.close()

    def blocks(self, journal: Journal, reader: Reader) -> None:
        """Note the input of shards with a damaged log again: records of it may be lost."""
        for shard in sorted(self._salvaged):
            start, first = Position(), 0
            for state in journal.shards():
                if state.shard < shard and state.rows_read == journal.shard_rows:
                    start, first = state.end, state.shard + 1
            for block in reader.blocks([Span(first, shard, start)], limit=None):
                if block.shard == shard:
                    journal.write([block])

    def parts(self, parts: Parts, journal: Journal) -> None:
        """Check every part, and repair the shards with damaged parts."""
        published = list(journal.states.published())
        if published:
            self._say(f"checking {counted(len(published), 'part')} of results and of attempts")
        unsure = journal.touched() | self._salvaged
        for one in published:
            shard = one.state.shard
            digests = dict(
                zip(parts.pair(shard), (one.results_sha256, one.attempts_sha256), strict=True)
            )
            name = parts.requests(shard)
            if one.requests is not None or self._store.size(name) is not None:
                digests[name] = one.requests.sha256 if one.requests else ""
            # If there is a log, parts may be newer than their records.
            sure = shard not in unsure
            faults = {
                name: fault_of_part(
                    self._store, name, parts.schema_of(name), digest if sure else ""
                )
                for name, digest in digests.items()
            }
            if any(faults.values()) or not all(digests.values()):
                self._mend(parts, journal, one, faults)
        self._strays(journal)

    def _mend(
        self, parts: Parts, journal: Journal, one: Published, faults: dict[str, str | None]
    ) -> None:
        """Set the faulty ones of a shard's parts aside and publish the shard from what is left."""
        shard = one.state.shard
        results, attempts = (faults[name] for name in parts.pair(shard))
        parts.require_room([shard])
        for name, why in faults.items():
            if why is not None:
                self.part_aside(name, why)
        state = replace(one.state, complete=one.state.complete and results is None)
        journal.states.seal(Published(state, "", "", one.totals))
        journal.adopt(state)
        if attempts is not None and results is None:
            repair_ledger.write_lost(parts, journal, shard)
            self._say(
                f"  its ledger was written again from the results: {repair_ledger.LOST} marks gaps"
            )
        if results is not None:
            done = len(journal.open_shard(shard).done)
            left = max(0, _rows(one) - done)
            self._say(f"  {counted(left, 'row')} of it {verb(left, 'is', 'are')} sent again")
        if faults.get(parts.requests(shard)) is not None:
            self._say("  the bodies of its requests are gone; `show` makes them from the input")
        publish(parts, journal, journal.next_state(shard, complete=False))

    def _strays(self, journal: Journal) -> None:
        """Parts that neither the state file nor a log mentions."""
        known = {one.state.shard for one in journal.states.published()} | journal.logs.keys()
        for kind in PART_KINDS:
            for name in part_names(self._store, kind):
                if part_number(name) not in known:
                    self.part_aside(f"{kind}/{name}", "the journal does not know it")

    def part_aside(self, name: str, why: str) -> None:
        """Set a part aside, if it exists, and report it."""
        if self._store.size(name) is None:
            self._say(f"{name} is missing")
            return
        place = self._store.set_aside(name, self._checkpoint / ASIDE)
        self._say(f"{name} is damaged: {why}. It was set aside as {place}")

    def _aside(self, path: Path, name: str) -> Path:
        return files.set_aside(path, self._checkpoint / ASIDE, name)


def fault_of_part(store: StoreReader, name: str, schema: pa.Schema, digest: str) -> str | None:
    """What is wrong with a part; without a recorded digest, as far as reading all of it shows."""
    try:
        if digest:
            with store.open(name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            return None if found == digest else "it is not what was written"
        with OldPart(store, name, schema) as part:
            if not part.found:
                return "it is missing"
            part.read_through()
    except FileNotFoundError:
        return "it is missing"
    except DamagedError as error:
        return str(error).partition("is damaged: ")[2].partition(". Nothing")[0]
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def _fault_of(path: Path) -> str | None:
    """What is wrong with a state file."""
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        with contextlib.closing(StateFile(path)) as states:
            for key in _META:
                states.get(key)
            for _ in states.published():
                pass
    except DamagedError as error:
        return str(error).partition("is damaged: ")[2].partition(". Nothing")[0]
    except (sqlite3.Error, ValueError, TypeError) as error:
        return str(error)
    return None


def _unread(shard: int) -> ShardState:
    return ShardState(shard, 0, b"", Position(), 0, complete=False)


def _rows(one: Published) -> int:
    """The rows that a shard's part of results contained."""
    groups: Iterable[list[dict[str, int]]] = one.totals["groups"]
    return sum(sums["rows_ok"] + sums["rows_error"] for *_, sums in groups)
