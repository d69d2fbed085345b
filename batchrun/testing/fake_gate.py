"""The fake of ``ports.Gate``: permits, a cool-down and outages on the loop's time, and no rates."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from batchrun.records import NO_USAGE, Reply, Request, Usage


class FakePermit:
    """``ports.Permit`` that records every settlement."""

    def __init__(self, gate: FakeGate, tokens: int, queue_s: float) -> None:
        self.queue_s = queue_s
        self.probe = False
        self.tokens = tokens
        self.settled: list[int | None] = []
        self._gate = gate

    def settle(self, tokens: int | None, usage: Usage = NO_USAGE) -> None:
        """See ``ports.Permit``."""
        del usage
        if not self.settled:
            self.settled.append(tokens)

    def observed(
        self, reception: object, *, sent_at_s: float, latency_s: float, tokens: int | None
    ) -> None:
        """See ``ports.Permit``. It learns nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.settle(None)
        if self.probe:
            self._gate.probing = False
        self._gate.release()


class FakeGate:
    """``ports.Gate`` with permits and a cool-down, and no rates. It remembers its permits."""

    def __init__(self, concurrency: int) -> None:
        self.held = 0
        self.held_max = 0
        self.permits: list[FakePermit] = []
        self.cool_downs: list[float | None] = []
        """The requested waits, in order."""
        self.holds: list[float] = []
        """The requested waits before a probe, in order."""
        self.heard_of: list[Reply] = []
        """The reported replies."""
        self.probing = False
        self._held_until_s: float | None = None
        self.concurrency = concurrency
        self.rpm: float | None = None
        self.tpm: float | None = None
        self._paused = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cool_until_s = 0.0
        self.changed: Callable[[], None] | None = None
        self.resized: Callable[[int], None] | None = None
        self.paced = False
        self.storm = True
        self.bound_by: str | None = None

    async def enter(self, tokens: int, request: Request | None = None) -> FakePermit:
        """See ``ports.Gate``."""
        del request
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if self._is_full:
            await self._turn()
        else:
            self._take()
        try:
            # A reply may lengthen the cool-down meanwhile.
            while (left_s := self._cool_until_s - loop.time()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(left_s)
            probe = await self._open_or_probe()
        except BaseException:
            self.release()
            raise
        permit = FakePermit(self, tokens, loop.time() - began_s)
        permit.probe = probe
        self.permits.append(permit)
        return permit

    async def _open_or_probe(self) -> bool:
        now_s = asyncio.get_running_loop().time
        while self._held_until_s is not None:
            if not self.probing and now_s() >= self._held_until_s:
                self.probing = True
                return True
            await asyncio.sleep(0.05)
        return False

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()  # it was just handed over
            raise

    def _take(self) -> None:
        self.held += 1
        self.held_max = max(self.held_max, self.held)

    def release(self) -> None:
        """A permit is free again: the first in line gets it."""
        self.held -= 1
        self._share_out()

    def _share_out(self) -> None:
        while self._waiting and not self._paused and self.held < self.concurrency:
            turn = self._waiting.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)
        self._tell()

    def window(self) -> dict[str, Any] | None:
        """See ``ports.Gate``. It searches for none."""
        return None

    @property
    def _is_full(self) -> bool:
        return bool(self._paused or self.held >= self.concurrency or self._waiting)

    def resize(self, concurrency: int) -> None:
        """See ``ports.Gate``."""
        self.concurrency = concurrency
        self._share_out()
        if self.resized is not None:
            self.resized(concurrency)

    def pause(self) -> None:
        """See ``ports.Gate``."""
        self._paused = True

    def go_on(self) -> None:
        """See ``ports.Gate``."""
        self._paused = False
        self._share_out()

    def set_rpm(self, rpm: float | None) -> None:
        """See ``ports.Gate``. It slows down nothing."""
        self.rpm = rpm

    def set_tpm(self, tpm: float | None) -> None:
        """See ``ports.Gate``. It slows down nothing."""
        self.tpm = tpm

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()

    def cool_down(self, wait_s: float | None, *, sent_at_s: float, for_all: bool = False) -> bool:
        """See ``ports.Gate``. Every refusal counts for all rows; its own wait is one second."""
        del sent_at_s, for_all
        self.cool_downs.append(wait_s)
        now_s = asyncio.get_running_loop().time()
        self._cool_until_s = max(self._cool_until_s, now_s + (1.0 if wait_s is None else wait_s))
        return True

    def heard(self, reply: Reply | None, *, sent_at_s: float) -> None:
        """See ``ports.Gate``. It slows down nothing."""
        del sent_at_s
        if reply is not None:
            self.heard_of.append(reply)

    def limits_told(self) -> list[dict[str, Any]]:
        """See ``ports.Gate``. It reads none."""
        return []

    @property
    def load(self) -> float:
        """See ``ports.Gate``."""
        return self.held / self.concurrency

    @property
    def in_flight(self) -> int:
        """See ``ports.Gate``."""
        return self.held

    @property
    def waiting(self) -> int:
        """See ``ports.Gate``. A waiter here has no permit."""
        return 0

    @property
    def ready_in_s(self) -> float:
        """See ``ports.Gate``."""
        if self._is_full or self.probing:
            return math.inf
        until_s = max(self._cool_until_s, self._held_until_s or 0.0)
        return max(0.0, until_s - asyncio.get_running_loop().time())

    @property
    def cooling_s(self) -> float:
        """Seconds until an exchange may enter."""
        return max(0.0, self._cool_until_s - asyncio.get_running_loop().time())

    def hold(self, wait_s: float) -> None:
        """See ``ports.Gate``."""
        self.holds.append(wait_s)
        self._held_until_s = asyncio.get_running_loop().time() + wait_s

    def open(self) -> None:
        """See ``ports.Gate``. All enter at once."""
        self._held_until_s = None
        self._tell()
