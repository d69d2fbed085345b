"""HTTP by aiohttp: one session an endpoint, one exchange a call, nothing retried or judged here.

The session's own total timeout is off, because it would count the wait for a connection; instead
one timer for all exchanges enforces a wall clock per attempt, which a server that drips bytes
cannot reset. Redirects are not followed. Proxies come from the environment, resolved here, since
aiohttp's own reading of it would consult ``~/.netrc`` too.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from batchrun.adapters.arriving import Arriving
from batchrun.adapters.exchange import HEADER_BYTES_MAX, HEADERS_MAX, BodyReader, Head, Poster
from batchrun.adapters.tap import Large
from batchrun.core.redact import Redactor
from batchrun.errors import TransportFault
from batchrun.records import Reply, Request

JSON = "application/json"
_TLS_RECORD = r"b'\x15\x03"
REMARK_MAX = 200
"""Characters of what a server said in a stream beside an answer."""
LARGE_BODY_BYTES = 2**20
"""aiohttp wants larger bodies as a stream."""


class Deadlines:
    """One timer for many tasks that all get the same time.

    Since the time is the same for all, the task that entered first is due first, and a look at the
    front of a queue is all there is to do. A timer of its own for every exchange costs 10 %.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tick_s = min(1.0, max(0.02, timeout_s / 20))
        self._loop = asyncio.get_running_loop()
        self._due: dict[asyncio.Task[object], float] = {}
        self._expired: set[asyncio.Task[object]] = set()
        self._ticking = False

    def enter(self, task: asyncio.Task[object]) -> None:
        """The task's time starts."""
        self._due[task] = self._loop.time() + self._timeout_s
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(self._tick_s, self._tick)

    def leave(self, task: asyncio.Task[object]) -> bool:
        """The task's time ends. True if it had run out and the task was cancelled for it."""
        self._due.pop(task, None)
        if self._expired and task in self._expired:
            self._expired.discard(task)
            return True
        return False

    def _tick(self) -> None:
        now = self._loop.time()
        for task, due in list(self._due.items()) if self._due else ():
            if due > now:
                break
            del self._due[task]
            self._expired.add(task)
            task.cancel()
        self._ticking = bool(self._due)
        if self._ticking:
            self._loop.call_later(self._tick_s, self._tick)


class HttpTransport:
    """``ports.Transport`` over aiohttp. Use as an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        headers: Mapping[str, str],
        concurrency: int,
        timeout_s: float,
        connect_timeout_s: float,
        body_bytes_max: int,
        environment: Mapping[str, str],
        redactor: Redactor | None = None,
        stream: bool = False,
    ) -> None:
        """``url`` is the full URL requests are posted to; ``key`` goes into the bearer header
        unless ``headers`` bring their own authorization; ``redactor`` (default: one that knows
        the key) cleans every reply; ``stream`` says that streams are expected, which makes them
        cheap to read (they are read in any case).
        """
        self._redactor = redactor or Redactor([key] if key else [])
        self._url = url
        self._stream = stream
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._body_bytes_max = body_bytes_max
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        given = {name.lower() for name in headers}
        self._headers = {k: v for k, v in self._headers.items() if k.lower() not in given}
        self._headers.update(headers)
        self._proxy = proxy_for(url, environment)

    def __repr__(self) -> str:
        return f"HttpTransport({urlsplit(self._url).netloc})"

    async def __aenter__(self) -> Self:
        self._deadlines = Deadlines(self._timeout_s)
        self._large = Large(self._concurrency)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            trust_env=False,
            auto_decompress=True,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        self._poster = Poster(self._session, self._url, self._headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def send(self, request: Request) -> Reply:
        """See ``ports.Transport``."""
        task = asyncio.current_task()
        assert task is not None
        self._deadlines.enter(task)
        # The status counts once the head of a reply is there, for faults that come after it.
        arrived = Arriving(self._body_bytes_max, self._large)
        try:
            if self._proxy is None:
                tap = arrived.tap if self._stream else None
                head, answer = await self._poster.post(request.body, arrived.read, tap)
            else:
                head, answer = await self._post_by_proxy(request.body, arrived.read)
            if arrived.stream is not None:
                return self._folded(arrived, None)
            redactor = self._redactor
            return Reply(head.status, redactor.headers(head.headers), redactor.body(answer))
        except asyncio.CancelledError:
            if self._deadlines.leave(task) and task.uncancel() == 0:
                message = f"no whole reply within {self._timeout_s:g} s"
                fault = TransportFault(
                    message, kind="timeout", sent=True, http_status=arrived.status
                )
                return self._folded(arrived, fault)
            raise
        except (
            aiohttp.ClientError,
            aiohttp.EofStream,
            HttpProcessingError,
            OSError,
            TimeoutError,
        ) as error:
            # Not chained: aiohttp's errors hold the request's headers, the key among them.
            return self._folded(arrived, self._fault(error, arrived.status))
        except TransportFault as fault:
            fault.http_status = arrived.status
            return self._folded(arrived, fault)
        finally:
            self._deadlines.leave(task)
            arrived.close()

    async def _post_by_proxy(self, body: bytes, read: BodyReader) -> tuple[Head, bytes]:
        """The same by the long way: a proxy may want a request line of its own, or a tunnel."""
        payload: aiohttp.Payload
        if len(body) <= LARGE_BODY_BYTES:
            payload = aiohttp.BytesPayload(body, content_type=JSON)
        else:
            payload = aiohttp.BytesIOPayload(io.BytesIO(body), content_type=JSON)
        response = await self._session.post(
            self._url, data=payload, allow_redirects=False, proxy=self._proxy
        )
        try:
            answer = await read(response.content, Head(response.status, response.headers))
        except BaseException:
            response.close()
            raise
        # Read to its end, a reply gives its connection back by itself.
        if not response.content.at_eof():
            response.close()
        return Head(response.status, response.headers), answer

    def _folded(self, arrived: Arriving, fault: TransportFault | None) -> Reply:
        """The reply that a stream makes, also where the connection broke behind a whole answer.

        Raises the fault otherwise, with what had arrived; ``fault`` is what ended the stream.
        """
        stream, head = arrived.stream, arrived.head
        if stream is None or head is None:
            assert fault is not None
            raise fault from None
        stream.end()
        redactor = self._redactor
        reply = Reply(
            head.status,
            redactor.headers(head.headers),
            redactor.body(stream.body()),
            arrived.ttft_s,
        )
        problem = stream.problem()
        if problem is None and (fault is None or fault.kind != "too_large"):
            return reply
        if fault is None or fault.kind == "cut":
            message = problem or ""
            remark = redactor.text(stream.remark())[:REMARK_MAX]
            if remark:
                message = f"{message}; the server said: {remark}"
            if fault is not None:
                message = f"{fault}: {message}"
            fault = TransportFault(message, kind="incomplete", sent=True, http_status=head.status)
        fault.partial = reply
        raise fault from None

    def _fault(self, error: Exception, status: int | None) -> TransportFault:
        found = fault(error, status)
        found.args = (self._redactor.text(str(found)),)
        return found


def fault(error: Exception, status: int | None) -> TransportFault:
    """Our fault for one of aiohttp's. ``status`` is known once a reply's head had arrived."""
    text = _words(error)
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return TransportFault(text, kind="tls", sent=False)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return TransportFault(f"the proxy refused: {text}", kind="proxy", sent=False)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TransportFault(text, kind="dns", sent=False)
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return TransportFault(text, kind="connect", sent=False)
    if status is not None or isinstance(error, aiohttp.ClientPayloadError):
        return TransportFault(
            f"the reply was cut off: {text}", kind="cut", sent=True, http_status=status
        )
    if isinstance(
        error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.EofStream)
    ):
        return TransportFault(f"the connection was closed: {text}", kind="reset", sent=True)
    if isinstance(error, aiohttp.ClientConnectionResetError):
        return TransportFault(f"the connection was closed: {text}", kind="reset", sent=True)
    if isinstance(error, HttpProcessingError):
        advice = " (the server speaks TLS: use https://)" if _TLS_RECORD in text else ""
        text = f"the reply is not HTTP as it should be: {text}{advice}"
    return TransportFault(text, kind="cut", sent=True)


def _words(error: Exception) -> str:
    """What an error says, on one line and without the status that aiohttp makes up for replies
    that it cannot read.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return "it ended within the head of the reply"  # which stands in the error
    inner = error.__cause__
    if isinstance(error, aiohttp.ClientPayloadError) and isinstance(inner, HttpProcessingError):
        error = inner
    text = error.message if isinstance(error, HttpProcessingError) else str(error)
    return " ".join(text.split()) or type(error).__name__


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for a URL, upper or lower case, minding NO_PROXY."""
    parts = urlsplit(url)
    lowered = {name.lower(): value for name, value in environment.items() if value}
    proxy = lowered.get(f"{parts.scheme}_proxy") or lowered.get("all_proxy")
    if not proxy:
        return None
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if bypass(parts.netloc, {"no": lowered.get("no_proxy", "")}):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
