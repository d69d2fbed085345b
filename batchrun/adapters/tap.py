"""A stream's bytes on a short way: from the connection straight into whoever puts them together.

The long way costs more than the folding itself: aiohttp keeps every chunk of the coding as a piece
of its own, wakes the reading task for it, and asks the transport to go on after each (65 of 120 µs
for an answer of 50 chunks, see docs/adr/0014). So a tap stands between the connection's transport
and aiohttp's protocol. The head of the response goes through to the protocol. If it announces
events in the chunked coding, and no compression, the body is taken off here, and the protocol is
told of an empty one; everything else goes on as if there were no tap.

Used of ``ResponseHandler``, besides what ``exchange`` names: what asyncio calls on a protocol,
``pause_reading``, ``resume_reading`` and ``force_close``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp.client_proto import ResponseHandler

from batchrun.core.chunked import LAST, ChunkedError, Dechunker
from batchrun.errors import TransportFault

HEAD_BYTES_MAX = 2**16
DONE_GRACE_S = 1.0
"""How long a stream that has announced its end may take to end. A connection that is still open
then is closed: the answer is whole.
"""

_START = b"HTTP/1.1 200"
_LOWER_START = _START.lower()


LARGE_AT_ONCE = 4
UNPACKED_BYTES = 2**28


class Large:
    """Lets few replies be large at once: a server that answers everything with bombs would fill
    the memory with as many replies of the largest size as there are requests in flight.

    A reply is large from ``bytes_min`` on; what stays below may arrive together.
    """

    def __init__(self, concurrency: int) -> None:
        self.loop = asyncio.get_running_loop()  # asked for here: on 3.11 it is a system call
        self.bytes_min = max(2**16, UNPACKED_BYTES // concurrency)
        self.slots = asyncio.Semaphore(LARGE_AT_ONCE)


class Pipe(asyncio.Protocol):
    """What a connection's transport speaks to, in place of aiohttp's protocol: everything goes on
    to that, or to the tap while there is one. It stays for as long as the connection does.
    """

    __slots__ = ("protocol", "tap")

    def __init__(self, protocol: ResponseHandler) -> None:
        self.protocol = protocol
        self.tap: Tap | None = None

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``, like all of these."""
        if self.tap is None:
            self.protocol.data_received(data)
        else:
            self.tap.feed_data(data)

    def eof_received(self) -> None:
        """The server sends no more."""
        self.protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        tap, self.tap = self.tap, None
        if tap is not None:
            tap.feed_eof()
        self.protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The server does not read."""
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self.protocol.resume_writing()


def _pipe_of(transport: asyncio.Transport, protocol: ResponseHandler) -> Pipe:
    there = transport.get_protocol()
    if isinstance(there, Pipe):
        return there
    pipe = Pipe(protocol)
    transport.set_protocol(pipe)
    return pipe


class Tap:
    """Takes one response's body, if it is a stream. ``took_over`` says whether it does."""

    __slots__ = (
        "_dechunker",
        "_error",
        "_held",
        "_large",
        "_left",
        "_loop",
        "_over",
        "_pipe",
        "_take",
        "_timer",
        "_turn",
        "_waiter",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: ResponseHandler,
        take: Callable[[Dechunker, bytes, int], bool],
        large: Large,
    ) -> None:
        """For the next response on a connection. ``take`` gets who takes the coding off, bytes, and
        where in them the body goes on; it returns whether the stream has announced its end, and may
        raise ``ChunkedError`` and ``TransportFault``.
        """
        self._pipe = _pipe_of(transport, protocol)
        self._pipe.tap = self
        self._take = take
        self._large = large
        self._left = large.bytes_min
        self._turn: asyncio.Task[bool] | None = None
        self._loop = large.loop
        self._held = b""
        self._dechunker: Dechunker | None = None
        self._over = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def took_over(self) -> bool:
        """Whether the body comes here. Known once the response's head is."""
        return self._dechunker is not None

    async def end(self) -> None:
        """Return at the body's end, or raise what broke it off."""
        if not self._over:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """The body is read, or given up: what still comes is the protocol's."""
        self._pipe.tap = None
        turn, self._turn = self._turn, None
        if turn is not None and not turn.cancel():
            self._large.slots.release()

    def _go_on(self, _: object) -> None:
        self._pipe.protocol.resume_reading()

    def feed_data(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._dechunker is not None:
            if self._take_body(self._dechunker, data, 0):
                self._leave(LAST)
            return
        data = self._held + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 and _may_go_on(data):
            self._held = data
            return
        head = data[:end]
        if end < 4 or not _announces_stream(head):
            self._leave(data)
            return
        self._held, self._dechunker = b"", Dechunker()
        if data.endswith(LAST) and len(data) <= self._left:
            # It has probably arrived whole: then the protocol need only be asked once.
            if self._take_body(self._dechunker, data, end):
                self._leave(head + LAST)
                return
            end = len(data)
        self._pipe.protocol.data_received(head)
        if end < len(data) and self._take_body(self._dechunker, data, end):
            self._leave(LAST)

    def feed_eof(self) -> None:
        """The connection is gone."""
        if self._dechunker is None:
            self._leave(self._held)
        else:
            self._end(aiohttp.ClientPayloadError("the connection was closed within the stream"))

    def _leave(self, data: bytes) -> None:
        """Step aside and let the protocol have this."""
        self._pipe.tap = None
        if data:
            self._pipe.protocol.data_received(data)

    def _take_body(self, dechunker: Dechunker, data: bytes, at: int) -> bool:
        """Take the next bytes of the body; returns whether it is over and was understood."""
        if self._over:
            return False
        self._left -= len(data) - at
        if self._left < 0 and self._turn is None:
            # What is not read on is not sent on: the server waits too.
            self._pipe.protocol.pause_reading()
            self._turn = self._loop.create_task(self._large.slots.acquire())
            self._turn.add_done_callback(self._go_on)
        try:
            done = self._take(dechunker, data, at)
        except ChunkedError as error:
            self._end(aiohttp.ClientPayloadError(str(error)))
        except TransportFault as fault:
            self._end(fault)
        else:
            if dechunker.ended:
                if dechunker.surplus:
                    self._pipe.protocol.force_close()
                self._end(None)
                return True
            if done and self._timer is None:
                # The connection's next use would begin with the rest of this body: as the protocol
                # still waits for the body's end, the connection counts as one that is to be closed.
                self._timer = self._loop.call_later(DONE_GRACE_S, self._end, None)
        return False

    def _end(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._over:
            self._over, self._error = True, error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)


def _may_go_on(head: bytes) -> bool:
    """Whether a head without its end may still become one that announces a stream. What is no
    HTTP, or ends its lines otherwise, the parser is to see at once.
    """
    return (
        len(head) <= HEAD_BYTES_MAX and head.startswith(_START[: len(head)]) and b"\n\n" not in head
    )


def _announces_stream(head: bytes) -> bool:
    """Whether a response's head announces events in the chunked coding and nothing unusual."""
    head = head.lower()
    return (
        head.startswith(_LOWER_START)
        and head.find(b"\r\ncontent-type: text/event-stream") >= 0
        and head.find(b"\r\ntransfer-encoding: chunked\r\n") >= 0
        and head.find(b"\r\ncontent-encoding:") < 0
        and head.find(b"\r\ncontent-length:") < 0
        and head.find(b"\r\nupgrade:") < 0
    )
