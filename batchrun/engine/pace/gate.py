"""The gate: one endpoint's limits on concurrency, requests and tokens, and its cool-down.

Order: a concurrency permit first, then one at a time through a door where the cool-down, the token
budget and the request rate are waited for. The door is a fair lock, so nobody overtakes: a large
request in front is not starved by small ones behind it.

The cool-down after refusals (``cool_down.py``) and the hold with its probes while the endpoint is
down (``probing.py``) are state machines of their own; the gate keeps rows waiting by them.

The request rate is aiolimiter's leaky bucket with a short window: a bucket of a whole minute lets
a minute's worth of requests burst against servers that enforce by the second. Tokens need more
than it offers (refunds, debts, requests above the limit), so their budget is a signed balance.

What the server tells of its limits is kept beside the user's: the tighter one counts. Where it
tells none, its refusals do (``rounds.py``). What a request costs in tokens is reckoned in
``token_costs.py``. The number of permits is either given, or found by watching what the server
delivers (``climb.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

from batchrun.core.reply.server_load import Load
from batchrun.core.settings.charge import Charge
from batchrun.engine.pace.climb import Climb
from batchrun.engine.pace.cool_down import SPREAD_S_MAX, CoolDown
from batchrun.engine.pace.probing import Probing
from batchrun.engine.pace.reported_load import IN_USE_MIN, ReportedLoad
from batchrun.engine.pace.rounds import Pace, Rounds, Turn
from batchrun.engine.pace.server_limits import LimitsTold
from batchrun.engine.pace.token_budget import TokenBudget
from batchrun.engine.pace.token_costs import Asked, TokenCosts
from batchrun.ports import Clock
from batchrun.records import NO_USAGE, Reception, Request, Usage

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

POLL_S = 0.05
"""How often a request that waits for others to come back looks whether they have."""
WINDOW_S = 0.1
"""Shortest window of the request rate. Told 12,000 per minute, a server that enforces 200 a second
rejected 3,413 of 4,000 requests with a 60 s window, 34 with 1 s and none with 0.1 s."""

UNBOUND = 1e12
"""Tokens per minute for those who wait by a limit that was lifted."""


_ANSWERED = Reception.ANSWERED  # a name of the module is found sooner


class EndpointPermit:
    """See ``ports.Permit``."""

    __slots__ = ("_asked", "_gate", "_settled", "_turn", "probe", "queue_s")

    def __init__(
        self,
        gate: EndpointGate,
        asked: Asked | None,
        queue_s: float,
        turn: Turn | None,
        probe: bool = False,  # noqa: FBT001, FBT002 - made for every exchange
    ) -> None:
        self._gate = gate
        self._asked = asked
        self._settled = False
        self.queue_s = queue_s
        self.probe = probe
        self._turn = turn

    def observed(
        self, reception: Reception, *, sent_at_s: float, latency_s: float, tokens: int | None
    ) -> None:
        """See ``ports.Permit``."""
        turn, self._turn = self._turn, None
        if self._gate.climb is not None:
            self._gate.observed(reception, sent_at_s, latency_s, tokens)
        if turn is not None:
            self._gate.came_back(reception, turn)

    def settle(self, tokens: int | None, usage: Usage = NO_USAGE) -> None:
        """See ``ports.Permit``."""
        if not self._settled:
            self._settled = True
            self._gate.settle(self._asked, tokens, usage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._settled:
            self.settle(None)
        if self.probe:
            self._gate.probe_over()
        if self._turn is not None:
            self._gate.gave_up(self._turn)
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
        charge: Charge | None = None,
        say: Callable[[str], None] = lambda _: None,
        bounds: tuple[int, int] | None = None,
        bound_notice: str | None = None,
    ) -> None:
        """``host`` is the server's name, by which some of its headers are understood; ``charge``
        how it charges tokens, None where that is to be learned; ``say`` gets notices for the user.
        ``bounds`` are those of the concurrency, where it may change; ``concurrency`` is then the
        first, and ``bound_notice`` what the user is told once it has reached the upper one.
        """
        self._clock = clock
        self._dice = dice
        self.concurrency = concurrency
        self._permits = self._free = concurrency
        """Permits that are given out, none during a pause; and those that nobody holds, below 0
        where more are held than there are by now.
        """
        self._pauses: set[str] = set()  # what for
        self._paused = False
        self._rate_passed_s = self._rate_from_s = -math.inf  # the last turn, and not before when
        self._withheld = False  # no permit is given out, and those that were may be used
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._door = asyncio.Lock()
        self._queueing = 0  # those in front of the door and in it, who hold permits but are not out
        self.rpm, self.tpm = rpm, tpm
        self._say = say
        self._costs = TokenCosts(clock.now_s, charge, say)
        self._budget = None if tpm is None else TokenBudget(tpm, clock.now_s)
        self._limiter = None if rpm is None else _limiter(rpm)
        self._rate_wait: asyncio.Timeout | None = None  # of the one in the door
        self._paced = self._budget is not None or self._limiter is not None
        self.limits = LimitsTold(clock, self._costs, host)
        self._pacing = self.limits.pacing
        self.heard = self.limits.heard
        """See ``ports.Gate``."""
        self.limits_told = self.limits.public
        """See ``ports.Gate``."""
        self._cooling = CoolDown(concurrency)
        self._probing = Probing()
        self._calm = not self._paced
        """Whether a permit is all that there is to wait for, as far as is known."""
        self._reopened = asyncio.Event()
        self.waiting_for: str | None = None
        self.changed: Callable[[], None] | None = None
        self.resized: Callable[[int], None] | None = None
        """See ``ports.Gate``."""
        self.climb = None if bounds is None else Climb(concurrency, *bounds)
        """What finds the concurrency; None where it is given."""
        self.window_found: int | None = None if self.climb is None else self.climb.window
        """The window that the climb would have, or that others have told."""
        self._together = False
        self._resting: Climb | None = None
        self._share: int | None = None
        self.load_reported = ReportedLoad()
        """What the server's own figures say of its load, where it is asked for them."""
        self.rounds: Rounds | None = Rounds()
        """What finds the rate; None once the server has told one."""
        self._refusals = False  # whether the rounds saw any
        self._bound_notice, self._told_settled = bound_notice, False
        if self.climb is not None:
            self._set_permits(self.climb.window)

    async def enter(self, tokens: int, request: Request | None = None) -> EndpointPermit:
        """See ``ports.Gate``."""
        now = began = self._clock.now_s()
        if self._free > 0 and not self._waiting:
            self._free -= 1
        else:
            await self._permit()
            now = self._clock.now_s()
        asked = self._costs.of(tokens, request) if self._pacing.active else None
        if (
            self._calm
            and not self._queueing
            and (asked is None or self._pacing.try_take(asked.cost))
        ):
            if asked is not None:
                self._costs.passed(waited=False)
            rounds = self.rounds
            turn = None if rounds is None else rounds.sent(now, self._permits - self._free)
            return EndpointPermit(self, asked, now - began, turn)
        self._queueing += 1
        try:
            async with self._door:
                if self._budget is not None or self._pacing.active:
                    asked = self._costs.of(tokens, request)  # by what was learned meanwhile
                probe = await self._pass(asked)
        except BaseException:
            self.release()
            raise
        finally:
            self._queueing -= 1
            self.waiting_for = None
            self._look_whether_calm()
            self._tell()
        now, rounds = self._clock.now_s(), self.rounds
        turn = None if rounds is None else rounds.sent(now, self._out)
        return EndpointPermit(self, asked, now - began, turn, probe)

    async def _permit(self) -> None:
        """Wait in line for a permit; a returned permit goes to the next in line."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was handed over a moment ago
            raise

    def release(self) -> None:
        """A permit is free again: the first in line gets it, unless it is withheld."""
        self._free += 1
        if self._waiting or self.changed is not None:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the permits that are free to those in line."""
        while self._waiting and self._free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
        if self._free > 0:
            self._tell()

    # Changes by ``batchrun ctl``

    def resize(self, concurrency: int) -> None:
        """See ``ports.Gate``."""
        if self.climb is not None:
            self.climb.bounds(concurrency, concurrency)
        self._set_permits(concurrency)

    def pause(self) -> None:
        """See ``ports.Gate``."""
        self._pause_for("ctl", paused=True)

    def go_on(self) -> None:
        """See ``ports.Gate``."""
        self._pause_for("ctl", paused=False)

    def _pause_for(self, reason: str, *, paused: bool) -> None:
        """It is paused for as long as there is a reason."""
        held = self.in_flight
        (self._pauses.add if paused else self._pauses.discard)(reason)
        self._paused = bool(self._pauses)
        self._reopened.set()
        self._share_out(held)

    def confine(self, kind: str, most: float, *, admitted: bool = False) -> None:
        """Keep ``concurrency``, ``rpm`` or ``tpm`` at or below ``most`` from now on, which is this
        process's share of what several have together. At 0 nothing is sent, but for requests that
        hold a permit by now if those are ``admitted``; an infinite rate is none.
        """
        if kind == "concurrency":
            self._withheld = admitted and most <= 0
        if most > 0:
            if kind == "rpm":
                self.set_rpm(None if math.isinf(most) else most)
            elif kind == "tpm":
                self.set_tpm(None if math.isinf(most) else most)
            else:
                self._confine_permits(int(most))
        self._pause_for(kind, paused=most <= 0 and not admitted)

    def _confine_permits(self, most: int) -> None:
        self._share = most
        climb = self.climb or self._resting
        if climb is None:
            self._set_permits(most)
        else:
            climb.bounds(min(climb.low, most), most)
            self._set_permits(min(self.window_found or climb.window, most))

    def fix_window(self) -> None:
        """From now on the concurrency is what ``confine`` says, and no climb looks for another."""
        self.climb = self._resting = self.window_found = None
        if self._share is not None:
            self._set_permits(self._share)

    # One climb for several processes

    def climb_together(self) -> None:
        """From now on the window moves by ``adopt`` alone, and what the climb finds is only told
        in ``window_found``.
        """
        self._together = True

    def adopt(self, window: int, *, leads: bool) -> None:
        """Every process has so many requests in flight from now on; ``leads`` says whether this
        one's climb is to find the next window.
        """
        climb = self.climb or self._resting
        if climb is None:
            return
        if leads:
            if climb.window != window:
                low, high = climb.low, climb.high
                climb = Climb(window, low, high)
            climb.began()
            self.climb, self._resting = climb, None
        else:
            self.climb, self._resting = None, climb
        self.window_found = window
        self._set_permits(window if self._share is None else min(window, self._share))

    @property
    def pace(self) -> float | None:
        """Requests a second that the server's refusals came to; None where there were none."""
        return None if self.rounds is None else self.rounds.pace

    def level(self, pace: float) -> None:
        """Other processes found this pace at the same server."""
        if self.rounds is not None:
            self.rounds.level(pace)

    def _set_permits(self, concurrency: int) -> None:
        """Change the number of permits to ``concurrency``."""
        held = self.in_flight
        self.concurrency = self._cooling.concurrency = concurrency
        self._share_out(held)
        if self.resized is not None:
            self.resized(concurrency)

    def _share_out(self, held: int) -> None:
        """Give the permits that are not among the ``held`` ones to waiting requests."""
        self._permits = 0 if self._paused or self._withheld else self.concurrency
        self._free = self._permits - held
        self._hand_over()

    def set_rpm(self, rpm: float | None) -> None:
        """See ``ports.Gate``."""
        self.rpm = rpm
        self._limiter = None if rpm is None else _limiter(rpm)
        # A new limiter begins full. Where several processes share a low rate, whose parts change
        # every few seconds, each change would let one more request through.
        self._rate_from_s = -math.inf if rpm is None else self._rate_passed_s + 60 / rpm
        if self._rate_wait is not None:
            self._rate_wait.reschedule(asyncio.get_running_loop().time())
            self._rate_wait = None
        self._rates_changed()

    def set_tpm(self, tpm: float | None) -> None:
        """See ``ports.Gate``."""
        self.tpm = tpm
        budget = self._budget
        if budget is not None:
            budget.set_per_min(UNBOUND if tpm is None else tpm)
        if tpm is None:
            self._budget = None
        elif budget is None:
            self._budget = TokenBudget(tpm, self._clock.now_s)
        self._rates_changed()

    def _rates_changed(self) -> None:
        self._paced = self._budget is not None or self._limiter is not None
        self._look_whether_calm()
        self._tell()

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()

    @property
    def in_flight(self) -> int:
        """Permits held."""
        return self._permits - self._free

    @property
    def waiting(self) -> int:
        """See ``ports.Gate``."""
        return self._queueing

    @property
    def _out(self) -> int:
        """Requests that were sent: those that queue at the door hold a permit, too."""
        return self._permits - self._free - self._queueing

    @property
    def load(self) -> float:
        """See ``ports.Gate``."""
        return self.in_flight / self.concurrency

    @property
    def paced(self) -> bool:
        """See ``ports.Gate``."""
        return self._paced or self._cooling.spread_left > 0 or self._pacing.slows

    @property
    def ready_in_s(self) -> float:
        """See ``ports.Gate``."""
        if self._free <= 0 or self._waiting or self._queueing or self._probing.out:
            return math.inf
        until_s = max(self._cooling.until_s, self._probing.next_s)
        return 0.0 if until_s == -math.inf else max(0.0, until_s - self._clock.now_s())

    def _look_whether_calm(self) -> None:
        """See whether cool-down, spread and hold are over."""
        self._calm = (
            not self._paced
            and not self._probing.held
            and not self._cooling.spread_left
            and self._cooling.until_s <= self._clock.now_s()
            and (self.rounds is None or self.rounds.state is Pace.FREE)
        )

    async def _pass(self, asked: Asked | None) -> bool:
        """Wait for everything but the permit; returns whether this one is the probe."""
        probe = await self._open_or_probe()
        try:
            await self._paced_turn(asked)
        except BaseException:
            if probe:
                self.probe_over()
            raise
        # It may have been closed while this one waited for its turn.
        return probe or await self._open_or_probe()

    async def _open_or_probe(self) -> bool:
        while self._paused or self._probing.held:
            if self._paused:
                self._reopened.clear()
                await self._reopened.wait()
                continue
            self.waiting_for = "outage"
            now_s = self._clock.now_s()
            if self._probing.try_probe(now_s):
                return True
            self._reopened.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._probing.left_s(now_s)):
                    await self._reopened.wait()
        return False

    async def _paced_turn(self, asked: Asked | None) -> None:
        await self._cooled()
        budget, waited = self._budget if asked is not None else None, False
        if budget is not None and asked is not None:
            self.waiting_for = "tpm"
            waited = not budget.try_take(asked.cost.total)
            if waited:
                await budget.take(asked.cost.total)
        paced = False
        try:
            if self._limiter is not None:
                self.waiting_for = "rpm"
                await self._rate_turn()
            if asked is not None and self._pacing.active:
                self.waiting_for = "limits"
                if not self._pacing.try_take(asked.cost):
                    waited = waited or self._pacing.short_of_tokens
                    await self._pacing.take(asked.cost)
                paced = True
            # A reply may have throttled the endpoint while this one waited for its turn.
            await self._cooled()
            await self._in_rounds()
            while self._cooling.spread_left:
                # All that waited would start at once: they are let out one by one instead.
                self.waiting_for = "server"
                await self._clock.sleep(self._cooling.next_turn_s(self._dice.random()))
                if self._clock.now_s() >= self._cooling.until_s:
                    break
                await self._cooled()
        except BaseException:
            if asked is not None and paced:
                self._pacing.give_back(asked.cost)
            if asked is not None and budget is not None:
                budget.give(asked.cost.total)
            raise
        if asked is not None:
            self._costs.passed(waited=waited)

    async def _rate_turn(self) -> None:
        """Wait by the request rate; where it changes meanwhile, by the new one."""
        while (limiter := self._limiter) is not None:
            try:
                async with asyncio.timeout(None) as self._rate_wait:
                    if (left_s := self._rate_from_s - self._clock.now_s()) > 0:
                        await self._clock.sleep(left_s)
                    await limiter.acquire()
                    self._rate_passed_s = self._clock.now_s()
                    return
            except TimeoutError:
                continue  # the rate changed
            finally:
                self._rate_wait = None

    async def _in_rounds(self) -> None:
        """Wait for the pace that the server's refusals came to."""
        while (rounds := self.rounds) is not None and not self._pacing.slows:
            now_s = self._clock.now_s()
            left_s = rounds.ready_at(now_s) - now_s
            if left_s <= 0:
                return
            self.waiting_for = "server"
            await self._clock.sleep(min(left_s, POLL_S))

    def gave_up(self, turn: Turn) -> None:
        """Nobody knows what became of a request in the rounds."""
        if self.rounds is not None:
            self.rounds.gone(turn, self._clock.now_s())

    def observed(
        self, reception: Reception, sent_at_s: float, latency_s: float, tokens: int | None
    ) -> None:
        """Have the climb see what became of a request, which still holds its permit."""
        climb = self.climb
        assert climb is not None
        if reception is _ANSWERED:
            now_s = self._clock.now_s()
            if climb.answered(sent_at_s, now_s, latency_s, tokens, self._out):
                self._climbed(climb)
        elif reception is Reception.OVERLOADED and climb.overloaded(sent_at_s, self._clock.now_s()):
            self._climbed(climb)

    def reported(self, load: Load | None) -> None:
        """The server's own figures for its load; None where it gave none when it was asked."""
        climb = self.climb
        if climb is None:
            return
        out = self._out
        advice = self.load_reported.heard(load, out)
        if (
            advice is not None
            and out >= IN_USE_MIN * climb.window
            and climb.hurried(advice, self._clock.now_s())
        ):
            self.load_reported.moved()
            self._climbed(climb)

    def _climbed(self, climb: Climb) -> None:
        """The climb has moved the window."""
        self.window_found = climb.window
        if self._together:
            # It is the window of others, too: until all have it, there is nothing to judge.
            self.climb, self._resting = None, climb
            return
        self._set_permits(climb.window)
        if self._bound_notice is not None and climb.window >= climb.high:
            self._say(self._bound_notice)
            self._bound_notice = None
        if climb.settled and not self._told_settled:
            self._told_settled = True
            self._say(
                f"the server slows down under load: --concurrency auto settled at "
                f"{climb.window:,}; with more requests in flight, answers took longer and no more "
                "of them came in a second"
            )

    def came_back(self, reception: Reception, turn: Turn) -> None:
        """Have the rounds judge what the server took, and what it refused."""
        if self._pacing.active and self._pacing.slows:
            self.rounds = None  # the server tells its limits
        rounds = self.rounds
        if rounds is None:
            return
        now_s = self._clock.now_s()
        if reception is not _ANSWERED and reception.refused:
            self._refusals = True
            rounds.refused(turn, now_s, at_once=reception is Reception.REFUSED_AT_ONCE)
        else:
            rounds.accepted(turn, now_s)
            if not self._refusals:
                return
        window, rounds.window = rounds.window, None
        if window is not None:
            self._bounded_by_server(window)
        self._calm = self._calm and rounds.state is Pace.FREE

    def _bounded_by_server(self, window: int) -> None:
        """The server accepts at most ``window`` requests at once."""
        if self.climb is not None:
            self.climb.limit(window, "the server refuses more in flight")
            window = self.climb.window
        if window < self.concurrency:
            self._set_permits(window)

    async def _cooled(self) -> None:
        while (left := self._cooling.left_s(self._clock.now_s())) > 0:
            self.waiting_for = "server"
            await self._clock.sleep(left)

    def settle(self, asked: Asked | None, tokens: int | None, usage: Usage = NO_USAGE) -> None:
        """Correct what was charged by what was really used."""
        if self._cooling.restless:
            self._cooling.replied(answered=bool(tokens))
        if asked is not None and tokens is not None:
            real = self._costs.settled(asked, tokens, usage)
            if self._budget is not None:
                self._budget.give(asked.cost.total - real.total)
            if self._pacing.active:
                self._pacing.settle(asked.cost, real)

    @property
    def storm(self) -> bool:
        """See ``ports.Gate``."""
        return self._cooling.storm

    def cool_down(self, wait_s: float | None, *, sent_at_s: float, for_all: bool = False) -> bool:
        """See ``ports.Gate``."""
        if self.rounds is not None and self._refusals and wait_s is None and not for_all:
            # They say when the next may go; the refused row waits by itself.
            return self._cooling.counted()
        everybody = self._cooling.refused(
            wait_s,
            sent_at_s=sent_at_s,
            now_s=self._clock.now_s(),
            dice=self._dice.random() if wait_s is None else 0.0,
            for_all=for_all,
        )
        self._calm = self._calm and not everybody
        if self._budget is not None:
            self._budget.emptied()
        return everybody

    def hold(self, wait_s: float) -> None:
        """See ``ports.Gate``."""
        self._calm = False
        self._probing.hold(self._clock.now_s() + wait_s)
        self._reopened.set()

    def open(self) -> None:
        """See ``ports.Gate``."""
        self._probing.open()
        self._reopened.set()
        self._cooling.spread(SPREAD_S_MAX)
        self._calm = False
        self._tell()

    def probe_over(self) -> None:
        """The probe came back, or was given up: the next one may follow."""
        self._probing.over()
        self._reopened.set()
        self._tell()

    @property
    def cooling_s(self) -> float:
        """Seconds until requests may enter again."""
        return self._cooling.left_s(self._clock.now_s())

    @property
    def bound_by(self) -> str | None:
        """What holds requests back right now: ``pause``, ``server``, ``outage``, ``rpm``, ``tpm``,
        ``limits`` (those the server tells), ``concurrency``, or None where nothing here does.
        """
        if self._paused:
            return "pause" if "ctl" in self._pauses else min(self._pauses)
        if self.waiting_for is not None:
            return self.waiting_for
        return "concurrency" if self._free <= 0 else None

    def window(self) -> dict[str, Any] | None:
        """See ``ports.Gate``."""
        climb, rounds = self.climb, self.rounds
        if climb is None and (rounds is None or not self._refusals):
            return None
        load = self.load_reported.latest
        rate = None if climb is None or climb.goodput is None else climb.goodput
        tokens = None if rate is None or rate.tokens is None else rate.tokens.per_s
        return {
            "concurrency": self.concurrency,
            "low": self.concurrency if climb is None else climb.low,
            "high": self.concurrency if climb is None else climb.high,
            "state": "fixed" if climb is None else climb.state.value,
            "why": None if climb is None else climb.why,
            "rows_per_s": None if rate is None else rate.rows.per_s,
            "tokens_per_s": tokens,
            "cuts": 0 if climb is None else climb.cuts,
            "pace_state": None if rounds is None or not self._refusals else rounds.state.value,
            "pace_per_s": None if rounds is None else rounds.pace,
            "server_running": None if load is None else load.running,
            "server_waiting": None if load is None else load.waiting,
        }


def _limiter(rpm: float) -> AsyncLimiter:
    from aiolimiter import AsyncLimiter  # 15 ms to load, for the runs that need it

    window_s = max(WINDOW_S, 60 / rpm)
    return AsyncLimiter(max(1.0, rpm * window_s / 60), window_s)
