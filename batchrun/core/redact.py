"""Keeping credentials out of everything that is stored or shown.

Servers echo them: a refused key comes back in the 401's message. So every reply is searched for
the credentials of its endpoint before anybody else sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlsplit, urlunsplit

REDACTED = "[redacted]"
LENGTH_MIN = 8
"""Shorter values are no secrets, and replacing them would damage answers."""

_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)


class Redactor:
    """Replaces known credentials wherever they occur."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """``secrets`` are the credentials in use; short ones are left alone."""
        known = {secret for secret in secrets if len(secret) >= LENGTH_MIN}
        known |= {json.dumps(secret)[1:-1] for secret in known}
        self._texts = sorted(known, key=len, reverse=True)
        self._bytes = [text.encode() for text in self._texts]

    def __repr__(self) -> str:
        return f"Redactor({len(self._texts)} credentials)"

    def body(self, body: bytes) -> bytes:
        """A reply's body without them."""
        for secret in self._bytes:
            if secret in body:
                body = body.replace(secret, REDACTED.encode())
        return body

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """A reply's headers without them; lower-case names where something was replaced."""
        values = "\n".join(headers.values())
        for secret in self._texts:
            if secret in values:
                return {name.lower(): self.text(value) for name, value in headers.items()}
        return headers

    def text(self, text: str) -> str:
        """A message without them."""
        for secret in self._texts:
            text = text.replace(secret, REDACTED)
        return text


def secrets_of(key: str | None, headers: Mapping[str, str], url: str) -> list[str]:
    """The credentials of an endpoint: its key, the values of headers that are named like
    credentials, and the values in the URL's query.
    """
    found = [key] if key else []
    for name, value in headers.items():
        if _SECRET_HEADER.search(name):
            found += [value, *value.split()]
    found += [value for _, value in parse_qsl(urlsplit(url).query)]
    return found


def public_url(url: str) -> str:
    """A URL as it may be shown: without the values in its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    query = "&".join(f"{name}=..." for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, query, ""))
