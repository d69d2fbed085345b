"""Turns foreign exceptions into ours, for every way an exchange can end without a whole reply."""

from __future__ import annotations

import errno
import os
import ssl

import aiohttp

from batchrun.adapters.http.aiohttp_internals import (
    EofStreamError,
    NotHttpError,
    behind,
    host_of,
    parser_words,
)
from batchrun.errors import BatchrunError, FaultKind, TransportFault

_DISAGREEMENTS = (
    "certificate",
    "unknown ca",
    "handshake failure",
    "protocol version",
    "unsupported protocol",
    "unrecognized name",
    "no shared cipher",
    "insufficient security",
    "access denied",
)
"""Parts of OpenSSL's reasons that a retry will not change."""
_TLS_RECORD = r"b'\x15\x03"
_NO_TLS = ("wrong version number", "http request", "record layer failure", "packet length too long")
_NO_AUTHORITY = (2, 18, 19, 20, 21)
"""OpenSSL's codes for a chain without a known root, including self-signed ones."""


def fault(
    error: Exception, status: int | None, *, where: str = "the server", proxy: str | None = None
) -> TransportFault:
    """Our fault for one of aiohttp's.

    ``status`` is known once a reply's head had arrived; ``where`` is the server's host and port,
    ``proxy`` the proxy's, if there is one. Raises ``BatchrunError`` if this process can open no
    more files, since no row is to blame.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        message = (
            f"no connection to {where}: {os.strerror(error.errno)} (`ulimit -n`). What was "
            "answered is kept; raise that limit, or lower --concurrency"
        )
        raise BatchrunError(message)
    text = _words(error)
    tls = _tls_error(error)
    if tls is not None:
        found = _tls_fault(tls, where)
        if found is not None:
            return found
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _proxy_fault(error, proxy or "", where)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        message = f"no connection to the proxy {proxy}: {_reason(error)}"
        return TransportFault(message, kind=FaultKind.CONNECT, sent=False)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        message = f"no address for {host_of(error, where)}: {_reason(error)}"
        return TransportFault(message, kind=FaultKind.DNS, sent=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        message = f"no connection to {where}: {_reason(error)}"
        return TransportFault(message, kind=FaultKind.CONNECT, sent=False)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TransportFault(text, kind=FaultKind.CONNECT, sent=False)
    if status is not None or isinstance(error, aiohttp.ClientPayloadError):
        return TransportFault(
            f"the reply was cut off: {text}", kind=FaultKind.CUT, sent=True, http_status=status
        )
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, EofStreamError)):
        how = f"the connection was closed: {text}"
        if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
            how = f"the connection is dead: {proxy or where} no longer answers, not even probes"
        return TransportFault(how, kind=FaultKind.RESET, sent=True)
    if isinstance(error, (NotHttpError, aiohttp.ClientResponseError)):
        advice = " (the server speaks TLS: use https://)" if _TLS_RECORD in text else ""
        text = f"the reply is not HTTP as it should be: {text}{advice}"
    return TransportFault(text, kind=FaultKind.CUT, sent=True)


def _words(error: Exception) -> str:
    """The text of an error, on one line and without the status that aiohttp makes up for replies
    that it cannot read.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return "it ended within the head of the reply"  # which the error contains
    text = parser_words(error)
    if text is None and isinstance(
        error, (aiohttp.ClientPayloadError, aiohttp.ClientResponseError)
    ):
        text = parser_words(error.__cause__)
    if text is None:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _reason(error: aiohttp.ClientConnectorError) -> str:
    inner = behind(error) or error
    if isinstance(inner, ConnectionRefusedError):
        return "nothing listens there. Is the server running?"
    words = inner.strerror if isinstance(inner, OSError) else None
    return words or str(inner) or type(inner).__name__


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS failure behind an exception: an alert may arrive long after the handshake."""
    for found in (error, behind(error), error.__cause__):
        if isinstance(found, ssl.SSLError) and not isinstance(found, aiohttp.ClientError):
            return found
    return None


def _tls_fault(error: ssl.SSLError, where: str) -> TransportFault | None:
    """A fault that stops the run, if retrying cannot help; else None."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or error.reason or "verification failed"
        message = f"the TLS certificate of {where} is not accepted: {reason.rstrip('.')}"
        if error.verify_code in _NO_AUTHORITY:
            message += "; name its authority with --ca-file, if you trust it"
        return TransportFault(message, kind=FaultKind.TLS, sent=False)
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if any(part in reason for part in _NO_TLS):
        message = f"{where} does not speak TLS ({reason}); use http:// in place of https://"
        return TransportFault(message, kind=FaultKind.TLS, sent=False)
    if not any(part in reason for part in _DISAGREEMENTS):
        return None
    message = f"{where} refuses the TLS connection: {reason}"
    if "certificate required" in reason or "handshake failure" in reason:
        message += "; it may ask for a client certificate (--client-cert)"
    return TransportFault(message, kind=FaultKind.TLS, sent=False)


def _proxy_fault(error: aiohttp.ClientHttpProxyError, proxy: str, where: str) -> TransportFault:
    """An answer other than 200 to CONNECT. A proxy that cannot reach the server may recover."""
    answer = f"HTTP {error.status} {error.message}".rstrip()
    if error.status >= 500 or error.status in (408, 429):
        message = f"the proxy {proxy} has no connection to {where}: {answer}"
        return TransportFault(message, kind=FaultKind.CONNECT, sent=False)
    message = f"the proxy {proxy} refuses a connection to {where}: {answer}"
    if error.status == 407:
        message += "; give user and password in the proxy's URL"
    return TransportFault(message, kind=FaultKind.PROXY, sent=False)
