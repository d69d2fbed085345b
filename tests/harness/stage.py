"""One session of a whole run on virtual time: the real assembly, with time, threads, network and
randomness replaced.

Settings, opening, comparing, engine, gate, journal, logs, state file, parts and summary are the
real ones, on real files. The session's ``Machinery`` names everything that is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchrun import assemble
from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.parts.sealer import Parts
from batchrun.adapters.storage import files
from batchrun.core.run.changes import Changes
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.urls import Address, address
from batchrun.engine.outbox import Outbox
from batchrun.engine.session.guards import StopSwitch
from batchrun.errors import BatchrunError
from batchrun.machinery import Machinery
from batchrun.ports import Transport
from batchrun.records import Outcome
from batchrun.session import Result
from batchrun.testing.virtual import EPOCH_US, START_S, VirtualLoop
from tests.harness.crashes import Death, DiskFault, Killed, Reaper
from tests.harness.inline import InlineJournal, InlineSealer, InlineSource
from tests.harness.model_server import ModelServer, ServerTransport
from tests.harness.plain_parts import PlainParts
from tests.harness.rig import SIGNAL

SESSION_S_MAX = 40 * 86_400.0
"""A session that takes longer than this hangs: something wakes up again and again, in vain."""
SAMPLE_S = 3600.0
PIECE_ROWS = 2


class StagedLoop(VirtualLoop):
    """The virtual loop, on which work for threads is done at once."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """See ``asyncio``; ``executor`` stays idle."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
        return future


@dataclass(slots=True)
class SlowDisk:
    """``inline.Disk`` whose delays are drawn, up to ``longest_s``."""

    dice: random.Random
    longest_s: float

    def group_s(self) -> float:
        """See ``Disk``."""
        return self.dice.random() * self.longest_s

    def part_s(self) -> float:
        """See ``Disk``."""
        return self.dice.random() * self.longest_s

    def block_s(self) -> float:
        """See ``Disk``."""
        return self.dice.random() * self.longest_s / 4


@dataclass(frozen=True, slots=True)
class Fate:
    """What befalls a session: moments of signals, death, a full disk; and how slowly a program
    reads its outcomes (None: none does).
    """

    signals_s: tuple[float, ...] = ()
    death: Death | None = None
    full: DiskFault | None = None
    reader_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: with a result, an error, or dead. ``took_s`` is virtual."""

    result: Result | None
    error: BatchrunError | None
    took_s: float

    @property
    def killed(self) -> bool:
        """Whether the process died."""
        return self.result is None and self.error is None


@dataclass(slots=True)
class Stage:
    """The world around the sessions of one run. Its clock goes on from session to session."""

    server: ModelServer
    folder: Path
    dice: random.Random
    disk_s: float
    plain: bool
    """Whether parts are plain files instead of Parquet."""
    note: Callable[[str], None]
    told: Callable[[Outcome], None]
    """Called with every outcome that the engine was told to be durable."""
    elapsed_s: float = 0.0
    session: int = 0
    said: list[str] = field(default_factory=list)
    reaper: Reaper | None = None

    def world_s(self) -> float:
        """Seconds since the world began."""
        return self.elapsed_s + asyncio.get_running_loop().time() - START_S

    def world_us(self) -> int:
        """The wall clock, in microseconds since the epoch."""
        return EPOCH_US + round(self.world_s() * 1e6)

    def run(self, settings: Settings, changes: Changes, fate: Fate) -> Ended:
        """Run one session to its end, or to its death."""
        self.session += 1
        self.said = []
        loop = StagedLoop()
        reaper = Reaper(self.folder, fate.death, fate.full, self.dice, self.note)
        self.reaper = reaper
        result: Result | None = None
        error: BatchrunError | None = None
        transport = self._transport(settings)
        machinery = self._machinery(reaper, settings, transport)
        with _stepping(reaper.step):
            loop.watch_turns(reaper.turn)
            task = loop.create_task(self._session(settings, changes, fate, reaper, machinery))
            try:
                result = loop.run_until_complete(task)
            except BatchrunError as raised:
                error = raised
            except Killed:
                took_s = loop.time() - START_S
            finally:
                transport.alive = False
                loop.watch_turns(None)
                if not reaper.dead:
                    took_s = loop.time() - START_S
                _unwind(loop)
        if reaper.dead:
            reaper.bury()
        self.elapsed_s += took_s
        return Ended(result, error, took_s)

    async def _session(
        self,
        settings: Settings,
        changes: Changes,
        fate: Fate,
        reaper: Reaper,
        machinery: Machinery,
    ) -> Result:
        loop = asyncio.get_running_loop()
        switch = StopSwitch()
        for moment_s in fate.signals_s:
            loop.call_later(moment_s, switch.stop, SIGNAL)
        death = fate.death
        if death is not None and death.by == "time":
            loop.call_later(death.at, reaper.die, "time")
        loop.call_later(SESSION_S_MAX, _hang)
        outbox = None if fate.reader_s is None else Outbox()
        reading = None
        if outbox is not None:
            reading = loop.create_task(_read(outbox, fate.reader_s or 0.0))
        try:
            return await assemble.session(
                settings,
                {},
                find=None,
                changes=changes,
                switch=switch,
                say=self.said.append,
                outbox=outbox,
                machinery=machinery,
            )
        finally:
            if outbox is not None and reading is not None:
                outbox.close()
                await reading

    def _transport(self, settings: Settings) -> ServerTransport:
        """What the session's exchanges go through."""
        return ServerTransport(
            self.server,
            session=self.session,
            timeout_s=settings.timeout_s,
            world_s=self.world_s,
            world_us=self.world_us,
            note=self.note,
        )

    def _machinery(
        self, reaper: Reaper, settings: Settings, transport: ServerTransport
    ) -> Machinery:
        """What the session runs on."""
        seed = self.dice.random()
        dice = random.Random(seed)
        disk = SlowDisk(random.Random(seed), self.disk_s)
        stage = self

        class Clock(LoopClock):
            beating = contextlib.nullcontext  # type: ignore[assignment]
            wall_us = onward_us = staticmethod(stage.world_us)

        class Journal(InlineJournal):
            def _resolve(self, taken: list[Any]) -> None:
                for entry, _ in taken:
                    if isinstance(entry, Outcome) and not reaper.dead:
                        stage.told(entry)
                super()._resolve(taken)

        # One way to one server; a second endpoint is a second of these.
        access = StagedAccess(settings.endpoints[0], transport)
        return Machinery(
            accesses=lambda *_: [access],
            clock=Clock,
            monotonic_s=lambda: asyncio.get_running_loop().time(),
            dice=lambda: random.Random(dice.random()),
            source=lambda reader, *, limit: InlineSource(reader, disk, limit=limit),
            journal=lambda journal, flight: Journal(journal, flight, disk),
            parts=PlainParts if self.plain else SmallPieces,
            sealer=lambda parts, journal: InlineSealer(parts, journal, disk),
            sample_s=SAMPLE_S,
        )


@dataclass(frozen=True, slots=True)
class StagedAccess:
    """The way to a server of the world."""

    endpoint: Endpoint
    transport: Transport

    @property
    def address(self) -> Address:
        """See ``EndpointAccess``."""
        return address(self.endpoint.base_url)

    def redacted(self, body: bytes) -> bytes:
        """See ``EndpointAccess``; there are no credentials."""
        return body

    @contextlib.asynccontextmanager
    async def talking(self, *_: object) -> AsyncIterator[tuple[Transport, None]]:
        """See ``EndpointAccess``."""
        yield self.transport, None

    def reporting(self, _: object) -> None:
        """See ``EndpointAccess``."""


class SmallPieces(Parts):
    """``Parts`` that take a few rows at once."""

    piece_rows = PIECE_ROWS


@contextlib.contextmanager
def _stepping(step: Callable[[str, Path], None]) -> Iterator[None]:
    """Every durable step goes through ``step`` meanwhile."""
    before, files.step = files.step, step
    try:
        yield
    finally:
        files.step = before


async def _read(outbox: Outbox, every_s: float) -> None:
    """A program that takes its time with every outcome."""
    while await outbox.take() is not None:  # noqa: ASYNC110 - it waits for outcomes, slowly
        await asyncio.sleep(every_s)


def _hang() -> None:
    raise Hanging(f"a session still runs after {SESSION_S_MAX:,.0f} virtual seconds")


class Hanging(KeyboardInterrupt):
    """A session does not come to its end. It goes through every task, as ``Killed`` does."""


def _unwind(loop: StagedLoop) -> None:
    """Cancel what is left and close the loop; nothing of it is the session's any more."""
    try:
        while left := asyncio.all_tasks(loop):  # ending some may start others
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
