"""Keeps this process within its share of the limits of a fleet.

The share is recorded in a book (``core/fleet/quota.py``). This module renews the process's lease on
it and adjusts the gates: down before the book is written, up after that. If the store cannot be
reached, the gates fall to the safe share once the lease has expired, and close after that.

Budgets are shared in the same book, by marks that do not expire (``core/fleet/accounts.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from batchrun.core.cost.charged import Charge, Need
from batchrun.core.fleet import controls, quota
from batchrun.core.fleet.accounts import Accounts
from batchrun.core.fleet.controls import Control
from batchrun.core.fleet.quota import Book, Limit
from batchrun.engine.tasks import cancelled
from batchrun.errors import DamagedError, StorageError

if TYPE_CHECKING:
    from batchrun.ports import ClaimStore, Clock

LOOK_S = 0.25
"""How often it checks whether a limit holds requests back."""
LISTED_S = 30.0
"""If the number of the latest book was read longer ago than this, the folder is listed again."""
KEPT_S = 60.0
"""The age at which this process removes a book that it wrote. So a process that read the number of
a book less than ``LISTED_S`` ago never mistakes a removed book for one that does not exist yet: a
renewal that takes longer than the rest of this time grants nothing.
"""
EARLY_S = 1.0
"""How long before the others may take it a share is given up: some stores report their time in
whole seconds.
"""
TRIES = 20
RAISED_MIN = 1.02
"""A rate is only raised if it grows by more than this factor, since a new rate begins with a full
bucket.
"""
WANTS_LESS = 0.7
"""A worker that a limit does not hold back wants this fraction of its share."""
ADMITTED = 0.5
"""What counts as held of a limit without a share, while requests are still in flight."""
ASKED_S, WAITING_S = 0.1, 0.5
"""The shortest interval between requests for more budget; and the interval if there is no more at
the moment, or another worker waits for some.
"""
_sessions = itertools.count(1)

T = TypeVar("T")
Ask = Callable[[Callable[[], Any]], Awaitable[Any]]


class Limited(Protocol):
    """An endpoint whose limits can be moved."""

    @property
    def in_flight(self) -> int:
        """Requests that hold a permit."""
        ...

    @property
    def bound_by(self) -> str | None:
        """The limit that holds requests back right now."""
        ...

    def confine(self, kind: str, most: float, *, admitted: bool = False) -> None:
        """Keep one of its limits at or below ``most`` from now on. At 0, nothing is sent except
        requests that are in flight already or, if ``admitted``, about to be sent. Infinity means no
        limit.
        """
        ...

    def fix_window(self) -> None:
        """Fix its concurrency from now on; no climb searches for another."""
        ...

    @property
    def pace(self) -> float | None:
        """The requests per second that its refusals imply."""
        ...

    def level(self, pace: float) -> None:
        """Take over a pace that other processes found."""
        ...

    window_found: int | None
    """The window that its climb wants; None if the concurrency is fixed."""

    def climb_together(self) -> None:
        """From now on only ``adopt`` moves its window."""
        ...

    def adopt(self, window: int, *, leads: bool) -> None:
        """Set the window; with ``leads``, also find the next window for all processes."""
        ...


class Capped(Protocol):
    """A budget of which this process may spend the amount granted to it."""

    def share(self, ask: Callable[[], None]) -> None:
        """Begin with nothing granted; ``ask`` is called whenever more is needed."""
        ...

    def need(self) -> Need:
        """What was spent, and what is needed."""
        ...

    def lower(self, mark: int) -> None:
        """Spend no more than this from now on, if that is less than before."""
        ...

    def grant(self, mark: int) -> None:
        """Spend no more than this."""
        ...

    def end(self, whole: Charge) -> None:
        """Called when the budget is used up for good; ``whole`` is the charge of all processes."""
        ...


class Sharing:
    """One process's part in the sharing. ``gates`` are its endpoints, by name."""

    def __init__(
        self,
        *,
        store: ClaimStore,
        worker: str,
        gates: Mapping[str, Limited],
        limits: tuple[Limit, ...],
        clock: Clock,
        real_s: Callable[[], float] | None = None,
        ask: Ask = asyncio.to_thread,
        budgets: Mapping[str, Capped] | None = None,
        charged: Mapping[str, Charge] | None = None,
        follow: Callable[[Control], None] = lambda _: None,
        fence: Callable[[], StorageError | None] = lambda: None,
    ) -> None:
        """``real_s`` returns seconds that include the machine's sleep (by default the clock's);
        ``ask`` runs blocking calls. Of the ``budgets``, ``charged`` was spent before the fleet
        began; ``follow`` carries out the other changes by ``batchrun ctl``. ``fence`` returns what
        to raise if the others continued without this process. The limits are closed until the first
        renewal.
        """
        self._store = store
        self._worker = worker
        self._gates = gates
        self._limits = limits
        self._clock = clock
        self._now_s = real_s or clock.now_s
        self._ask = ask
        self._follow = follow
        self._fence = fence
        self._under = 0
        """The latest change that was made here."""
        self._number = 0
        self._book = Book()
        self._numbered_s = -math.inf
        self._written: list[tuple[int, float]] = []
        self._held: dict[str, float] = {limit.name: 0.0 for limit in limits}
        """The limits in force at the gates."""
        self._safe: dict[str, float] = dict(self._held)
        self._granted: dict[str, float] = dict(self._held)
        self._renewed_s = -math.inf
        self._bound: set[str] = set()
        self._leads = False
        self._in_force: dict[str, int] = {}
        """By endpoint, the window that this process has."""
        self._moves: dict[str, tuple[int, float]] = {}
        """By endpoint, the window that all are about to adopt, and when this process does."""
        self._account = f"{worker}/{next(_sessions)}"
        self._budgets = budgets or {}
        self._charged = charged or {}
        self._more = asyncio.Event()
        """Set while a budget needs more than it was granted."""
        self._waits = False
        for budget in self._budgets.values():
            budget.share(self._more.set)
        for gate in gates.values():
            gate.climb_together()
        for limit in limits:
            self._gates[limit.endpoint].confine(limit.kind, 0)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew the lease until the block is left, and then give everything back. If the book is
        damaged, or the others continued without this process, the block is cancelled. Raises
        ``DamagedError`` or ``StorageError``.
        """
        keeping = asyncio.create_task(self.keep(), name="shared limits")
        within, entered = asyncio.current_task(), True

        def look(task: asyncio.Task[None]) -> None:
            failed = not task.cancelled() and task.exception() is not None
            if failed and entered and within is not None:
                within.cancel()

        keeping.add_done_callback(look)
        try:
            yield
        except asyncio.CancelledError:
            if keeping.done() and not keeping.cancelled():
                await keeping
            raise
        finally:
            entered = False  # a pending callback must not interrupt what follows
            keeping.remove_done_callback(look)
            await cancelled((keeping,))
            with contextlib.suppress(StorageError, DamagedError):
                await self.leave()

    async def keep(self) -> None:
        """Renew the lease until this task is cancelled. Raises ``StorageError`` if the others
        continued without this process: it would get no share any more, and so would send nothing
        whose answer could reveal it.
        """
        while True:
            if not await self.renew():
                await self._require_part()
            began_s = self._now_s()
            due_s = began_s + self._pause_s()
            while (left_s := due_s - self._now_s()) > 0:
                await self._paused(min(LOOK_S, left_s))
                self._look()
                if self._more.is_set() and not self._waits:
                    due_s = min(due_s, began_s + ASKED_S)

    async def _require_part(self) -> None:
        """Raise ``StorageError`` if the others continued without this process."""
        left_out = None
        with contextlib.suppress(StorageError):  # the store cannot be reached now; it may be later
            left_out = await self._asked(self._fence)
        if left_out is not None:
            raise left_out

    def _pause_s(self) -> float:
        """Seconds to the next renewal."""
        pause_s = quota.renewal_s(len(self._book.holdings))
        accounts = self._book.accounts.values() if self._budgets else ()
        short = self._waits or any(a.waits for each in accounts for a in each.open.values())
        return min(pause_s, max(WAITING_S, pause_s / 4)) if short else pause_s

    async def _paused(self, seconds: float) -> None:
        """Wait, but no longer than until a budget needs more."""
        if not self._budgets or self._more.is_set():
            await self._clock.sleep(min(seconds, ASKED_S) if self._budgets else seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._more.wait()

    def _look(self) -> None:
        """Note which limits hold requests back, and give up what the lease no longer covers."""
        for limit in self._limits:
            if self._gates[limit.endpoint].bound_by == limit.kind:
                self._bound.add(limit.name)
        now_s = self._now_s()
        for endpoint, (window, due_s) in list(self._moves.items()):
            if now_s >= due_s:
                self._adopt(endpoint, window)
        age_s = now_s - self._renewed_s
        if age_s > quota.LEASE_S - EARLY_S:
            over = age_s > quota.SAFE_S - EARLY_S
            self._lower(dict.fromkeys(self._held, 0.0) if over else self._safe)

    async def renew(self) -> bool:
        """Renew the lease once; False if the store could not be reached, or others were faster
        every time: then the latest lease stays in force.
        """
        try:
            for _ in range(TRIES):
                if await self._try_to_renew():
                    self._bound.clear()
                    return True
        except StorageError:
            pass
        self._look()
        return False

    async def _try_to_renew(self) -> bool:
        asked_s = self._now_s()
        now_s, changes = await self._latest()
        for control in changes:
            self._change(control)
        if self._under < self._book.controls:
            message = f"{controls.record_name(self._book.controls)} cannot be seen from here yet"
            raise StorageError(message)
        self._more.clear()
        in_use = self._in_use()
        wants = {limit.name: self._wanted(limit) for limit in self._limits}
        book = quota.renewed(
            self._book,
            self._worker,
            now_s,
            self._limits,
            wants,
            in_use,
            {name: gate.pace for name, gate in self._gates.items() if gate.pace is not None},
            self._windows_found(now_s),
        ).under(self._worker, self._limits, self._under)
        mine = book.holdings[self._worker]
        self._lower(mine.parts, in_use)
        living = self._living(now_s)
        accounts = {
            name: self._accounts(name).renewed(self._account, budget.need(), living)
            for name, budget in self._budgets.items()
        }
        for name, budget in self._budgets.items():
            budget.lower(accounts[name].open[self._account].mark)
        book = book._replace(accounts={**book.accounts, **accounts})
        if not await self._write(book):
            return False
        age_s = self._now_s() - asked_s
        if age_s > quota.SAFE_S - EARLY_S:
            return False  # this process slept, and the lease has expired
        self._renewed_s = asked_s
        self._granted, self._safe = dict(mine.holds), dict(mine.safe)
        # A renewal takes several calls, one after the other: of a slow store, as long as a lease.
        self._raise(mine.parts if age_s <= quota.LEASE_S - EARLY_S else mine.safe)
        self._grant(accounts, living)
        self._find_together(book, now_s)
        return True

    # Budgets

    def _living(self, now_s: float) -> set[str]:
        """Accounts of other workers that may still give something back."""
        living = self._book.living(now_s)
        return {
            name
            for accounts in self._book.accounts.values()
            for name in accounts.open
            if _worker_of(name) in living and _worker_of(name) != self._worker
        }

    def _accounts(self, name: str) -> Accounts:
        """The accounts of a budget. An account of this process from another session was left open
        because the store could not be reached.
        """
        accounts = self._book.accounts.get(name) or Accounts(self._charged[name])
        for other in accounts.open:
            if _worker_of(other) == self._worker and other != self._account:
                accounts = accounts.closed(other)
        return accounts

    def _grant(self, accounts: Mapping[str, Accounts], living: set[str]) -> None:
        self._waits = any(each.open[self._account].waits for each in accounts.values())
        for name, budget in self._budgets.items():
            budget.grant(accounts[name].open[self._account].mark)
            if accounts[name].is_used_up(self._account, living):
                budget.end(accounts[name].total)

    # Changes by ``batchrun ctl``

    def _change(self, control: Control) -> None:
        """Make a change that was requested for the whole fleet. A limit that is new here takes
        effect with the next renewal.
        """
        self._under = control.number
        self._follow(control)
        before = {limit.name: limit for limit in self._limits}
        self._limits = controls.limits_under(self._limits, control)
        now = {limit.name: limit for limit in self._limits}
        for name in now.keys() - before.keys():
            self._held[name] = math.inf
            self._granted[name] = self._safe[name] = 0.0
        for name in before.keys() - now.keys():
            limit = before[name]
            self._gates[limit.endpoint].confine(limit.kind, math.inf)
            self._bound.discard(name)
            del self._held[name], self._granted[name], self._safe[name]
        for endpoint, gate in self._gates.items():
            if controls.fixes_concurrency(control, endpoint):
                gate.fix_window()

    # What a server can take, if it does not report it

    def _windows_found(self, now_s: float) -> dict[str, int]:
        """What this process found, if it leads; else what it has, for when it will lead."""
        if self._book.leader(now_s) not in (None, self._worker):
            return dict(self._in_force)
        found = {name: gate.window_found for name, gate in self._gates.items()}
        return {name: window for name, window in found.items() if window is not None}

    def _find_together(self, book: Book, now_s: float) -> None:
        for endpoint, gate in self._gates.items():
            level = book.level(endpoint, now_s)
            if level is not None:
                gate.level(level)
        leader = book.leader(now_s)
        leads, self._leads = self._leads, leader == self._worker
        if leader is None:
            return
        for endpoint, window in book.holdings[leader].windows.items():
            if not self._leads or not leads:
                self._adopt(endpoint, window)
            elif window != self._in_force.get(endpoint) and endpoint not in self._moves:
                # The others have it once they have renewed, the slowest after two renewals.
                wait_s = 2 * quota.renewal_s(len(book.holdings))
                self._moves[endpoint] = (window, self._now_s() + wait_s)

    def _adopt(self, endpoint: str, window: int) -> None:
        self._moves.pop(endpoint, None)
        changes = self._in_force.get(endpoint) != window
        self._in_force[endpoint] = window
        if changes or self._leads:
            self._gates[endpoint].adopt(window, leads=self._leads)

    def _wanted(self, limit: Limit) -> float:
        """How much of a limit this process could use."""
        held = self._granted[limit.name]
        if limit.name in self._bound or not held:
            return math.inf
        return max(WANTS_LESS * held, self._in_use().get(limit.name, 0.0))

    def _in_use(self) -> dict[str, float]:
        """The share held by requests in flight, which cannot be taken back."""
        return {
            limit.name: min(self._gates[limit.endpoint].in_flight, self._granted[limit.name])
            for limit in self._limits
            if limit.is_whole and self._now_s() - self._renewed_s <= quota.LEASE_S - EARLY_S
        }

    # The gates

    def _lower(self, holds: Mapping[str, float], in_use: Mapping[str, float] = {}) -> None:
        """Reduce its own use, but not below ``in_use``: these requests may wait for their turn with
        a permit, and would hold it forever if they were not sent.
        """
        for limit in self._limits:
            most, admitted = holds[limit.name], in_use.get(limit.name, 0.0) > 0
            if most < self._held[limit.name]:
                self._confine(limit, most, admitted=admitted and most <= 0)

    def _raise(self, holds: Mapping[str, float]) -> None:
        for limit in self._limits:
            most, held = holds[limit.name], self._held[limit.name]
            if most > held * (1 if limit.is_whole or not held else RAISED_MIN):
                self._confine(limit, most)

    def _confine(self, limit: Limit, most: float, *, admitted: bool = False) -> None:
        self._held[limit.name] = ADMITTED if admitted else most
        self._gates[limit.endpoint].confine(limit.kind, most, admitted=admitted)

    # The books

    async def _latest(self) -> tuple[float, list[Control]]:
        """Read the latest book; returns the store's time from before that, and the changes not made
        here yet.
        """
        store, under = self._store, self._under

        def read() -> tuple[float, int, bytes | None, list[Control]]:
            now_s = store.put(f"{quota.TIMES}/{self._worker}", b"")
            number, found = self._number, None
            if self._now_s() - self._numbered_s > LISTED_S:
                number = max(map(quota.number_of, store.names(quota.FOLDER)), default=0)
                found = store.read(quota.record_name(number)) if number else None
            # Numbers have no gaps, so it is found in few steps however many others renewed
            # meanwhile.
            step, growing = 1, True
            while step:
                newer = store.read(quota.record_name(number + step))
                if newer is not None:
                    number, found = number + step, newer
                growing = growing and newer is not None
                step = step * 2 if growing else step // 2
            return now_s, number, found, controls.read_after(store, under)

        began_s = self._now_s()
        now_s, number, found, changes = await self._asked(read)
        self._number, self._numbered_s = number, began_s
        if found is not None:
            self._book = quota.parse(found, quota.record_name(number))
        return now_s, changes

    async def _write(self, book: Book) -> bool:
        """Write the next book; False if another process was faster."""
        number, content = self._number + 1, book.as_bytes()

        def write() -> bool:
            return self._store.create(quota.record_name(number), content)

        if not await self._asked(write):
            return False
        self._number, self._book = number, book
        written_s = self._now_s()
        self._written.append((number, written_s))
        while self._written and written_s - self._written[0][1] > KEPT_S:
            old, _ = self._written.pop(0)
            await self._asked(partial(self._store.remove, quota.record_name(old)))
        return True

    async def leave(self) -> None:
        """Give everything back: nothing is sent any more."""
        self._lower(dict.fromkeys(self._held, 0.0))
        for _ in range(TRIES):
            await self._latest()
            accounts = {
                name: self._accounts(name).closed(self._account, budget.need().final)
                for name, budget in self._budgets.items()
            }
            book = quota.left(self._book, self._worker)
            book = book._replace(accounts={**book.accounts, **accounts})
            if await self._write(book):
                return

    async def _asked(self, question: Callable[[], T]) -> T:
        """Call the store, and watch the lease meanwhile, which may expire if the store is slow."""
        asking = asyncio.ensure_future(self._ask(question))
        try:
            while not asking.done():
                await asyncio.wait((asking,), timeout=LOOK_S)
                self._look()
            answer: T = await asking
        finally:
            asking.cancel()
        return answer


def _worker_of(account: str) -> str:
    return account.partition("/")[0]
