"""``batchrun ctl`` for several processes: adds a record that all of them follow, and waits until
they have.

No process is asked directly, so it works from any machine that sees the run directory. A process
follows when it renews its lease on the limits, at most a few seconds later.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from batchrun.adapters.environment.clock import LoopClock
from batchrun.core.fleet import controls, quota
from batchrun.core.fleet.controls import Control
from batchrun.core.fleet.quota import Book, Limit
from batchrun.core.run.controls import Values
from batchrun.core.run.summary import moment
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.rundir.fleet import looking
from batchrun.rundir.fleet.launches import Launch, Launches

FOLLOWED_S = 30.0
"""A process that has not followed within this time is not awaited: it has lost its lease."""
GONE_S = 5.0
"""If no process of a fleet was seen for this long, none will fold it. The last process to leave is
invisible for a moment, between ending its lease and taking the lock.
"""
POLL_S = 0.2


class LiveFleet:
    """The processes that work on a run directory, seen from another one."""

    def __init__(self, found: Launches, launch: Launch) -> None:
        self._launches = found
        self._launch = launch
        self._store = launch.claims(f"ctl-{secrets.token_hex(4)}")

    def ask(self, action: str, values: Values) -> dict[str, Any]:
        """Ask all of them for a change; returns what holds then, and how many follow. Raises
        ``UsageError`` for what they cannot do.
        """
        book = self._begun()
        if action == controls.SET:
            controls.require_settable(values, _endpoints(book))
        elif controls.state_after(self._changes()) == "stopping" and action != controls.DRAIN:
            message = "the run is stopping: nothing more is sent"
            raise UsageError(message)
        at = moment(LoopClock.onward_us())
        wanted = Control(1, action, dict(values), at, secrets.token_hex(8))
        made = controls.added(self._store, wanted)
        if made is None:
            message = f"the processes working on {self._launches.shown} have just ended"
            raise UsageError(message)
        return self._followed(made.number)

    def _changes(self) -> list[Control]:
        try:
            return controls.read_after(self._store, 0)
        except ValueError as error:
            raise DamagedError(str(error), path=str(self._launch.folder)) from None

    def _book(self) -> Book:
        """The latest book. One that is removed while it is read has a follower."""
        for _ in range(3):
            try:
                book = quota.latest(self._store)
            except ValueError as error:
                raise DamagedError(str(error), path=str(self._launch.folder)) from None
            if book.limits:
                break
        return book

    def _begun(self) -> Book:
        """The first book that there is: a fleet that has just begun has none yet."""
        until_s = time.monotonic() + FOLLOWED_S
        while not (book := self._book()).limits:
            if time.monotonic() > until_s or not looking.lives(self._launches):
                message = "the processes have not started sending yet; try again in a moment"
                raise UsageError(message)
            time.sleep(POLL_S)
        return book

    def _followed(self, number: int) -> dict[str, Any]:
        """The limits in force once all processes follow a record, or the others are given up."""
        until_s = time.monotonic() + FOLLOWED_S
        while True:
            alive, missing = self._missing(number)
            if not missing or time.monotonic() > until_s:
                return self._held(alive, missing)
            time.sleep(POLL_S)

    def _missing(self, number: int) -> tuple[list[str], list[str]]:
        """The workers that are alive, and those of them that do not follow a record yet. One that
        holds no part of any limit sends nothing, and follows before it does.
        """
        alive = looking.alive(self._launch)
        try:
            holdings = self._book().holdings
        except StorageError:  # it was just folded
            return [], []
        late = [name for name in alive if name in holdings and holdings[name].controls < number]
        return alive, late

    def _held(self, alive: list[str], missing: list[str]) -> dict[str, Any]:
        book, changes = self._book(), self._changes()
        limits = tuple(Limit(*quota.limit_of(name), total) for name, total in book.limits.items())
        for change in changes:
            if change.number > book.controls:  # no process has a share
                limits = controls.limits_under(limits, change)
        endpoints: dict[str, dict[str, Any]] = {}
        for endpoint, kind, total in limits:
            own = endpoints.setdefault(endpoint, dict.fromkeys(controls.SETTABLE))
            own[kind] = int(total) if float(total).is_integer() else total
        return {
            "state": controls.state_after(changes),
            "max_cost_usd": None,
            "endpoints": endpoints,
            "workers": {
                "alive": len(alive),
                "followed": len(alive) - len(missing),
                "missing": missing,
            },
        }

    def wait(self) -> None:
        """Return once they have ended and the run is summed up, or none is left to do that."""
        seen_s = time.monotonic()
        while time.monotonic() - seen_s < GONE_S:
            if looking.lives(self._launches) or self._launches.is_locked():
                seen_s = time.monotonic()
            elif self._launches.unfolded() is None and not self._launches.is_busy():
                return
            time.sleep(POLL_S)


def live_fleet(found: Launches) -> LiveFleet | None:
    """The fleet that works on a run directory; None if there is none."""
    launch = found.current()
    return LiveFleet(found, launch) if launch is not None and looking.lives(found) else None


def _endpoints(book: Book) -> list[str]:
    return list(dict.fromkeys(quota.limit_of(name)[0] for name in book.limits))
