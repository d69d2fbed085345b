"""Paces requests by the limits that the server reports, to stay within them.

A limit is believed as far as the server's own behaviour bears it out. Of a limit of a minute or
less, an even share goes out per second. How much is *left* corrects that, in the server's own
units: it knows what other clients of the account use, and what it charges for a request. There
are two kinds of servers, and their headers look alike:

- a **bucket** refills all the time; its reset is when it will be full (OpenAI, Groq). While it is
  half full or fuller, the even share goes out; below, less in proportion. So it settles where the
  requests of everybody are just what comes in.
- a **window** is renewed all at once at its reset. What is left is spread until then.

A reset that moves on with the clock is a bucket's; one that stays where it is while less is left is
a window's end. Until that is seen, it is taken for a bucket: nobody waits for a bucket to be full.

Limits that do not count what we send must not slow a run down. So where hardly anything is missing
though requests wait, ever more is let out: a true limit shows less left at once, and the share is
even again. Where nothing is left and yet request after request is answered, or what is left jumps
up and down, the limit is not believed.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

MARGIN = 0.98
"""Of an even share, this much is sent: timers and clocks differ a little."""

FULL = 0.9
"""A bucket as full as that lacks nothing to speak of."""
LOW = 0.5
"""Below this the share goes down in proportion."""
LEAST = 0.05
LEAST_OF_WINDOW = 0.02
"""Shares that are always sent: without replies there would be no news."""

UNITS_MIN = 10
"""A bucket of fewer requests than that is as good as empty after each: its level tells nothing."""

STEP_S = 2.0
"""Seconds until the next doubling, where the limit seems not to count what is sent."""
CAUTION_S = 60.0
CAUTION_S_MAX = 3600.0
"""Seconds without such doublings after a refusal; they double too."""

EMPTY_MAX = 10
"""Answers in a row with nothing left, after which the limit is not believed."""
JUMPS_MAX = 3
JUMP = 0.25
"""Rises of what is left within one window, by such a part of the limit, that no refill explains."""
DOUBT_S = 60.0
"""Seconds for which a limit is not believed then."""

FORGOTTEN_S = 120.0
"""Seconds after which a limit that is no longer reported is dropped."""

WINDOW_SHOWS_S = 4.0
"""How far a bucket's reset must have moved on, to tell it from a window's end: some servers round
to seconds."""

UNBOUND = float("inf")


class Limit(NamedTuple):
    """A limit of ``most`` in ``per_s`` seconds, what is left of it, and its reset."""

    most: float
    per_s: float
    left: float | None
    reset_s: float | None

    @property
    def even(self) -> float:
        """What may go out per second."""
        return self.most / self.per_s


class News(NamedTuple):
    """What goes with a limit that was told.

    ``refused``: the reply was a refusal (429). ``sent_at_s``: when its request went out. ``held``:
    requests had to wait for the pace since the last news. ``answers``: so many requests were
    answered so far.
    """

    now_s: float
    refused: bool
    sent_at_s: float
    held: bool
    answers: int


class Account:
    """One limit as the server keeps it, seen from here."""

    def __init__(self, limit: Limit, now_s: float, began_s: float | None) -> None:
        """``began_s`` is since when answers are counted; None: they are no measure of it."""
        self._limit = limit
        self._at_s = now_s
        self._began_s = began_s
        self._renewed_at_once = False
        self._largest = 0.0  # the bucket, by what it held and was to hold
        self._seen_from = (now_s, limit)
        self._boost = 1.0
        self._boosted_s = now_s
        self._caution_s = CAUTION_S
        self._cautious_until_s = float("-inf")
        self._empty = 0
        self._jumps: deque[float] = deque(maxlen=JUMPS_MAX)
        self._doubted_until_s = float("-inf")

    def told(self, limit: Limit, news: News) -> None:
        """The server reported the limit again."""
        now_s = news.now_s
        self._look_for_jumps(limit, now_s)
        self._look_at_answers(limit, news)
        if limit.left is not None:
            largest = self._largest if limit.most == self._limit.most else 0.0
            self._largest = max(largest, limit.left + (limit.reset_s or 0.0) * limit.even)
        self._limit, self._at_s = limit, now_s
        self._look_at_reset(limit, now_s)
        if news.refused:
            self._empty = 0
            self._boost = 1.0
            if now_s >= self._cautious_until_s:
                self._cautious_until_s = now_s + self._caution_s
                self._caution_s = min(CAUTION_S_MAX, 2 * self._caution_s)
            return
        self._empty = self._empty + 1 if limit.left == 0 else 0
        if self._empty >= EMPTY_MAX and self.size > UNITS_MIN:
            self._doubted_until_s = UNBOUND
        if not self._plenty(now_s) or now_s < self._cautious_until_s:
            self._boost = 1.0
        elif news.held and news.sent_at_s >= self._boosted_s and now_s - self._boosted_s >= STEP_S:
            self._boost *= 2
            self._boosted_s = now_s

    def rate(self, now_s: float, cost: float) -> float:
        """Requests or tokens per second that may go out; ``cost`` is that of one request."""
        limit = self._limit
        age_s = now_s - self._at_s
        if now_s < self._doubted_until_s or age_s > max(FORGOTTEN_S, limit.per_s):
            return UNBOUND
        if self._boost > 1:
            return limit.even * self._boost
        left, reset_s = limit.left, limit.reset_s
        share, least = MARGIN, LEAST
        if left is not None and reset_s is not None and self.size >= UNITS_MIN * cost:
            if not self._renewed_at_once:
                share = self._level(left, now_s) / LOW
            elif reset_s > age_s:
                share, least = left / (reset_s - age_s) / limit.even, LEAST_OF_WINDOW
        return limit.even * max(least, min(MARGIN, share))

    @property
    def renewed_at_once(self) -> bool:
        """Whether it is a window, as far as its resets have shown."""
        return self._renewed_at_once

    @property
    def size(self) -> float:
        """What the bucket holds when it is full, or the limit of the window."""
        limit = self._limit
        if self._renewed_at_once or limit.left is None or limit.reset_s is None:
            return limit.most
        if limit.reset_s:
            return min(limit.most, limit.left + limit.reset_s * limit.even)
        # It is full now; or the server does not tell when it will be.
        return min(limit.most, self._largest) or limit.most

    def _level(self, left: float, now_s: float) -> float:
        """How full the bucket is now, from 0 to 1."""
        refilled = (now_s - self._at_s) * self._limit.even
        return min(1.0, (left + refilled) / self.size)

    def _plenty(self, now_s: float) -> bool:
        """Whether the limit looks unused."""
        limit = self._limit
        if limit.left is None:
            return False
        if self._renewed_at_once and limit.reset_s:
            return limit.left / limit.reset_s > limit.even / FULL
        return self._level(limit.left, now_s) > FULL

    def _look_for_jumps(self, limit: Limit, now_s: float) -> None:
        before = self._limit
        jumped = max(limit.most, before.most) > 2 * min(limit.most, before.most)
        if limit.left is not None and before.left is not None:
            refilled = (now_s - self._at_s) * limit.even
            jumped |= limit.left - before.left > 1 + refilled + JUMP * limit.most
        if not jumped:
            return
        self._jumps.append(now_s)
        if len(self._jumps) == JUMPS_MAX and now_s - self._jumps[0] < limit.per_s:
            self._doubted_until_s = max(self._doubted_until_s, now_s + DOUBT_S)

    def _look_at_answers(self, limit: Limit, news: News) -> None:
        """A limit of which more than twice was answered from the first is about something else:
        no bucket and no two windows hold so much.
        """
        if self._began_s is None:
            return
        if limit.most != self._limit.most:
            self._began_s = None  # answers to the old limit are no evidence against the new one
        elif news.answers > 2 * limit.most + 1.1 * limit.even * (news.now_s - self._began_s):
            self._doubted_until_s = UNBOUND

    def _look_at_reset(self, limit: Limit, now_s: float) -> None:
        """Find out whether the limit is renewed all at once."""
        since_s, seen = self._seen_from
        left, reset_s = limit.left, limit.reset_s
        if left is None or reset_s is None or seen.left is None or seen.reset_s is None:
            self._seen_from = (now_s, limit)
            return
        if reset_s > 1.25 * (limit.most - left) / limit.even + WINDOW_SHOWS_S:
            self._renewed_at_once = True  # a bucket would be full long before
        bucket_s = now_s - since_s + (seen.left - left) / limit.even
        moved_s = now_s + reset_s - (since_s + seen.reset_s)
        if bucket_s >= WINDOW_SHOWS_S:
            self._renewed_at_once = moved_s < bucket_s / 2
        if bucket_s >= WINDOW_SHOWS_S or moved_s > WINDOW_SHOWS_S or left > seen.left:
            self._seen_from = (now_s, limit)
