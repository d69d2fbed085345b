"""TCP keep-alive: a model may think for minutes, and networks forget connections that are silent.

NAT gateways, firewalls and load balancers drop a connection that carried nothing for a while (AWS's
NAT gateways after 350 s, Azure's load balancers after 240 s, many routers sooner) and tell neither
side. The answer then never arrives, the attempt ends as a timeout, and the tokens are paid for
twice. The kernel's probes keep such a connection open, and notice that the other side is gone.

``TCP_USER_TIMEOUT`` is left alone on purpose: Linux also applies it while the other side has closed
its receive window, so a busy server that is slow to read a large prompt would be cut off although
it acknowledges every probe. What is sent into a dead network is bounded by the attempt's timeout.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import weakref
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.tracing import Trace

PROBES = 5
"""A connection is dead after so many probes without an answer: with the default times, three
minutes after the last sign of life.
"""

_IDLE = ("TCP_KEEPIDLE", "TCP_KEEPALIVE")
"""The time before the first probe, as Linux and macOS call it."""


def options(keepalive_s: float) -> list[tuple[int, int, int]]:
    """The socket options (level, name, value) that this platform has for probes.

    ``keepalive_s`` is the silence before the first probe and between two, in seconds. The kernel
    takes whole seconds, at least one.
    """
    seconds = max(1, math.ceil(keepalive_s))
    idle = next((name for name in _IDLE if hasattr(socket, name)), "")
    times = ((idle, seconds), ("TCP_KEEPINTVL", seconds), ("TCP_KEEPCNT", PROBES))
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in times
        if hasattr(socket, name)
    ]


class ProbedConnector(aiohttp.TCPConnector):
    """aiohttp's connector; the kernel probes its connections while they are silent.

    The options are set on the socket of a finished connection: one place for plain connections,
    TLS, tunnels through a proxy, and whichever address of a host answered first. (aiohttp's
    ``socket_factory`` would set them earlier; it came with 3.12.)
    """

    def __init__(self, keepalive_s: float, *, limit: int, tls: ssl.SSLContext | bool) -> None:
        """``keepalive_s`` is above 0; ``limit`` bounds the connections."""
        super().__init__(limit=limit, ttl_dns_cache=60, ssl=tls)
        self._options = options(keepalive_s)
        self._probed: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own name
    ) -> aiohttp.connector.Connection:
        """See ``aiohttp.BaseConnector``."""
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        if protocol is not None and protocol not in self._probed:
            self._probed.add(protocol)
            if protocol.transport is not None:
                self._probe(protocol.transport.get_extra_info("socket"))
        return connection

    def _probe(self, carrier: socket.socket | None) -> None:
        if carrier is None:
            return
        for level, name, value in self._options:
            # A connection that was closed meanwhile, or a system that knows the option's name
            # and not the option, is no worse off without it.
            with contextlib.suppress(OSError):
                carrier.setsockopt(level, name, value)
