"""Connections to one server, kept for the next exchange.

aiohttp's connector makes them, bounds their number and closes them at the end. Going through its
pool is a quarter of the cost of an exchange, so kept connections are not returned to it between two
exchanges.

Some servers close a connection after each stream without announcing it (llama.cpp even names a time
for which it would stay open). Reusing it immediately usually hits the close, so such losses are
counted, and if there are many, connections are not kept.

Others serve one connection per thread, and have few threads (llama.cpp has about four more than
slots). An idle connection then blocks a thread until the server's timeout, 5 s for llama.cpp, while
requests on other connections go unread. So the connection that was used last is taken first, and
once fewer requests may be in flight, the connections beyond that number are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
from collections import deque
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp

from batchrun.adapters.environment.clock import real_s
from batchrun.adapters.http.aiohttp_internals import Dialler, Wire
from batchrun.errors import FaultKind, TransportFault

IDLE_S_MAX = 15.0
"""Connections idle for this long are closed, as in the connector. The time that the machine slept
counts: the network may have dropped them silently.
"""

LOST_MIN = 2
LOST_SHARE = 1 / 8
"""Connections are no longer kept once this number of reused ones, and this share of them, were
closed by the server before it answered.
"""

LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
"""aiohttp's errors for a connection that the server closed."""


class Losses:
    """Counts connections that were lost when reused."""

    def __init__(self) -> None:
        self.used_again = self._lost = 0

    @property
    def keeps(self) -> bool:
        """Whether a connection is worth keeping for the next exchange."""
        lost = self._lost
        return lost < LOST_MIN or lost < LOST_SHARE * (lost + self.used_again)

    def unreachable(self) -> None:
        """No new connection can be made: the server has other problems."""
        self._lost = 0

    def stale(self, error: Exception, *, used: bool, begun: bool) -> TransportFault | None:
        """Count a loss; returns the fault if the server closed a connection between two exchanges.
        ``begun`` is whether an answer had begun.
        """
        # One that died while waiting for an answer was not closed between two exchanges.
        begun = begun or getattr(error, "errno", None) == errno.ETIMEDOUT
        if begun:
            return None
        # If a new one is lost too, the server has other problems.
        self._lost = self._lost + 1 if used else 0
        # With part of a head, the error has that instead of a text.
        if not used or not isinstance(getattr(error, "message", ""), str):
            return None
        what = "the server closed a kept-alive connection"
        return TransportFault(what, kind=FaultKind.STALE, sent=True)


class Connections:
    """The connections of one session to one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.losses = Losses()
        self._dialler = Dialler(session, url)
        self._host = urlsplit(url).hostname
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Wire] = deque()
        self._watching = False
        self._asking = 0
        self._open = 0
        self._most = math.inf

    def keep(self, most: int) -> None:
        """Keep at most ``most`` connections open from now on; those in use are closed once their
        exchange has ended.
        """
        self._most = most
        while self._idle and self._open > most:
            self.close(self._idle.popleft())

    def close(self, wire: Wire) -> None:
        """Close a connection made here, and end any exchange on it."""
        wire.close()
        self._open -= 1

    def at_hand(self) -> Wire | None:
        """The most recently used idle connection, for one exchange; the caller returns or closes
        it. None if no connection can serve.
        """
        old_s = real_s() - IDLE_S_MAX
        while self._idle:
            wire = self._idle.pop()
            if wire.idle_from_s > old_s and wire.is_ready():
                return wire
            self.close(wire)
        return None

    async def make(self) -> Wire:
        """A connection from the connector for one exchange; the caller returns or closes it. Raises
        what aiohttp raises if none can be made.
        """
        with self.wanted():
            try:
                wire = await self._dialler.dial()
            except aiohttp.ClientConnectorError:
                self.losses.unreachable()
                raise
            except TimeoutError as error:
                message = f"no connection to {self._host} in time"
                raise aiohttp.ConnectionTimeoutError(message) from error
            self._open += 1
            return wire

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """A caller is waiting for the connector: idle or freed connections go to it."""
        self._asking += 1
        try:
            self.let_go()
            yield
        finally:
            self._asking -= 1

    def let_go(self) -> None:
        """Return idle connections to the connector, which closes them at the end."""
        self._close_old()
        while self._idle:
            self._dialler.release(self._idle.popleft())
            self._open -= 1

    def give_back(self, wire: Wire, *, spent: bool = False) -> None:
        """An exchange ended well; ``spent`` is whether its connection must not serve again. Whether
        the server or the parser agrees is checked when it is reused (``Wire.is_ready``).
        """
        losses = self.losses
        if wire.used:
            losses.used_again += 1
        else:
            wire.used = True
        if spent or self._open > self._most or not losses.keeps:
            self.close(wire)
            return
        wire.idle_from_s = real_s()
        self._idle.append(wire)
        if self._asking:
            self.let_go()
        elif not self._watching:
            self._watch()

    def _watch(self) -> None:
        """Close connections that were idle for too long, and check again when the next is due."""
        self._close_old()
        self._watching = bool(self._idle)
        if self._idle:
            idle_s = real_s() - self._idle[0].idle_from_s
            self._loop.call_later(IDLE_S_MAX - idle_s, self._watch)

    def _close_old(self) -> None:
        old_s = real_s() - IDLE_S_MAX
        while self._idle and self._idle[0].idle_from_s <= old_s:
            self.close(self._idle.popleft())
