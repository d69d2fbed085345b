"""HTTP with aiohttp: one session per endpoint, one exchange per call; nothing is retried or judged.

The session's own total timeout is off, because it would count the wait for a connection; instead
one timer for all exchanges enforces a wall clock per attempt, which a server that drips bytes
cannot reset. Redirects are followed if they stay on the server (``core.reply.redirects``). The
caller names the proxy: aiohttp's own reading of the environment would also consult ``~/.netrc``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp

from batchrun.adapters.http import aiohttp_internals, connections
from batchrun.adapters.http.aiohttp_internals import HEAD_BOUNDS, EofStreamError, NotHttpError
from batchrun.adapters.http.connections import Connections
from batchrun.adapters.http.deadlines import Deadlines
from batchrun.adapters.http.exchange import Head, Poster
from batchrun.adapters.http.faults import fault
from batchrun.adapters.http.keepalive import socket_factory
from batchrun.adapters.http.plain_exchange import PlainPoster, tracing
from batchrun.adapters.http.reply_body import Arriving, Large
from batchrun.core.reply.redirects import FOLLOWED, REDIRECTS_MAX, target
from batchrun.core.settings.providers import AUTHORIZATION
from batchrun.core.settings.proxies import proxy_name
from batchrun.core.settings.urls import Address
from batchrun.core.text.redact import Redactor
from batchrun.errors import FaultKind, TransportFault
from batchrun.records import Reply, Request

if TYPE_CHECKING:
    import ssl

JSON = "application/json"
REMARK_MAX = 200
_new = tuple.__new__  # half the time of calling the named tuple
"""Characters kept of a stream's content other than the answer."""
UNDERSTOOD = (aiohttp.ClientError, EofStreamError, NotHttpError, OSError, TimeoutError)
"""The exceptions that ``faults`` translates; OSError and TimeoutError come from below aiohttp."""
BROKEN = frozenset(
    (
        FaultKind.DNS,
        FaultKind.CONNECT,
        FaultKind.STALE,
        FaultKind.RESET,
        FaultKind.CUT,
        FaultKind.INCOMPLETE,
    )
)
"""Faults that a connection may have because this process was not running."""
ELSEWHERE_MAX = 16
"""How many redirect targets are kept."""


class HttpTransport:
    """``ports.Transport`` over aiohttp. Use as an async context manager."""

    def __init__(
        self,
        address: str | Address,
        *,
        key: str | None,
        headers: Mapping[str, str],
        concurrency: int,
        timeout_s: float,
        connect_timeout_s: float,
        body_bytes_max: int,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
        redactor: Redactor | None = None,
        stream: bool = False,
        key_header: str = AUTHORIZATION,
        keepalive_s: float = 0.0,
    ) -> None:
        """``address`` is the full URL requests are posted to, maybe with a Unix socket; ``key``
        goes into ``key_header`` unless ``headers`` bring their own, as ``Bearer KEY`` where that is
        the authorization; ``proxy`` is a URL; ``tls`` (default: the system's authorities) is for
        ``https``; ``redactor`` (default: one that knows the key) cleans every reply; ``stream``
        says that streams are expected, which makes them cheap to read (they are read in any case);
        ``keepalive_s`` is the silence after which a connection is probed (0: never).
        """
        self._redactor = redactor or Redactor([key] if key else [])
        self._url, self._socket = Address(address) if isinstance(address, str) else address
        self._stream = stream
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._body_bytes_max = body_bytes_max
        self._given_headers = headers
        self._key_header = key_header
        self._headers = self._headers_with(key)
        self._proxy = proxy
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._where = self._socket or urlsplit(self._url).netloc

    remark: str | None
    """A warning that requests are sent in a more expensive way, and why."""

    def __repr__(self) -> str:
        return f"HttpTransport({self._where})"

    def _headers_with(self, key: str | None) -> dict[str, str]:
        headers = {"Content-Type": JSON, "Accept": JSON}
        if key is not None:
            bearer = self._key_header.lower() == AUTHORIZATION.lower()
            headers[self._key_header] = f"Bearer {key}" if bearer else key
        given = {name.lower() for name in self._given_headers}
        return {k: v for k, v in headers.items() if k.lower() not in given} | dict(
            self._given_headers
        )

    def replace_key(self, key: str) -> None:
        """Send every request from now on with this key; those in flight keep theirs."""
        self._headers = self._headers_with(key)
        for poster in self._posters.values():
            poster.replace_headers(self._headers)
        if self._plain is not None:
            self._plain.replace_headers(self._headers)

    def resize(self, concurrency: int) -> None:
        """See ``ports.Transport``."""
        self._concurrency = concurrency
        for connector in self._connectors:
            aiohttp_internals.allow_connections(connector, concurrency)
        if self._connections is not None:
            self._connections.keep(concurrency)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._timeout_s)
        self._large = Large(self._concurrency)
        # Time to the first token is only reported for streams; this clock costs more than that one.
        self._clock = self._deadlines.awake_s if self._stream else time.monotonic
        self._posters: dict[str, Poster] = {}
        self._plain: PlainPoster | None = None
        self._connections: Connections | None = None
        self.remark: str | None = None
        self._connectors: list[aiohttp.BaseConnector] = []
        self._session = self._new_session()
        differs = None
        if self._proxy is None:
            differs = await aiohttp_internals.differences(self._session, self._url)
        if self._proxy is None and differs is None:
            self._connections = Connections(self._session, self._url)
            self._posters[self._url] = self._poster(self._url, self._connections)
        else:
            self._plain = PlainPoster(self._plain_session, self._headers, self._proxy)
            self.remark = None if differs is None else aiohttp_internals.remark_on(differs)
        return self

    def _new_session(
        self, *traces: aiohttp.TraceConfig, keeps: bool = True
    ) -> aiohttp.ClientSession:
        connector = self._connector(keeps=keeps)
        self._connectors.append(connector)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=True,
            trace_configs=list(traces),
            **HEAD_BOUNDS,
        )

    def _plain_session(self, *, keeps: bool) -> aiohttp.ClientSession:
        return self._new_session(tracing(), keeps=keeps)

    def _poster(self, url: str, connections: Connections) -> Poster:
        return Poster(self._session, connections, url, self._headers)

    def _connector(self, *, keeps: bool) -> aiohttp.BaseConnector:
        keeping: dict[str, Any] = {"force_close": True}
        if keeps:
            keeping = {"keepalive_timeout": connections.IDLE_S_MAX}
        if self._socket is not None:
            return aiohttp.UnixConnector(self._socket, limit=self._concurrency, **keeping)
        return aiohttp.TCPConnector(
            limit=self._concurrency,
            ttl_dns_cache=60,
            ssl=True if self._tls is None else self._tls,
            socket_factory=socket_factory(self._keepalive_s) if self._keepalive_s > 0 else None,
            **keeping,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connections is not None:
            self._connections.let_go()
        if self._plain is not None:
            await self._plain.close()
        await self._session.close()

    async def send(self, request: Request) -> Reply:
        """See ``ports.Transport``."""
        task = asyncio.current_task(self._loop)  # without the loop it costs a system call
        assert task is not None
        self._deadlines.enter(task)
        # Once the head of a reply has arrived, later faults include the status.
        arrived = Arriving(self._body_bytes_max, self._large, self._clock)
        try:
            head, answer = await self._post(self._url, request.body, arrived)
            if head.status in FOLLOWED:
                url = self._url
                for _ in range(REDIRECTS_MAX):
                    there = target(url, head.status, head.headers.get("Location"))
                    if there is None:
                        break
                    url = there
                    arrived.close()
                    arrived = Arriving(self._body_bytes_max, self._large, self._clock)
                    head, answer = await self._post(url, request.body, arrived)
            if arrived.stream is not None:
                return self._folded(arrived, None, task)
            redactor = self._redactor
            found = (head.status, redactor.headers(head.headers), redactor.body(answer), None)
            return _new(Reply, found)
        except asyncio.CancelledError:
            if self._deadlines.has_expired(task) and task.uncancel() == 0:
                message = f"no whole reply within {self._timeout_s:g} s"
                fault = TransportFault(
                    message, kind=FaultKind.TIMEOUT, sent=True, http_status=arrived.status
                )
                return self._folded(arrived, fault, task)
            raise
        except UNDERSTOOD as error:
            # Not chained: aiohttp's errors hold the request's headers, the key among them.
            return self._folded(arrived, self._fault(error, arrived.status), task)
        except TransportFault as fault:
            fault.http_status = arrived.status
            return self._folded(arrived, fault, task)
        finally:
            self._deadlines.leave(task)
            arrived.close()

    def _post(
        self, url: str, body: bytes, arrived: Arriving
    ) -> Coroutine[Any, Any, tuple[Head, bytes]]:
        poster = self._posters.get(url)
        if poster is None:
            if self._connections is None:
                assert self._plain is not None
                return self._plain.post(url, body, arrived.read)
            if len(self._posters) > ELSEWHERE_MAX:
                self._posters = {self._url: self._posters[self._url]}
            poster = self._posters[url] = self._poster(url, self._connections)
        return poster.post(body, arrived.read)

    async def get(self, url: str) -> Reply:
        """The reply of the same server to a GET of another URL, such as its list of models. Raises
        ``TransportFault`` as ``send`` does.
        """
        arrived = Arriving(self._body_bytes_max, self._large)
        try:
            async with asyncio.timeout(self._timeout_s) as timer:
                kept = self._connections
                with contextlib.nullcontext() if kept is None else kept.wanted():
                    response = await self._session.get(
                        url, headers=self._headers, allow_redirects=False, proxy=self._proxy
                    )
                async with response:
                    head = Head(response.status, response.headers)
                    answer = await arrived.read(response.content, head)
        except UNDERSTOOD as error:
            if isinstance(error, TimeoutError) and timer.expired():
                message = f"no whole reply within {self._timeout_s:g} s"
                raise TransportFault(message, kind=FaultKind.TIMEOUT, sent=True) from None
            raise self._fault(error, arrived.status) from None
        finally:
            arrived.close()
        redactor = self._redactor
        return Reply(head.status, redactor.headers(head.headers), redactor.body(answer))

    def _folded(
        self, arrived: Arriving, fault: TransportFault | None, task: asyncio.Task[object]
    ) -> Reply:
        """The reply made from a stream, also if the connection broke after a whole answer.
        Otherwise raises the fault, with what had arrived; ``fault`` is what ended the stream.
        """
        stream, head = arrived.stream, arrived.head
        if stream is None or head is None:
            assert fault is not None
            raise self._excused(fault, task) from None
        if fault is not None:
            stream.end()  # otherwise the reader that reached its end did
        redactor = self._redactor
        reply = Reply(
            head.status,
            redactor.headers(head.headers),
            redactor.body(stream.body()),
            arrived.ttft_s,
        )
        problem = stream.problem()
        if problem is None and (fault is None or fault.kind != FaultKind.TOO_LARGE):
            return reply
        if fault is None or fault.kind == FaultKind.CUT:
            message = problem or ""
            remark = redactor.text(stream.remark())[:REMARK_MAX]
            if remark:
                message = f"{message}; the server said: {remark}"
            if fault is not None:
                message = f"{fault}: {message}"
            fault = TransportFault(
                message, kind=FaultKind.INCOMPLETE, sent=True, http_status=head.status
            )
        fault.partial = reply
        raise self._excused(fault, task) from None

    def _excused(self, fault: TransportFault, task: asyncio.Task[object]) -> TransportFault:
        """The fault; a special kind if the connection broke while this process did not run, since
        neither the row nor the server is to blame.
        """
        if fault.kind in BROKEN and self._deadlines.was_interrupted(task):
            fault.args = (f"{fault} (batchrun was suspended meanwhile)",)
            fault.kind = FaultKind.SUSPENDED
        return fault

    def _fault(self, error: Exception, status: int | None) -> TransportFault:
        proxy = None if self._proxy is None else proxy_name(self._proxy)
        found = fault(error, status, where=self._where, proxy=proxy)
        found.args = (self._redactor.text(str(found)),)
        return found
