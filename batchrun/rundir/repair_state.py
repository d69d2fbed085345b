"""``--repair`` of a lost state file: its content is reconstructed from parts, logs and input.

Settings come from ``summary.json`` if there is one, else from the present run. The input is read
from its start, for the fingerprints; every part is written again, which gives digests and totals.
The settings are noted last: a kill before that leaves a directory that only ``--repair`` opens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.parts import old_part
from batchrun.adapters.parts.sealer import Parts, publish
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry, Reader
from batchrun.adapters.storage.store import (
    PART_KINDS,
    SUMMARY,
    Store,
    part_names,
    part_number,
    read_json,
)
from batchrun.core.request.body import WORDING, as_begun
from batchrun.core.run.changes import Changes
from batchrun.core.run.shards import is_former
from batchrun.core.run.totals import Totals
from batchrun.core.settings.differences import REPEAT, differences
from batchrun.core.settings.reading import reading_differences, recorded_reading
from batchrun.core.settings.resolve import Settings
from batchrun.core.text.wording import counted, verb
from batchrun.errors import RunChangedError, UsageError
from batchrun.records import Position, ShardState, Span
from batchrun.rundir import repair_ledger
from batchrun.rundir.compare import RESENDING, RESTART, Compared, changed
from batchrun.rundir.recorded_reading import READING
from batchrun.rundir.repair import Repair, fault_of_part
from batchrun.rundir.resend import Build, Found, Selection, Survey


class Rebuilding:
    """A new state file for existing parts and logs."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        settings: Settings,
        given: Input,
        changes: Changes,
        build: Build,
        repair: Repair,
        say: Callable[[str], None],
    ) -> None:
        self._journal = journal
        summary = read_json(store, SUMMARY)
        self._summary: dict[str, Any] = summary if isinstance(summary, dict) else {}
        recorded = self._summary.get("settings")
        self._settings = settings.recorded_by(recorded if isinstance(recorded, dict) else None)
        self._given = given
        self._changes = changes
        self._build = build
        self._repair = repair
        self._say = say
        self._store = store

    def run(self) -> Compared:
        """Make it. Raises ``RunChangedError`` or ``UsageError`` if the parts were made with other
        settings or input.
        """
        self._compare_settings()
        carry = self._given.carry(self._settings.carry, self._settings.shard_rows)
        turns = self._settings.turns is not None
        parts = Parts(self._store, self._journal, carry.schema, turns=turns)
        parts.prepare()
        shards = {
            number
            for kind in PART_KINDS
            for name in part_names(self._store, kind)
            if (number := part_number(name)) is not None
        } | self._journal.logs.keys()
        self._compare_parts(parts, sorted(shards))
        reader = self._given.reader(carry, self._settings.shard_rows)
        self._repair.blocks(self._journal, reader)
        self._shards(parts, reader, sorted(shards))
        wording = self._compare_requests(parts, reader)
        self._note(carry, wording)
        return Compared(carry, grown=False)  # the input was just read up to the last done row

    def _compare_settings(self) -> None:
        recorded = self._summary.get("settings")
        now = self._settings.shaping()
        if not isinstance(recorded, dict):
            self._say("the settings of this run are taken for those of the directory")
            return
        self._say("the settings of the directory are taken from summary.json")
        names = {*now, REPEAT}
        found = differences({name: recorded[name] for name in names if name in recorded}, now)
        allowed = self._changes.keep_done or self._changes.resend_changed
        if found and not (allowed and all(difference.keepable for difference in found)):
            raise self._refused("the settings are not those of summary.json", map(str, found))
        before = recorded_reading(recorded, len(self._given.stamps))
        other = reading_differences(before, self._given.reading, self._given.kind)
        if other:
            raise self._refused("the input is not read as summary.json says", map(str, other))

    def _compare_parts(self, parts: Parts, shards: list[int]) -> None:
        """Sound parts must belong to these settings and this input."""
        size, store = self._settings.shard_rows, self._store
        for shard in shards:
            for name, schema in zip(parts.pair(shard), parts.schemas(), strict=True):
                try:
                    with store.open(name) as file:
                        found = pq.read_schema(file)
                except (OSError, pa.ArrowException):
                    continue  # missing or damaged
                if not found.equals(schema) and not part_schema.lacks_only_later(found, schema):
                    message = (
                        f"{store.where(name)} has other columns than this input and --carry give. "
                        "Name the input and the settings that the run was begun with"
                    )
                    raise UsageError(message)
                if fault_of_part(store, name, schema, "") is None:
                    table = old_part.read(store, name, ["row"])
                    rows = [] if table is None else table.column("row").to_pylist()
                    if rows and not shard * size <= min(rows) <= max(rows) < (shard + 1) * size:
                        message = (
                            f"{store.where(name)} holds rows {min(rows):,} to {max(rows):,}: the "
                            f"run was begun with another --shard-rows than {size:,}. Name that one"
                        )
                        raise UsageError(message)

    def _shards(self, parts: Parts, reader: Reader, shards: list[int]) -> None:
        """Read the input of all shards, and publish the existing ones."""
        self._say(f"reading the input and writing {counted(len(shards), 'part')} again")
        # Parts of attempts that belong to no row of the input are not searched for.
        read = {
            shard: ShardState(shard, 0, b"", Position(), 1, complete=True)
            for shard in shards
            if is_former(shard)
        }
        last = max((shard for shard in shards if not is_former(shard)), default=-1)
        for block in reader.blocks([Span(0, last, Position())] if last >= 0 else [], limit=None):
            generation = self._generation(block.shard)
            read[block.shard] = ShardState(
                block.shard, block.rows_read, block.digest, block.end, generation, complete=False
            )
        gone = [shard for shard in shards if shard not in read]
        if gone:
            first = gone[0] * self._settings.shard_rows
            raise self._refused("the input is shorter than it was", [f"it has no row {first:,}"])
        for shard in shards:
            self._shard(parts, read[shard])

    def _generation(self, shard: int) -> int:
        """The generation before that of the shard's log, or the first."""
        log = self._journal.logs.get(shard)
        return log.generation - 1 if log is not None else 1

    def _shard(self, parts: Parts, state: ShardState) -> None:
        journal, shard = self._journal, state.shard
        pair = parts.pair(shard)
        faults = [
            fault_of_part(self._store, name, schema, "")
            for name, schema in zip(pair, parts.schemas(), strict=True)
        ]
        journal.states.seal(Published(state, "", "", Totals().recorded()))
        journal.adopt(state)
        for name, why in zip(pair, faults, strict=True):
            if why is not None and self._store.size(name) is not None:
                self._repair.part_aside(name, why)
        kept = parts.requests(shard)
        why = fault_of_part(self._store, kept, parts.schema_of(kept), "")
        if why is not None and self._store.size(kept) is not None:
            self._repair.part_aside(kept, why)
        if faults[1] is not None and faults[0] is None:
            repair_ledger.write_lost(parts, journal, shard)
        done = set(parts.known_rows(shard)[0]) | journal.open_shard(shard).done
        complete = len(done) == state.rows_read
        publish(parts, journal, journal.next_state(shard, complete=complete))

    def _compare_requests(self, parts: Parts, reader: Reader) -> int | None:
        """Check that done rows answer the requests that input and settings give, in some version of
        the wording; returns that version, to be recorded.
        """
        found = self._survey(parts, reader, WORDING)
        if found.missing_from is not None:
            why = f"it has no row {found.missing_from:,}"
            raise self._refused("the input is shorter than it was", [why])
        if found.rows and not self._survey(parts, reader, None).rows:
            return None
        if found.rows and not (self._changes.keep_done or self._changes.resend_changed):
            raise self._refused(
                "the done rows do not answer the requests that the settings and the input give",
                [f"{counted(found.rows, 'request')} {verb(found.rows, 'differs', 'differ')}"],
            )
        return WORDING

    def _survey(self, parts: Parts, reader: Reader, wording: int | None) -> Found:
        selection = Selection(Changes(), as_begun(self._build, wording))
        return Survey(parts, self._journal, reader, selection).run(None)

    def _refused(self, what: str, details: Any) -> RunChangedError:
        return changed(
            what,
            list(details),
            [
                "the same command with the settings and the input that the run was begun with",
                "--repair --keep-done keeps the done rows as they are",
                "--repair --resend-changed sends the done rows whose request changed again",
                RESTART,
            ],
        )

    def _note(self, carry: Carry, wording: int | None) -> None:
        began = time.time_ns() // 1000
        with contextlib.suppress(KeyError, TypeError, ValueError):
            began = int(datetime.fromisoformat(self._summary["started_at"]).timestamp() * 1e6)
        wall_s = self._summary.get("wall_s")
        self._journal.states.put(
            **{RESENDING: [] if self._changes.resend_changed else None},
            settings=self._settings.shaping(),
            input=[stamp.public() for stamp in self._given.stamps],
            input_format=self._given.kind,
            **{READING: self._given.reading.public()},
            wording=wording,
            run=self._summary.get("run"),
            sample=self._given.sample_recorded(),
            **self._given.recorded(),
            carry_schema=part_schema.schema_to_bytes(carry.schema),
            carry_names=[list(carry.names), carry.everything],
            started_at_us=began,
            wall_s=wall_s if isinstance(wall_s, (int, float)) else 0.0,
        )
