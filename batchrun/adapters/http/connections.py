"""Connections to one server, at hand for the next exchange.

aiohttp's connector makes them, bounds their number and closes them at the end. Going through its
pool for every exchange is a quarter of what an exchange costs, so those that are kept are not given
back to it between two exchanges.

Some servers close a connection after each stream and do not say so (llama.cpp's names a time for
which it would stay open). Whoever uses it again at once meets the end more often than not; so it is
counted how often that happens, and then connections are not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from batchrun.adapters.environment.clock import real_s

IDLE_S_MAX = 15.0
"""Connections that lay idle for so long are closed; the connector's own bound. The time for which
the machine slept counts: a network has forgotten them then, and would say nothing.
"""

LOST_MIN = 2
LOST_SHARE = 1 / 8
"""Connections are no longer kept once so many that were used again, and such a share of them, were
closed by the server before it answered.
"""


@dataclass(slots=True)
class Held:
    """A connection in use by one exchange, or idle. ``used`` says that it has served before."""

    connection: aiohttp.connector.Connection
    protocol: ResponseHandler
    used: bool
    idle_from_s: float = 0.0


class Connections:
    """The connections of one session to one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        connector = session.connector
        assert connector is not None
        self._connector = connector
        self._timeout = session.timeout
        self._loop = asyncio.get_running_loop()
        # Connections are asked for by a request; all that counts is where it goes.
        self._request = aiohttp.ClientRequest(
            "POST", URL(url, encoded=False), loop=self._loop, session=session
        )
        self._idle: deque[Held] = deque()
        self._watching = False
        self._asking = 0
        self._served: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()
        self._used_again = self._lost = 0

    async def take(self) -> Held:
        """A connection for one exchange, to be given back, lost or closed. Raises what aiohttp
        raises where none can be made.
        """
        self._close_old()
        while self._idle:
            held = self._idle.popleft()
            protocol = held.protocol
            # A server may have spoken unasked while it lay idle (some announce a timeout that way):
            # that would be taken for the answer to the next request.
            if protocol.is_connected() and not protocol.should_close:
                return held
            held.connection.close()
        with self.wanted():
            return await self._asked_for()

    async def _asked_for(self) -> Held:
        try:
            while True:
                connection = await self._connector.connect(
                    self._request, traces=[], timeout=self._timeout
                )
                protocol = connection.protocol
                assert protocol is not None
                used = protocol in self._served
                if not used or not protocol.should_close:
                    return Held(connection, protocol, used)
                connection.close()
        except aiohttp.ClientConnectorError:
            self._lost = 0
            raise
        except TimeoutError as error:
            message = f"no connection to {self._request.url.host} in time"
            raise aiohttp.ConnectionTimeoutError(message) from error

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """Somebody asks the connector: what is idle, or comes back meanwhile, goes to it."""
        self._asking += 1
        try:
            self.let_go()
            yield
        finally:
            self._asking -= 1

    def let_go(self) -> None:
        """Leave what is idle to the connector, which closes it at the end."""
        self._close_old()
        while self._idle:
            held = self._idle.popleft()
            self._served.add(held.protocol)
            held.connection.release()

    def give_back(self, held: Held) -> None:
        """An exchange ended well."""
        if held.used:
            self._used_again += 1
        else:
            held.used = True
        if not self._keeps or held.protocol.should_close:
            held.connection.close()
            return
        held.idle_from_s = real_s()
        self._idle.append(held)
        if self._asking:
            self.let_go()
        elif not self._watching:
            self._watch()

    def _watch(self) -> None:
        """Close what has lain idle for too long, and look again when the next one will have."""
        self._close_old()
        self._watching = bool(self._idle)
        if self._idle:
            idle_s = real_s() - self._idle[0].idle_from_s
            self._loop.call_later(IDLE_S_MAX - idle_s, self._watch)

    def _close_old(self) -> None:
        old_s = real_s() - IDLE_S_MAX
        while self._idle and self._idle[0].idle_from_s <= old_s:
            self._idle.popleft().connection.close()

    def lost(self, held: Held, *, begun: bool) -> None:
        """The server closed it; ``begun`` says that an answer had begun."""
        held.connection.close()
        if not begun:
            # If a new one is lost too, the server has other troubles.
            self._lost = self._lost + 1 if held.used else 0

    @property
    def _keeps(self) -> bool:
        """Whether a connection is worth keeping for the next exchange."""
        lost = self._lost
        return lost < LOST_MIN or lost < LOST_SHARE * (lost + self._used_again)
