"""Keeping credentials out of everything that is stored or shown.

Servers echo them: a refused key comes back in the 401's message. So every reply is searched for
the credentials of its endpoint before anybody else sees it.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit, urlunsplit

REDACTED = "[redacted]"
LENGTH_MIN = 8
"""Shorter values are no secrets, and replacing them would damage answers."""

_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
_NO_SECRETS = frozenset({"api-version", "api_version", "version"})
"""Parameters of a URL whose values an answer may well contain."""


class Redactor:
    """Replaces known credentials wherever they occur, however they are written there."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """``secrets`` are the credentials in use; short ones are left alone."""
        self._known: set[str] = set()
        self._texts: list[str] = []
        self._bytes: list[bytes] = []
        self.add(secrets)

    def __repr__(self) -> str:
        return f"Redactor({len(self._known)} credentials)"

    def add(self, secrets: Iterable[str]) -> None:
        """Replace these too from now on. None is forgotten: a server may name an old key."""
        self._known |= {secret for secret in secrets if len(secret) >= LENGTH_MIN}
        written = {text for secret in self._known for text in _spellings(secret)}
        self._texts = sorted(written, key=len, reverse=True)
        self._bytes = [text.encode(errors="replace") for text in self._texts]

    def body(self, body: bytes) -> bytes:
        """A reply's body without them."""
        for secret in self._bytes:
            if body.find(secret) >= 0:  # `in` is slow for bytes
                body = body.replace(secret, REDACTED.encode())
        return body

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """A reply's headers without them; lower-case names where something was replaced."""
        if not self._texts:
            return headers
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


def is_secret_header(name: str) -> bool:
    """Whether a header is named like a credential."""
    return _SECRET_HEADER.search(name) is not None


def secrets_of(key: str | None, headers: Mapping[str, str], url: str) -> list[str]:
    """The credentials of an endpoint: its key, the values of headers that are named like
    credentials, and the values in the URL's query.
    """
    found = [key] if key else []
    for name, value in headers.items():
        if is_secret_header(name):
            found += [value, *value.split(), *_basic(value)]
    for pair in urlsplit(url).query.split("&"):
        name, _, written = pair.partition("=")
        if name.lower() not in _NO_SECRETS:
            found += [written, *(value for _, value in parse_qsl(pair))]
    return found


def _basic(value: str) -> list[str]:
    """What a header of basic authorization says: user and password, and the password alone."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return []
    return [decoded, decoded.partition(":")[2]]


def _spellings(secret: str) -> set[str]:
    """A text as it is, and as JSON, URLs and pages of HTML write it.

    Characters that every encoder leaves alone (most keys have no others) make these one.
    """
    json_text = json.dumps(secret)[1:-1]
    found = {
        secret,
        json_text,
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json_text.replace("/", "\\/"),
        html.escape(secret),
        html.escape(secret, quote=False),
        html.escape(secret).replace("&#x27;", "&#39;"),
    }
    for characters in ("<>&", "<>&'", "<>&'+`"):  # Go; PHP and Rails; .NET
        found |= {_escaped(json_text, characters, upper) for upper in (str.lower, str.upper)}
    escaped = secret.encode(errors="replace")
    for quoted in (quote(escaped, safe=""), quote(escaped), quote_plus(escaped)):
        found |= {quoted, re.sub("%..", lambda match: match[0].lower(), quoted)}
    return found


def _escaped(text: str, characters: str, case: Callable[[str], str]) -> str:
    r"""A text with some characters written as ``\uXXXX``."""
    return "".join(
        "\\u" + case(f"{ord(letter):04x}") if letter in characters else letter for letter in text
    )


def public_url(url: str) -> str:
    """A URL as it may be shown: without the values in its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    query = "&".join(f"{name}=..." for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, query, ""))
