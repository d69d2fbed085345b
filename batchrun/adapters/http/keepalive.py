"""TCP keep-alive: a model may think for minutes, and networks forget connections that are silent.

NAT gateways, firewalls and load balancers drop a connection that carried nothing for a while (AWS's
NAT gateways after 350 s, Azure's load balancers after 240 s, many routers sooner) and tell neither
side. The answer then never arrives, the attempt ends as a timeout, and the tokens are paid for
twice. The kernel's probes keep such a connection open, and notice that the other side is gone.

``TCP_USER_TIMEOUT`` is left alone on purpose: Linux also applies it while the other side has closed
its receive window, so a busy server that is slow to read a large prompt would be cut off although
it acknowledges every probe. The attempt's timeout bounds the wait on a dead network.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from batchrun.adapters.system import platform

if TYPE_CHECKING:
    from aiohttp import AddrInfoType

PROBES = 5
"""A connection is dead after this many unanswered probes: with the default times, three minutes
after the last sign of life.
"""


def options(keepalive_s: float) -> list[tuple[int, int, int]]:
    """The socket options (level, name, value) that this platform has for probes.

    ``keepalive_s`` is the silence before the first probe and between two, in seconds. The kernel
    takes whole seconds, at least one.
    """
    seconds = max(1, math.ceil(keepalive_s))
    return platform.keepalive_options(seconds, seconds, PROBES)


def socket_factory(keepalive_s: float) -> Callable[[AddrInfoType], socket.socket]:
    """Makes the sockets of aiohttp's connector, which the kernel probes while they are silent: for
    plain connections, TLS, and tunnels through a proxy. ``keepalive_s`` is above 0.
    """
    chosen = options(keepalive_s)

    def make(address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        for level, name, value in chosen:
            # A system may define the option's name without supporting it, which is harmless.
            with contextlib.suppress(OSError):
                made.setsockopt(level, name, value)
        return made

    return make
