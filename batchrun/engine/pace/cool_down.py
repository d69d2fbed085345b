"""The cool-down of one endpoint: how long everybody waits after refusals, and how they start again.

A refusal (429) can mean two things: the endpoint is used up, or one of its many backs was. The
share of recent replies that were refusals tells them apart: from ``STORM_SHARE`` on everybody
waits, below that only the row that was refused.

It has no clock of its own: whoever uses it passes the time.
"""

from __future__ import annotations

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
SHARE_MIN = 1e-6
STORM_WAIT_S_MIN = 1e-3
"""Below these the share and the shortest cool-down count as 0, which nothing need make smaller."""

_KEPT = 1 - REPLY_WEIGHT


class CoolDown:
    """A state machine: replies and refusals come in, ``until_s`` says when the next may enter."""

    def __init__(self, concurrency: int) -> None:
        self.until_s = float("-inf")
        """No request enters before this time."""
        self.spread_left = 0
        """How many of those who waited are still to be let in one by one."""
        self.restless = True
        """Whether there is anything for ``replied`` to forget."""
        self.concurrency = concurrency
        """How many wait at most."""
        self._from_s = float("-inf")
        self._streak = 0
        # Until the first replies tell otherwise, a refusal is everybody's.
        self._refused_share = 1.0
        self._storm_wait_s = 0.0
        self._spread_s = 0.0

    @property
    def storm(self) -> bool:
        """Whether the exchange that ends now, if it is refused, is refused for everybody."""
        return self._refused_share * _KEPT + REPLY_WEIGHT >= STORM_SHARE

    def replied(self, *, answered: bool) -> None:
        """An exchange ended; a refusal is reported by ``refused`` after this."""
        self._refused_share *= _KEPT
        if answered:
            self._streak = 0
            self._storm_wait_s -= self._storm_wait_s * STORM_RELIEF
        calm = not self._streak and self._storm_wait_s < STORM_WAIT_S_MIN
        if calm and self._refused_share < SHARE_MIN:
            self._refused_share, self._storm_wait_s = 0.0, 0.0
            self.restless = False

    def counted(self) -> bool:
        """The exchange was refused, and somebody else says who waits. Returns whether refusals are
        everybody's.
        """
        self._refused_share = min(1.0, self._refused_share + REPLY_WEIGHT)
        self.restless = True
        return self._refused_share >= STORM_SHARE

    def refused(
        self, wait_s: float | None, *, sent_at_s: float, now_s: float, dice: float, for_all: bool
    ) -> bool:
        """The exchange was refused: see ``ports.Gate.cool_down``. ``dice`` is a random number from
        0 to 1, for a wait that is guessed.
        """
        # The refused exchange was settled a moment ago, and counted as one that was not.
        storm = self.counted()
        if not for_all and not storm:
            return False
        news = sent_at_s > self._from_s
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
            wait_s *= 0.5 + 0.5 * dice
        if now_s + wait_s > self.until_s:
            self._from_s = now_s
            self.until_s = now_s + wait_s
            self.spread(min(SPREAD_S_MAX, wait_s))
        return True

    def spread(self, over_s: float) -> None:
        """Let waiting requests in one by one, over ``over_s`` seconds."""
        self.spread_left = self.concurrency
        self._spread_s = over_s / self.concurrency

    def next_turn_s(self, dice: float) -> float:
        """Take the turn of one that waited: the seconds until it may enter."""
        self.spread_left -= 1
        return self._spread_s * 2 * dice

    def left_s(self, now_s: float) -> float:
        """Seconds until requests may enter again."""
        return max(0.0, self.until_s - now_s)
