"""Checks an endpoint: its list of models, and one small request, sent as a run sends it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from batchrun.adapters.http.access import Access
from batchrun.core.request import body
from batchrun.core.settings.providers import BY_NAME, Provider
from batchrun.core.settings.resolve import Settings
from batchrun.core.verdict import diagnosis
from batchrun.core.verdict.diagnosis import Check
from batchrun.core.verdict.judge import Verdict
from batchrun.core.verdict.next_steps import of_key
from batchrun.errors import TransportFault
from batchrun.records import Reply, Request, Row

if TYPE_CHECKING:
    from batchrun.adapters.http.transport import HttpTransport

TOKENS_MAX = 16
"""The token limit of the answer. Some models refuse a request with a limit of a single token."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""The names of that limit. Older servers only know the first, newer models only the second."""


async def examine(
    settings: Settings, access: Access, say: Callable[[str], None], *, ask: bool = True
) -> list[Check]:
    """Reach the server, read its list of models, send a request. Never raises for what it finds.
    Without ``ask``, the server is only reached, because the key is missing.
    """
    provider = BY_NAME.get(access.endpoint.provider or "")
    async with access.talking(settings, say) as (transport, _):
        return await _Look(settings, access, provider, transport).take(ask=ask)


class _Look:
    def __init__(
        self,
        settings: Settings,
        access: Access,
        provider: Provider | None,
        transport: HttpTransport,
    ) -> None:
        self._settings = settings
        self._access = access
        self._provider = provider
        self._transport = transport
        self._defaults = settings.defaults()
        model = self._defaults.get("model")
        names = access.endpoint.models or {}
        if not isinstance(model, str):
            model = next(iter(names), None)
        self._model = None if model is None else names.get(model, model)

    async def take(self, *, ask: bool) -> list[Check]:
        """See ``examine``."""
        url = self._access.address.url
        shown = self._access.address.socket or diagnosis.server_of(url)
        began_s = time.monotonic()
        exchange = await self._exchange(self._transport.get(diagnosis.models_url(url)))
        told, _ = self._told(exchange)
        seconds = time.monotonic() - began_s
        if isinstance(exchange, TransportFault):
            if diagnosis.unreached(exchange):
                return [diagnosis.on_url(shown, self._provider, exchange, told, seconds)]
            reached = Check("url", "ok", f"{shown} can be reached")
            if not ask:
                return [reached]
            return [reached, Check("models", "warning", told), *await self._ask([])]
        reached = diagnosis.on_url(shown, self._provider, None, told, seconds)
        if not ask:
            return [reached]
        models, listed = diagnosis.on_models(exchange, told, self._model, self._provider)
        if exchange.status == 401:
            variable = self._access.endpoint.api_key_env
            fix = of_key(str(self._access.source), self._access.key, variable)
            models = models._replace(todo=fix.text)
        checks = [reached, models]
        if self._model is None and len(listed) == 1:
            self._model = listed[0]
        if self._model is not None:
            return checks + await self._ask(listed)
        message = "no model to ask: give one with --model"
        proved = models.status == "ok" and self._access.key is not None
        return [*checks, Check("request", "skipped" if proved else "failed", message)]

    @staticmethod
    async def _exchange(sending: Awaitable[Reply]) -> Reply | TransportFault:
        try:
            return await sending
        except TransportFault as fault:
            return fault

    def _told(self, exchange: Reply | TransportFault) -> tuple[str, Verdict]:
        wait_s_max = self._settings.max_wait_s
        url = self._access.address.url
        verdict = diagnosis.look(exchange, wait_s_max=wait_s_max, wall_s=time.time(), url=url)
        return diagnosis.sentence(verdict, exchange, wait_s_max), verdict

    async def _ask(self, listed: list[str]) -> list[Check]:
        """One request, or a second one if the server uses the other name of the limit."""
        model = self._model
        if model is None:
            return [Check("request", "failed", "no model to ask: give one with --model")]
        given = [name for name in LIMITS if name in self._defaults]
        todo = None
        for name in given or LIMITS:
            began_s = time.monotonic()
            exchange = await self._exchange(self._transport.send(self._request(name, model)))
            seconds = time.monotonic() - began_s
            told, verdict = self._told(exchange)
            refused = verdict.error_class == "invalid_request" and name in verdict.message
            if given or not refused or name == LIMITS[-1]:
                break
            todo = f"limit answers by {LIMITS[-1]}: {name} is refused"
        if verdict.error_class == "not_found" and (near := diagnosis.nearest(model, listed)):
            todo = f"did you mean {' or '.join(near)}?"
        return [diagnosis.on_request(verdict, told, model, seconds, todo)]

    def _request(self, limit: str, model: str) -> Request:
        messages = [{"role": "user", "content": "Say ok."}]
        row = Row(0, None, {"model": model, "messages": messages, limit: TOKENS_MAX})
        return body.build(
            row,
            self._defaults,
            body_bytes_max=body.BODY_BYTES_MAX,
            stream=self._settings.stream,
        )
