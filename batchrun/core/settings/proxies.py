"""Which proxy the environment names for a URL.

There is no standard. Understood is what curl, Go and Python understand together: ``HTTPS_PROXY``,
``HTTP_PROXY`` and ``ALL_PROXY``, the lower case first, and in ``NO_PROXY`` host names with all
their subdomains, addresses, ranges of addresses, a port behind any of these, and ``*``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from batchrun.errors import UsageError

_PORTS = {"http": 80, "https": 443}
_BRACKETED = re.compile(r"\[([^\]]*)\](?::(\d+))?")
_WITH_PORT = re.compile(r"([^:]*):(\d+)")


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The URL of the proxy for requests to ``url``, or None.

    Raises ``UsageError`` naming the variable for a proxy that cannot be used. The value is not
    repeated: it may hold a password.
    """
    parts = urlsplit(url)
    found = _variable(environment, f"{parts.scheme}_proxy") or _variable(environment, "all_proxy")
    if found is None:
        return None
    excepted = _variable(environment, "no_proxy")
    port = parts.port or _PORTS.get(parts.scheme, 0)
    if excepted is not None and is_excepted(parts.hostname or "", port, excepted[1]):
        return None
    variable, value = found
    proxy = value if "://" in value else f"http://{value}"
    try:
        given = urlsplit(proxy)
        sound = proxy.isascii() and bool(given.hostname) and (given.port is None or given.port > 0)
    except ValueError:
        sound = False
    if not sound or given.scheme.lower() not in _PORTS:
        message = (
            f"{variable} does not name a proxy that can be used: expected http://HOST:PORT or "
            "https://HOST:PORT (SOCKS is not spoken)"
        )
        raise UsageError(message)
    return proxy


def is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` says that a host is reached without the proxy."""
    host = host.rstrip(".").lower()
    address = _address(host)
    for word in re.split(r"[,\s]+", no_proxy.lower()):
        if word == "*":
            return True
        pattern, only_port = _divided(word)
        if not pattern or (only_port is not None and only_port != port):
            continue
        if address is not None:
            if _holds(pattern, address):
                return True
            continue
        name = pattern.removeprefix("*").lstrip(".").rstrip(".")
        if name and (host == name or host.endswith("." + name)):
            return True
    return False


def secrets_of_proxy(proxy: str) -> list[str]:
    """The credentials in a proxy's URL, as written there and as they are sent."""
    written = urlsplit(proxy).netloc.rpartition("@")[0]
    if not written:
        return []
    password = written.partition(":")[2]
    return [written, unquote(written), *([password, unquote(password)] if password else [])]


def proxy_name(proxy: str) -> str:
    """Host and port of a proxy, as they may be shown."""
    return urlsplit(proxy).netloc.rpartition("@")[2]


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """A variable in lower or upper case, and what it says; empty counts as unset."""
    for variable in (name, name.upper()):
        value = environment.get(variable, "").strip()
        if value:
            return variable, value
    return None


def _divided(word: str) -> tuple[str, int | None]:
    """A word of ``NO_PROXY`` as a host and a port."""
    match = _BRACKETED.fullmatch(word) or _WITH_PORT.fullmatch(word)
    if match is None:
        return word, None
    return match[1], int(match[2]) if match[2] else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _holds(pattern: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False
