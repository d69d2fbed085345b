"""Asks an endpoint about the cause of a stop: the models that it lists, and whether it speaks TLS.

This happens once after a run that a wrong setting stopped, for a few seconds at most. Errors here
are ignored: the run has already reported what stopped it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from batchrun.adapters.http.access import Access, access_to
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.resolve import Settings
from batchrun.core.verdict import diagnosis
from batchrun.errors import BatchrunError, TransportFault

TIMEOUT_S = 5.0


def access_again(endpoint: Endpoint, environment: Mapping[str, str]) -> Access | None:
    """Access to an endpoint again; None if a command prints its key, which is not run again for
    this, or if something is missing.
    """
    if endpoint.api_key_command is not None:
        return None
    try:
        return access_to(endpoint, environment, demand_key=False)
    except BatchrunError:
        return None


async def models_listed(settings: Settings, access: Access) -> list[str]:
    """The models that the endpoint lists; empty if it lists none, or does not answer in time."""
    patient = replace(settings, timeout_s=TIMEOUT_S, connect_timeout_s=TIMEOUT_S, stream=False)
    try:
        async with access.talking(patient, lambda _: None) as (transport, _):
            reply = await transport.get(diagnosis.models_url(access.address.url))
    except TransportFault:
        return []
    listed = diagnosis.models_in(reply.body) if reply.status == 200 else None
    return listed or []


def speaks_tls(access: Access) -> bool | None:
    """Whether the endpoint's port speaks TLS, with any certificate; no request is sent. None if
    this cannot be determined.
    """
    if access.address.socket is not None or access.proxy is not None:
        return None
    parts = urlsplit(access.address.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    context = ssl.create_default_context()
    try:
        with (
            socket.create_connection((parts.hostname or "", port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return True
    except ssl.SSLError:
        return False
    except OSError:
        return None
