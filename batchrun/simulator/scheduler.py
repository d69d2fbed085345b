"""Runs requests by what the server can do at once (``capacity.py``), on the event loop's clock.

Everything that runs makes the same progress, so one number describes it: the work that a request
running from the beginning would have received. A request that starts at 7.0 and has 2.5 to do ends
when that number is 9.5. Events are in a heap ordered by this number; when it grows more slowly,
because more is running, nothing in the heap changes.
"""

import asyncio
import contextlib
import heapq
import math
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from batchrun.simulator.capacity import Capacity

_ROUNDING = 1e-6  # progress is a sum of floats


class QueueFullError(Exception):
    """No more requests may wait."""

    def __init__(self, running: int, waiting: int) -> None:
        super().__init__(f"{running} requests run and {waiting} wait")
        self.running = running
        self.waiting = waiting


class _Mark(NamedTuple):
    """A waiter for a request's progress."""

    work: float
    reached: asyncio.Future[None]


class Job:
    """One request: how much work it is, and how far it is."""

    __slots__ = ("_scheduler", "begun", "done", "marks", "needs", "prompt", "turns", "work")

    def __init__(self, scheduler: "Scheduler", work: float, prompt_tokens: int) -> None:
        self._scheduler = scheduler
        self.work = work
        self.prompt = prompt_tokens
        self.needs = float(prompt_tokens)  # room for tokens that it waits for
        self.begun: float | None = None
        self.turns = 0  # how often it began
        self.done = asyncio.get_running_loop().create_future()
        self.marks = [_Mark(work, self.done)]

    @property
    def lasts(self) -> bool:
        """Whether there is time between its beginning and its end."""
        return self.work > 0

    async def reach(self, share: float) -> None:
        """Return when this share of the work is done: 0 when it begins, 1 at its end. What was
        done once and lost to a preemption is not waited for again.
        """
        if share >= 1:
            await self.done
        else:
            await self._scheduler.reached(self, share * self.work)


class Timed:
    """A request that takes as long as it takes, whatever else is running."""

    __slots__ = ("_begins_s", "_from_s", "_lasts_s")

    def __init__(self, begins_s: float, whole_s: float) -> None:
        """It begins after so many seconds from now, and ends after ``whole_s`` seconds."""
        self._from_s = asyncio.get_running_loop().time()
        self._begins_s = begins_s
        self._lasts_s = whole_s - begins_s

    @property
    def lasts(self) -> bool:
        """Whether there is time between its beginning and its end."""
        return self._lasts_s > 0

    async def reach(self, share: float) -> None:
        """Return when this share of it is done: 0 when it begins, 1 at its end."""
        due_s = self._from_s + self._begins_s + share * self._lasts_s
        left_s = due_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.sleep(left_s)


class Scheduler:
    """Lets requests run, or wait for their turn. It belongs to one event loop.

    A request that is larger than all the room for tokens runs alone.
    """

    def __init__(self, capacity: Capacity | None) -> None:
        """With no capacity nothing is run: the caller answers as it likes."""
        self._capacity = capacity
        self._running: dict[Job, None] = {}  # the youngest is last
        self._waiting: deque[Job] = deque()
        self._heap: list[tuple[float, int, int, Job, asyncio.Future[None]]] = []
        self._numbers = count()
        self._progress = 0.0
        self._at_s = 0.0
        self._prompts = 0.0  # of what is running, less the progress at which it began
        self._timer: asyncio.TimerHandle | None = None
        self.preemptions = 0

    @property
    def capacity(self) -> Capacity | None:
        """What it can do at once; None: anything."""
        return self._capacity

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """The share of the room for tokens that is in use; 0 where there is no bound."""
        if self._capacity is None or math.isinf(self._capacity.kv_tokens_max):
            return 0.0
        self._advance()
        return min(1.0, self._tokens() / self._capacity.kv_tokens_max)

    def change(self, capacity: Capacity | None) -> None:
        """Go on with another capacity. What is running goes on, in the work it has left; what waits
        may begin. With none, all of it is done.
        """
        self._advance()
        self._capacity = capacity
        if capacity is None:
            for job in (*self._running, *self._waiting):
                self._release(job)
        self._settle()

    def require_room(self) -> None:
        """Raise QueueFullError if a request that came now could not even wait."""
        capacity = self._capacity
        if capacity is None or (not self._waiting and capacity.admits(len(self._running))):
            return
        if len(self._waiting) >= capacity.queue_max:
            raise QueueFullError(len(self._running), len(self._waiting))

    @contextlib.contextmanager
    def job(self, alone_s: float, tokens: int, prompt_tokens: int) -> Iterator[Job]:
        """A request that runs, or waits to, for as long as the context lasts.

        It is an answer of so many tokens, which takes ``alone_s`` on an idle server.
        """
        work = tokens if self._capacity is None or self._capacity.by_tokens else alone_s
        job = Job(self, work, prompt_tokens)
        self._advance()
        self._waiting.append(job)
        self._settle()
        try:
            yield job
        finally:
            self._advance()
            self._release(job)
            self._settle()

    async def reached(self, job: Job, work: float) -> None:
        """Return when a request has done so much work."""
        if job.done.done():
            return
        self._advance()
        if job.begun is not None and self._progress - job.begun >= work - _ROUNDING:
            return
        mark = _Mark(work, asyncio.get_running_loop().create_future())
        job.marks.append(mark)
        if job.begun is not None:
            self._push(job, mark)
            self._set_timer()
        await mark.reached

    def _advance(self) -> None:
        """Bring the progress up to now."""
        now_s = asyncio.get_running_loop().time()
        if self._running and self._capacity is not None:
            pace_s = self._capacity.pace_s(len(self._running))
            self._progress += (now_s - self._at_s) / pace_s if pace_s else math.inf
            if math.isinf(self._progress):  # a pace without any time: all is done at once
                self._progress = max(mark[0] for mark in self._heap)
        self._at_s = now_s

    def _tokens(self) -> float:
        return self._prompts + len(self._running) * self._progress

    def _settle(self) -> None:
        """Wake the waiters, make room, start the requests that fit, and set the timer."""
        while self._heap and self._heap[0][0] <= self._progress + _ROUNDING:
            _, _, turn, job, reached = heapq.heappop(self._heap)
            if job.turns != turn or job.begun is None or reached.done():
                continue
            reached.set_result(None)
            if reached is job.done:
                self._release(job)
        capacity = self._capacity
        if capacity is not None:
            room = capacity.kv_tokens_max
            while len(self._running) > 1 and self._tokens() > room + _ROUNDING:
                self._preempt()
            while self._waiting and capacity.admits(len(self._running)):
                if self._running and self._tokens() + self._waiting[0].needs + 1 > room:
                    break
                self._begin(self._waiting.popleft())
        self._set_timer()

    def _begin(self, job: Job) -> None:
        job.begun = self._progress
        job.turns += 1
        job.marks = [mark for mark in job.marks if not mark.reached.done()]
        self._running[job] = None
        self._prompts += job.prompt - job.begun
        for mark in job.marks:
            self._push(job, mark)

    def _push(self, job: Job, mark: _Mark) -> None:
        assert job.begun is not None
        entry = (job.begun + mark.work, next(self._numbers), job.turns, job, mark.reached)
        heapq.heappush(self._heap, entry)

    def _preempt(self) -> None:
        """Preempt the request that began last. It waits in front of the others until there is room
        for as much as it had, so that it is not started and preempted all the time.
        """
        job = next(reversed(self._running))
        assert job.begun is not None
        job.needs = job.prompt + self._progress - job.begun
        self._stop(job)
        self._waiting.appendleft(job)
        self.preemptions += 1

    def _stop(self, job: Job) -> None:
        assert job.begun is not None
        del self._running[job]
        self._prompts -= job.prompt - job.begun
        job.begun = None

    def _release(self, job: Job) -> None:
        """A request is over, or given up."""
        if job in self._running:
            self._stop(job)
        else:
            with contextlib.suppress(ValueError):
                self._waiting.remove(job)
        for mark in job.marks:
            if not mark.reached.done():
                mark.reached.set_result(None)

    def _set_timer(self) -> None:
        """Wake up when the next one gets somewhere, or the room for tokens is used up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        running, capacity = len(self._running), self._capacity
        if not running or capacity is None or not self._heap:
            return
        target = self._heap[0][0]
        if running > 1 and not math.isinf(capacity.kv_tokens_max):
            target = min(target, (capacity.kv_tokens_max - self._prompts) / running + _ROUNDING * 2)
        left_s = max(0.0, target - self._progress) * capacity.pace_s(running)
        self._timer = asyncio.get_running_loop().call_later(left_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._settle()
