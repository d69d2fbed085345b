"""Several processes on virtual time, in one: their threads take turns, and nobody really waits.

Each thread of each simulated process is a real thread that holds a baton while it runs. Where it
would wait (a sleep, a lock, an event, an event loop without work) it hands the baton to whichever
is due next, and the clock jumps there. So one seed has one story, and an hour takes no time.

A process that is killed never gets the baton again: no ``finally`` runs, and what it wrote is what
is on the disk; its locks are free. One that is suspended gets it again later, and finds all of its
timers due. The threads of the dead stay behind; so a world is played in a process of its own
(``fleet_worlds.simulate``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import heapq
import itertools
import os
import random
import secrets
import selectors
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from batchrun.adapters.system import platform
from batchrun.testing.virtual import CREEP_S, EPOCH_US, PATIENT_TURNS, START_S

LOCKS: tuple[str, ...] = ("rundir.lock", "rundir.fleet.workers", "core.fleet.claimant")
LOCKS += ("adapters.storage.bucket_lock", "adapters.journal.state_db")
"""Modules whose threads, events and locks are virtual."""


_REAL_S = platform.real_s


def _taken() -> threading.Lock:
    """A baton that somebody has: whoever acquires it waits until it is handed on."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Thread:
    """A thread of a process; ``threading.Thread`` to the code that runs."""

    def __init__(self, process: Process, work: Callable[[], object]) -> None:
        self.process = process
        self.token = 0
        self.woken = self.ended = False
        self.baton = _taken()
        self.watching: list[Thread] = []
        self._work = work

    def begin(self) -> None:
        """Have it run from now on."""
        threading.Thread(target=self._live, daemon=True).start()
        self.process.town.resume(self)

    def _live(self) -> None:
        self.baton.acquire()
        town = self.process.town
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is told at the end
            town.faults.append((self.process, error))
        self.ended = True
        for thread in self.watching:
            town.wake(thread)
        town.hand_on()


class Process:
    """A simulated process. ``skew_s`` is how far its clock is off; ``machine`` is where it runs."""

    def __init__(self, town: Town, name: str, machine: str, skew_s: float) -> None:
        self.town, self.name, self.machine, self.skew_s = town, name, machine, skew_s
        self.dead = False
        self.suspended_until_s = self.woke_s = -1.0
        self.cut_until_s = -1.0
        self.troubled = False
        """Whether it was suspended, or cut off from the store: it may have been thought dead."""
        self.began_s = town.now_s
        self.ended_s: float | None = None
        self.turns = self.steps = 0
        self.dies_at: tuple[str, int] | None = None
        self.handlers: dict[int, tuple[Loop, Callable[[], object]]] = {}
        self.when_dead: Callable[[], object] = lambda: None
        self.databases: list[sqlite3.Connection] = []

    def spawn(self, work: Callable[[], object]) -> Thread:
        """Start one more thread."""
        thread = Thread(self, work)
        thread.begin()
        return thread

    def die(self, why: str) -> None:
        """It is gone at this moment. Returns only where another process kills it."""
        if self.dead or self.ended_s is not None:
            return
        self.dead = True
        self.town.note(f"{self.name} dies: {why}")
        self.town.flocks.drop(self)
        for database in self.databases:
            database.close()
        self.when_dead()
        if self.town.current is not None and self.town.current.process is self:
            self.town.park()

    def suspend(self, seconds: float) -> None:
        """It does not run for so long."""
        self.troubled = True
        self.suspended_until_s = self.woke_s = self.town.now_s + seconds
        self.town.note(f"{self.name} is suspended for {seconds:.0f} s")

    def signal(self, number: int) -> None:
        """Send it a signal, if it listens for it."""
        found = self.handlers.get(number)
        if found is not None and not self.dead:
            self.town.note(f"{self.name} gets signal {number}")
            found[0].call_soon_threadsafe(found[1])

    def reached(self, kind: str, name: str = "") -> None:
        """A turn of its loop, or a durable step; it may be its last one."""
        if kind == "turn":
            self.turns += 1
        else:
            self.steps += 1
        if self.dies_at is None:
            return
        how, left = self.dies_at
        if how in (kind, name):
            self.dies_at = how, left - 1
            if left <= 1:
                self.dies_at = None
                self.die(f"{kind} {name}")


class Town:
    """All processes, and the clock."""

    def __init__(self, dice: random.Random, note: Callable[[str], None]) -> None:
        self.dice = dice
        self.now_s = 0.0
        self.current: Thread | None = None
        self.faults: list[tuple[Process, BaseException]] = []
        self.flocks = Flocks(self)
        self._note = note
        self._heap: list[tuple[float, int, Any, int]] = []
        self._order = itertools.count()
        self._over = _taken()

    def note(self, event: str) -> None:
        """Note what happened."""
        self._note(f"{self.now_s:.3f} {event}")

    def at(self, when_s: float, action: Callable[[], object]) -> None:
        """Have something happen at a time; it must not wait."""
        heapq.heappush(self._heap, (max(self.now_s, when_s), next(self._order), action, 0))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Have something happen later."""
        self.at(self.now_s + delay_s, action)

    def run(self, until_s: float) -> bool:
        """Let everybody run until nothing is left to happen; False: it went on beyond a time."""
        self.hang_s = until_s
        self.hand_on()
        self._over.acquire()
        return self.now_s <= until_s

    # Whose turn it is

    def resume(self, thread: Thread) -> None:
        """A thread is ready to run."""
        entry = self.now_s, next(self._order), thread, thread.token
        heapq.heappush(self._heap, entry)

    def wake(self, thread: Thread) -> None:
        """A thread that waits need wait no longer."""
        thread.woken = True
        self.resume(thread)

    def _next(self) -> Thread | None:
        self.current = None
        while self._heap:
            when_s, _, what, token = heapq.heappop(self._heap)
            if isinstance(what, Thread):
                if what.ended or what.process.dead or token != what.token:
                    continue
                until_s = what.process.suspended_until_s
                if until_s > when_s:
                    heapq.heappush(self._heap, (until_s, next(self._order), what, token))
                    continue
            self.now_s = max(self.now_s, when_s)
            if self.now_s > self.hang_s:
                return None
            if isinstance(what, Thread):
                self.current = what
                return what
            what()
        return None

    def hand_on(self) -> None:
        """Give the baton to whoever is next."""
        following = self._next()
        (self._over if following is None else following.baton).release()

    def park(self) -> None:
        """Never run again."""
        self.hand_on()
        _taken().acquire()

    def block(self, timeout_s: float | None = None) -> bool:
        """Wait to be woken, or so long; returns whether it was woken."""
        me = self.current
        assert me is not None
        me.token += 1
        me.woken = False
        if timeout_s is not None:
            due_s = self.now_s + max(0.0, timeout_s)
            heapq.heappush(self._heap, (due_s, next(self._order), me, me.token))
        following = self._next()
        if following is not me:
            (self._over if following is None else following.baton).release()
            me.baton.acquire()
        return me.woken

    def sleep(self, seconds: float) -> None:
        """Wait."""
        if self.current is not None:
            self.block(seconds)

    def process(self) -> Process | None:
        """The process that runs."""
        return None if self.current is None else self.current.process


class Flocks:
    """``flock`` on a disk that machines share: each has locks of its own."""

    LOCK_EX, LOCK_NB, LOCK_SH = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_SH

    def __init__(self, town: Town) -> None:
        self._town = town
        self._held: dict[tuple[str, int, int], dict[int, tuple[int, Process | None]]] = {}

    def flock(self, descriptor: int, how: int) -> None:
        """See ``fcntl``. Raises ``BlockingIOError``."""
        process, status = self._town.process(), os.fstat(descriptor)
        machine = "" if process is None else process.machine
        holders = self._held.setdefault((machine, status.st_dev, status.st_ino), {})
        others = [kind for fd, (kind, _) in holders.items() if fd != descriptor]
        if fcntl.LOCK_EX in others or (others and how & fcntl.LOCK_EX):
            raise BlockingIOError(11, "locked")
        holders[descriptor] = how & (fcntl.LOCK_EX | fcntl.LOCK_SH), process

    def close(self, descriptor: int) -> None:
        """A descriptor is closed."""
        for holders in self._held.values():
            holders.pop(descriptor, None)

    def drop(self, process: Process) -> None:
        """A process is dead."""
        for holders in self._held.values():
            for descriptor in [fd for fd, (_, whose) in holders.items() if whose is process]:
                del holders[descriptor]


class _Selector(selectors.DefaultSelector):
    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._waiting: Thread | None = None
        self._woken = False
        self._turns = 0

    def wake(self) -> None:
        """There is something to do for the loop."""
        self._woken = True
        if self._waiting is not None:
            self._process.town.wake(self._waiting)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; if nothing is, others run until the next timer, or until ``wake``."""
        town = self._process.town
        self._process.reached("turn")
        ready = super().select(0)
        if ready:
            return ready
        if self._woken or (timeout is not None and timeout <= 0):
            self._woken = False
            self._turns += 1
            if self._turns > PATIENT_TURNS:
                town.sleep(CREEP_S)
            return ready
        self._turns = 0
        self._waiting = town.current
        town.block(timeout)
        self._waiting, self._woken = None, False
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """The event loop of a simulated process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._chosen = _Selector(process)
        super().__init__(self._chosen)

    def time(self) -> float:
        """See ``asyncio``."""
        return START_S + self._process.town.now_s

    def call_soon_threadsafe(  # type: ignore[override]
        self, *given: Any, **more: Any
    ) -> asyncio.Handle:
        """See ``asyncio``."""
        handle = self.call_soon(*given, **more)
        self._chosen.wake()
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See ``asyncio``: each in a thread of its own."""
        del executor
        future = self.create_future()

        def done(finish: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                finish(value)

        def work() -> None:
            try:
                found = future.set_result, func(*args)
            except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
                found = future.set_exception, error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(done, *found)

        self._process.spawn(work)
        return future

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Any, *args: Any
    ) -> None:
        """See ``asyncio``."""
        self._process.handlers[sig] = self, lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        """See ``asyncio``."""
        return self._process.handlers.pop(sig, None) is not None

    def close(self) -> None:
        """See ``asyncio``."""
        for number, (loop, _) in list(self._process.handlers.items()):
            if loop is self:
                del self._process.handlers[number]
        super().close()


class _Event:
    """``threading.Event``."""

    def __init__(self, town: Town) -> None:
        self._town, self._set = town, False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            self._town.wake(thread)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            assert self._town.current is not None
            self._waiting.append(self._town.current)
            self._town.block(timeout)
        return self._set


class _Lock:
    """``threading.Lock`` and ``RLock``."""

    def __init__(self, town: Town) -> None:
        self._town, self._depth = town, 0
        self._owner: Thread | None = None
        self._waiting: list[Thread] = []

    def __enter__(self) -> bool:
        me = self._town.current
        while self._owner is not None and self._owner is not me:
            assert me is not None
            self._waiting.append(me)
            self._town.block()
        self._owner = me
        self._depth += 1
        return True

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if self._waiting:
                self._town.wake(self._waiting.pop(0))


class Module:
    """A module of the standard library, some of whose names are others."""

    def __init__(self, real: Any, **names: Any) -> None:
        self._real = real
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Inline:
    """``ThreadPoolExecutor`` without threads."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def shutdown(self, *_: object, **__: object) -> None: ...

    def map(self, work: Callable[..., Any], *given: Iterable[Any]) -> Iterator[Any]:
        return iter([work(*each) for each in zip(*given, strict=False)])


def replace_everything(town: Town) -> None:
    """Have the whole package live by this town's clock, threads, chance and locks, for good."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("batchrun."):
            continue
        names = _replacements(town, name.removeprefix("batchrun."))
        for own, value in list(vars(module).items()):
            for real, replaced in names:
                if value is real:
                    setattr(module, own, replaced)


def _replacements(town: Town, module: str) -> list[tuple[Any, Any]]:
    def skew_s() -> float:
        process = town.process()
        return 0.0 if process is None else process.skew_s

    def wall_ns() -> int:
        return EPOCH_US * 1000 + round((town.now_s + skew_s()) * 1e9)

    def start(target: Callable[..., object], args: tuple[Any, ...] = (), **_: object) -> Any:
        process = town.process()
        assert process is not None
        return Module(None, start=lambda: process.spawn(lambda: target(*args)))

    def touch(path: Path) -> None:
        at_ns = EPOCH_US * 1000 + round((town.now_s - 3600) * 1e9)
        os.utime(path, ns=(at_ns, at_ns))

    def close(descriptor: int) -> None:
        town.flocks.close(descriptor)
        os.close(descriptor)

    clock = Module(
        time,
        sleep=town.sleep,
        monotonic=lambda: START_S + town.now_s + skew_s(),
        time=lambda: wall_ns() / 1e9,
        time_ns=wall_ns,
    )
    chance = Module(secrets, token_hex=lambda size=16: town.dice.randbytes(size).hex())
    found: list[tuple[Any, Any]] = [
        (time, clock),
        (secrets, chance),
        (_REAL_S, lambda: START_S + town.now_s + skew_s()),
        (ThreadPoolExecutor, _Inline),
    ]
    if module in LOCKS:
        shared = {"Lock": lambda: _Lock(town), "RLock": lambda: _Lock(town)}
        found.append(
            (threading, Module(threading, Thread=start, Event=lambda: _Event(town), **shared))
        )
    if module in ("rundir.lock", "adapters.storage.claims_on_disk"):
        found += [(os, Module(os, utime=touch, close=close)), (fcntl, town.flocks)]
    return found


def told(error: BaseException) -> str:
    """An error in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(each.filename).name}:{each.lineno}" for each in frames[-4:]]
    return f"{type(error).__name__}: {error} ({' < '.join(reversed(places))})"
