"""One reply's body as it arrives: a plain one kept as it is, a stream folded piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp

from batchrun.adapters.http.exchange import Head
from batchrun.core.reply import completion as reading
from batchrun.core.stream import sse
from batchrun.errors import FaultKind, TransportFault

if TYPE_CHECKING:
    from batchrun.core.stream.fold import Stream

DONE_GRACE_S = 1.0
"""How long a stream that has announced its end may take to end. After that the connection is
closed, since the answer is whole.
"""
LARGE_AT_ONCE = 4
UNPACKED_BYTES = 2**28
_BLANK = b" \t\r\n"
_MESSAGE, _DELTA = b'"message":', b'"delta"'
_GLANCE_BYTES = 4096
"""The part of a body that shows whether it is an answer or a piece of one."""


class Large:
    """Limits how many replies are large at once: otherwise a server could fill the memory with as
    many replies of the largest size as there are requests in flight.

    A reply is large from ``bytes_min`` on; smaller ones are not limited.
    """

    def __init__(self, concurrency: int) -> None:
        self.bytes_min = max(2**16, UNPACKED_BYTES // concurrency)
        self.slots = asyncio.Semaphore(LARGE_AT_ONCE)


class Arriving:
    """The reply received so far. Made when its request is sent.

    ``stream`` is set if the body is a stream; the reader must check whether it is whole. ``ttft_s``
    is the time from sending to the first token.
    """

    # Values that an ordinary reply never changes are class attributes.
    _slot = False
    _size = 0
    _plain = False
    _label = sse.EVENT_STREAM
    head: Head | None = None
    stream: Stream | None = None
    ttft_s: float | None = None

    def __init__(
        self, bytes_max: int, large: Large, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``bytes_max`` bounds the body as received, including the framing of a stream's events."""
        self._clock = clock
        self._bytes_max = bytes_max
        self._large = large
        self._started_s = clock()
        self._pieces: list[bytes] = []

    @property
    def status(self) -> int | None:
        """The status, once the head of the reply has arrived."""
        return self.head.status if self.head is not None else None

    async def read(
        self, content: aiohttp.StreamReader, head: Head, whole: bytes | None = None
    ) -> bytes:
        """See ``exchange.BodyReader``. Empty if the body is a stream."""
        self.head = head
        if whole is not None and whole[:1] == b"{" and len(whole) <= self._bytes_max:
            return self._settled(whole)  # nearly every reply arrives like this
        piece = await content.readany() if whole is None else whole
        if piece[:1] == b"{" or not 200 <= head.status < 300:
            self._plain = True
        else:
            self._label = head.headers.get("Content-Type", "")
        done = self.take(piece)
        if whole is not None:
            return self._finished()
        if not content.at_eof():
            self._expect(head.headers.get("Content-Length"))
        while not (done or content.at_eof()):
            if self._size > self._large.bytes_min and not self._slot:
                # While reading pauses, the server cannot send more, and waits too.
                await self._large.slots.acquire()
                self._slot = True
            done = self.take(await content.readany())
        if done:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DONE_GRACE_S):
                    while not content.at_eof():
                        self.take(await content.readany())
        return self._finished()

    def close(self) -> None:
        """The reply is read, or given up."""
        if self._slot:
            self._slot = False
            self._pieces = []
            self._large.slots.release()

    def take(self, piece: bytes) -> bool:
        """Take the next bytes of the body; returns whether a stream has announced its end. Raises
        ``TransportFault`` if the body is too large.
        """
        self._count(len(piece))
        return self._take(piece)

    def _take(self, piece: bytes) -> bool:
        if self._plain:
            self._pieces.append(piece)
            return False
        if self.stream is None:
            # Some servers send blank lines to keep the connection alive while the request is
            # queued.
            start = b"".join([*self._pieces, piece]).lstrip(_BLANK)
            self._pieces = [start]
            decided = sse.is_stream(start, self._label)
            self._plain = decided is False
            if not decided:
                return False
            self._pieces, piece = [], start
            from batchrun.core.stream.fold import Stream  # only streams need it

            self.stream = Stream()
        self.stream.feed(piece)
        self._look(self.stream)
        return self.stream.done

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._bytes_max:
            raise self._too_large("is larger than")

    def _expect(self, length: str | None) -> None:
        """Refuse a body with a declared length that is too large."""
        if length is not None and length.isdecimal() and int(length) > self._bytes_max:
            raise self._too_large(f"announces {int(length):,} bytes, over")

    def _too_large(self, how: str) -> TransportFault:
        message = f"the reply {how} {self._bytes_max:,} bytes"
        return TransportFault(message, kind=FaultKind.TOO_LARGE, sent=True)

    def _look(self, stream: Stream) -> None:
        if self.ttft_s is None and stream.begun:
            self.ttft_s = self._clock() - self._started_s

    def _finished(self) -> bytes:
        """The body, once it has ended; empty for a stream."""
        if self.stream is not None:
            self.stream.end()
            self._look(self.stream)
            return b""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if not self._plain and sse.is_stream(body, self._label, whole=True):
            from batchrun.core.stream.fold import fold

            self.stream = fold(body)
            return b""
        return self._settled(body)

    def _settled(self, body: bytes) -> bytes:
        """A plain body, once it has ended. One that begins with a brace can be a stream without
        field names in its lines: an event then has a delta and, if the content type is not a
        stream's either, no message before that.
        """
        message = body.find(_MESSAGE, 0, _GLANCE_BYTES)
        # A message comes early. Searching for a delta after it would scan the whole answer.
        end = _GLANCE_BYTES if message < 0 or self._is_labelled() else message
        plain = body.find(_DELTA, 0, end) < 0
        return body if plain and body[-1:] == b"}" else self._reconsidered(body)

    def _is_labelled(self) -> bool:
        assert self.head is not None
        label = self.head.headers.get("Content-Type", "").lower()
        return label.startswith(sse.EVENT_STREAM)

    def _reconsidered(self, body: bytes) -> bytes:
        from batchrun.core.stream.fast_chunk import is_chunks
        from batchrun.core.stream.fold import fold

        assert self.head is not None
        if not 200 <= self.head.status < 300:
            return body
        lines = self._is_labelled() and body.lstrip()[:1] in (b"{", b"[")
        torn = lines and reading.parse(body) is None
        if torn or is_chunks(body):
            self.stream = fold(body)
            return b""
        return body
