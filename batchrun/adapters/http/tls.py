"""The TLS settings of an endpoint: trusted authorities, client certificate. Verification is always
on.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from batchrun.core.settings.endpoint import Endpoint
from batchrun.errors import UsageError


def context_of(endpoint: Endpoint, environment: Mapping[str, str]) -> ssl.SSLContext:
    """A context that verifies certificates and host names.

    It trusts the authorities in ``ca_file``, or else those of the system, which ``SSL_CERT_FILE``
    and ``SSL_CERT_DIR`` replace. Raises ``UsageError`` naming a file that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if endpoint.ca_file is not None:
        _trust(context, endpoint.ca_file, "the CA file")
    else:
        _trust_system(context, environment)
    if endpoint.client_cert is not None:
        _show(context, endpoint.client_cert, endpoint.client_key)
    return context


def _trust(context: ssl.SSLContext, path: str, name: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        message = f"{name} {path} holds no certificates in PEM form"
        raise UsageError(message) from None
    except OSError as error:
        message = f"{name} {path} cannot be read: {error.strerror}"
        raise UsageError(message) from None


def _trust_system(context: ssl.SSLContext, environment: Mapping[str, str]) -> None:
    """Load the system's authorities. OpenSSL's own way does not read ``.env`` or report what is
    missing.
    """
    file, folder = environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")
    if not file and not folder:
        context.load_default_certs()
        return
    built_in = ssl.get_default_verify_paths()
    if file:
        _trust(context, file, "SSL_CERT_FILE")
    elif Path(built_in.openssl_cafile).is_file():
        context.load_verify_locations(cafile=built_in.openssl_cafile)
    for path in (folder or built_in.openssl_capath).split(":"):
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
        elif folder:
            message = f"SSL_CERT_DIR {path} is not a folder"
            raise UsageError(message)


def _show(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    name = f"the client certificate {certificate}" + (f" with the key {key}" if key else "")
    try:
        context.load_cert_chain(certificate, key, password=_locked)
    except _LockedError:
        message = f"{name}: the key is encrypted; give one that is not, readable by you alone"
        raise UsageError(message) from None
    except ssl.SSLError as error:
        reason = "it takes a certificate and its key, both in PEM form"
        if "MISMATCH" in (error.reason or ""):
            reason = "the key is not that of the certificate"
        message = f"{name} cannot be used: {reason}"
        raise UsageError(message) from None
    except OSError as error:
        message = f"{name} cannot be read: {error.strerror}"
        raise UsageError(message) from None


class _LockedError(Exception):
    pass


def _locked() -> str:
    """Called for the password of a key; without it, OpenSSL would ask on the terminal."""
    raise _LockedError
