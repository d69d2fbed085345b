"""Reading a shard's log back in row order, for sealing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from batchrun.adapters import read_back
from batchrun.adapters.journal import (
    Journal,
    read_amendment,
    read_attempt,
    read_block,
    read_outcome,
    read_reused,
)
from batchrun.adapters.log import AMENDMENT, ATTEMPT, BLOCK, OUTCOME, REUSED, Place
from batchrun.records import Attempt, Outcome


class ShardReader:
    """``filling.Records`` in a shard's log. Reads only; the log must not grow meanwhile."""

    def __init__(self, journal: Journal, shard: int, first_row: int = 0) -> None:
        """``first_row`` is where to begin; what the log holds of rows below is passed over."""
        self._log = journal.logs.get(shard)
        places = self._log.places if self._log else []
        last: dict[int, Place] = {}
        self._shares: dict[int, int] = {}
        self._held: tuple[int, dict[int, Outcome]] = (-1, {})
        kinds: dict[int, list[Place]] = {ATTEMPT: [], BLOCK: [], AMENDMENT: []}
        for place in places:
            row, kind, *_ = place
            if kind in (BLOCK, AMENDMENT) or (row >= first_row and kind == ATTEMPT):
                kinds[kind].append(place)
            elif kind == REUSED:
                rows = self._rows_of(place, first_row)
                kinds[ATTEMPT] += [last[row] for row in rows if _is_outcome(last.get(row))]
                last |= dict.fromkeys(rows, place)
            elif row >= first_row:
                if row in last and _is_outcome(last[row]):
                    kinds[ATTEMPT].append(last[row])  # its exchange stays in the ledger
                last[row] = place
        self._attempts = deque(sorted(kinds[ATTEMPT], key=lambda place: place.row))
        self._rows = sorted(last)
        self._outcomes = [last[row] for row in self._rows]
        self._taken = 0
        self.taken_bytes = 0
        """Bytes of the outcomes taken last."""
        self._blocks = kinds[BLOCK]
        self._amendments = kinds[AMENDMENT]

    def outcomes(self, *, rows_max: int, bytes_max: int) -> list[Outcome]:
        """The next outcomes in row order, as many as the bounds allow and at least one."""
        first, size = self._taken, 0
        for place in self._outcomes[first : first + rows_max]:
            if size >= bytes_max:
                break
            self._taken += 1
            size += place.size // self._shares.get(place.offset, 1)
        taken = self._outcomes[first : self._taken]
        assert self._log is not None or not taken
        self.taken_bytes = size
        if self._log is None:
            return []
        if not self._shares:
            return [read_outcome(body) for body in self._log.bodies(taken)]
        bodies = iter(self._log.bodies([place for place in taken if place.kind == OUTCOME]))
        return [
            read_outcome(next(bodies)) if place.kind == OUTCOME else self._reused_at(place)[row]
            for row, place in zip(self._rows[first:], taken, strict=False)
        ]

    def reused(self) -> None:
        """See ``Records``: here all rows have outcomes of their own."""

    def _rows_of(self, place: Place, first_row: int) -> range:
        """The rows from ``first_row`` on whose answers stand together."""
        reused = read_reused(self._body(place))
        self._shares[place.offset] = reused.rows
        return range(max(reused.row, first_row), reused.row + reused.rows)

    def _reused_at(self, place: Place) -> dict[int, Outcome]:
        if self._held[0] != place.offset:
            found = read_back.outcomes(read_reused(self._body(place)))
            self._held = place.offset, {outcome.row: outcome for outcome in found}
        return self._held[1]

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

    def blocks(self, low: int, high: int) -> Iterator[tuple[int, int, bytes]]:
        """Carried columns that overlap the rows from ``low`` to below ``high``: first row, number
        of rows, IPC stream. A range read twice is yielded twice.
        """
        for place in sorted(self._blocks):
            if place.row < high:
                block = read_block(self._body(place))
                if block.rows and place.row + block.rows > low:
                    yield place.row, block.rows, block.carried

    def _body(self, place: Place) -> bytes:
        assert self._log is not None
        return self._log.body(place)


def _is_outcome(place: Place | None) -> bool:
    return place is not None and place.kind == OUTCOME
