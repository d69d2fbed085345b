"""POSTs over aiohttp's pooled connections, with the request's head made once.

aiohttp still does the essential work: the connector (pool, DNS, TLS, connect timeout), the
protocol, the HTTP parser and its limits, decompression, and the rule for reusing connections.
``aiohttp_internals`` explains which undocumented names are used, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import aiohttp
from multidict import CIMultiDictProxy

from batchrun.adapters.http.aiohttp_internals import arrived_whole, head_of, request_head
from batchrun.adapters.http.connections import LOST, Connections
from batchrun.errors import FaultKind, TransportFault

JOINED_BYTES_MAX = 2**16
"""Head and body go out in one piece up to here; beyond, copying costs more than a second write."""


_new = tuple.__new__  # half the time of calling the named tuple


class Head(NamedTuple):
    """The head of a response."""

    status: int
    headers: CIMultiDictProxy[str]


class BodyReader(Protocol):
    """Reads a response's body."""

    async def __call__(
        self, content: aiohttp.StreamReader, head: Head, whole: bytes | None = None
    ) -> bytes:
        """The body; ``whole`` is set if all of it has arrived. If this raises, or the body is not
        read to its end, the connection is closed.
        """
        ...


class Poster:
    """Posts bodies to one URL. Redirects are not followed, cookies not kept, nothing retried."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connections: Connections,
        url: str,
        headers: Mapping[str, str],
    ) -> None:
        """``headers`` are sent with every body, in addition to aiohttp's defaults."""
        self._session = session
        self._connections = connections
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[asyncio.Transport, bytes] = {}
        self.replace_headers(headers)

    def replace_headers(self, headers: Mapping[str, str]) -> None:
        """Send these with every body from now on."""
        self._head = request_head(self._session, self._url, headers)

    async def post(self, body: bytes, read: BodyReader) -> tuple[Head, bytes]:
        """Send a body and return the response, whatever its status.

        Raises what aiohttp raises; then, and when cancelled, the connection is closed.
        """
        wire = self._connections.at_hand()
        if wire is None:
            wire = await self._connections.make()
        begun = False
        try:
            transport = self._send(wire.begin(), body)
            message, content = await wire.read()
            begun = True
            status, headers = head_of(message)
            while 100 <= status < 200 and status != 101:
                message, content = await wire.read()
                status, headers = head_of(message)
            found = _new(Head, (status, headers))
            answer = await read(content, found, arrived_whole(content))
            unsent = transport in self._outgoing or transport.get_write_buffer_size() > 0
        except LOST as error:
            self._connections.close(wire)
            fault = self._connections.losses.stale(error, used=wire.used, begun=begun)
            if fault is None:
                raise
            raise fault from None
        except BaseException:
            self._connections.close(wire)
            raise
        # If the answer came before everything was sent, the rest must not precede the next request.
        self._connections.give_back(wire, spent=unsent)
        return found, answer

    def _send(self, transport: asyncio.Transport | None, body: bytes) -> asyncio.Transport:
        """Schedule a request to be written at the end of this turn of the event loop, together with
        all others. Written one by one, between the work on two rows, each wakes a server that had
        time to fall asleep: 17 instead of 6 µs in the kernel over loopback.
        """
        if transport is None or transport.is_closing():
            message = "the connection was closed before the request went out"
            raise TransportFault(message, kind=FaultKind.RESET, sent=False)
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing[transport] = body
        return transport

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for transport, body in outgoing.items():
            if transport.is_closing():
                continue  # given up, or lost: the waiter for the answer will notice
            if len(body) <= JOINED_BYTES_MAX:
                transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            else:
                transport.write(b"%b%d\r\n\r\n" % (self._head, len(body)))
                transport.write(body)
