"""Finds the rule by which a server charges its token limit, if none is configured, in two ways.

**What is left.** Where the server reports it, its fall over a while is what it charged for what was
answered in that while. The rule that explains the fall counts, if it does three times in a row.

**A trial.** Where it reports nothing, a run begins by the dearest rule. Once 50 answers are known,
and the limit is what binds although answers use far less than is reserved for them, what they
use is charged for a while. A server that reserves refuses then: the dear rule holds again, and the
next trial is a good while away. Refused requests cost nothing.
"""

from __future__ import annotations

import math

from batchrun.core.request.charge import RULES, Size
from batchrun.core.settings.charge import Charge
from batchrun.engine.pace.limit_model import Limit

ANSWERS_MIN = 50
"""Answers before a trial, or a word to the user."""
REPORTED_ANSWERS_MIN = 400
"""The same where the server reports what is left: that shows the rule as a rule."""
WORTH = 1.25
"""Reserved over used from which a trial is worth it."""
REFUSALS_MIN = 3
REFUSED_MAX = 0.05
"""Refusals that end a trial: so many, and such a share of what came back. Some servers refuse
one request in thirty at random."""
RECENT = 256
"""What a trial's share is taken of, about."""
PAUSE_S = 600.0
"""Seconds until the next trial; they double."""

FALL_S = 2.0
FALL_ANSWERS = 48
"""A fall is judged over as long a time, and as many answers, at least."""
FITS = math.log(1.25)
"""How near a rule must come to a fall. Of several that do, the dearest counts; where reserving and
using come to the same, nothing is shown."""
AGREE = 3
FULL = 0.98
"""A bucket that is fuller may have stopped refilling: its fall shows nothing, and a trial risks
nothing."""


class Charging:
    """What is known of one endpoint's charging rule."""

    def __init__(self, given: Charge | None = None) -> None:
        """``given``: the user or the provider's preset says so, and it is never questioned."""
        self.rule = given or Charge.SUM
        self.known = given is not None
        """Whether nothing remains to be found out."""
        self.answers = 0
        """Requests with a known size that were answered."""
        self._charged = dict.fromkeys(RULES, 0.0)
        self._reported = False
        self._mark: tuple[float, float, int, dict[Charge, float]] | None = None
        self._seen: tuple[float, float] | None = None
        """When what was left, as the server reported it last."""
        self._verdicts: list[Charge] = []
        self._trial_from_s: float | None = None
        self._next_trial_s = -math.inf
        self._pause_s = PAUSE_S
        self._refused, self._answered = 0.0, 0.0

    @property
    def trying(self) -> bool:
        """Whether a trial is on."""
        return self._trial_from_s is not None

    def dearer(self) -> float:
        """By how much reserving exceeds what was used so far, as a factor."""
        used = self._charged[Charge.REAL]
        return self._charged[Charge.SUM] / used if used else 1.0

    def answered(self, size: Size, now_s: float, *, binds: bool) -> None:
        """A request of this size was answered. ``binds``: a token limit is what holds back."""
        self.answers += 1
        for rule, (charged, _) in RULES.items():
            self._charged[rule] += charged(size)
        if self._trial_from_s is not None:
            self._answered += 1
            if self._answered + self._refused > RECENT:
                self._answered /= 2
                self._refused /= 2
        elif not self.known and binds and now_s >= self._next_trial_s and self.rule is Charge.SUM:
            least = REPORTED_ANSWERS_MIN if self._reported else ANSWERS_MIN
            if self.answers >= least and self.dearer() > WORTH:
                self.rule, self._trial_from_s = Charge.REAL, now_s
                self._refused, self._answered = 0.0, 0.0

    def refused(self, sent_at_s: float, now_s: float) -> None:
        """The server refused a request for now; it went out at ``sent_at_s``."""
        if self._trial_from_s is None or sent_at_s < self._trial_from_s:
            return
        self._refused += 1
        whole = self._refused + self._answered
        if self._refused >= REFUSALS_MIN and self._refused > REFUSED_MAX * whole:
            self.rule, self._trial_from_s = Charge.SUM, None
            self._next_trial_s = now_s + self._pause_s
            self._pause_s *= 2

    def left(self, limit: Limit, now_s: float, *, bucket: float | None) -> None:
        """The server reported what is left of a limit on tokens. ``bucket`` is what a bucket, which
        refills all the time, holds when it is full; None: it is a window.
        """
        if self.known or limit.left is None:
            return
        full = bucket is not None and limit.left > FULL * bucket
        if bucket is not None and self._seen is not None:
            # A small bucket may have been full in between.
            seen_s, left = self._seen
            full |= now_s - seen_s >= (FULL * bucket - left) / limit.even
        self._seen = now_s, limit.left
        self._reported = not full
        if full:
            self._mark = None
            return
        mark = self._mark
        if mark is None:
            self._mark = (now_s, limit.left, self.answers, dict(self._charged))
            return
        since_s, left, answers, charged = mark
        if now_s - since_s < FALL_S or self.answers - answers < FALL_ANSWERS:
            return
        self._mark = (now_s, limit.left, self.answers, dict(self._charged))
        refilled = 0.0 if bucket is None else (now_s - since_s) * limit.even
        fall = left - limit.left + refilled
        if fall <= 0:
            return
        fits = [
            rule
            for rule, now in self._charged.items()
            if now > charged[rule] and abs(math.log(fall / (now - charged[rule]))) <= FITS
        ]
        if not fits or {Charge.SUM, Charge.REAL} <= set(fits):
            self._verdicts.clear()
            return
        best = max(fits, key=lambda rule: self._charged[rule] - charged[rule])
        if self._verdicts and self._verdicts[-1] is not best:
            self._verdicts.clear()
        self._verdicts.append(best)
        if len(self._verdicts) == AGREE:
            self.rule, self.known, self._trial_from_s = best, True, None
