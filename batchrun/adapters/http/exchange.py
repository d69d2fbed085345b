"""One POST after the other over aiohttp's pooled connections, with the request's head made once.

``ClientSession.post`` builds URL, headers, cookies, payload, a task that writes the body, and a
response object anew for every request; for bodies that all go to one URL with the same headers that
is two thirds of its cost (60 of 90 µs, see docs/adr/0013). What matters stays aiohttp's: the
connector (pool, DNS, TLS, connect timeout), the protocol, the HTTP parser and its limits,
decompression, and the rule which connection may be used again.

The parts used here and in ``connections``, beside what aiohttp documents:
``BaseConnector.connect``, ``Connection.protocol``, ``ResponseHandler.set_response_params`` and
``.read``, ``StreamReader._buffer``. They have kept their names and meaning since aiohttp 3.8, and
the transport's exam (tests/contracts) meets them all.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from batchrun.adapters.http.connections import Connections
from batchrun.errors import FaultKind, TransportFault

JOINED_BYTES_MAX = 2**16
"""Head and body go out in one piece up to here; beyond, copying costs more than a second write."""

READ_BUFFER_BYTES = 2**16

_LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

HEADER_BYTES_MAX = 2**16
HEADERS_MAX = 1024
HEAD_BOUNDS: dict[str, Any] = {
    "max_line_size": HEADER_BYTES_MAX,
    "max_field_size": HEADER_BYTES_MAX,
}
"""Bounds of a response's head. aiohttp's own (8 KB, 128 headers) are met by content security
policies and by what a chain of proxies adds."""
if "max_headers" in inspect.signature(aiohttp.ClientSession).parameters:
    HEAD_BOUNDS["max_headers"] = HEADERS_MAX  # earlier releases do not bound the number
_READING: dict[str, Any] = {
    "read_until_eof": True,
    "auto_decompress": True,
    "read_bufsize": READ_BUFFER_BYTES,
    **HEAD_BOUNDS,
}


def arrived_whole(content: aiohttp.StreamReader) -> bytes | None:
    """A body that has come to its end, in one piece. None for any other, and for a longer one: it
    is read by ``content``'s own methods. After each piece these resume the connection and its
    parser, which takes a thirtieth of a run's CPU time even where nothing is left to read.
    """
    if (
        content.is_eof()
        and 0 < content.total_bytes <= READ_BUFFER_BYTES  # what is longer may have stopped reading
        and content.exception() is None
    ):
        pieces = content._buffer  # noqa: SLF001 - nothing that is public looks without taking
        if len(pieces) == 1:
            return pieces[0]
    return None


class Head(NamedTuple):
    """What a response begins with."""

    status: int
    headers: CIMultiDictProxy[str]


class BodyReader(Protocol):
    """Reads a response's body."""

    async def __call__(self, content: aiohttp.StreamReader, head: Head) -> bytes:
        """The body; raises to have the connection closed, which also happens where the body was
        not read to its end.
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
        """``headers`` are sent with every body, beside those that aiohttp adds by itself."""
        self._session = session
        self._connections = connections
        self._url = URL(url, encoded=False)
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[asyncio.Transport, bytes] = {}
        self.replace_headers(headers)

    def replace_headers(self, headers: Mapping[str, str]) -> None:
        """Send these with every body from now on."""
        # Its head is the head of them all.
        request = aiohttp.ClientRequest(
            "POST", self._url, headers=headers, loop=self._loop, session=self._session
        )
        lines = [f"POST {request.url.raw_path_qs} HTTP/1.1"]
        lines += [
            f"{name}: {value}"
            for name, value in request.headers.items()
            if name.lower() not in ("content-length", "transfer-encoding")
        ]
        if any("\r" in line or "\n" in line or "\0" in line for line in lines):
            message = "a request header holds a line break"
            raise ValueError(message)
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()

    async def post(self, body: bytes, read: BodyReader) -> tuple[Head, bytes]:
        """Send a body and return the response, whatever its status.

        Raises what aiohttp raises; then, and when cancelled, the connection is closed.
        """
        held = await self._connections.take()
        protocol = held.protocol
        begun = False
        try:
            protocol.set_response_params(**_READING)
            transport = self._send(protocol.transport, body)
            message, content = await protocol.read()
            begun = True
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            found = Head(message.code, message.headers)
            answer = await read(content, found)
            if transport in self._outgoing or transport.get_write_buffer_size():
                # Answered before everything was sent: the rest must not meet the next request.
                protocol.force_close()
        except _LOST as error:
            # One that died while it was waited on was not closed between two exchanges.
            begun = begun or getattr(error, "errno", None) == errno.ETIMEDOUT
            self._connections.lost(held, begun=begun)
            # With part of a head, the error holds that instead of a text.
            if begun or not held.used or not isinstance(getattr(error, "message", ""), str):
                raise
            what = "the server closed a kept-alive connection"
            raise TransportFault(what, kind=FaultKind.STALE, sent=True) from None
        except BaseException:
            held.connection.close()
            raise
        self._connections.give_back(held)
        return found, answer

    def _send(self, transport: asyncio.Transport | None, body: bytes) -> asyncio.Transport:
        """Have a request written at the end of this turn of the event loop, with all others of it.

        Written one by one, between the work on two rows, each wakes a server that had time to fall
        asleep: 17 instead of 6 µs in the kernel over loopback.
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
                continue  # given up, or lost: then the protocol tells who waits for the answer
            head = b"%b%d\r\n\r\n" % (self._head, len(body))
            if len(body) <= JOINED_BYTES_MAX:
                transport.write(head + body)
            else:
                transport.write(head)
                transport.write(body)
