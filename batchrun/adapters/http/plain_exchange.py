"""The same POST by aiohttp's documented names alone: through proxies, whose request line differs,
and wherever this release of aiohttp is not known (``aiohttp_internals``).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import SimpleNamespace

import aiohttp

from batchrun.adapters.http.connections import LOST, Losses
from batchrun.adapters.http.exchange import BodyReader, Head

LARGE_BODY_BYTES = 2**20
"""aiohttp wants larger bodies as a file, which it sends piece by piece."""


class Told:
    """What aiohttp tells about one request while it is under way."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


def tracing() -> aiohttp.TraceConfig:
    """Has a session tell in a request's ``Told`` whether its connection has served before."""

    async def reused(
        _: aiohttp.ClientSession,
        context: SimpleNamespace,
        __: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        if isinstance(context.trace_request_ctx, Told):
            context.trace_request_ctx.reused = True

    found = aiohttp.TraceConfig()
    found.on_connection_reuseconn.append(reused)
    return found


class PlainPoster:
    """Posts bodies over a session that was made with ``tracing``. Redirects are not followed."""

    def __init__(
        self, session: aiohttp.ClientSession, headers: Mapping[str, str], proxy: str | None
    ) -> None:
        self._session = session
        self._proxy = proxy
        self._losses = Losses()
        self.replace_headers(headers)

    def replace_headers(self, headers: Mapping[str, str]) -> None:
        """Send these with every body from now on."""
        self._headers = headers

    async def post(self, url: str, body: bytes, read: BodyReader) -> tuple[Head, bytes]:
        """See ``Poster.post``."""
        headers = self._headers
        if not self._losses.keeps:
            headers = {**headers, "Connection": "close"}
        told = Told()
        response = None
        try:
            response = await self._session.post(
                url,
                data=body if len(body) <= LARGE_BODY_BYTES else io.BytesIO(body),
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
                trace_request_ctx=told,
            )
            head = Head(response.status, response.headers)
            answer = await read(response.content, head)
        except LOST as error:
            if response is not None:
                response.close()
            if isinstance(error, aiohttp.ClientConnectorError):
                self._losses.unreachable()
                raise
            begun = response is not None
            fault = self._losses.stale(error, used=told.reused, begun=begun)
            if fault is None:
                raise
            raise fault from None
        except BaseException:
            if response is not None:
                response.close()
            raise
        self._losses.used_again += told.reused
        # Read to its end, a reply gives its connection back by itself.
        if not response.content.at_eof():
            response.close()
        return head, answer
