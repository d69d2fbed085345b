"""The board: what one worker knows of all shards, and which of them it works on next."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from batchrun.core.fleet.claims import Claim

_FREE, _CLAIMED, _PUBLISHED = b"\0\1\2"
_FREE_RUN = re.compile(b"\0+")


@dataclass(frozen=True, slots=True)
class Place:
    """A process's place in its fleet: number ``index`` of ``count``, from 0."""

    index: int
    count: int

    def own(self, shards: int) -> range:
        """The shards that it works on before it helps the others: a stretch as long as theirs."""
        return range(
            shards * self.index // self.count,
            shards * (self.index + 1) // self.count,
        )


class Board:
    """The state of every shard, a byte each, as far as this worker has seen."""

    def __init__(self, shards: int, done: Iterable[int] = ()) -> None:
        """``done`` are shards that were complete before the fleet began."""
        self._status = bytearray(shards)
        self._claims: dict[int, Claim] = {}
        self._published = 0
        for shard in done:
            self._publish(shard)

    def __len__(self) -> int:
        return len(self._status)

    @property
    def all_published(self) -> bool:
        """Whether nothing is left to do."""
        return self._published == len(self._status)

    @property
    def claims(self) -> dict[int, Claim]:
        """The latest known claim of every shard that is claimed and not published."""
        return dict(self._claims)

    def knows(self, shard: int, epoch: int) -> bool:
        """Whether a record of this epoch, or a later one, was seen."""
        seen = self._claims.get(shard)
        return self._status[shard] == _PUBLISHED or (seen is not None and seen.epoch >= epoch)

    def see(self, claim: Claim) -> None:
        """Take note of a record. One that is older than what was seen changes nothing."""
        if self.knows(claim.shard, claim.epoch):
            return
        if claim.published is not None:
            self._publish(claim.shard)
        else:
            self._status[claim.shard] = _CLAIMED
            self._claims[claim.shard] = claim

    def _publish(self, shard: int) -> None:
        self._published += self._status[shard] != _PUBLISHED
        self._status[shard] = _PUBLISHED
        self._claims.pop(shard, None)

    def next(
        self, place: Place, last: int | None, lives: Callable[[str], bool]
    ) -> tuple[int, Claim | None] | None:
        """The shard to claim next, and the claim to take over if it has one; None if there is none.

        ``last`` is the shard that this worker claimed last: the input is read on from there without
        a seek. Then come its own stretch, the second half of the longest free stretch, and shards
        whose worker does not live.
        """
        status, own = self._status, place.own(len(self._status))
        if last is not None and last + 1 < len(status) and status[last + 1] == _FREE:
            return last + 1, None
        first = status.find(_FREE, own.start, own.stop)
        if first >= 0:
            return first, None
        runs = _FREE_RUN.finditer(status)
        longest = max(runs, key=lambda run: run.end() - run.start(), default=None)
        if longest is not None:
            return (longest.start() + longest.end()) // 2, None
        orphans = [claim for claim in self._claims.values() if not lives(claim.worker)]
        if not orphans:
            return None
        # Each looks from its own stretch on, so that they do not all reach for the same one.
        orphan = min(orphans, key=lambda claim: (claim.shard - own.start) % len(status))
        return orphan.shard, orphan
