"""Reading a shard's log back in row order, for sealing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from batchrun.adapters.journal.journal import (
    Journal,
    read_amendment,
    read_attempt,
    read_block,
    read_outcome,
)
from batchrun.adapters.journal.shard_log import AMENDMENT, ATTEMPT, BLOCK, Place
from batchrun.records import Attempt, Outcome


class ShardReader:
    """What a shard's log holds. Reads only; the log must not grow meanwhile."""

    def __init__(self, journal: Journal, shard: int) -> None:
        self._log = journal.logs.get(shard)
        places = self._log.places if self._log else []
        last: dict[int, Place] = {}
        kinds: dict[int, list[Place]] = {ATTEMPT: [], BLOCK: [], AMENDMENT: []}
        for place in places:
            row, kind, *_ = place
            if kind in kinds:
                kinds[kind].append(place)
            else:
                if row in last:
                    kinds[ATTEMPT].append(last[row])  # its exchange stays in the ledger
                last[row] = place
        self._attempts = deque(sorted(kinds[ATTEMPT], key=lambda place: place.row))
        self._outcomes = [last[row] for row in sorted(last)]
        self._taken = 0
        self.taken_bytes = 0
        """Bytes of the outcomes taken last."""
        self._blocks = deque(sorted(kinds[BLOCK]))
        self._held: list[tuple[int, int, bytes]] = []
        self._amendments = kinds[AMENDMENT]

    def outcomes(self, *, rows_max: int, bytes_max: int) -> list[Outcome]:
        """The next outcomes in row order, as many as the bounds allow and at least one."""
        first, size = self._taken, 0
        for place in self._outcomes[first : first + rows_max]:
            if size >= bytes_max:
                break
            self._taken += 1
            size += place.size
        taken = self._outcomes[first : self._taken]
        assert self._log is not None or not taken
        self.taken_bytes = size
        return [read_outcome(body) for body in self._log.bodies(taken)] if self._log else []

    @property
    def more(self) -> bool:
        """Whether there are outcomes left."""
        return self._taken < len(self._outcomes)

    def attempts_below(self, row: int) -> Iterator[Attempt]:
        """The next attempts of rows below ``row`` that did not decide the row's last outcome."""
        while self._attempts and self._attempts[0].row < row:
            place = self._attempts.popleft()
            body = self._body(place)
            attempt = read_attempt(body) if place.kind == ATTEMPT else read_outcome(body).attempt
            if attempt is not None:
                yield attempt

    def amendments(self) -> Iterator[bytes]:
        """New values of done rows, as IPC streams, in order of arrival."""
        for place in self._amendments:
            yield read_amendment(self._body(place)).values

    def blocks(self, low: int, high: int) -> list[tuple[int, int, bytes]]:
        """Carried columns that overlap the rows from ``low`` to below ``high``: first row, number
        of rows, IPC stream. A range read twice is there twice. ``low`` never falls from call to
        call: what lies below it is let go of.
        """
        while self._blocks and self._blocks[0].row < high:
            place = self._blocks.popleft()
            block = read_block(self._body(place))
            self._held.append((place.row, block.rows, block.carried))
        self._held = [held for held in self._held if held[0] + held[1] > low]
        return self._held

    def _body(self, place: Place) -> bytes:
        assert self._log is not None
        return self._log.body(place)
