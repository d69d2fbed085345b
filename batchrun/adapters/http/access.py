"""What it takes to talk to one endpoint: address, key, headers, certificates, proxy.

Configuration errors are found here, before a run directory is opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchrun.adapters.http.keys import KeySource, RenewableKey, source_of
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import AUTHORIZATION, BUILT_IN, BY_NAME
from batchrun.core.settings.proxies import proxy_for, secrets_of_proxy
from batchrun.core.settings.table import DEFAULT_BASE_URL
from batchrun.core.settings.urls import Address, address, may_be_private
from batchrun.core.text import redact
from batchrun.core.text.pasted_keys import key_flaw
from batchrun.errors import KeyUnavailableError, UsageError

if TYPE_CHECKING:
    import ssl

    from batchrun.adapters.http.transport import HttpTransport
    from batchrun.core.reply.server_load import Load
    from batchrun.core.settings.resolve import Settings
    from batchrun.ports import Credentials

OPENAI = "openai.com"
_ORGANISATION = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}


@dataclass(frozen=True, slots=True)
class Access:
    """One endpoint with everything needed to send requests to it."""

    endpoint: Endpoint
    address: Address
    source: KeySource
    key: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    proxy: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    redactor: redact.Redactor

    def redacted(self, body: bytes) -> bytes:
        """A body without the endpoint's credentials."""
        return self.redactor.body(body)

    @asynccontextmanager
    async def talking(
        self, settings: Settings, say: Callable[[str], None]
    ) -> AsyncIterator[tuple[HttpTransport, Credentials]]:
        """A transport in the running loop, and its key, which is renewed there."""
        from batchrun.adapters.http.transport import HttpTransport

        made: Callable[..., HttpTransport] = HttpTransport
        if self.endpoint.failure is not None:
            from batchrun.adapters.http.started_server import StartedServerTransport

            made = partial(StartedServerTransport, failure=self.endpoint.failure)
        async with made(
            self.address,
            key=self.key,
            headers=self.headers,
            redactor=self.redactor,
            concurrency=self.endpoint.concurrency_max,
            timeout_s=settings.timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
            body_bytes_max=settings.max_response_bytes,
            proxy=self.proxy,
            tls=self.tls,
            stream=settings.stream,
            key_header=self.endpoint.api_key_header,
            keepalive_s=self.endpoint.keepalive_s,
        ) as transport:
            credentials = RenewableKey(
                self.source,
                self.key,
                install=transport.replace_key,
                redactor=self.redactor,
                say=say,
            )
            try:
                yield transport, credentials
            finally:
                await credentials.close()

    def reporting(
        self, heard: Callable[[Load | None], None]
    ) -> AbstractAsyncContextManager[None] | None:
        """A context that polls the server for its load (``load_reports``); None for a server that
        is not the user's own, is reached through a proxy or requires a client certificate.
        """
        if self.proxy is not None or self.endpoint.client_cert is not None:
            return None
        if not may_be_private(self.address):
            return None
        from batchrun.adapters.http.load_reports import asking

        return asking(self.address, self.tls, heard)


def accesses_to(
    endpoints: Sequence[Endpoint], environment: Mapping[str, str]
) -> tuple[Access, ...]:
    """Open every endpoint of a run; an error names the endpoint if there are several."""
    found = []
    for endpoint in endpoints:
        try:
            found.append(access_to(endpoint, environment))
        except UsageError as error:
            if len(endpoints) == 1:
                raise
            raise type(error)(f"endpoint {endpoint.name}: {error}") from None
    return tuple(found)


def access_to(
    endpoint: Endpoint, environment: Mapping[str, str], *, demand_key: bool = True
) -> Access:
    """Read the key, the certificates and the proxy of an endpoint. Blocks if a command prints the
    key. With ``demand_key``, a missing key is an error if one is needed.

    Built-in providers need neither key nor proxy. Raises ``UsageError`` for anything missing or
    unusable.
    """
    where = address(endpoint.base_url)
    built_in = endpoint.provider in BUILT_IN
    proxy = None if where.socket or built_in else proxy_for(where.url, environment)
    secrets = redact.secrets_of(None, endpoint.headers, where.url)
    redactor = redact.Redactor([*secrets, *(secrets_of_proxy(proxy) if proxy else ())])
    tls = None
    if where.url.startswith("https:"):
        from batchrun.adapters.http.tls import context_of

        tls = context_of(endpoint, environment)
    source = source_of(endpoint, {} if built_in else environment)
    try:
        key = None if built_in else source.read()
    except KeyUnavailableError as error:
        raise KeyUnavailableError(redactor.text(str(error))) from None
    if key is not None and endpoint.api_key_header == AUTHORIZATION:
        flaw = key_flaw(key)
        if flaw is not None:
            wrong = f"the key from {source} {flaw}. Nothing was sent"
            raise KeyUnavailableError(wrong)
    given = {name.lower() for name in endpoint.headers}
    if key is None and demand_key and (message := missing_key(endpoint)) is not None:
        raise KeyUnavailableError(message)
    redactor.add([key] if key else [])
    headers = {
        **organisation(where, environment, given),
        **endpoint.headers,
    }
    return Access(endpoint, where, source, key, headers, proxy, tls, redactor)


def missing_key(endpoint: Endpoint) -> str | None:
    """The message for a missing key; None if the endpoint may not need one."""
    preset = None if endpoint.provider is None else BY_NAME[endpoint.provider]
    if any(redact.is_secret_header(name) for name in endpoint.headers):
        return None
    elsewhere = (
        "name another variable with --api-key-env, a file with --api-key-file, a command with "
        "--api-key-command"
    )
    if preset is None:
        if endpoint.base_url != DEFAULT_BASE_URL:
            return None
        return (
            f"no key: set {endpoint.api_key_env} (or {elsewhere}), or name another endpoint with "
            "--base-url or --provider"
        )
    if not preset.key_needed:
        return None
    names = [key.name for key in preset.keys]
    if endpoint.api_key_env not in names:
        names = [endpoint.api_key_env or ""]
    return (
        f"no key for provider {preset.name}: set {' or '.join(names)}, in the environment or in "
        f"the file .env of the working directory (or {elsewhere})"
    )


def organisation(where: Address, environment: Mapping[str, str], given: set[str]) -> dict[str, str]:
    """OpenAI's headers that name the account of requests; they are only sent to OpenAI. ``given``
    are header names that the user set, in lower case.

    Raises ``UsageError`` for values that are not one line of ASCII text.
    """
    host = urlsplit(where.url).hostname or ""
    if where.socket is not None or not f".{host}".endswith(f".{OPENAI}"):
        return {}
    found = {}
    for header, variable in _ORGANISATION.items():
        value = environment.get(variable, "").strip()
        if value and header.lower() not in given:
            if not (value.isascii() and value.isprintable()):
                message = f"{variable} is not one line of ASCII text"
                raise UsageError(message)
            found[header] = value
    return found
