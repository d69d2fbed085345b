"""The rate that a server refuses to exceed and does not tell, found from its refusals.

A round is what was *sent* in a second or so, judged once all of it has come back. Grouped by
arrival, refusals, which come at once, would outrun the answers, and every start would look like a
storm. A round that has refusals measures the limit: it is what was accepted in it.

Three other things look like a rate that is exceeded. A server that refuses a share at random does
so however little is sent: such a share is borne for a while. One that counts by the minute closes
for the rest of it: a single request at a time finds out when it opens, and the answers in between
tell what it allows. One that bounds what is in flight refuses only above a number: that number
bounds the window, and there is no pace.

It has no clock of its own: whoever uses it passes the time.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum

ROUND_S, ROUND_MIN = 1.0, 30
"""A round has so many requests at least, and takes so long."""
SLOW_ROUND_S, SLOW_ROUND_MIN = 5.0, 5
"""Or these, where the pace is slow."""
FREEZE_MIN, FREEZE_SHARE = 8, 0.25
"""So many refusals, and such a share of what came back, end the first round."""
LIMIT_SHARE = 0.1
"""The share of refusals that shows, once all of it has come back, that there is a limit."""
MARGIN = 0.99
REFUSED_MIN, REFUSED_SHARE, SLACK, SIGMAS = 2, 0.005, 0.02, 2.0
"""A round is bad from so many refusals on, and such a share; where a share is borne, from that one
on, with some slack and the deviation of chance."""
LONE_ROUNDS = 5
"""A single refusal makes a round bad, if one of so many before it had one, too."""
STEP_DOWN = 0.8
"""No single round takes more than a fifth off the pace."""
CLEAN_ROUNDS, WINDOWED = 8, 8
"""Clean rounds between two probes; so many times as many where a server counts by the minute."""
PROBE, PROBE_GROWTH, PROBE_MAX = 0.02, 2.0, 0.2
FULL_ROUND = 60
"""A round of fewer requests counts for less: where the pace is slow, refusals weigh more."""
APART, APART_SHARE = 3, 0.03
"""So many bad rounds, each refused only above what it accepted in flight (but for this share), show
that this is what the server bounds."""
NOISE_SHARE_MAX = 0.3
BEARS_S = 120.0
"""So long a share of refusals is borne."""
CLOSED_MIN, CLOSED_S = 12, 0.5
"""A server is closed after so many refusals in a row, and those that so many seconds bring."""
OPEN_S_MIN, MINUTE_S_MIN = 2.0, 10.0
"""A server that was open for longer than the first has told its rate; than the second, it counts by
the minute."""
WAIT_S, WAIT_S_MAX = 0.25, 2.0
LEVEL_APART, LEVEL_SHARE = 0.15, 0.3
"""A pace that is further than this from the mean of several processes moves so much towards it."""
CATCH_UP_S = 0.02
"""What was missed of the pace is made up for by so much."""
BOUND_S = 0.1
"""A request that goes out so soon after its time was held back by the pace."""


class Pace(StrEnum):
    """What is known of the rate."""

    FREE = "free"
    FROZEN = "frozen"
    DOUBLING = "doubling"
    STEADY = "steady"
    CLOSED = "closed"


_FREE, _CLOSED = Pace.FREE, Pace.CLOSED  # names of the module are found sooner


class Round:
    """What was sent in a while, and what became of it."""

    __slots__ = (
        "accepted",
        "at_once",
        "begin_s",
        "bound",
        "end_s",
        "least",
        "over",
        "pace",
        "refused",
        "sent",
    )

    def __init__(self, now_s: float, pace: float | None) -> None:
        self.pace = pace
        self.begin_s = self.end_s = now_s
        self.sent = self.accepted = self.refused = 0
        self.bound = False
        """Whether the pace held requests back."""
        self.over = False
        self.at_once: dict[int, int] = {}
        """Accepted requests, by how many were in flight with them."""
        self.least = math.inf
        """Least requests in flight when one was refused."""

    @property
    def seconds(self) -> float:
        """How long it took to send it."""
        return max(ROUND_S, self.end_s - self.begin_s)

    @property
    def rate(self) -> float:
        """What was accepted in a second, somewhat less than that."""
        return max(self.accepted, 1) / self.seconds * MARGIN

    @property
    def apart(self) -> bool:
        """Whether refusals came only above the number in flight at which requests were accepted."""
        above = sum(count for number, count in self.at_once.items() if number >= self.least)
        return above <= APART_SHARE * self.accepted

    @property
    def back(self) -> int:
        """How many came back."""
        return self.accepted + self.refused


Turn = tuple[Round | None, int]
"""A request that went out: in which round, and how many were in flight with it."""


class Rounds:
    """A state machine: requests go out and come back, ``ready_at`` says when the next may go."""

    def __init__(self) -> None:
        self.pace: float | None = None
        """Requests a second; None: as many as come."""
        self.state = Pace.FREE
        self.window: int | None = None
        """How many the server takes at once; None: no such limit is known."""
        self._next_s = -math.inf
        self._round: Round | None = None
        self._open: deque[Round] = deque()
        self._borne, self._borne_until_s = 0.0, -math.inf
        self._clean, self._step = 0.0, PROBE
        self._before: tuple[float, float] | None = None
        """The pace of a bad round, and the share that was refused in it."""
        self._good: float | None = None
        self._windowed = False
        self._lone: deque[bool] = deque(maxlen=LONE_ROUNDS)
        self._row = 0
        self._apart = 0  # bad rounds in a row whose refusals came above all that was accepted
        self._probing = False
        self._wait_s, self._probe_at_s = WAIT_S, 0.0
        self._since_s: float | None = None
        self._since_accepted = 0

    # Sending

    def ready_at(self, now_s: float) -> float:
        """When the next request may go out; infinite: once something has come back."""
        if self.state is Pace.CLOSED:
            return math.inf if self._probing else self._probe_at_s
        if self.state is Pace.FROZEN:
            return math.inf
        return now_s if self.pace is None else self._next_s

    def sent(self, now_s: float, in_flight: int) -> Turn:
        """A request goes out, as one of so many."""
        if self.state is _CLOSED:
            self._probing = True
            return None, in_flight
        now = self._round
        if now is None:
            now = self._round = Round(now_s, self.pace)
            self._open.append(now)
        now.sent += 1
        now.end_s = now_s
        if self._since_s is None:
            self._since_s = now_s
        if self.pace is not None:
            now.bound = now.bound or now_s - self._next_s < BOUND_S
            each_s = 1 / self.pace
            self._next_s = max(self._next_s, now_s - min(CATCH_UP_S, each_s)) + each_s
        took_s = now_s - now.begin_s
        if took_s >= ROUND_S and (
            now.sent >= ROUND_MIN or (now.sent >= SLOW_ROUND_MIN and took_s >= SLOW_ROUND_S)
        ):
            self._end_round()
        return now, in_flight

    def level(self, pace: float) -> None:
        """Others found another pace at this server: meet them on the way, if it is far."""
        if self.pace is not None and self.state is Pace.STEADY:
            apart = pace - self.pace
            if abs(apart) > LEVEL_APART * pace:
                self.pace += LEVEL_SHARE * apart

    # Coming back

    def accepted(self, turn: Turn, now_s: float) -> None:
        """The server took the request on, whatever it answered."""
        self._row = 0
        self._since_accepted += 1
        now, in_flight = turn
        if now is None:
            if self.state is Pace.CLOSED:
                self._opened(now_s)
            return
        now.accepted += 1
        counts = now.at_once
        counts[in_flight] = counts.get(in_flight, 0) + 1
        if self.state is not _FREE or (self._open and self._open[0].over):
            self._judge_those_over(now_s)

    def refused(
        self, turn: Turn, now_s: float, *, wait_s: float | None = None, at_once: bool = False
    ) -> None:
        """The server refused the request for now, perhaps with a wait; ``at_once`` says that it
        named the number of requests in flight as the reason.
        """
        now, in_flight = turn
        if at_once:
            self._bounded(in_flight - 1)
        if now is None:
            self._probing = False
            self._wait_s = min(WAIT_S_MAX, 2 * self._wait_s)
            self._probe_at_s = now_s + max(self._wait_s, wait_s or 0.0)
            return
        now.refused += 1
        now.least = min(now.least, in_flight)
        self._row += 1
        if (
            self.state is Pace.FREE
            and now.refused >= FREEZE_MIN
            and now.refused > FREEZE_SHARE * now.back
        ):
            self.state = Pace.FROZEN
            self._end_round()
        if self.state is not Pace.CLOSED and self._is_closed(now_s):
            self._close(now_s, wait_s)
        self._judge_those_over(now_s)

    def gone(self, turn: Turn, now_s: float) -> None:
        """The request was given up, or its result is unknown."""
        now, _ = turn
        if now is None:
            self._probing = False
            self._probe_at_s = now_s + self._wait_s
            return
        now.sent -= 1
        self._judge_those_over(now_s)

    def _end_round(self) -> None:
        if self._round is not None:
            self._round.over = True
            self._round = None

    def _judge_those_over(self, now_s: float) -> None:
        rounds = self._open
        while rounds and rounds[0].over and rounds[0].back >= rounds[0].sent:
            self._judge(rounds.popleft(), now_s)
        if self.state is Pace.FROZEN and not rounds:
            self.state = Pace.FREE

    # Judging

    def _judge(self, of: Round, now_s: float) -> None:
        if not of.back or self.state is Pace.CLOSED:
            return
        share = of.refused / of.back
        bad = self._is_bad(of, share, now_s)
        if bad:
            self._apart = self._apart + 1 if of.apart else 0
        if self._apart >= APART:
            self._bounded(int(of.least) - 1)
        elif self.pace is None:
            if share > LIMIT_SHARE and self.state is Pace.FROZEN:
                self.pace, self.state, self._next_s = of.rate, Pace.DOUBLING, now_s
                self._before = None
        elif of.pace is None:
            pass  # of before there was a pace
        elif self.state is Pace.DOUBLING:
            self._doubled(of, bad=bad)
        elif bad:
            self._slow_down(of, share, now_s)
        elif of.pace == self.pace and of.bound:
            self._probe(of, self.pace)

    def _is_bad(self, of: Round, share: float, now_s: float) -> bool:
        """Whether more was refused than by chance."""
        if of.refused < REFUSED_MIN and not self._has_company(of, share):
            return False
        if now_s >= self._borne_until_s:
            return share > REFUSED_SHARE
        borne = self._borne
        return share > borne + SLACK + SIGMAS * math.sqrt(borne * (1 - borne) / of.back)

    def _has_company(self, of: Round, share: float) -> bool:
        """Whether another round of late had a refusal, too, where one is much. A pace that is
        somewhat too high draws one from every round that is small.
        """
        lone = of.refused > 0 and share > REFUSED_SHARE
        company = lone and any(self._lone)
        self._lone.append(lone and not company)
        return company

    def _doubled(self, of: Round, *, bad: bool) -> None:
        assert self.pace is not None
        if bad:
            self.pace = min(self.pace, of.rate)
            self.state, self._clean = Pace.STEADY, 0.0
        elif of.pace == self.pace and of.bound:
            self.pace *= 2

    def _slow_down(self, of: Round, share: float, now_s: float) -> None:
        assert self.pace is not None
        assert of.pace is not None
        if of.pace > self.pace:
            return  # it was sent before the pace was cut
        before = self._before
        if (
            before is not None
            and share < NOISE_SHARE_MAX
            and of.pace < before[0] * (1 - 2 * max(before[1], 0.015))
            and share > before[1] / 2
        ):
            # Less was sent, and as much of it refused: that is not about the rate.
            self._borne, self._borne_until_s = max(share, before[1]), now_s + BEARS_S
            self.pace, self._before, self._clean = before[0], None, 0.0
            return
        if before is None:
            self._before = (of.pace, share)
        back = self._good if self._good is not None and self._good < of.pace else 0.0
        self._good = None
        measured = min(self.pace * MARGIN, of.rate)
        if self._windowed and self._since_s is not None and now_s - self._since_s > MINUTE_S_MIN:
            # The quota of a window ran out near its end: what all of it took tells more.
            measured = max(measured, self._since_accepted / (now_s - self._since_s) * MARGIN)
        self.pace = max(min(self.pace, measured), self.pace * STEP_DOWN, back)
        self._clean, self._step = 0.0, PROBE

    def _probe(self, of: Round, pace: float) -> None:
        """Another clean round: after some of them, send a little faster."""
        self._before, self._good = None, pace
        self._clean += min(1.0, of.back / FULL_ROUND)
        if self._clean >= CLEAN_ROUNDS * (WINDOWED if self._windowed else 1):
            self._clean = 0.0
            self.pace = pace * (1 + self._step)
            self._step = min(PROBE_MAX, self._step * PROBE_GROWTH)

    def _bounded(self, window: int) -> None:
        """The server bounds what is in flight: that takes the place of a pace."""
        self.window = max(1, window)
        self.pace, self.state = None, Pace.FREE
        self._before = self._good = None
        self._apart = self._row = 0
        self._open.clear()
        self._round = None

    # Closed

    def _is_closed(self, now_s: float) -> bool:
        if self._row < max(CLOSED_MIN, CLOSED_S * (self.pace or 0.0)):
            return False
        if self.pace is not None:
            return True
        return self._since_s is not None and now_s - self._since_s > OPEN_S_MIN

    def _close(self, now_s: float, wait_s: float | None) -> None:
        self.state, self._probing = Pace.CLOSED, False
        self._wait_s = WAIT_S
        self._probe_at_s = now_s + max(self._wait_s, wait_s or 0.0)
        self._end_round()

    def _opened(self, now_s: float) -> None:
        """A request got through a closed server: what it took since it opened last is its rate."""
        took_s = 0.0 if self._since_s is None else now_s - self._since_s
        if took_s > OPEN_S_MIN:
            self._windowed = took_s > MINUTE_S_MIN
            self.pace = self._since_accepted / took_s * MARGIN
        elif self.pace is not None:
            self.pace /= 1 if self._windowed else 2
        else:
            self.pace = max(1.0, self._since_accepted / max(1.0, took_s))
        self.state, self._probing = Pace.STEADY, False
        self._since_s, self._since_accepted, self._row = now_s, 0, 0
        self._open.clear()
        self._round, self._next_s = None, now_s
        self._clean, self._step, self._before = 0.0, PROBE, None
