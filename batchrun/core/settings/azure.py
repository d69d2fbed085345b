"""Azure's addresses. A resource has two APIs under one host, and two forms of URL.

The older form has the deployment in its path and a dated ``api-version`` in its query; the v1 form
looks like OpenAI's, and ``model`` names the deployment. Which one is meant is told by
``OPENAI_API_VERSION``, the variable that OpenAI's library reads for the older form: a date means
that form. Sources: openai-python 3.54, ``lib/azure.py``; Microsoft's page on the v1 API.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit

from batchrun.errors import UsageError

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_UNDATED = ("", "v1", "preview", "latest")


def azure_url(base_url: str, version: str | None, model: str | None) -> str:
    """The base URL of a resource's API. ``base_url`` may be the resource alone or already say which
    API is meant, in its path; ``version`` is ``OPENAI_API_VERSION``, ``model`` the run's model.

    Raises ``UsageError`` where a deployment's URL is meant and no model names the deployment.
    """
    version = (version or "").strip()
    parts = urlsplit(base_url.strip())
    path, query = parts.path.rstrip("/"), parts.query
    dated = _DATED.fullmatch(version) is not None
    if not dated and version not in _UNDATED:
        message = (
            f"OPENAI_API_VERSION is {version!r}; expected a date such as 2024-10-21 for "
            "deployment URLs, or v1, preview or latest (or nothing) for the v1 API"
        )
        raise UsageError(message)
    if path in ("", "/openai"):
        if not dated:
            path = "/openai/v1"
        elif model is not None:
            path = f"/openai/deployments/{quote(model, safe='')}"
        else:
            message = (
                f"OPENAI_API_VERSION is {version}, which means the URL of one deployment: name "
                "the deployment with --model, or unset the variable to use the v1 API"
            )
            raise UsageError(message)
    asked = dated if "/deployments/" in path else version in ("preview", "latest")
    if asked and "api-version=" not in query:
        query = f"{query}&api-version={version}".lstrip("&")
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))
