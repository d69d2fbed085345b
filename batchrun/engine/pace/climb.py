"""How many requests an endpoint gets at once, found by watching what it delivers.

Latency alone tells nothing: a server that batches answers each request more slowly with every one
that it takes in, and delivers more all the same. So the climb compares *goodput*, which Little's
law gives without waiting for totals: requests in flight, divided by how long one takes (or, in
tokens, by how long a token takes). It is taken from requests that began after the window was last
changed, since others still tell of the window before.

The window doubles while that pays. Then it is held, and probed in both directions: upwards it has
to gain, downwards it may not lose, so that what adds nothing is taken back. Overload alone cuts it.

It has no clock of its own: whoever uses it passes the time.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from batchrun.engine.pace.reported_load import Advice, Hint

EPOCH_MIN, EPOCH_MAX = 32, 256
"""Bounds of the replies that a judgement takes; between them it is one for each request in flight.
"""
EPOCH_S_MIN = 0.5
EPOCHS_MAX = 4
"""So many epochs' worth of replies are gathered at most, where fewer leave a doubt."""
IN_USE_MIN = 0.8
"""A window of which less is in use tells nothing: something else holds requests back."""
GROWTH_MIN, GROWTH_SURE, HALVED_MAX = 0.05, 0.10, 0.08
"""What doubling the window has to gain (the first where there are replies enough to tell that from
chance, the second in any case), and halving it may lose.
"""
STEPS = (1.25, 1.12)
"""What a probe multiplies or divides the window by; the smaller one where neither direction paid
with the larger.
"""
GAIN_MIN, GAIN_SURE = 0.015, 0.03
"""What a probe upwards has to gain, and one downwards may lose: the first where there are replies
enough to tell that from chance, the second in any case.
"""
DOUBT, SURE = 2.0, 3.0
"""Standard deviations within which a gain may be chance, and beyond which it is none."""
GROWTH_FULL = 0.25
"""A doubling that gained less went too far, most likely: the next probe is downwards."""
CONDEMNED = 0.1
"""A loss beyond what is allowed that ends a trial before its epoch."""
SCATTER_MIN = 0.02
"""Replies are taken to differ by at least the root of this: those that stood in one queue have
nearly the same latency, and a common share of chance.
"""
STUCK_SHARE, OVERTAKEN = 0.25, 2
"""Requests are stuck if more than this share of those in flight are still out, although more than
this many times as many that began later came back: a server with few HTTP threads does not read
its other connections.
"""
CHANGED = 0.15
"""A goodput that differs by more, at the same window, is that of another capacity."""
CUT = 0.8
"""The next probe leads back to where it was."""
OVERLOADED_MIN, OVERLOADED_SHARE = 2, 0.1
"""Overload counts where it is so many requests of an epoch, and such a share of them."""
BOTH = 2
HOLD_FIRST, HOLD_MAX = 2, 16
"""Epochs between two probes: twice as many after each that does not pay."""


class State(StrEnum):
    """What the climb is trying."""

    DOUBLING = "doubling"
    HALVING = "halving"
    HOLDING = "holding"
    PROBING_UP = "probing_up"
    PROBING_DOWN = "probing_down"


class Rate(NamedTuple):
    """What is delivered in a second, and the square of its relative standard error."""

    per_s: float
    variance: float


class Goodput(NamedTuple):
    """What a window delivers; ``tokens`` is None where replies did not say how many they have.
    ``counted`` are the replies that came, where others are stuck, and ``rows`` is the same then.
    """

    rows: Rate
    tokens: Rate | None
    counted: Rate
    stuck: bool


class Gain(NamedTuple):
    """How much more is delivered than before, as a share, and its standard error."""

    share: float
    error: float

    def is_near(self, threshold: float) -> bool:
        """Whether chance decides on which side of the threshold it is."""
        return abs(self.share - threshold) < DOUBT * self.error


def gain(now: Goodput, before: Goodput) -> Gain:
    """Compare two windows, in tokens or rows: by the one that scatters less."""
    one, other = now.rows, before.rows
    tokens, tokens_before = now.tokens, before.tokens
    if now.stuck or before.stuck:
        one, other = now.counted, before.counted
    elif (
        tokens is not None
        and tokens_before is not None
        and tokens.variance + tokens_before.variance < one.variance + other.variance
    ):
        one, other = tokens, tokens_before
    ratio = one.per_s / other.per_s
    return Gain(ratio - 1, ratio * math.sqrt(one.variance + other.variance))


class Epoch:
    """Sums over the replies to requests that began at ``from_s`` or later.

    After a move that is the time of the next reply: those that go out at once when a window opens
    find a queue shorter than the one they leave behind them, and would praise any window.

    ``before`` requests were in flight at that time; ``late`` of them have come back since.
    """

    __slots__ = (
        "before",
        "both",
        "first_s",
        "from_s",
        "in_flight",
        "late",
        "latency",
        "latency2",
        "overloaded",
        "replies",
        "tokens",
        "tokens2",
        "untold",
    )

    def __init__(self, from_s: float = math.inf, before: int = 0) -> None:
        self.from_s = from_s
        self.before, self.late = before, 0
        self.first_s = math.inf
        self.replies = self.overloaded = self.untold = self.in_flight = 0
        self.latency = self.latency2 = self.tokens = self.tokens2 = self.both = 0.0

    def missed(self, now_s: float, in_flight: int, window: int) -> None:
        """A request that began before this epoch came back, one of ``in_flight``. The first that
        leaves room in the window begins the epoch.
        """
        if self.from_s < math.inf:
            self.late += 1
        elif in_flight <= window:
            self.from_s, self.before = now_s, in_flight - 1

    @property
    def stuck(self) -> bool:
        """Whether the server lets some requests overtake all others. If so, its replies do not tell
        how long a request takes.
        """
        out = self.before - self.late
        return out > STUCK_SHARE * self.before and self.replies > OVERTAKEN * self.late

    def goodput(self, now_s: float) -> Goodput | None:
        """What was delivered, by Little's law unless requests are stuck; None where there is
        nothing to tell it by.
        """
        n = self.replies
        if not n or self.latency <= 0:
            return None
        at_once = self.in_flight / n
        latency = self.latency / n
        scatter = self.latency2 / n / latency**2 - 1
        rows = Rate(at_once / latency, max(SCATTER_MIN, scatter) / n)
        came, for_s = n + self.late, max(now_s - self.from_s, EPOCH_S_MIN)
        counted, stuck = Rate(came / for_s, max(SCATTER_MIN, scatter) / came), self.stuck
        if stuck:
            rows = counted
        if self.untold or not self.tokens:
            return Goodput(rows, None, counted, stuck)
        tokens = self.tokens / n
        together = self.both / n / (tokens * latency) - 1
        ratio = scatter + self.tokens2 / n / tokens**2 - 1 - 2 * together
        told = Rate(rows.per_s * tokens, max(SCATTER_MIN, ratio) / n)
        return Goodput(rows, told, counted, stuck)


class Climb:
    """A state machine: replies come in, ``window`` says how many requests may be in flight."""

    def __init__(self, first: int, low: int, high: int) -> None:
        """It starts at ``first`` and stays within ``low`` and ``high``."""
        self.low, self.high = low, high
        self.window = self._good = max(low, min(first, high))
        self.state = State.DOUBLING
        self.why = "the first window"
        """What the last change was for, in a few words."""
        self.goodput: Goodput | None = None
        """What the server delivered when it was last judged."""
        self.cuts = 0
        self._base: Goodput | None = None  # at the window ``_good``
        self._grew = False
        self._hold = self._left = HOLD_FIRST
        self._up_next = True
        self._failed = 0  # probes in a row that did not pay
        self._excused = False
        self._ahead = False  # whether a window was doubled without being judged
        self._now_s = -math.inf
        self._epoch = Epoch()
        self._judge_at = self._needed

    @property
    def settled(self) -> bool:
        """Whether a larger window and a smaller one were both tried, and neither paid: the server
        can do no more than this.
        """
        return self.state is State.HOLDING and self._failed >= BOTH and self.window < self.high

    @property
    def _needed(self) -> int:
        return max(EPOCH_MIN, min(self.window, EPOCH_MAX))

    def answered(
        self, sent_at_s: float, now_s: float, latency_s: float, tokens: int | None, in_flight: int
    ) -> bool:
        """A request was answered, with so many tokens if that was told; ``in_flight`` counts it
        too. Returns whether ``window`` may have changed.
        """
        epoch = self._epoch
        if sent_at_s < epoch.from_s:
            epoch.missed(now_s, in_flight, self.window)
            return False
        epoch.first_s = min(epoch.first_s, sent_at_s)
        epoch.replies += 1
        epoch.in_flight += in_flight
        epoch.latency += latency_s
        epoch.latency2 += latency_s * latency_s
        if tokens:
            epoch.tokens += tokens
            epoch.tokens2 += tokens * tokens
            epoch.both += tokens * latency_s
        else:
            epoch.untold += 1
        if epoch.replies + epoch.overloaded < self._judge_at:
            return False
        return self._judge(now_s)

    def overloaded(self, sent_at_s: float, now_s: float) -> bool:
        """A request failed because the server had too much to do. Returns as ``answered``."""
        epoch = self._epoch
        if sent_at_s < epoch.from_s:
            epoch.missed(now_s, self.window, self.window)
            return False
        epoch.first_s = min(epoch.first_s, sent_at_s)
        epoch.overloaded += 1
        if epoch.replies + epoch.overloaded < self._judge_at:
            return False
        return self._judge(now_s)

    def limit(self, high: int, why: str) -> None:
        """The server takes no more than so many at once."""
        self.high = max(self.low, high)
        if self.window > self.high:
            self._hold = 1
            self._hold_at(self.high, why)
            self._base = None

    def bounds(self, low: int, high: int) -> None:
        """Stay within these bounds from now on."""
        self.low, self.high = low, high
        inside = max(low, min(self.window, high))
        if inside != self.window:
            self._hold = 1
            self._hold_at(inside, "the bounds were changed")
            self._base = None

    def began(self) -> None:
        """The window that it moved to is in force now, and was not before."""
        self._move(self.window, self.why)

    def hurried(self, advice: Advice, now_s: float) -> bool:
        """The server's own figures show whether it has room or a queue. That moves the window
        before replies can tell; they judge the move all the same. Returns as ``answered``.
        """
        self._now_s = now_s
        before = self.window
        if advice.hint is Hint.QUEUE:
            self._spare(advice.window)
        elif self.state is State.DOUBLING and self._grew and not self._ahead and before < self.high:
            self._ahead = True
            self._move(2 * before, "the server has no queue: twice as many may pay")
        return self.window != before

    def _spare(self, window: int) -> None:
        """A queue stands at the server, which runs so many requests: send no more than that."""
        window = max(self.low, window)
        if window >= self.window or self.state is State.HALVING:
            return
        self._hold, self._up_next, self._failed, self._base = 1, True, 0, None
        self._hold_at(window, "the server has a queue")

    # Judging

    def _judge(self, now_s: float) -> bool:
        self._now_s = now_s
        epoch = self._epoch
        if now_s - epoch.first_s < EPOCH_S_MIN:
            return False
        seen = epoch.replies + epoch.overloaded
        if epoch.overloaded >= OVERLOADED_MIN and epoch.overloaded >= OVERLOADED_SHARE * seen:
            return self._overload()
        now = epoch.goodput(now_s)
        if now is None or epoch.in_flight < IN_USE_MIN * self.window * epoch.replies:
            self._begin()
            return False
        if seen < self._needed and not self._has_failed(now):
            self._judge_at = self._needed
            return False
        self._excused = False
        self.goodput = now
        before = self.window
        _STEPS[self.state](self, now)
        return self.window != before

    def _has_failed(self, now: Goodput) -> bool:
        """Whether a window costs so much that a few replies show it. The first replies are the
        short ones, which flatter a window: they may condemn it, and not praise it.
        """
        threshold = _TO_GAIN.get(self.state)
        if threshold is None or self._base is None:
            return False
        found = gain(now, self._base)
        return found.share < threshold - CONDEMNED - DOUBT * found.error

    def _overload(self) -> bool:
        """Cut the window, unless it was cut an epoch ago: a burst of errors costs one cut."""
        if self._excused or self.window <= self.low:
            self._excused = False
            self._begin()
            return False
        self._excused = True
        self.cuts += 1
        self._hold, self._up_next, self._failed, self._base = 1, True, 0, None
        self._hold_at(max(self.low, int(self.window * CUT)), "the server was overloaded")
        return True

    def _double(self, now: Goodput) -> None:
        found = None if self._base is None else gain(now, self._base)
        grown = math.inf if found is None else found.share
        error = 0.0 if found is None else found.error
        twice = 1 + self._ahead
        self._ahead = False
        if grown > twice * max(GROWTH_MIN, min(GROWTH_SURE, SURE * error)):
            self._grew = self._base is not None
            self._keep(now)
            if self.window >= self.high:
                self._hold_at(self.window, "the upper bound")
            elif grown > GROWTH_FULL:
                self._move(2 * self.window, "twice as many may pay")
            else:
                self._hold, self._up_next = 1, False
                self._hold_at(self.window, "twice as many paid little")
        elif not self._grew and self._good > self.low:
            # Already the first window may be too large.
            self.state = State.HALVING
            self._move(self._good // 2, "twice as many did not pay: half may do")
        else:
            self._hold_at(self._good, "twice as many did not pay")

    def _halve(self, now: Goodput) -> None:
        lost = gain(now, _known(self._base))
        threshold = _TO_GAIN[self.state]
        if self._in_doubt(lost, threshold):
            return
        if lost.share < threshold:
            self._hold_at(self._good, "half as many delivered less")
            return
        self._keep(now)
        if self.window > self.low:
            self._move(self.window // 2, "half as many delivered the same")
        else:
            self._hold_at(self.window, "the lower bound")

    def _hold_on(self, now: Goodput) -> None:
        base = self._base
        if base is not None:
            change = gain(now, base)
            if abs(change.share) > CHANGED + DOUBT * change.error:
                self._hold = self._left = 1
                self._up_next, self._failed = change.share > 0, 0
                more = "more" if change.share > 0 else "less"
                self.why = f"the server delivers {more} than before"
        self._keep(now)
        self._left -= 1
        if self._left > 0:
            self._go_on()
            return
        up = self.window < self.high and (self._up_next or self.window <= self.low)
        if not up and self.window <= self.low:
            self._left = self._hold
            self._go_on()
            return
        self._probe(up=up)

    def _probe(self, *, up: bool) -> None:
        window = self.window
        step = STEPS[self._failed >= BOTH]
        if up:
            self.state = State.PROBING_UP
            self._move(max(window + 1, round(window * step)), "more may pay")
        else:
            self.state = State.PROBING_DOWN
            self._move(min(window - 1, round(window / step)), "fewer may do")

    def _probed(self, now: Goodput) -> None:
        up = self.state is State.PROBING_UP
        found = gain(now, _known(self._base))
        worth = max(GAIN_MIN, min(GAIN_SURE, DOUBT * found.error))
        if self._in_doubt(found, worth if up else -worth):
            return
        paid = found.share > max(worth, found.error) if up else found.share >= -worth
        if not paid:
            self._failed += 1
            self._hold = min(HOLD_MAX, 2 * self._hold)
            self._up_next = not up
            why = "more delivered no more" if up else "fewer delivered less"
            self._hold_at(self._good, why)
            return
        self._keep(now)
        self._hold, self._up_next, self._failed = 1, up, 0
        if self.low < self.window < self.high:
            self._probe(up=up)
        else:
            self._hold_at(self.window, f"the {'upper' if up else 'lower'} bound")

    def _in_doubt(self, found: Gain, threshold: float) -> bool:
        """Whether more replies are to be gathered before that is judged."""
        self._judge_at += self._needed
        return self._judge_at <= EPOCHS_MAX * self._needed and found.is_near(threshold)

    def _keep(self, now: Goodput) -> None:
        """The present window is worth it."""
        self._good, self._base = self.window, now

    # Moving

    def _begin(self) -> None:
        self._epoch = Epoch(self._now_s, self.window)
        self._judge_at = self._needed

    def _go_on(self) -> None:
        """Hold for another epoch, whose replies are added to the ones before."""
        self._judge_at += self._needed
        if self._judge_at > EPOCHS_MAX * self._needed:
            self._begin()

    def _move(self, window: int, why: str) -> None:
        self.window = max(self.low, min(self.high, window))
        self.why = why
        self._epoch = Epoch()
        self._judge_at = EPOCH_MIN

    def _hold_at(self, window: int, why: str) -> None:
        self.state = State.HOLDING
        self._left = self._hold
        self._good = window
        self._move(window, why)


def _known(base: Goodput | None) -> Goodput:
    assert base is not None
    return base


_TO_GAIN = {
    State.DOUBLING: GROWTH_SURE,
    State.HALVING: -HALVED_MAX,
    State.PROBING_UP: GAIN_SURE,
    State.PROBING_DOWN: -GAIN_SURE,
}
_STEPS = {
    State.DOUBLING: Climb._double,  # noqa: SLF001
    State.HALVING: Climb._halve,  # noqa: SLF001
    State.HOLDING: Climb._hold_on,  # noqa: SLF001
    State.PROBING_UP: Climb._probed,  # noqa: SLF001
    State.PROBING_DOWN: Climb._probed,  # noqa: SLF001
}
