"""Reading a shard's log back in row order, for sealing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from batchrun.adapters.columns import read_answers
from batchrun.adapters.journal.journal import (
    Journal,
    read_amendment,
    read_attempt,
    read_block,
    read_outcome,
    read_reused,
)
from batchrun.adapters.journal.shard_log import (
    AMENDMENT,
    ATTEMPT,
    BLOCK,
    OUTCOME,
    REUSED,
    TURN,
    Place,
)
from batchrun.records import Attempt, Outcome, ReusedRows


class ShardReader:
    """Reads the content of a shard's log, which must not grow meanwhile."""

    def __init__(self, journal: Journal, shard: int) -> None:
        self._log = journal.logs.get(shard)
        places = self._log.places if self._log else []
        last: dict[int, Place] = {}
        self._stretches: dict[int, range] = {}
        """Rows with answers in one common record, by its place."""
        self._opened: tuple[int, dict[int, Outcome]] = (-1, {})
        kinds: dict[int, list[Place]] = {ATTEMPT: [], BLOCK: [], AMENDMENT: []}
        for place in places:
            kind = place.kind
            if kind == OUTCOME:
                before = last.get(place.row)
                if before is not None and before.kind == OUTCOME:
                    kinds[ATTEMPT].append(before)  # its exchange stays in the ledger
                last[place.row] = place
            elif kind == TURN:
                continue  # its exchange has a separate record
            elif kind == REUSED:
                rows = self._rows_of(place)
                earlier = [last[row] for row in rows if row in last]
                kinds[ATTEMPT] += [before for before in earlier if before.kind == OUTCOME]
                last |= dict.fromkeys(rows, place)
            else:
                kinds[kind].append(place)
        self._attempts = deque(sorted(kinds[ATTEMPT], key=lambda place: place.row))
        self._rows = sorted(last)
        self._outcomes = [last[row] for row in self._rows]
        self._taken = 0
        self.taken_bytes = 0
        """Bytes of the outcomes returned last."""
        self._blocks = deque(sorted(kinds[BLOCK]))
        self._held: list[tuple[int, int, bytes]] = []
        self._amendments = kinds[AMENDMENT]

    def outcomes(self, *, rows_max: int, bytes_max: int) -> list[Outcome]:
        """The next outcomes in row order, as many as the bounds allow and at least one."""
        first, size, stretches = self._taken, 0, self._stretches
        for place in self._outcomes[first : first + rows_max]:
            if size >= bytes_max or (stretches and size and self._is_whole_at(self._taken)):
                break
            self._taken += 1
            stretch = stretches.get(place.offset)
            size += place.size if stretch is None else place.size // len(stretch)
        taken = self._outcomes[first : self._taken]
        self.taken_bytes = size
        if self._log is None:
            return []
        if not self._stretches:
            return [read_outcome(body) for body in self._log.bodies(taken)]
        bodies = iter(self._log.bodies([place for place in taken if place.kind == OUTCOME]))
        return [
            read_outcome(next(bodies)) if place.kind == OUTCOME else self._reused_at(place)[row]
            for row, place in zip(self._rows[first:], taken, strict=False)
        ]

    def reused(self) -> ReusedRows | None:
        """The next rows, if their answers are in one record and none was replaced since; otherwise
        they are among the ``outcomes``.
        """
        if not self._is_whole_at(self._taken):
            return None
        place = self._outcomes[self._taken]
        self._taken += len(self._stretches[place.offset])
        self.taken_bytes = place.size
        return read_reused(self._body(place))

    @property
    def more(self) -> bool:
        """Whether there are rows left."""
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
        of rows, IPC stream. A range that was read twice appears twice. ``low`` must not decrease
        from call to call: columns below it are released.
        """
        while self._blocks and self._blocks[0].row < high:
            place = self._blocks.popleft()
            block = read_block(self._body(place))
            self._held.append((place.row, block.rows, block.carried))
        self._held = [held for held in self._held if held[0] + held[1] > low]
        return self._held

    def _is_whole_at(self, at: int) -> bool:
        """Whether a record of several answers begins there, and its rows have no other record: no
        later outcome, no attempt.
        """
        if not self._stretches or at >= len(self._outcomes):
            return False
        place = self._outcomes[at]
        stretch = self._stretches.get(place.offset)
        if stretch is None or self._rows[at] != stretch.start:
            return False
        if self._outcomes[at : at + len(stretch)].count(place) < len(stretch):
            return False
        return not self._attempts or self._attempts[0].row >= stretch.stop

    def _rows_of(self, place: Place) -> range:
        reused = read_reused(self._body(place))
        rows = self._stretches[place.offset] = range(reused.row, reused.row + reused.rows)
        return rows

    def _reused_at(self, place: Place) -> dict[int, Outcome]:
        if self._opened[0] != place.offset:
            found = read_answers.outcomes(read_reused(self._body(place)))
            self._opened = place.offset, {outcome.row: outcome for outcome in found}
        return self._opened[1]

    def _body(self, place: Place) -> bytes:
        assert self._log is not None
        return self._log.body(place)
