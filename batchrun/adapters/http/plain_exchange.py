"""POSTs using only aiohttp's documented names: through proxies, which need a different request
line, and with unknown releases of aiohttp (``aiohttp_internals``).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Protocol

import aiohttp

from batchrun.adapters.http.connections import LOST, Losses
from batchrun.adapters.http.exchange import BodyReader, Head
from batchrun.errors import FaultKind, TransportFault

LARGE_BODY_BYTES = 2**20
"""aiohttp wants larger bodies as a file, which it sends piece by piece."""


class Course:
    """What aiohttp reports about one request while it is in flight.

    ``reused`` is whether its connection had served before; ``turned``, whether the event loop has
    turned since then: before that, nothing can have come from the server.
    """

    __slots__ = ("reused", "turned")

    def __init__(self) -> None:
        self.reused = self.turned = False

    def turn(self) -> None:
        """The event loop has turned."""
        self.turned = True

    def require_answer(self) -> None:
        """Raise ``TransportFault`` if the response arrived before the request was sent: then it
        answers no request (some servers announce a timeout that way).
        """
        if self.reused and not self.turned:
            message = "the server spoke unasked on a kept-alive connection"
            raise TransportFault(message, kind=FaultKind.STALE, sent=True)


async def _reused(
    _: aiohttp.ClientSession,
    context: SimpleNamespace,
    __: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    course = context.trace_request_ctx
    if isinstance(course, Course):
        course.reused = True
        asyncio.get_running_loop().call_soon(course.turn)


def tracing() -> aiohttp.TraceConfig:
    """The hooks by which a session keeps each request's ``Course`` up to date."""
    found = aiohttp.TraceConfig()
    found.on_connection_reuseconn.append(_reused)
    return found


class MakeSession(Protocol):
    """See ``PlainPoster``."""

    def __call__(self, *, keeps: bool) -> aiohttp.ClientSession:
        """Make one."""
        ...


class PlainPoster:
    """Posts bodies over its own sessions. Redirects are not followed."""

    def __init__(
        self,
        session: MakeSession,
        headers: Mapping[str, str],
        proxy: str | None,
    ) -> None:
        """``session`` makes a session with ``tracing``; without ``keeps``, one that keeps no
        connections for the next request.
        """
        self._new_session = session
        self._proxy = proxy
        self._losses = Losses()
        self._kept = session(keeps=True)
        self._unkept: aiohttp.ClientSession | None = None
        self.replace_headers(headers)

    def replace_headers(self, headers: Mapping[str, str]) -> None:
        """Send these with every body from now on."""
        self._headers = headers

    async def close(self) -> None:
        """End all connections."""
        await self._kept.close()
        if self._unkept is not None:
            await self._unkept.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._losses.keeps:
            return self._kept
        if self._unkept is None:
            self._unkept = self._new_session(keeps=False)
        return self._unkept

    async def post(self, url: str, body: bytes, read: BodyReader) -> tuple[Head, bytes]:
        """See ``Poster.post``."""
        course = Course()
        response = None
        try:
            response = await self._session().post(
                url,
                data=body if len(body) <= LARGE_BODY_BYTES else io.BytesIO(body),
                headers=self._headers,
                allow_redirects=False,
                proxy=self._proxy,
                trace_request_ctx=course,
            )
            course.require_answer()
            head = Head(response.status, response.headers)
            answer = await read(response.content, head)
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, aiohttp.ClientConnectorError):
                self._losses.unreachable()
            elif isinstance(error, LOST):
                begun = response is not None
                fault = self._losses.stale(error, used=course.reused, begun=begun)
                if fault is not None:
                    raise fault from None
            raise
        self._losses.used_again += course.reused
        # A reply that was read to its end releases its connection by itself.
        if not response.content.at_eof():
            response.close()
        return head, answer
