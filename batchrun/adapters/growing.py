"""Parts that grow while their shard fills.

What the journal has just made durable is still in memory. It is kept until an unbroken stretch of
rows is there, which then goes into the shard's drafts at once. So a shard that was begun in this
session need not be read back from its log, and little is left to do when its last row is answered.

None of it has to succeed. The log holds everything until the parts are published: where a row keeps
those behind it waiting for too long, or a draft cannot be written, the rest of the shard, or all of
it, is read from the log when it is published.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from batchrun.adapters.filling import PIECE_ROWS, Filling, Records
from batchrun.adapters.journal import BlockRecord
from batchrun.adapters.log import BLOCK, OUTCOME, REUSED, Entry, Place
from batchrun.errors import StorageError
from batchrun.records import Attempt, Outcome, ReusedRows

HELD_BYTES_MAX = 8 * 2**20
"""Of records that are kept for all shards together, as large as they are in the log."""
STRETCH_BYTES = 2 * 2**20
"""An unbroken stretch of rows is taken at this size, or at ``PIECE_ROWS``."""
SHARDS_MAX = 4
"""So many shards grow at once, those included that wait for a row: each has two files open, and a
row group in memory."""


class Window:
    """``filling.Records`` that are in no draft yet: all that a shard's log holds of rows from
    ``next_row`` on.
    """

    def __init__(self, first_row: int) -> None:
        """``first_row`` is the shard's."""
        self.next_row = first_row
        self.size_bytes = 0
        self.taken_bytes = 0
        self._whole_to = first_row
        """Every row from ``next_row`` to below this one is there."""
        self._whole_bytes = 0
        self._outcomes: dict[int, tuple[Outcome, int]] = {}
        self._reused: dict[int, tuple[ReusedRows, int]] = {}
        self._attempts: list[tuple[Attempt, int]] = []
        self._blocks: list[tuple[int, int, bytes, int]] = []

    def put(self, entries: Sequence[Entry], places: Sequence[Place]) -> bool:
        """Take records in the order in which they became durable, and where the log has them.
        False where one belongs to what was taken away before: then this is not all there is.
        """
        next_row, outcomes = self.next_row, self._outcomes
        for (row, kind, value), (_, _, _, size, _) in zip(entries, places, strict=True):
            self.size_bytes += size
            if kind == BLOCK:
                assert isinstance(value, BlockRecord)
                self._blocks.append((row, value.rows, value.carried, size))
            elif row < next_row:
                return False
            elif kind == OUTCOME:
                assert isinstance(value, Outcome)
                if row in outcomes:
                    return False
                outcomes[row] = (value, size)
            elif kind == REUSED:
                assert isinstance(value, ReusedRows)
                self._reused[row] = (value, size)
            else:
                assert isinstance(value, Attempt)
                self._attempts.append((value, size))
        while (held := outcomes.get(self._whole_to)) is not None:
            self._whole_to += 1
            self._whole_bytes += held[1]
        return True

    def reused(self) -> ReusedRows | None:
        """See ``Records``."""
        if not self._reused:
            return None
        first = min(self._reused)
        if first != self.next_row and self._outcomes and min(self._outcomes) < first:
            return None
        taken, size = self._reused.pop(first)
        self.taken_bytes = size
        self.size_bytes -= size
        self.next_row = self._whole_to = first + taken.rows
        return taken

    @property
    def stretches(self) -> bool:
        """Whether it begins with a stretch of rows that is worth taking, or that ends where
        columns begin.
        """
        return (
            self._whole_to - self.next_row >= PIECE_ROWS
            or self._whole_bytes >= STRETCH_BYTES
            or self._whole_to in self._reused
        )

    def outcomes(self, *, rows_max: int, bytes_max: int) -> list[Outcome]:
        """See ``Records``. While it ``stretches``, they are the rows of that stretch."""
        held = self._outcomes
        stretch: Sequence[int] = range(self.next_row, self._whole_to)
        if not stretch:
            end = min(self._reused, default=None)
            rows = held if end is None else [row for row in held if row < end]
        taken: list[Outcome] = []
        size = 0
        for row in (stretch or sorted(rows))[:rows_max]:
            if size >= bytes_max:
                break
            outcome, its = held.pop(row)
            taken.append(outcome)
            size += its
        self.taken_bytes = size
        self.size_bytes -= size
        if taken:
            self.next_row = taken[-1].row + 1
            if stretch:
                self._whole_bytes -= size
            else:
                self._whole_to = self.next_row
        return taken

    @property
    def more(self) -> bool:
        """See ``Records``."""
        return bool(self._outcomes or self._reused)

    def attempts_below(self, row: int) -> list[Attempt]:
        """See ``Records``."""
        if not self._attempts:
            return []
        taken = [(attempt, size) for attempt, size in self._attempts if attempt.row < row]
        self._attempts = [held for held in self._attempts if held[0].row >= row]
        self.size_bytes -= sum(size for _, size in taken)
        return [attempt for attempt, _ in taken]

    def blocks(self, low: int, high: int) -> list[tuple[int, int, bytes]]:
        """See ``Records``. What lies below ``low`` is let go of."""
        kept = []
        for block in self._blocks:
            first, rows, _, size = block
            if first + rows > low:
                kept.append(block)
            else:
                self.size_bytes -= size
        self._blocks = sorted(kept)
        return [(first, rows, data) for first, rows, data, _ in self._blocks if first < high]

    def amendments(self) -> Sequence[bytes]:
        """See ``Records``. Only rows of earlier sessions are amended."""
        return ()


@dataclass(slots=True)
class _Growth:
    """A shard that grows. Without a window, what is not in the drafts is in its log alone."""

    window: Window | None
    filling: Filling | None = None


class Growing:
    """The shards that grow. Records come from the journal's thread; drafts are written, and shards
    ended, by whoever does the work, one piece after the other.
    """

    def __init__(
        self,
        shard_rows: int,
        begin: Callable[[int], Filling],
        do: Callable[[Callable[[], None]], object],
    ) -> None:
        """``begin`` makes a shard's drafts; ``do`` has work done, in the order given."""
        self._shard_rows = shard_rows
        self._begin = begin
        self._do = do
        self._lock = threading.Lock()
        self._known: set[int] = set()
        """Shards that grow or did: their files are open until they are published."""
        self._followed: set[int] = set()
        """Those of them whose records are still wanted."""
        self._given = 0
        """Bytes of records that were handed on; written by the journal's thread alone."""
        self._arrived = 0
        """Bytes of them that did arrive; written by whoever does the work."""
        self._growths: dict[int, _Growth] = {}
        self._fault: Exception | None = None

    def durable(
        self, shard: int, entries: Sequence[Entry], places: Sequence[Place], *, fresh: bool
    ) -> None:
        """These records of a shard are durable. ``fresh`` says that they are the first there are
        of it, in the log or in a part.
        """
        last = places[-1]
        size = last.offset + last.size - places[0].offset
        with self._lock:
            if fresh and len(self._known) < SHARDS_MAX:
                self._known.add(shard)
                self._followed.add(shard)
            given_up = None
            if self._held_bytes() + size > HELD_BYTES_MAX and self._followed:
                # The oldest is the one that waits for a row.
                given_up = min(self._followed)
                self._followed.discard(given_up)
            followed = shard in self._followed
            given_up_before = not followed and shard in self._known
        if given_up is not None:
            self._do(functools.partial(self._give_up, given_up))
        if followed:
            self._given += size
            self._do(functools.partial(self._take, shard, entries, places, size))
        elif given_up_before:
            rows = [row for row, kind, _ in entries if kind != BLOCK]
            if rows:
                self._do(functools.partial(self._late, shard, min(rows)))

    @property
    def under_way_bytes(self) -> int:
        """Of records that were handed on and did not arrive yet."""
        return self._given - self._arrived

    def _held_bytes(self) -> int:
        windows = (growth.window for growth in list(self._growths.values()))
        return self.under_way_bytes + sum(
            window.size_bytes for window in windows if window is not None
        )

    def _take(
        self, shard: int, entries: Sequence[Entry], places: Sequence[Place], size: int
    ) -> None:
        growth = self._growths.get(shard)
        if growth is None:
            growth = self._growths[shard] = _Growth(Window(shard * self._shard_rows))
        self._arrived += size
        window = growth.window
        if window is None:
            return
        try:
            if not window.put(entries, places):
                self._stop(shard, growth)
            while growth.window is not None and window.stretches:
                if growth.filling is None:
                    growth.filling = self._begin(shard)
                growth.filling.add(window)
        except (OSError, StorageError):
            # Whether its disk is full, or a store out of reach, for good is found out when the
            # shard is published.
            self._stop(shard, growth)
        except Exception as error:  # noqa: BLE001 - raised when a shard is published
            self._stop(shard, growth)
            self._fault = error

    def _give_up(self, shard: int) -> None:
        """What is in the drafts of a shard stays there; the rest is read from its log."""
        growth = self._growths.get(shard)
        if growth is not None:
            growth.window = None

    def _late(self, shard: int, row: int) -> None:
        """A record came of a shard that was given up: one of a row in its drafts ends them."""
        growth = self._growths.get(shard)
        if growth is not None and growth.filling is not None and row < growth.filling.next_row:
            self._stop(shard, growth)

    def _stop(self, shard: int, growth: _Growth) -> None:
        """A shard grows no more, and another may."""
        self._forget(shard)
        self._drop(growth)

    def _forget(self, shard: int) -> None:
        with self._lock:
            self._known.discard(shard)
            self._followed.discard(shard)

    def _drop(self, growth: _Growth) -> None:
        """Take away the drafts of a shard: all of it is read from its log."""
        filling, growth.filling, growth.window = growth.filling, None, None
        if filling is not None:
            filling.close()

    @contextlib.contextmanager
    def ended(self, shard: int) -> Iterator[tuple[Filling | None, Records | None]]:
        """Nothing more comes for a shard: its drafts as far as they are, None where there are
        none, and all records that are not in them, None where those are in the log alone.
        """
        self._forget(shard)
        growth = self._growths.pop(shard, None) or _Growth(None)
        try:
            if self._fault is not None:
                raise self._fault
            yield growth.filling, growth.window
        finally:
            self._drop(growth)

    def close(self) -> None:
        """Take away all drafts."""
        while self._growths:
            self._drop(self._growths.popitem()[1])
