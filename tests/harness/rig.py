"""A rig: the real engine between fakes, ready to run on the virtual loop.

Everything is in reach, so that a test can say what happens outside and look at what became of it.
``resumed`` is the next session over the same storage.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from functools import partial

from batchrun.core.request import body
from batchrun.core.request.conversation import Wording, whole
from batchrun.core.run.shards import plan_reading
from batchrun.core.settings.bounds import Bounds, Finished
from batchrun.engine.attempt import AttemptLoop
from batchrun.engine.conversation.turn_loop import TurnLoop
from batchrun.engine.engine import Engine
from batchrun.engine.lane import Way
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.policy import Policy
from batchrun.engine.row_order import AHEAD_ROWS, Lengths
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.tally import Tally
from batchrun.records import (
    Attempt,
    Block,
    Known,
    Outcome,
    Position,
    Request,
    Row,
    ShardState,
    Span,
    Turn,
)
from batchrun.testing.fake_gate import FakeGate
from batchrun.testing.fakes import (
    FakeJournal,
    FakePublisher,
    FakeSource,
    FakeTransport,
)
from batchrun.testing.samples import chat_row
from batchrun.testing.virtual import VirtualClock

BODY_BYTES_MAX = 2**20
SIGNAL = Stop("SIGINT", "SIGINT, on purpose", 130)


class Rig:
    """One session of an engine over fakes. Build it on a running virtual loop."""

    def __init__(
        self,
        rows: int | Sequence[Row],
        *,
        transport: FakeTransport | None = None,
        gate: EndpointGate | FakeGate | None = None,
        journal: FakeJournal | None = None,
        publisher: FakePublisher | None = None,
        source: FakeSource | None = None,
        concurrency: int = 4,
        shard_rows: int = 10,
        max_attempts: int = 3,
        max_wait_s: float = 600.0,
        grace_s: float = 30.0,
        seed: int = 0,
        model: str | None = None,
        known: Mapping[int, Known] | None = None,
        spans: Sequence[Span] | None = None,
        bounds: Bounds | None = None,
        only: Sequence[Way] = (),
        permits: int | None = None,
        touched: Collection[int] | None = None,
        repeated_failure: bool = True,
        lengths: Lengths | None = None,
        answered: MutableMapping[int, Sequence[Turn]] | None = None,
    ) -> None:
        """``rows`` is a number of good rows, or the rows themselves; ``model`` is the run's.

        ``only`` are the ways to several endpoints, in place of ``transport`` and ``gate``, each
        with ``concurrency`` permits. ``permits`` is how many rows are sent at once (None: all).
        ``touched`` are the shards with records no part holds (None: all those of ``known``).
        ``repeated_failure`` is the setting of that name; ``lengths`` says which rows go first.
        With ``answered`` the rows are conversations: it has the turns that were answered before.
        """
        self.rows = [chat_row(n) for n in range(rows)] if isinstance(rows, int) else list(rows)
        self.clock = VirtualClock()
        self.transport = transport or FakeTransport()
        self.gate = gate or EndpointGate(
            concurrency=concurrency, rpm=None, tpm=None, clock=self.clock, dice=random.Random(seed)
        )
        self.journal = journal or FakeJournal()
        self.publisher = publisher or FakePublisher(self.journal, shard_rows=shard_rows)
        self.source = source or FakeSource(self.rows, shard_rows=shard_rows)
        self.tally = Tally()
        self.switch = StopSwitch()
        self._shard_rows = shard_rows
        self._spans = [Span(0, None, Position())] if spans is None else spans
        self._known = dict(known or {})
        room = Room(permits or concurrency * max(1, len(only)), ahead=AHEAD_ROWS if lengths else 0)
        finished = Finished(bounds)
        made, build = _sending(answered)
        loop = made(
            only or [Way("fake", self.transport, self.gate)],
            journal=self.journal,
            clock=self.clock,
            dice=random.Random(seed),
            room=room,
            tally=self.tally,
            switch=self.switch,
            policy=Policy(max_attempts, max_wait_s, "all", model),
            finished=finished if repeated_failure else None,
        )
        self.engine = Engine(
            source=self.source,
            loop=loop,
            journal=self.journal,
            publisher=self.publisher,
            prepare=build,
            clock=self.clock,
            tally=self.tally,
            switch=self.switch,
            shard_rows=shard_rows,
            room=room,
            grace_s=grace_s,
            known=self._known,
            touched=self._known.keys() if touched is None else touched,
            finished=finished,
            lengths=lengths,
        )

    async def run(self) -> None:
        """Run the session to its end; raises what the engine raises."""
        await self.engine.run(self._spans)

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """The durable outcomes by row."""
        return self.journal.outcomes()

    def published_rows(self) -> list[int]:
        """The rows in the parts, in the parts' order."""
        parts = self.publisher.parts
        return [row for shard in sorted(parts) for row in sorted(parts[shard])]

    def resumed(self, transport: FakeTransport, **settings: object) -> Rig:
        """The next session: the same rows, journal and parts, with what they tell of the rows."""
        states, known = self._left()
        spans = plan_reading(states, self._shard_rows, grown=False)
        return Rig(
            self.rows,
            transport=transport,
            journal=self.journal,
            publisher=self.publisher,
            shard_rows=self._shard_rows,
            known=known,
            spans=spans,
            **settings,  # type: ignore[arg-type]
        )

    def turns(self) -> dict[int, Sequence[Turn]]:
        """The durable turns of rows without an outcome, in their order."""
        found: defaultdict[int, list[Turn]] = defaultdict(list)
        for entry in self.journal.durable:
            if isinstance(entry, Turn):
                found[entry.row].append(entry)
        return {row: turns for row, turns in found.items() if row not in self.outcomes}

    def _left(self) -> tuple[list[ShardState], dict[int, Known]]:
        """What this session left: the state of each shard, and the rows of those in progress."""
        complete = {shard for shard, whole in self.publisher.published if whole}
        states: dict[int, ShardState] = {}
        done: defaultdict[int, set[int]] = defaultdict(set)
        attempts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for entry in self.journal.durable:
            match entry:
                case Block(shard=shard, rows_read=read, digest=digest, end=end):
                    whole = shard in complete
                    states[shard] = ShardState(shard, read, digest, end, 1, whole)
                case Outcome(row=row):
                    done[row // self._shard_rows].add(row)
                case (
                    Attempt(row=row, number=number) | Turn(row=row, attempt=Attempt(number=number))
                ):
                    numbers = attempts[row // self._shard_rows]
                    numbers[row] = max(number, numbers.get(row, 0))
        known = {
            shard: Known(done[shard], attempts[shard])
            for shard in sorted(done.keys() | attempts.keys())
            if shard not in complete
        }
        return [states[shard] for shard in sorted(states)], known


def _sending(
    answered: MutableMapping[int, Sequence[Turn]] | None,
) -> tuple[Callable[..., AttemptLoop], Callable[..., Request]]:
    """What makes the attempt loop and the requests: with ``answered``, those of conversations."""
    build = partial(body.build, defaults={}, body_bytes_max=BODY_BYTES_MAX)
    if answered is None:
        return AttemptLoop, build
    loop = partial(TurnLoop, wording=Wording(BODY_BYTES_MAX), answered=answered)
    return loop, partial(whole, of_turn=build, body_bytes_max=BODY_BYTES_MAX)
