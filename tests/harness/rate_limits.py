"""Servers that refuse what exceeds a limit that they do not tell, on virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchrun.engine.pace.rounds import Rounds

REFUSAL_S = 0.03

Takes = Callable[[float, int, random.Random], bool]
"""Whether a request is taken at a time, with so many in flight."""


def bucket(rate: float | Callable[[float], float], depth_s: float) -> Takes:
    """A token bucket of so many seconds' worth."""
    level, last_s = math.inf, 0.0

    def takes(now_s: float, _: int, __: random.Random) -> bool:
        nonlocal level, last_s
        now = rate(now_s) if callable(rate) else rate
        level = min(max(1.0, now * depth_s), level + (now_s - last_s) * now)
        last_s = now_s
        if level < 1:
            return False
        level -= 1
        return True

    return takes


def window(quota: int, span_s: float = 60.0) -> Takes:
    """So many in each span, counted from its beginning."""
    taken, current = 0, -1

    def takes(now_s: float, _: int, __: random.Random) -> bool:
        nonlocal taken, current
        if int(now_s / span_s) != current:
            current, taken = int(now_s / span_s), 0
        taken += 1
        return taken <= quota

    return takes


def at_most(most: int) -> Takes:
    """So many in flight."""
    return lambda _, in_flight, __: in_flight <= most


def noisy(share: float, of: Takes | None = None) -> Takes:
    """It refuses a share at random, and beyond that what the other one does."""

    def takes(now_s: float, in_flight: int, dice: random.Random) -> bool:
        return dice.random() >= share and (of is None or of(now_s, in_flight, dice))

    return takes


class Sent(NamedTuple):
    """When replies came: those that were answers, and refusals."""

    accepted: list[float]
    refused: list[float]

    def rate(self, from_s: float, to_s: float) -> float:
        """Answers in a second."""
        return sum(from_s <= at < to_s for at in self.accepted) / (to_s - from_s)

    def waste(self, from_s: float, to_s: float) -> float:
        """Refusals for each answer."""
        good = sum(from_s <= at < to_s for at in self.accepted)
        return sum(from_s <= at < to_s for at in self.refused) / max(1, good)


@dataclass
class Client:
    """It sends as soon as ``rounds`` lets it, with so many in flight at most."""

    rounds: Rounds
    most: int = 256
    latency_s: float = 0.3

    def run(self, takes: Takes, for_s: float, seed: int) -> Sent:
        """Send for so long."""
        dice, numbers, rounds = random.Random(seed), itertools.count(), self.rounds
        events: list[tuple[float, int, bool, Any]] = []
        sent = Sent([], [])
        now, busy = 0.0, 0
        while now < for_s:
            at = math.inf
            while len(events) < min(self.most, rounds.window or self.most):
                at = rounds.ready_at(now)
                if at > now:
                    break
                turn = rounds.sent(now, len(events) + 1)
                good = takes(now, busy + 1, dice)
                busy += good
                takes_s = self.latency_s * dice.uniform(0.7, 1.3) if good else REFUSAL_S
                heapq.heappush(events, (now + takes_s, next(numbers), good, turn))
                at = math.inf
            if events and events[0][0] <= at:
                now, _, good, turn = heapq.heappop(events)
                busy -= good
                (sent.accepted if good else sent.refused).append(now)
                if good:
                    rounds.accepted(turn, now)
                else:
                    rounds.refused(turn, now)
            else:
                now = at
        return sent
