"""Compare a run directory with the settings and the input of the present run.

Nothing is changed until the whole comparison has succeeded: a difference that the user did not
allow raises ``RunChangedError`` with what changed, which done rows are affected, and the choices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.sealer import Parts, PartsOf
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry, Reader
from batchrun.adapters.storage.store import Store
from batchrun.core.cost.money import format_cost, usd
from batchrun.core.cost.projection import RowCosts
from batchrun.core.request.body import anew
from batchrun.core.request.chained_rows import KIND
from batchrun.core.request.chained_rows import SOURCE as SOURCE_KEY
from batchrun.core.run.changes import Changes
from batchrun.core.settings.differences import (
    IMPLIED,
    REPEAT,
    SOURCE,
    SOURCE_STATUS,
    differences,
)
from batchrun.core.settings.reading import reading_differences, recorded_reading
from batchrun.core.settings.resolve import Settings
from batchrun.core.text.wording import counted, verb
from batchrun.errors import BatchrunError, RunChangedError
from batchrun.records import Position, ShardState, Span
from batchrun.rundir.recorded_reading import READING
from batchrun.rundir.resend import (
    Build,
    Found,
    Selection,
    Survey,
    count_done,
    endings,
    first_difference,
    hash_of,
)

if TYPE_CHECKING:  # loaded only for a changed source
    from batchrun.adapters.parts.renumbering import Shift

__all__ = ["Changes", "Compared", "Comparison"]

COUNTED_ROWS_MAX = 200_000
COUNTED_BYTES_MAX = 2**30
"""Up to this many done rows, and this much input, a message counts exactly what would be sent
again.
"""

RESTART = "--restart starts over; the old contents are kept aside"
REUSE_OLD = (
    "--restart --reuse old starts over and takes the old answers of rows whose request is the same"
)
RESENDING = "resending"
"""The key in the state file while done rows are sent again because their request changed: the
shards with edited input.
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """A run directory that may continue: the recorded columns, whether the input may have grown,
    and the shards with changed input. ``moved`` means that rows have new numbers: the parts must be
    rewritten, and settings and input noted with them.
    """

    carry: Carry
    grown: bool
    edited: frozenset[int] = frozenset()
    moved: bool = False


@dataclass(slots=True)
class Restarted:
    """What a restart would send: the rows of the input, and how many of them the old contents have
    an answer for.
    """

    rows: int = 0
    answered: int = 0


class Comparison:
    """A run directory compared with the settings and the input of the present run."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        settings: Settings,
        given: Input,
        changes: Changes,
        build: Build,
        say: Callable[[str], None],
        parts_of: PartsOf = Parts,
    ) -> None:
        self._where = store.where()
        self._journal = journal
        self._settings = settings.recorded_by(journal.states.get("settings"))
        self._given = given
        self._changes = changes
        self._build = build
        self._say = say
        self._carry = recorded_carry(journal)
        self._parts = parts_of(store, journal, self._carry.schema)
        self._moved = False

    def go_on(self) -> Compared:
        """Compare, and note the present settings and input if the user allows them.

        Raises ``RunChangedError``; then nothing was changed.
        """
        states, folder = self._journal.states, self._where
        allowed = self._changes.keep_done or self._changes.resend_changed
        found = [
            each
            for each in differences(states.get("settings"), self._settings.shaping())
            if each.name != SOURCE or not self._given.is_of(states.get(SOURCE_KEY))
        ]
        keepable = all(difference.keepable for difference in found) and (
            self._given.reading.columns_are_data
            or all(difference.name != "input.send" for difference in found)
        )
        selected = any(difference.name == SOURCE_STATUS for difference in found)
        if selected and keepable and not self._changes.resend_changed:
            what = f"the settings are not those {folder} was started with"
            raise self._moving(what, list(map(str, found)), self._reader())
        if found and not (keepable and allowed):
            raise self._changed(
                f"the settings are not those {folder} was started with",
                [str(difference) for difference in found],
                keepable=keepable,
            )
        if self._given.kind != states.get("input_format"):
            raise self._changed(
                "the input has another format than the run was started with",
                [f"format: was {states.get('input_format')}, is {self._given.kind}"],
                keepable=False,
            )
        before = recorded_reading(states.get(READING) or {}, len(states.get("input") or ()))
        other = reading_differences(before, self._given.reading, self._given.kind)
        if other:
            raise self._changed(
                f"the input is not read as it was when {folder} was begun",
                [*map(str, other), "other rows would have the numbers of those that are done"],
                keepable=False,
            )
        unfinished = states.get(RESENDING)
        if unfinished is not None and not allowed:
            raise self._changed(
                f"the last --resend-changed of {folder} did not finish",
                ["some done rows may still answer the requests from before the change"],
            )
        fresh, edited = self._compare_input(reselected=selected)
        if self._moved:
            return Compared(self._carry, grown=False, moved=True)
        if self._changes.resend_changed:
            states.put(**{RESENDING: sorted({*(unfinished or ()), *edited})})
        if fresh is not None:
            self._journal.refresh(fresh)
        if found or fresh is not None:
            states.put(
                settings=self._settings.shaping(),
                input=[stamp.public() for stamp in self._given.stamps],
                input_rows=None,
            )
        if self._changes.keep_done and unfinished is not None:
            states.put(**{RESENDING: None})
        amends = edited | frozenset(unfinished or ())
        return Compared(self._carry, fresh is not None, amends)

    def _compare_input(self, *, reselected: bool) -> tuple[list[ShardState] | None, frozenset[int]]:
        """Returns None if size, modification time and etag are equal, which is trusted. Otherwise,
        what was read before is read again and compared by digest; returns the present states, and
        the shards that differ. A pipe is compared while it is read. ``reselected`` means that other
        rows of a source are selected.
        """
        recorded = [Stamp.recorded(stamp) for stamp in self._journal.states.get("input")]
        stamps = self._given.stamps
        same = len(recorded) == len(stamps) and all(
            now.same_as(before) for now, before in zip(stamps, recorded, strict=True)
        )
        if same and not reselected:
            return None, frozenset()
        states = self._journal.shards()
        if states and self._given.pipe is None:
            self._say(
                f"the input may have changed; comparing "
                f"{counted(len(states), 'shard')} with what was read"
            )
        reader = self._reader()
        changed_columns = self._changed_columns(reader)
        if changed_columns is not None:
            raise self._changed(
                "the input's columns are not those the run was started with",
                [changed_columns, "parts hold one schema"],
                keepable=False,
            )
        if self._given.pipe is not None:
            size = self._settings.shard_rows
            return [_reopened(state, state.rows_read, size) for state in states], frozenset()
        fresh, edited = _reread(reader, states, self._settings.shard_rows)
        lost = self._lost_rows(states, fresh)
        if self._given.kind == KIND:
            if edited or lost or self._has_grown():
                self._move(reader)
            return fresh, frozenset()
        if (edited and not self._changes.keep_done and not self._changes.resend_changed) or (
            lost and not self._changes.keep_done
        ):
            first = edited[0] * self._settings.shard_rows
            read = next(state.rows_read for state in states if state.shard == edited[0])
            where = (
                f"the first difference is within rows {first:,} to {first + read - 1:,} "
                f"({len(edited):,} of {counted(len(states), 'shard')} read differ)"
            )
            details = [where]
            row = self._edited_row(reader, edited[0]) if edited else None
            details += [] if row is None else [row]
            if lost:
                details.append(
                    f"it became shorter: {counted(len(lost), 'done row')}, from {min(lost):,} on, "
                    f"{verb(len(lost), 'is', 'are')} not in it any more"
                )
            raise self._changed(
                f"the input is not what {self._where} was started with",
                details,
                resendable=not lost,
            )
        return fresh, frozenset(edited)

    def _has_grown(self) -> bool:
        """Whether a source has more rows than were counted before."""
        before = self._journal.states.get("input_rows")
        return before is not None and (self._given.count() or 0) * self._given.repeat != before

    def _move(self, reader: Reader) -> None:
        """Move the rows of a changed source to their new places, if that is requested. Raises
        ``RunChangedError``.
        """
        if self._given.picked is not None:
            raise self._changed(
                "the results of the source changed since this run took a sample of them",
                ["the sample was drawn from other rows"],
                keepable=False,
            )
        if self._changes.resend_changed:
            self._moved = True
            return
        raise self._moving(f"the results that {self._where} was made from changed", [], reader)

    def _moving(self, what: str, details: Sequence[str], reader: Reader) -> RunChangedError:
        """The error for a source whose rows have other numbers: what becomes of them, and what each
        choice does.
        """
        shift = self._shift(reader)
        costs = RowCosts.of(self._journal.states.get("row_costs"))
        rows = None if shift is None else shift.new + shift.changed
        counted = None if shift is None else Restarted(shift.rows, shift.same)
        told = [] if shift is None else [f"of the source: {shift}"]
        return changed(
            what,
            [*details, *told, f"{self._count_done():,} rows are done"],
            [
                "--resend-changed keeps the answers of rows that are as before, in their new places"
                + sent(rows, costs),
                RESTART + sent(None if shift is None else shift.rows, costs),
                REUSE_OLD if counted is None else _would_reuse(counted, costs),
            ],
        )

    def _shift(self, reader: Reader) -> Shift | None:
        """What became of the done rows, if it can be counted quickly."""
        if self._count_done() > COUNTED_ROWS_MAX or self._journal.touched():
            return None
        with contextlib.suppress(BatchrunError):
            blocks = reader.blocks([Span(0, None, Position())], limit=None)
            from batchrun.adapters.parts.renumbering import survey

            hashes = partial(hash_of, self._build)
            return survey(self._parts, self._journal, blocks, hashes, self._given.repeat)
        return None

    def _count_done(self) -> int:
        ok, errors = count_done(self._parts, self._journal)
        return ok + errors.total()

    def _edited_row(self, reader: Reader, shard: int) -> str | None:
        """The first done row of a shard with a different request, ``custom_id`` or carried columns;
        None if there is none.
        """
        if sum(stamp.size for stamp in self._given.stamps) > COUNTED_BYTES_MAX:
            return None
        ended = endings(self._parts, self._journal, shard)
        with self._parts.carried(shard) as old:
            for block in reader.blocks([Span(0, shard, Position())], limit=None):
                if block.shard != shard:
                    continue
                row = first_difference(block, ended, old, self._build)
                if row is not None:
                    name = "" if row.custom_id is None else f", custom_id {row.custom_id!r}"
                    where = reader.where(row)
                    return f"row {row.number:,} ({where}{name}) is the first that is not as it was"
        return None

    def _reader(self) -> Reader:
        return self._given.reader(self._carry, self._settings.shard_rows)

    def _changed_columns(self, reader: Reader) -> str | None:
        """The differences in columns with types given by the files themselves."""
        if self._given.has_extra:
            return None
        recorded = self._carry.schema
        now = self._given.choose(reader.schema(), self._settings.carry, recorded.names).schema
        return None if now.equals(recorded) else _schema_difference(recorded, now)

    def _lost_rows(self, before: Sequence[ShardState], fresh: Sequence[ShardState]) -> list[int]:
        """Done rows that are no longer in the input."""
        lost = []
        for old, new in zip(before, fresh, strict=True):
            if old.digest and (new.rows_read < old.rows_read or not new.digest):
                end = old.shard * self._settings.shard_rows
                end += new.rows_read if new.digest else 0
                done = endings(self._parts, self._journal, old.shard)
                lost += [row for row in done if row >= end]
        return lost

    def _changed(
        self,
        what: str,
        details: Sequence[str],
        *,
        keepable: bool = True,
        resendable: bool = True,
    ) -> RunChangedError:
        """The error: what changed, which done rows are affected, and what each choice does."""
        done = self._count_done()
        restarted = self._would_restart(done)
        costs = RowCosts.of(self._journal.states.get("row_costs"))
        choices = []
        if keepable:
            left = None if restarted is None else max(0, restarted.rows - done)
            choices.append(
                f"--keep-done keeps {counted(done, 'done row')} unchanged and runs the rest"
                + sent(left, costs)
            )
        if keepable and resendable and self._given.pipe is None:
            again = self._would_resend(done)
            number = (
                f"up to {counted(done, 'done row')}"
                if again is None
                else counted(again.rows, "done row")
            )
            whole = None
            if again is not None and restarted is not None:
                whole = again.rows + max(0, restarted.rows - done)
            choices.append(
                f"--resend-changed sends {number} again whose request changed; each keeps its old "
                "outcome until it has a new one" + sent(whole, costs)
            )
        choices.append(RESTART + sent(None if restarted is None else restarted.rows, costs))
        choices.append(REUSE_OLD if restarted is None else _would_reuse(restarted, costs))
        done_rows = f"{counted(done, 'row')} {verb(done, 'is', 'are')} done"
        return changed(what, [*details, done_rows], choices)

    def _would_restart(self, done: int) -> Restarted | None:
        """What ``--restart`` would send, with and without ``--reuse old``, if it can be counted
        quickly.
        """
        size, states = sum(stamp.size for stamp in self._given.stamps), self._journal.states
        if done > COUNTED_ROWS_MAX or size > COUNTED_BYTES_MAX or self._given.pipe is not None:
            return None
        try:
            repeat = self._settings.repeat
            recorded = states.get("settings") or {}
            before = recorded.get(REPEAT, IMPLIED[REPEAT])
            answered = {
                (ending.request_hash, row % before)
                for state in self._journal.shards()
                for row, ending in endings(self._parts, self._journal, state.shard).items()
                if ending.error_class is None
            }
            size = self._settings.shard_rows
            reader = self._given.reader(self._given.carry(self._settings.carry, size), size)
            found = Restarted()
            build = self._build if states.get("wording") is not None else anew(self._build)
            span = Span(0, None, Position())
            for block in reader.blocks([span], limit=self._settings.limit):
                found.rows += len(block.rows)
                keys = [(hash_of(build, row), row.number % repeat) for row in block.rows]
                found.answered += sum(key[0] is not None and key in answered for key in keys)
        except BatchrunError:
            return None
        return found

    def _would_resend(self, done: int) -> Found | None:
        """What ``--resend-changed`` would send, if it can be counted quickly."""
        size = sum(stamp.size for stamp in self._given.stamps)
        if done > COUNTED_ROWS_MAX or size > COUNTED_BYTES_MAX:
            return None
        try:
            reader = self._reader()
            if self._changed_columns(reader) is not None:
                return None
            selection = Selection(Changes(), self._build)
            return Survey(self._parts, self._journal, reader, selection).run(self._settings.limit)
        except BatchrunError:
            return None


def sent(rows: int | None, costs: RowCosts) -> str:
    """How many rows that sends and its approximate cost, if known."""
    if rows is None:
        return ""
    return f": {rows:,} {'row is' if rows == 1 else 'rows are'} sent{_about(rows, costs)}"


def _about(rows: int, costs: RowCosts) -> str:
    """The cost of rows, from the mean of the done ones; empty if that is not known."""
    if not costs.rows or not costs.total:
        return ""
    return f" (about {format_cost(usd(round(costs.total / costs.rows * rows)))})"


def _would_reuse(counted: Restarted, costs: RowCosts) -> str:
    left = counted.rows - counted.answered
    return (
        f"--restart --reuse old starts over: {counted.answered:,} of {counted.rows:,} rows keep "
        f"their answers, {left:,} {'is' if left == 1 else 'are'} sent{_about(left, costs)}"
    )


def changed(what: str, details: Sequence[str], choices: Sequence[str]) -> RunChangedError:
    """The error for a run directory that was begun with other settings."""
    lines = [f"{what}. Nothing was sent and no answer was touched."]
    lines += [f"  {detail}" for detail in details]
    lines += ["  Choose:", *(f"    {choice}" for choice in choices)]
    return RunChangedError("\n".join(lines))


def recorded_carry(journal: Journal) -> Carry:
    """The carried columns that the run was begun with."""
    names, everything = journal.states.get("carry_names")
    schema = part_schema.schema_from_bytes(journal.states.get("carry_schema"))
    return Carry(schema, tuple(names), everything)


def _reread(
    reader: Reader, states: Sequence[ShardState], shard_rows: int
) -> tuple[list[ShardState], list[int]]:
    """Read again, in one pass, what was read before. Returns the present states, and the shards
    that differ.
    """
    ends = {state.shard: state.shard * shard_rows + state.rows_read for state in states}
    found: dict[int, tuple[int, bytes, Position]] = {}
    if states:
        everything = Span(0, max(ends), Position())
        borders = set(ends.values())
        blocks = reader.blocks([everything], limit=max(borders), breaks=borders)
        for block in blocks:
            if block.first_row < ends.get(block.shard, 0):
                found[block.shard] = (block.rows_read, block.digest, block.end)
    fresh, edited = [], []
    position = Position()
    for state in states:
        rows, digest, position = found.get(state.shard, (0, b"", position))
        if state.digest and (rows, digest) != (state.rows_read, state.digest):
            edited.append(state.shard)
        read = rows or state.rows_read
        fresh.append(
            replace(_reopened(state, read, shard_rows), rows_read=read, digest=digest, end=position)
        )
    return fresh, edited


def _reopened(state: ShardState, rows_read: int, shard_rows: int) -> ShardState:
    """A short shard was the end of the input, which may have grown since; or it is the end now."""
    return replace(state, complete=state.complete and rows_read == shard_rows)


def _schema_difference(before: pa.Schema, now: pa.Schema) -> str:
    old = {field.name: str(field.type) for field in before}
    new = {field.name: str(field.type) for field in now}
    changed = [n for n in dict.fromkeys([*old, *new]) if old.get(n) != new.get(n)]
    return "; ".join(f"{n}: was {old.get(n, 'absent')}, is {new.get(n, 'absent')}" for n in changed)
