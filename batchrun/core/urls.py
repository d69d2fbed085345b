"""From the base URL a user types to the URL requests go to."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from batchrun.core.redact import public_url
from batchrun.errors import UsageError


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
        path = "/v1/chat/completions"
    elif not path.endswith("/chat/completions"):
        path += "/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
