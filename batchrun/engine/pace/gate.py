"""The gate: one endpoint's limits on concurrency, requests and tokens, and its cool-down.

Order: a concurrency permit first, then one at a time through a door where the cool-down, the token
budget and the request rate are waited for. The door is a fair lock, so nobody overtakes: a large
request in front is not starved by small ones behind it.

A refusal (429) can mean two things: the endpoint is used up, or one of its many backs was. The
share of recent replies that were refusals tells them apart: above ``STORM_SHARE`` everybody waits,
below only the row that was refused.

The request rate is aiolimiter's leaky bucket with a short window: a bucket of a whole minute lets
a minute's worth of requests burst against servers that enforce by the second. Tokens need more
than it offers (refunds, debts, requests above the limit), so their budget is a signed balance.

What the server tells of its limits is kept beside the user's: the tighter one counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

from batchrun.engine.pace.allowance import Allowance
from batchrun.engine.pace.server_limits import LimitsTold
from batchrun.ports import Clock

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

WINDOW_S = 0.1
"""Shortest window of the request rate. Told 12,000 per minute, a server that enforces 200 a second
rejected 3,413 of 4,000 requests with a 60 s window, 34 with 1 s and none with 0.1 s."""

GUESSED_WAIT_S = 1.0
GUESSED_WAIT_S_MAX = 60.0
SPREAD_S_MAX = 1.0

STORM_SHARE = 0.25
"""Share of refusals from which on they are everybody's: five standard deviations above the 5 % of
a server that refuses at random, and four refusals in a row away from it."""
REPLY_WEIGHT = 1 / 16
"""Weight of the newest reply in that share, which forgets exponentially."""
STORM_WAIT_S = 0.05
STORM_WAIT_S_MAX = 1.0
STORM_RELIEF = 1 / 64
"""In a storm a server tells each row when there is room for one, which is too soon for all of them:
the shortest cool-down doubles with each, between these bounds, and each success takes this share
off it. Told 10 ms, 64 rows drew 10 to 20 refusals for each answer without it."""


class EndpointPermit:
    """See ``ports.Permit``."""

    __slots__ = ("_charged", "_gate", "_settled", "_tokens", "probe", "queue_s")

    def __init__(
        self,
        gate: EndpointGate,
        tokens: int,
        charged: float,
        queue_s: float,
        probe: bool = False,  # noqa: FBT001, FBT002 - made for every exchange
    ) -> None:
        self._gate = gate
        self._tokens = tokens
        self._charged = charged
        self._settled = False
        self.queue_s = queue_s
        self.probe = probe

    def settle(self, tokens: int | None) -> None:
        """Say what the exchange cost; None: unknown, the estimate stands."""
        if not self._settled:
            self._settled = True
            self._gate.settle(self._tokens, tokens, self._charged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.settle(None)
        if self.probe:
            self._gate.probe_over()
        self._gate.release()


class Dice(Protocol):
    """A source of randomness, such as ``random.Random``."""

    def random(self) -> float:
        """A number from 0 to 1."""
        ...


class EndpointGate:
    """``ports.Gate`` for one endpoint."""

    def __init__(
        self,
        *,
        concurrency: int,
        rpm: float | None,
        tpm: float | None,
        clock: Clock,
        dice: Dice,
        host: str = "",
    ) -> None:
        """``host`` is the server's name, by which some of its headers are understood."""
        self._clock = clock
        self._dice = dice
        self._concurrency = concurrency
        self._free = concurrency
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._door = asyncio.Lock()
        self._queueing = 0  # those in front of the door and in it
        self._budget = Allowance(tpm, clock.now_s) if tpm is not None else None
        self._limiter: AsyncLimiter | None = None
        if rpm is not None:
            from aiolimiter import AsyncLimiter  # 15 ms to load, for the runs that need it

            window_s = max(WINDOW_S, 60 / rpm)
            self._limiter = AsyncLimiter(max(1.0, rpm * window_s / 60), window_s)
        self._paced = self._budget is not None or self._limiter is not None
        self.limits = LimitsTold(clock, host)
        self._pacing = self.limits.pacing
        self.heard = self.limits.heard
        """See ``ports.Gate``."""
        self.limits_told = self.limits.public
        """See ``ports.Gate``."""
        self._cool_from_s = float("-inf")
        self._cool_until_s = float("-inf")
        self._streak = 0
        # Until the first replies tell otherwise, a refusal is everybody's.
        self._refused_share = 1.0
        self._storm_wait_s = 0.0
        self._spread_left = 0
        self._spread_s = 0.0
        self._held_until_s: float | None = None
        self._probing = False
        self._reopened = asyncio.Event()
        self.waiting_for: str | None = None
        self.changed: Callable[[], None] | None = None

    async def enter(self, tokens: int) -> EndpointPermit:
        """See ``ports.Gate``."""
        now = began = self._clock.now_s()
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._permit()
            now = self._clock.now_s()
        charged = self._pacing.expected(tokens) if self._pacing.active else 0.0
        if not (
            self._paced
            or self._spread_left
            or self._queueing
            or self._held_until_s is not None
            or now < self._cool_until_s
            or (self._pacing.active and not self._pacing.try_take(charged))
        ):
            return EndpointPermit(self, tokens, charged, now - began)
        self._queueing += 1
        try:
            async with self._door:
                probe = await self._pass(tokens, charged)
        except BaseException:
            self.release()
            raise
        finally:
            self._queueing -= 1
            self.waiting_for = None
            self._tell()
        return EndpointPermit(self, tokens, charged, self._clock.now_s() - began, probe)

    async def _permit(self) -> None:
        """Wait in line for a permit; whoever gives one back hands it over."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was handed over a moment ago
            raise

    def release(self) -> None:
        """A permit is free again: the first in line gets it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        self._tell()

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()

    @property
    def in_flight(self) -> int:
        """Permits held."""
        return self._concurrency - self._free

    @property
    def load(self) -> float:
        """See ``ports.Gate``."""
        return 1 - self._free / self._concurrency

    @property
    def paced(self) -> bool:
        """See ``ports.Gate``."""
        return self._paced or self._spread_left > 0 or self._pacing.slows

    @property
    def ready_in_s(self) -> float:
        """See ``ports.Gate``."""
        if not self._free or self._waiting or self._queueing or self._probing:
            return math.inf
        until_s = self._cool_until_s
        if self._held_until_s is not None:
            until_s = max(until_s, self._held_until_s)
        return 0.0 if until_s == -math.inf else max(0.0, until_s - self._clock.now_s())

    async def _pass(self, tokens: int, charged: float) -> bool:
        """Wait for everything but the permit; returns whether this one is the probe."""
        probe = await self._open_or_probe()
        try:
            await self._paced_turn(tokens, charged)
        except BaseException:
            if probe:
                self.probe_over()
            raise
        # It may have been closed while this one waited for its turn.
        return probe or await self._open_or_probe()

    async def _open_or_probe(self) -> bool:
        while self._held_until_s is not None:
            self.waiting_for = "outage"
            left_s = self._held_until_s - self._clock.now_s()
            if not self._probing and left_s <= 0:
                self._probing = True
                return True
            self._reopened.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._probing else left_s):
                    await self._reopened.wait()
        return False

    async def _paced_turn(self, tokens: int, charged: float) -> None:
        await self._cooled()
        if self._budget is not None:
            self.waiting_for = "tpm"
            await self._budget.take(tokens)
        paced = False
        try:
            if self._limiter is not None:
                self.waiting_for = "rpm"
                await self._limiter.acquire()
            if self._pacing.active:
                self.waiting_for = "limits"
                await self._pacing.take(charged)
                paced = True
            # A reply may have throttled the endpoint while this one waited for its turn.
            await self._cooled()
            while self._spread_left:
                # All that waited would start at once: they are let out one by one instead.
                self._spread_left -= 1
                self.waiting_for = "server"
                await self._clock.sleep(self._spread_s * 2 * self._dice.random())
                if self._clock.now_s() >= self._cool_until_s:
                    break
                await self._cooled()
        except BaseException:
            if paced:
                self._pacing.give_back(charged)
            if self._budget is not None:
                self._budget.give(tokens)
            raise

    async def _cooled(self) -> None:
        while (left := self._cool_until_s - self._clock.now_s()) > 0:
            self.waiting_for = "server"
            await self._clock.sleep(left)

    def settle(self, estimate: int, tokens: int | None, charged: float = 0.0) -> None:
        """Correct an estimate, and what was charged for it, by what was really used."""
        self._refused_share *= 1 - REPLY_WEIGHT
        if tokens:
            self._streak = 0
            self._storm_wait_s -= self._storm_wait_s * STORM_RELIEF
        if tokens is not None:
            if self._budget is not None:
                self._budget.give(estimate - tokens)
            if self._pacing.active:
                self._pacing.settle(estimate, charged, tokens)

    def cool_down(self, wait_s: float | None, *, sent_at_s: float, for_all: bool = False) -> bool:
        """See ``ports.Gate``."""
        now = self._clock.now_s()
        # The refused exchange was settled a moment ago, and counted as one that was not.
        self._refused_share = min(1.0, self._refused_share + REPLY_WEIGHT)
        if not for_all and self._refused_share < STORM_SHARE:
            return False
        news = sent_at_s > self._cool_from_s
        if wait_s is not None:
            if news:
                wait_s = max(wait_s, self._storm_wait_s)
                longer_s = max(STORM_WAIT_S, 2 * self._storm_wait_s)
                self._storm_wait_s = min(STORM_WAIT_S_MAX, longer_s)
        elif not news:
            return True
        else:
            self._streak += 1
            wait_s = min(GUESSED_WAIT_S_MAX, GUESSED_WAIT_S * 2 ** (self._streak - 1))
            wait_s *= 0.5 + 0.5 * self._dice.random()
        if now + wait_s > self._cool_until_s:
            self._cool_from_s = now
            self._cool_until_s = now + wait_s
            self._spread_left = self._concurrency
            self._spread_s = min(SPREAD_S_MAX, wait_s) / self._concurrency
        return True

    def hold(self, wait_s: float) -> None:
        """See ``ports.Gate``."""
        self._held_until_s = self._clock.now_s() + wait_s
        self._reopened.set()

    def open(self) -> None:
        """See ``ports.Gate``."""
        self._held_until_s = None
        self._reopened.set()
        self._spread_left = self._concurrency
        self._spread_s = SPREAD_S_MAX / self._concurrency
        self._tell()

    def probe_over(self) -> None:
        """The probe came back, or was given up: the next one may follow."""
        self._probing = False
        self._reopened.set()
        self._tell()

    @property
    def cooling_s(self) -> float:
        """Seconds for which nobody enters."""
        return max(0.0, self._cool_until_s - self._clock.now_s())

    @property
    def bound_by(self) -> str | None:
        """What holds requests back right now: ``server``, ``outage``, ``rpm``, ``tpm``,
        ``limits`` (those the server tells), ``concurrency``, or None where nothing here does.
        """
        if self.waiting_for is not None:
            return self.waiting_for
        return "concurrency" if self._free == 0 else None
