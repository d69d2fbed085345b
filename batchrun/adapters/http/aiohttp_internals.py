"""All undocumented parts of aiohttp that batchrun uses, and a check that they still exist.

``ClientSession.post`` makes new URL, headers, cookies, payload, task and response objects for every
request: two thirds of its cost (docs/adr/0013). Bypassing it needs private parts of aiohttp. They
are used here and nowhere else (tests/tidy/test_aiohttp_fence.py), so a release that changes one of
them only affects this module. ``differences`` checks at the start of a run that they work as
expected. If they do not, requests take the plain way (``plain_exchange``), which only uses
documented names: more expensive, with the same results.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

KNOWN = ("3.12", "3.14")
"""The first and the last minor release that passed the transport's exam, both ways."""

DEARER_PERCENT = 60
"""The extra cost of the plain way (docs/adr/0013)."""

READ_BUFFER_BYTES = 2**16
HEADER_BYTES_MAX = 2**16
HEADERS_MAX = 1024
HEAD_BOUNDS: dict[str, Any] = {
    "max_line_size": HEADER_BYTES_MAX,
    "max_field_size": HEADER_BYTES_MAX,
}
"""Bounds of a response's head. Content security policies and the headers that a chain of proxies
adds can reach aiohttp's own (8 KB, 128 headers).
"""
if "max_headers" in inspect.signature(aiohttp.ClientSession).parameters:
    HEAD_BOUNDS["max_headers"] = HEADERS_MAX  # releases before 3.14 do not bound the number
_READING: dict[str, Any] = {
    "read_until_eof": True,
    "auto_decompress": True,
    "read_bufsize": READ_BUFFER_BYTES,
    **HEAD_BOUNDS,
}

head_of: Callable[[Any], tuple[int, CIMultiDictProxy[str]]] = attrgetter("code", "headers")
"""Status and headers of a message that ``Wire.read`` returned."""


def _exception(module: str, name: str) -> type[Exception]:
    """A class of aiohttp's exceptions; if it is gone, a class that is never raised."""
    try:
        found: type[Exception] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return type(name, (Exception,), {})
    return found


NotHttpError = _exception("aiohttp.http_exceptions", "HttpProcessingError")
"""The parser's error for a reply that it cannot read."""
EofStreamError = _exception("aiohttp", "EofStream")
"""Raised when reading past the end of a body."""


def parser_words(error: BaseException | None) -> str | None:
    """The parser's message, without the status that it makes up; None for any other error."""
    return (
        getattr(error, "message", None) or str(error) if isinstance(error, NotHttpError) else None
    )


def behind(error: BaseException) -> BaseException | None:
    """The system's error inside aiohttp's: a failure of a socket, of name resolution or of TLS."""
    for name in ("certificate_error", "os_error"):
        found = getattr(error, name, None)
        if isinstance(found, BaseException):
            return found
    return error.__cause__


def host_of(error: BaseException, default: str) -> str:
    """The host of an attempted connection: the server's or the proxy's."""
    return getattr(error, "host", None) or default


class Wire:
    """One connection: in use by one exchange, or idle. ``used`` is whether it has served before.
    ``read`` awaits the next message, for ``head_of``, and the reader of its body.
    """

    __slots__ = ("_connection", "_expect", "_protocol", "idle_from_s", "read", "used")

    def __init__(self, connection: Connection, protocol: ResponseHandler, *, used: bool) -> None:
        self._connection = connection
        self._protocol = protocol
        self._expect = partial(protocol.set_response_params, **_READING)
        self.read: Callable[[], Awaitable[tuple[Any, aiohttp.StreamReader]]] = protocol.read
        self.used = used
        self.idle_from_s = 0.0

    def begin(self) -> asyncio.Transport | None:
        """Expect a response; returns the transport for writing the request, None once closed."""
        self._expect()
        return self._protocol.transport

    def is_ready(self) -> bool:
        """Whether it can serve: it is open and nothing arrived unrequested, which would be mistaken
        for the answer to the next request (some servers announce a timeout that way).
        """
        transport = self._protocol.transport
        return not (transport is None or transport.is_closing() or self._protocol.should_close)

    def is_spent(self) -> bool:
        """Whether it must not serve again: because of the server, the parser, or unread data."""
        return self._protocol.should_close

    def close(self) -> None:
        """Close it, and end any exchange on it."""
        self._connection.close()

    def release_to(self, served: weakref.WeakSet[ResponseHandler]) -> None:
        """Return it to the connector, and note that it has served."""
        served.add(self._protocol)
        self._connection.release()


class Dialler:
    """Gets connections to one server from a session's connector."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        connector = session.connector
        assert connector is not None
        self._connector = connector
        self._timeout = session.timeout
        # The connector takes a request object, of which only the destination matters.
        self._request = _request(session, url, {})
        self._served: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def dial(self) -> Wire:
        """A connection, new or from the pool; spent ones in the pool are skipped. Raises what
        aiohttp raises if none can be made.
        """
        while True:
            connection = await self._connector.connect(
                self._request, traces=[], timeout=self._timeout
            )
            protocol = connection.protocol
            assert protocol is not None
            wire = Wire(connection, protocol, used=protocol in self._served)
            if not (wire.used and wire.is_spent()):
                return wire
            wire.close()

    def release(self, wire: Wire) -> None:
        """Return a connection to the connector, which closes it at the end."""
        wire.release_to(self._served)


def _request(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]
) -> aiohttp.ClientRequest:
    loop = asyncio.get_running_loop()
    return aiohttp.ClientRequest(
        "POST", URL(url, encoded=False), headers=headers, loop=loop, session=session
    )


def request_head(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> bytes:
    """The head of every POST to this URL, up to but without the length of its body; aiohttp adds
    its default headers. Raises ValueError for headers with line breaks.
    """
    request = _request(session, url, headers)
    lines = [f"POST {request.url.raw_path_qs} HTTP/1.1"]
    lines += [
        f"{name}: {value}"
        for name, value in request.headers.items()
        if name.lower() not in ("content-length", "transfer-encoding")
    ]
    if any("\r" in line or "\n" in line or "\0" in line for line in lines):
        message = "a request header holds a line break"
        raise ValueError(message)
    return "\r\n".join([*lines, "Content-Length: "]).encode()


def allow_connections(connector: aiohttp.BaseConnector, limit: int) -> None:
    """Raise the number of connections that a connector may open. One that stores its bound
    elsewhere is unchanged: requests beyond the bound wait there.
    """
    if getattr(connector, "_limit", limit) < limit:
        connector._limit = limit  # noqa: SLF001 - there is no other way


def arrived_whole(content: aiohttp.StreamReader) -> bytes | None:
    """A complete body of which nothing was read yet. None for any other, and for a longer one,
    which are read by ``content``'s own methods. After each piece these resume the connection and
    its parser, which takes a thirtieth of a run's CPU time even if nothing is left to read, and an
    eighth for a stream of 50 pieces.
    """
    if (
        content.is_eof()
        and 0 < content.total_bytes <= READ_BUFFER_BYTES  # a longer one may have paused reading
        and content.exception() is None
    ):
        pieces = content._buffer  # noqa: SLF001 - no public method peeks
        if pieces:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return None


async def differences(session: aiohttp.ClientSession, url: str) -> str | None:
    """How this release differs from what this module expects; None if it does not.

    Two checks, half a millisecond in all: the signatures of the calls that get a connection, and a
    rehearsal of one exchange in memory, with everything else that is used.
    """
    try:
        _look_at_signatures(session, url)
        async with asyncio.timeout(_REHEARSAL_S):
            await _rehearse()
    except Exception as error:  # noqa: BLE001 - an unknown release may fail in any way
        return " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())
    return None


def remark_on(differs: str) -> str:
    """The warning about the result of ``differences``."""
    version = getattr(aiohttp, "__version__", "of an unknown release")
    return (
        f"aiohttp {version} is not known to this version of batchrun ({differs}): requests go the "
        f"plain way, which takes about {DEARER_PERCENT} % more CPU time a row and brings the same "
        f"results. Upgrade batchrun, or install a release that it knows, {KNOWN[0]} to {KNOWN[1]}: "
        f"pip install 'aiohttp=={KNOWN[1]}.*'"
    )


_REHEARSAL_S = 1.0
_REPLY = b"HTTP/1.1 200 OK\r\nX-Rehearsed: yes\r\nContent-Length: 2\r\n\r\n{}"


def _look_at_signatures(session: aiohttp.ClientSession, url: str) -> None:
    """Whether a connection can be acquired and released the way ``Dialler`` does it."""
    for error in (NotHttpError, EofStreamError):
        _expect(error.__module__.startswith("aiohttp."), error.__name__)
    head = request_head(session, url, {"X-Rehearsed": "yes"})
    _expect(b"\r\nHost: " in head and b"\r\nX-Rehearsed: yes" in head, "request heads")
    connector: Any = type(session.connector)
    connect = connector.connect
    inspect.signature(connect).bind(None, object(), traces=[], timeout=session.timeout)
    _expect(inspect.iscoroutinefunction(connect), "BaseConnector.connect")
    connection = importlib.import_module("aiohttp.connector").Connection
    _expect(isinstance(connection.protocol, property), "Connection.protocol")
    for method in (connection.close, connection.release):
        inspect.signature(method).bind(None)


async def _rehearse() -> None:
    """Whether a connection's protocol reads a response the way ``Wire`` uses it."""
    handler = importlib.import_module("aiohttp.client_proto").ResponseHandler
    protocol = handler(asyncio.get_running_loop())
    transport = _Unconnected()
    protocol.connection_made(transport)
    weakref.ref(protocol)
    connection: Any = None
    wire = Wire(connection, protocol, used=False)
    _expect(wire.is_ready() and wire.begin() is transport, "ResponseHandler.transport")
    protocol.data_received(_REPLY)
    message, content = await wire.read()
    status, headers = head_of(message)
    _expect(status == 200 and headers.get("x-rehearsed") == "yes", "RawResponseMessage")
    _expect(arrived_whole(content) == b"{}", "StreamReader")
    _expect(not wire.is_spent(), "ResponseHandler.should_close")


def _expect(held: bool, name: str) -> None:  # noqa: FBT001 - as an assert has it
    if not held:
        message = f"{name} is missing or works otherwise"
        raise TypeError(message)


class _Unconnected(asyncio.Transport):
    """A transport to nowhere, for the rehearsal."""

    def is_closing(self) -> bool:
        """False: the rehearsal uses an open connection."""
        return False

    def pause_reading(self) -> None:
        """No data arrives anyway."""

    def resume_reading(self) -> None:
        """No data arrives anyway."""
