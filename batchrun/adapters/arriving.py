"""Reading a reply's body as it arrives: whole, or a stream folded piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import time

import aiohttp

from batchrun.adapters.exchange import Head
from batchrun.core import reply as reading
from batchrun.core import sse
from batchrun.core.stream import Stream, fold, is_chunks
from batchrun.errors import TransportFault

_BLANK = b" \t\r\n"
DONE_GRACE_S = 1.0
"""How long a stream that has announced its end may take to end. A connection that is still open
then is closed: the answer is whole.
"""


class Arriving:
    """How far one reply has arrived. Made when its request goes out.

    ``stream`` is there where the body is one; whoever reads must ask it whether it is whole.
    ``ttft_s`` is the time from then to the first thing the model said.
    """

    __slots__ = ("_bytes_max", "_size", "_started_s", "head", "stream", "ttft_s")

    def __init__(self, bytes_max: int) -> None:
        """``bytes_max`` bounds the body as it comes, framing and all."""
        self._bytes_max = bytes_max
        self._size = 0
        self._started_s = time.monotonic()
        self.head: Head | None = None
        self.stream: Stream | None = None
        self.ttft_s: float | None = None

    @property
    def status(self) -> int | None:
        """The status, once the head of the reply is there."""
        return self.head.status if self.head is not None else None

    async def read(self, content: aiohttp.StreamReader, head: Head) -> bytes:
        """See ``exchange.BodyReader``. Empty where the body is a stream."""
        self.head = head
        body = await self._piece(content)
        if not 200 <= head.status < 300:
            return await self._rest(content, body)
        if body[:1] != b"{":
            label = head.headers.get("Content-Type", "")
            decided = sse.is_stream(body, label)
            while decided is None:
                # Blank lines keep some connections alive while the request is queued.
                body = body.lstrip(_BLANK)
                decided = sse.is_stream(body, label, whole=content.at_eof())
                if decided is None:
                    body += await self._piece(content)
            if decided:
                await self._fold(content, body)
                return b""
        body = await self._rest(content, body)
        if b'"delta"' in body[:4096] or body[-1:] != b"}":
            self._reconsider(body, head)
        return body

    async def _rest(self, content: aiohttp.StreamReader, body: bytes) -> bytes:
        if content.at_eof():
            return body
        pieces = [body]
        while not content.at_eof():
            pieces.append(await self._piece(content))
        return b"".join(pieces)

    async def _fold(self, content: aiohttp.StreamReader, start: bytes) -> None:
        stream = self.stream = Stream()
        stream.feed(start)
        self._look(stream)
        while not (stream.done or content.at_eof()):
            stream.feed(await self._piece(content))
            if self.ttft_s is None:
                self._look(stream)
        if not content.at_eof():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DONE_GRACE_S):
                    while not content.at_eof():
                        stream.feed(await self._piece(content))
        stream.end()
        self._look(stream)

    def _look(self, stream: Stream) -> None:
        if self.ttft_s is None and stream.begun:
            self.ttft_s = time.monotonic() - self._started_s

    async def _piece(self, content: aiohttp.StreamReader) -> bytes:
        piece = await content.readany()
        self._size += len(piece)
        if self._size > self._bytes_max:
            message = f"the reply is larger than {self._bytes_max:,} bytes"
            raise TransportFault(message, kind="too_large", sent=True, http_status=self.status)
        return piece

    def _reconsider(self, body: bytes, head: Head) -> None:
        """A body that begins with a brace can be a stream whose lines lack their field names."""
        label = head.headers.get("Content-Type", "").lower()
        torn = label.startswith(sse.EVENT_STREAM) and reading.parse(body) is None
        if torn or is_chunks(body):
            self.stream = fold(body)
