"""Reading ahead: the synchronous reader runs in a thread, a few blocks ahead of the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable

from batchrun.adapters.sources.reader import Reader
from batchrun.errors import BatchrunError, InputLostError
from batchrun.records import Block, Span

AHEAD_BYTES = 8 * 2**20
AHEAD_BLOCKS = 2


class ReadAhead:
    """``ports.Source`` over a reader. The thread pauses when it is far enough ahead."""

    def __init__(self, reader: Reader, *, limit: int | None) -> None:
        self._reader = reader
        self._limit = limit

    async def blocks(self, spans: Iterable[Span]) -> AsyncIterator[Block]:
        """See ``ports.Source``."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Block | BaseException | None] = asyncio.Queue()
        room = threading.Condition()
        held: list[int] = []  # sizes of the blocks in the queue
        closed = False

        def put(item: Block | BaseException | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def read() -> None:
            try:
                for block in self._reader.blocks(spans, limit=self._limit):
                    with room:
                        while (
                            held
                            and not closed
                            and (len(held) >= AHEAD_BLOCKS or sum(held) >= AHEAD_BYTES)
                        ):
                            room.wait()
                        if closed:
                            return
                        held.append(block.size_bytes)
                    put(block)
                put(None)
            except BaseException as error:  # noqa: BLE001 - it is raised in the engine instead
                if not closed:
                    put(error)

        thread = threading.Thread(target=read, name="source", daemon=True)
        thread.start()
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BatchrunError):
                    raise item
                if isinstance(item, BaseException):
                    message = f"the input cannot be read on: {type(item).__name__}: {item}"
                    raise InputLostError(message) from item
                with room:
                    held.pop(0)
                    room.notify()
                yield item
        finally:
            with room:
                closed = True
                room.notify()
