"""From the base URL a user types to the URL requests go to."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from batchrun.core.text.redact import public_url
from batchrun.errors import UsageError

SOCKET_SCHEME = "http+unix"
SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's path, by the kernel's ``sockaddr_un``."""


class Address(NamedTuple):
    """Where requests go: the URL in their head, and the Unix socket that takes the place of its
    host and port.
    """

    url: str
    socket: str | None = None


def address(base_url: str) -> Address:
    """The address behind a base URL, ``http+unix://PERCENT-ENCODED-PATH/v1`` included.

    Raises ``UsageError`` as ``chat_completions_url`` does, and for a socket that is not written
    as it should be.
    """
    scheme, separator, rest = base_url.strip().partition("://")
    if not separator or scheme.lower() not in (SOCKET_SCHEME, "unix"):
        return Address(chat_completions_url(base_url))
    written = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = unquote(written)
    if scheme.lower() == "unix" or not path:
        # The path of the socket ends where a file's name does; only its usual suffix tells.
        bare = re.split(r"[?#]", rest, maxsplit=1)[0]
        given, found, more = bare.partition(".sock")
        shown = quote(given + found if found else "/run/llm.sock", safe="") + (more or "/v1")
        message = (
            f"base URL {scheme}://{bare}: write a Unix socket with its path percent-encoded, "
            f"as in {SOCKET_SCHEME}://{shown}"
        )
        raise UsageError(message)
    if "\0" in path or len(path.encode()) > SOCKET_PATH_MAX:
        message = (
            f"base URL {public_url(base_url)}: the path of a Unix socket has at most "
            f"{SOCKET_PATH_MAX} bytes"
        )
        raise UsageError(message)
    return Address(chat_completions_url(f"http://localhost{rest[len(written) :]}"), path)


_SUFFIX = "/chat/completions"
_OTHER_CALL = re.compile("/(?:models|completions|responses|messages|embeddings|chat)")
_VERSION = re.compile(r"/v\d+(?:beta\d*|alpha\d*)?(?=/|$)")


def asked_in_vain(url: str) -> str:
    """What to tell the user where nothing is served under a chat-completions URL: the URL, and the
    base URL that was likely meant.
    """
    shown, likely = public_url(url), likely_base(url)
    if likely is None:
        return f"asked {shown}: check the host and the path of the base URL"
    return f"asked {shown}: the base URL may have to be {likely}"


def likely_base(url: str) -> str | None:
    """The base URL that was probably meant where nothing is served under a chat-completions URL;
    None if its path looks right.
    """
    parts = urlsplit(url)
    base = parts.path.removesuffix(_SUFFIX)
    version = _VERSION.search(base)
    if version is None:
        meant = f"{base}/v1"
    elif _OTHER_CALL.fullmatch(base, version.end()):
        meant = base[: version.end()]
    else:
        return None
    return public_url(urlunsplit((parts.scheme, parts.netloc, meant, parts.query, "")))


def may_be_private(where: Address) -> bool:
    """Whether the server may be the user's own: a Unix socket, a loopback or private address, or a
    name that has yet to be resolved.
    """
    if where.socket is not None:
        return True
    try:
        return is_private(urlsplit(where.url).hostname or "")
    except ValueError:
        return True


def is_private(address: str) -> bool:
    """Whether an IP address is a loopback or private one (RFC 1918, RFC 4193), and not link-local,
    where clouds have their metadata. Raises ValueError for what is no address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback or (found.is_private and not found.is_link_local)


def metrics_url(url: str) -> str:
    """Where a server that takes requests at this URL has its metrics: beside its API, without the
    query, which may hold a key.
    """
    parts = urlsplit(url)
    base = parts.path.removesuffix(_SUFFIX)
    version = _VERSION.search(base)
    base = base if version is None else base[: version.start()]
    return urlunsplit((parts.scheme, parts.netloc, f"{base}/metrics", "", ""))


def chat_completions_url(base_url: str) -> str:
    """The chat-completions URL for a base URL.

    A bare host gets ``/v1/chat/completions``, a path gets ``/chat/completions`` appended unless
    it ends so already; the query is kept, double slashes are folded. Raises ``UsageError`` for
    what is not an http(s) URL or holds credentials.
    """
    try:
        parts = urlsplit(base_url.strip())
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError as error:
        message = f"base URL {public_url(base_url)}: {error}"
        raise UsageError(message) from None
    if not port_is_sound or parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"base URL {public_url(base_url)}: expected http://HOST/... or https://HOST/..."
        raise UsageError(message)
    if parts.username or parts.password:
        message = "the base URL holds a user name or password: give the key by its variable"
        raise UsageError(message)
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    if not path:
        path = f"/v1{_SUFFIX}"
    elif not path.endswith(_SUFFIX):
        path += _SUFFIX
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
