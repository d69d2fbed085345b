"""Servers with a capacity, on virtual time, and a client that keeps its window full.

They are models: a server that batches (a token takes longer with every request that runs, memory
bounds how many do), one that slows down past a knee, one with slots and a queue inside. Times are
in seconds; nothing waits.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

MEAN_TOKENS, SPREAD = 300, 0.9


class Window(Protocol):
    """What bounds the requests in flight."""

    @property
    def window(self) -> int:
        """So many may be."""
        ...

    def answered(
        self, sent_at_s: float, now_s: float, latency_s: float, tokens: int | None, in_flight: int
    ) -> bool:
        """See ``Climb``."""
        ...

    def overloaded(self, sent_at_s: float, now_s: float) -> bool:
        """See ``Climb``."""
        ...


@dataclass
class Fixed:
    """A window that nothing changes."""

    window: int

    def answered(self, *_: object) -> bool:
        """Nothing."""
        return False

    def overloaded(self, *_: object) -> bool:
        """Nothing."""
        return False


class Reply(NamedTuple):
    """When an answer came, and its tokens."""

    at_s: float
    tokens: int


@dataclass
class Record:
    """What became of a run: its answers, and the window at every one of them."""

    answers: list[Reply] = field(default_factory=list)
    windows: list[tuple[float, int]] = field(default_factory=list)

    def rate(self, from_s: float, to_s: float, *, tokens: bool) -> float:
        """Answers, or tokens of answers, in a second."""
        part = (r for r in self.answers if from_s <= r.at_s < to_s)
        return sum(r.tokens if tokens else 1 for r in part) / (to_s - from_s)

    def windows_after(self, from_s: float) -> list[int]:
        """The windows from then on."""
        return [window for at_s, window in self.windows if at_s >= from_s]


def tokens_of(dice: random.Random) -> int:
    """The tokens of an answer: lognormal, as lengths of answers are."""
    return max(1, int(math.exp(dice.gauss(math.log(MEAN_TOKENS) - SPREAD**2 / 2, SPREAD))))


class Server(Protocol):
    """A server model."""

    @property
    def tokens(self) -> bool:
        """Whether it counts by tokens rather than by answers."""
        ...

    def serve(self, client: Window, for_s: float, seed: int) -> Record:
        """Serve a client that always has another request, for so many seconds."""
        ...


@dataclass(frozen=True)
class Batching:
    """A token takes ``token_s`` and ``each_s`` for every request that runs. ``memory`` is bounded:
    who no longer fits is put back and begins anew.
    """

    token_s: float = 0.02
    each_s: float = 0.00008
    memory: float = 300_000
    running_max: int = 10**9
    prompt: int = 500
    tokens: bool = True

    def serve(self, client: Window, for_s: float, seed: int) -> Record:
        """See ``Server``."""
        dice, record, now = random.Random(seed), Record(), 0.0
        running: list[list[float]] = []
        queue: list[list[float]] = []
        used = 0.0
        in_flight = 0
        while now < for_s:
            while in_flight < client.window:
                queue.append([0, tokens_of(dice), now])
                in_flight += 1
            while (
                queue
                and len(running) < self.running_max
                and used + self.prompt + queue[0][0] + 1 <= self.memory
            ):
                used += self.prompt + queue[0][0]
                running.append(queue.pop(0))
            now += self.token_s + self.each_s * len(running)
            for one in running:
                one[0] += 1
            used += len(running)
            for one in [one for one in running if one[0] >= one[1]]:
                running.remove(one)
                used -= self.prompt + one[0]
                record.answers.append(Reply(now, int(one[1])))
                client.answered(one[2], now, now - one[2], int(one[1]), in_flight)
                in_flight -= 1
                record.windows.append((now, client.window))
            while used > self.memory and len(running) > 1:
                last = running.pop()
                used -= self.prompt + last[0]
                queue.insert(0, [0, *last[1:]])
        return record


Latency = Callable[[int, float, random.Random], float]
"""Seconds that an answer takes, by the requests in flight and the time."""


@dataclass(frozen=True)
class Timed:
    """It takes in everything; how long an answer takes depends on how much is in flight.
    ``errors`` are times at which so many replies in a row say that it is overloaded.
    """

    latency_s: Latency
    errors: Sequence[tuple[float, int]] = ()
    told: bool = True
    tokens: bool = False

    def serve(self, client: Window, for_s: float, seed: int) -> Record:
        """See ``Server``."""
        dice, record = random.Random(seed), Record()
        events: list[tuple[float, int, float]] = []
        numbers = itertools.count()
        left = dict(self.errors)
        now = 0.0
        while now < for_s:
            while len(events) < client.window:
                due = now + self.latency_s(len(events) + 1, now, dice)
                heapq.heappush(events, (due, next(numbers), now))
            now, _, began = heapq.heappop(events)
            burst = next((at for at in left if at <= now and left[at]), None)
            if burst is not None:
                left[burst] -= 1
                client.overloaded(began, now)
            else:
                tokens = tokens_of(dice)
                record.answers.append(Reply(now, tokens))
                told = tokens if self.told else None
                client.answered(began, now, now - began, told, len(events) + 1)
            record.windows.append((now, client.window))
        return record


def knee(at: Callable[[float], int] | int, latency_s: float, power: float = 1.0) -> Latency:
    """Answers take the same up to so many in flight, and more than in proportion beyond."""

    def latency(in_flight: int, now_s: float, dice: random.Random) -> float:
        most = at if isinstance(at, int) else at(now_s)
        jitter = dice.uniform(0.9, 1.1)
        return float(latency_s * jitter * max(1.0, in_flight / most) ** (1 + power))

    return latency


@dataclass(frozen=True)
class Slots:
    """So many are served at once, each for ``serve_s`` or so; the others wait inside."""

    slots: int
    serve_s: float
    tokens: bool = False

    def serve(self, client: Window, for_s: float, seed: int) -> Record:
        """See ``Server``."""
        dice, record, now = random.Random(seed), Record(), 0.0
        busy: list[tuple[float, int, float]] = []
        queue: list[float] = []
        numbers = itertools.count()
        while now < for_s:
            while len(busy) + len(queue) < client.window:
                queue.append(now)
            while queue and len(busy) < self.slots:
                due = now + self.serve_s * dice.uniform(0.8, 1.2)
                heapq.heappush(busy, (due, next(numbers), queue.pop(0)))
            now, _, began = heapq.heappop(busy)
            tokens = tokens_of(dice)
            record.answers.append(Reply(now, tokens))
            client.answered(began, now, now - began, tokens, len(busy) + len(queue) + 1)
            record.windows.append((now, client.window))
        return record


@dataclass(frozen=True)
class Threads:
    """Slots behind an HTTP server with a few threads, each of which serves one connection until
    that is closed or has carried ``most`` requests: llama.cpp's, by cpp-httplib. Requests on other
    connections are not even read. The client uses a connection again at once, and closes those that
    a smaller window leaves idle.
    """

    slots: int
    serve_s: float
    threads: int
    most: int = 100
    tokens: bool = False

    def serve(self, client: Window, for_s: float, seed: int) -> Record:
        """See ``Server``."""
        dice, record, now = random.Random(seed), Record(), 0.0
        busy: list[tuple[float, int, float, int]] = []  # due, number, sent, carried before
        queue: deque[tuple[float, int]] = deque()  # read, and waiting for a slot
        unread: deque[float] = deque()
        numbers = itertools.count()
        free, out = self.threads, 0
        while now < for_s:
            while out < client.window:
                unread.append(now)
                out += 1
            while free and unread:
                queue.append((unread.popleft(), 0))
                free -= 1
            while queue and len(busy) < self.slots:
                sent, carried = queue.popleft()
                due = now + self.serve_s * dice.uniform(0.8, 1.2)
                heapq.heappush(busy, (due, next(numbers), sent, carried))
            now, _, began, carried = heapq.heappop(busy)
            tokens = tokens_of(dice)
            record.answers.append(Reply(now, tokens))
            client.answered(began, now, now - began, tokens, out)
            record.windows.append((now, client.window))
            if carried + 1 < self.most and out <= client.window:
                queue.append((now, carried + 1))
            else:
                free += 1
                out -= 1
        return record


def best_rate(server: Server, windows: Iterable[int], for_s: float) -> float:
    """What the best of these fixed windows delivers in the second half."""
    return max(
        server.serve(Fixed(window), for_s, seed=0).rate(for_s / 2, for_s, tokens=server.tokens)
        for window in windows
    )
