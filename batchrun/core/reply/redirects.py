"""Which redirects are followed: those that stay on the server and repeat the request as it is.

A redirect to another server would send it the key. One that asks for a GET (301, 302, 303) cannot
lead to an answer.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

from batchrun.core.text.redact import public_url

REDIRECTS_MAX = 3
FOLLOWED = (307, 308)
_PORTS = {"http": 80, "https": 443}


def target(url: str, status: int, location: str | None) -> str | None:
    """Where a request to ``url`` is sent again, or None where the redirect is not followed."""
    if status not in FOLLOWED or not location:
        return None
    try:
        there = urljoin(url, location.strip())
        asked, told = urlsplit(url), urlsplit(there)
        if _origin(asked) != _origin(told) or "@" in told.netloc:
            return None
    except ValueError:
        return None
    return there.partition("#")[0]


def refused(status: int, location: str) -> str:
    """The sentence about a redirect that was not followed."""
    told = public_url(location.strip()[:500])
    return (
        f"HTTP {status}: redirected to {told}, which is not followed (only 307 and 308 to the "
        f"same scheme, host and port are, {REDIRECTS_MAX} times). If that server is the right one, "
        "make it the base URL"
    )


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
