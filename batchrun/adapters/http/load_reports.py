"""Polls the user's own server for its load, at ``/metrics``, every few seconds.

The request is like a monitoring system's: without key, headers or client certificate, over a
separate connection, and no redirect is followed. Only loopback and private addresses are polled; a
name counts if every address that it resolves to does, and the connection goes to one of these. A
server without such a page is not polled again after a few tries; this is not reported, since
nothing depends on it.

One that does not answer at all may only be busy: llama.cpp's HTTP threads serve one connection
each, and a run with a large window holds all of them. So a request waits for up to a minute, and
the next one is sent later. The connection is only kept if the server works on other requests too:
one with a single thread would serve nothing else as long as it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import aiohttp

from batchrun.adapters.http.aiohttp_internals import HEAD_BOUNDS, behind
from batchrun.core.reply.server_load import Load, read_load
from batchrun.core.settings.urls import Address, is_private, metrics_url
from batchrun.engine.tasks import cancelled

if TYPE_CHECKING:
    import ssl

EVERY_S = 2.0
LATER_S_MAX = 60.0
"""After an unanswered request the pause doubles, up to this."""
CONNECT_TIMEOUT_S, TIMEOUT_S = 5.0, 60.0
LATE_S = 5.0
"""A report that takes longer counts as missing until it arrives."""
PAGE_BYTES_MAX = 2**19
"""vLLM's page, with all histograms, has about 100 KB."""
FAILURES_MAX = 3
"""After this many answers in a row that are not reports, the server is not asked again."""
FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
BUSY = {429, 500, 502, 503, 504}
"""Statuses of a server that may answer later; with 501 it never will."""


@contextlib.asynccontextmanager
async def asking(
    address: Address, tls: ssl.SSLContext | None, heard: Callable[[Load | None], None]
) -> AsyncIterator[None]:
    """Pass the server's reports to ``heard`` until the block is left."""
    task = asyncio.create_task(_ask(address, tls, heard), name="load reports")
    try:
        yield
    finally:
        await cancelled((task,))


class _OwnAddresses(aiohttp.ThreadedResolver):
    """Resolves names of the user's own servers, and fails for others."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[Any]:
        """Raises OSError unless every address is a loopback or private one."""
        found = await super().resolve(host, port, family)
        if not all(is_private(one["host"]) for one in found):
            raise PublicAddressError
        return list(found)


class PublicAddressError(OSError):
    """The server is not the user's own."""


async def _ask(
    address: Address, tls: ssl.SSLContext | None, heard: Callable[[Load | None], None]
) -> None:
    connector: aiohttp.BaseConnector
    if address.socket is not None:
        connector = aiohttp.UnixConnector(address.socket, limit=1)
    else:
        connector = aiohttp.TCPConnector(
            limit=1, ssl=True if tls is None else tls, resolver=_OwnAddresses()
        )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        **HEAD_BOUNDS,
    ) as session:
        url, failures, pause_s, at_work = metrics_url(address.url), 0, EVERY_S, False
        while failures < FAILURES_MAX:
            await asyncio.sleep(pause_s)
            late = asyncio.get_running_loop().call_later(LATE_S, heard, None)
            try:
                load = await _load(session, url, keeps=at_work)
            except FAILURES as error:
                load = None
                never = isinstance(behind(error), PublicAddressError)
            else:
                never = load is None
            finally:
                late.cancel()
            at_work = load is not None and load.running != 0
            if load is not None:
                failures, pause_s = 0, EVERY_S
            elif never:
                failures += 1
            else:
                pause_s = min(2 * pause_s, LATER_S_MAX)
            heard(load)


async def _load(session: aiohttp.ClientSession, url: str, *, keeps: bool) -> Load | None:
    """The load on the page; None if there is no page, or it does not report a queue. Raises one of
    ``FAILURES`` if the server may report it later. ``keeps``: the connection stays open.
    """
    headers = {} if keeps else {"Connection": "close"}
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        if response.status in BUSY:
            response.raise_for_status()
        if response.status != 200:
            return None
        page = bytearray()
        async for piece in response.content.iter_chunked(2**16):
            page += piece
            if len(page) > PAGE_BYTES_MAX:
                response.close()
                return None
        return read_load(bytes(page))
