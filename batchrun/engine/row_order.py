"""The row that is sent next: the first of those read, or the one that is expected to take longest.

A run ends when its last row does. Where long answers start last, most of its requests are idle
meanwhile: 5,000 rows with 256 in flight take half as long again as they need to. So where lengths
are known from an earlier run, rows are read further ahead, and the longest of them goes first.

It goes first only so far: a row that ``OVERTAKEN_MAX`` later rows were read behind goes next,
whatever its length. Else the short rows of the first shards would stay to the end of the input, and
with them those shards' logs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from batchrun.engine.open_shard import Open
from batchrun.records import Request

AHEAD_ROWS = 6144
"""So many rows may be ready to be sent; the bytes of open rows are bounded as ever."""
OVERTAKEN_MAX = 2 * AHEAD_ROWS


class Lengths(Protocol):
    """Lengths of answers that an earlier run got."""

    async def known(self, requests: Sequence[Request]) -> Mapping[int, float]:
        """How long the answers to these requests were, by row, as far as they were asked before."""
        ...


class LongestFirst:
    """Rows that are ready to be sent; takes the place of a queue."""

    def __init__(self, overtaken_max: int = OVERTAKEN_MAX) -> None:
        self._overtaken_max = overtaken_max
        self._heap: list[tuple[float, int, Open]] = []
        self._line: deque[tuple[int, Open]] = deque()
        self._gone: set[int] = set()
        """Rows that were taken out of the heap or the line, and are still in the other one."""
        self._read = 0
        self._ready = 0
        self._lengths: dict[int, float] = {}
        self._sum = 0.0
        self._known = 0

    def expect(self, lengths: Mapping[int, float]) -> None:
        """These rows come next, and their answers are about so long. Others are taken for the
        average.
        """
        self._lengths.update(lengths)
        self._sum += sum(lengths.values())
        self._known += len(lengths)

    def append(self, opened: Open) -> None:
        """A row is ready to be sent."""
        length = self._lengths.pop(opened.number, None)
        if length is None:
            length = self._sum / self._known if self._known else 0.0
        self._read += 1
        self._ready += 1
        heapq.heappush(self._heap, (-length, self._read, opened))
        self._line.append((self._read, opened))

    def popleft(self) -> Open:
        """The row that is sent next."""
        while self._line[0][0] in self._gone:
            self._gone.discard(self._line.popleft()[0])
        self._ready -= 1
        if self._read - self._line[0][0] >= self._overtaken_max:
            number, opened = self._line.popleft()
        else:
            while self._heap[0][1] in self._gone:
                self._gone.discard(heapq.heappop(self._heap)[1])
            _, number, opened = heapq.heappop(self._heap)
        self._gone.add(number)
        return opened

    def clear(self) -> None:
        """Nothing more is sent."""
        self._heap.clear()
        self._line.clear()
        self._gone.clear()
        self._lengths.clear()
        self._ready = 0

    def __len__(self) -> int:
        return self._ready
