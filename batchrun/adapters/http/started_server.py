"""Requests to a server that batchrun started itself: if it dies, it is not restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from batchrun.adapters.http.transport import BROKEN, HttpTransport
from batchrun.errors import BatchrunError, TransportFault
from batchrun.records import Reply, Request


class StartedServerTransport(HttpTransport):
    """``HttpTransport`` that raises the reason if a connection broke because the server ended."""

    def __init__(
        self, *arguments: Any, failure: Callable[[], BatchrunError | None], **options: Any
    ) -> None:
        """``failure`` is that of ``core.settings.endpoint.Endpoint``; the rest is for
        ``HttpTransport``.
        """
        super().__init__(*arguments, **options)
        self._failure = failure

    async def send(self, request: Request) -> Reply:
        """See ``ports.Transport``. Raises ``LocalServerError`` if the server has ended."""
        try:
            return await super().send(request)
        except TransportFault as fault:
            await self._require_running(fault)
            raise

    async def get(self, url: str) -> Reply:
        """See ``HttpTransport.get``. Raises as ``send`` does."""
        try:
            return await super().get(url)
        except TransportFault as fault:
            await self._require_running(fault)
            raise

    async def _require_running(self, fault: TransportFault) -> None:
        if fault.kind in BROKEN:
            ended = await asyncio.to_thread(self._failure)
            if ended is not None:
                raise ended from None
