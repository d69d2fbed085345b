"""The replaceable parts of a session: time, randomness, threads, disk formats, access to endpoints.

Every run uses ``REAL``. To run a session under other conditions, as the simulation of whole runs
does, pass ``assemble`` another one, made with ``dataclasses.replace``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.http.access import accesses_to
from batchrun.adapters.journal.flight_log import FlightLog
from batchrun.adapters.journal.journal import Journal, JournalWriter
from batchrun.adapters.parts.sealer import Parts, PartsOf, Sealer
from batchrun.adapters.sources.readahead import ReadAhead
from batchrun.adapters.sources.reader import Reader
from batchrun.core.reply.server_load import Load
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.urls import Address
from batchrun.engine.controls import Controls
from batchrun.engine.lane import Lane
from batchrun.engine.observe.watching import SAMPLE_S
from batchrun.engine.session.spending import Spending
from batchrun.ports import Credentials, Source, Transport
from batchrun.ports import Journal as JournalPort

FLIGHT_SLOTS = 512
"""Slots of the flight log to begin with; it grows."""


class EndpointAccess(Protocol):
    """Checked access to one endpoint: ``adapters.http.access.Access``."""

    @property
    def endpoint(self) -> Endpoint:
        """Its settings."""
        ...

    @property
    def address(self) -> Address:
        """Its address."""
        ...

    def redacted(self, body: bytes) -> bytes:
        """A body without the endpoint's credentials."""
        ...

    def talking(
        self, settings: Settings, say: Callable[[str], None]
    ) -> AbstractAsyncContextManager[tuple[Transport, Credentials | None]]:
        """A transport in the running loop, and its key."""
        ...

    def reporting(
        self, heard: Callable[[Load | None], None]
    ) -> AbstractAsyncContextManager[None] | None:
        """A context that polls the server for its load and passes it to ``heard``; None if the
        server is not the user's own.
        """
        ...


class ClosableJournal(JournalPort, Protocol):
    """``ports.Journal`` that ends with its session."""

    async def close(self) -> None:
        """Make posted entries durable, and stop. Closing twice is harmless."""
        ...


class OpenSource(Protocol):
    """Makes the source of a session's blocks."""

    def __call__(self, reader: Reader, *, limit: int | None) -> Source:
        """The blocks of ``reader``, up to a number of rows of the input."""
        ...


class OpenSharing(Protocol):
    """Limits, budgets and controls that a session shares with other processes."""

    def __call__(
        self,
        lanes: Sequence[Lane],
        clock: LoopClock,
        spending: Spending | None,
        controls: Controls,
        say: Callable[[str], None],
    ) -> AbstractAsyncContextManager[None]:
        """While it is entered, lanes have a share of their limits and budgets a share of the rest,
        and ``controls`` make the changes requested of all processes; ``say`` gets notices for the
        user.
        """
        ...


@dataclass(frozen=True, slots=True)
class Machinery:
    """Makes the parts of a session other than its decisions. The defaults are the real ones."""

    accesses: Callable[[Sequence[Endpoint], Mapping[str, str]], Sequence[EndpointAccess]] = (
        accesses_to
    )
    """Access to endpoints, given the environment. Raises ``UsageError`` for settings that cannot
    work.
    """
    clock: type[LoopClock] = LoopClock
    monotonic_s: Callable[[], float] = time.monotonic
    """The clock for a deadline and the wall time of a session."""
    dice: Callable[[], random.Random] = random.Random
    """A new random generator."""
    source: OpenSource = ReadAhead
    journal: Callable[[Journal, FlightLog], ClosableJournal] = JournalWriter
    parts: PartsOf = Parts
    sealer: Callable[[Parts, Journal], Sealer] = Sealer
    sharing: OpenSharing | None = None
    """Set if several processes share the run."""
    flight_slots: int = FLIGHT_SLOTS
    sample_s: float = SAMPLE_S
    """Seconds between two snapshots for the observers."""


REAL = Machinery()
"""The machinery of every real run."""
