"""Who may use how much of the limits that a fleet has together: leases on shares of them.

The book names every worker with what it holds of each limit, and until when. A worker that renews
its lease reads the book, computes its own part and writes the next book; only one can write it
(see ``ports.ClaimStore.create``). So there is no coordinator that could die: each worker in turn is
it. Three rules keep the sum at or below the limit, whatever happens:

- A worker takes no more than what nobody holds.
- It gives up what it has too much of at its own renewal alone, and stops using it before it writes.
- A worker that cannot renew falls back to a *safe* share when its lease ends, and to nothing after
  that; the others leave both alone for as long as it may be using them.

Shares are max-min fair: who wants little gets it, the rest is divided among the others, and what
nobody wants is divided among all, so that it is at hand at once. Times are the store's clock.

What a server can take and does not tell is found together, too. Each worker's rounds find its part
of the rate, which is levelled, since nothing else makes parts equal. Windows cannot be found by
each for itself: of two climbs at one server, the one that doubles takes from the other, and both
think that it pays (8 slots: 300 in flight). So the leader's climb moves the window of all.

The scheme is that of Doorman (leases, wants and has, a safe capacity;
https://github.com/youtube/doorman/blob/master/doc/design.md) without its server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from batchrun.core.fleet import accounts as budget_accounts
from batchrun.core.fleet.accounts import Accounts
from batchrun.core.fleet.sealed import sealed, unsealed
from batchrun.errors import DamagedError

if TYPE_CHECKING:
    from batchrun.core.settings.endpoint import Endpoint
    from batchrun.ports import ClaimStore

FOLDER, TIMES = "quota", "quota-times"
RENEW_S = 2.0
"""A worker renews its lease this often; less often where there are many (``renewal_s``)."""
LEASE_S = 15.0
SAFE_S = 30.0
"""After a renewal, a worker uses its share for the first, a safe one until the second, and then
nothing. Its claims end with the second, too (``leases.LEASE_S``)."""
SAFE_SHARE = 0.5
"""The safe share, as a part of an equal one."""
PER_WORKER_S = 0.1
"""Renewals follow each other: a hundred milliseconds for each is what an object store takes."""

CONCURRENCY, RPM, TPM = "concurrency", "rpm", "tpm"


class Limit(NamedTuple):
    """One limit of the whole fleet: of which endpoint, which one, and how much of it there is."""

    endpoint: str
    kind: str
    total: float

    @property
    def name(self) -> str:
        """What the book calls it."""
        return f"{self.kind}:{self.endpoint}"

    @property
    def is_whole(self) -> bool:
        """Whether it is divided into whole numbers."""
        return self.kind == CONCURRENCY


def limits_of(endpoints: Iterable[Endpoint]) -> tuple[Limit, ...]:
    """The limits that the settings of endpoints have."""
    return tuple(
        Limit(endpoint.name, kind, float(total))
        for endpoint in endpoints
        for kind, total in (
            (CONCURRENCY, endpoint.concurrency_max),
            (RPM, endpoint.rpm),
            (TPM, endpoint.tpm),
        )
        if total is not None
    )


class Holding(NamedTuple):
    """What a worker holds, by the limit's name, as of its latest renewal."""

    renewed_s: float
    holds: Mapping[str, float]
    """What it may be using: its part, or more while requests beyond that are in flight."""
    parts: Mapping[str, float]
    """What it keeps to from now on."""
    safe: Mapping[str, float]
    wants: Mapping[str, float]
    """What it could use; not there where the limit is what holds it back."""
    paces: Mapping[str, float] = {}
    """Requests a second that it found an endpoint to take from it (``rounds.py``)."""
    windows: Mapping[str, int] = {}
    """By endpoint, the requests in flight for each worker that it found best (``climb.py``). Those
    of the leader count."""
    controls: int = 0
    """The latest change by ``batchrun ctl`` that it has made (``controls.py``)."""

    def at(self, name: str, now_s: float) -> float:
        """How much of a limit it may be using by now."""
        age_s = now_s - self.renewed_s
        if age_s <= LEASE_S:
            return self.holds.get(name, 0.0)
        return self.safe.get(name, 0.0) if age_s <= SAFE_S else 0.0


class Book(NamedTuple):
    """What all workers hold. Immutable: a renewal makes the next one."""

    holdings: Mapping[str, Holding] = {}
    accounts: Mapping[str, Accounts] = {}
    """Of each budget that the fleet has, who may spend how much."""
    limits: Mapping[str, float] = {}
    """The limits that are shared, by name: how much there is of each."""
    controls: int = 0
    """The latest change of the limits that went into it (``controls.py``)."""

    def as_bytes(self) -> bytes:
        """As it is kept in the store."""
        value = {
            "holdings": {worker: list(holding) for worker, holding in self.holdings.items()},
            "accounts": {name: accounts.recorded() for name, accounts in self.accounts.items()},
            "limits": self.limits,
            "controls": self.controls,
        }
        return json.dumps(sealed(value)).encode()

    def living(self, now_s: float) -> set[str]:
        """The workers that may have something in use."""
        return {
            worker
            for worker, holding in self.holdings.items()
            if now_s - holding.renewed_s <= SAFE_S
        }

    def under(self, worker: str, limits: Iterable[Limit], controls: int) -> Book:
        """The same book with a note of the limits by which a worker renewed its lease."""
        mine = self.holdings[worker]._replace(controls=controls)
        return self._replace(
            holdings={**self.holdings, worker: mine},
            limits={limit.name: limit.total for limit in limits},
            controls=controls,
        )

    def leader(self, now_s: float) -> str | None:
        """The worker that finds windows for all: the first one by name that lives."""
        living = (
            name for name, holding in self.holdings.items() if now_s - holding.renewed_s <= LEASE_S
        )
        return min(living, default=None)

    def level(self, endpoint: str, now_s: float) -> float | None:
        """The mean of the paces that the living found for an endpoint; None where not all have."""
        found = [
            holding.paces.get(endpoint)
            for holding in self.holdings.values()
            if now_s - holding.renewed_s <= LEASE_S
        ]
        known = [pace for pace in found if pace is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None

    def held(self, name: str, now_s: float, *, but: str = "") -> float:
        """How much of a limit may be in use, by all workers but one."""
        return sum(
            holding.at(name, now_s) for worker, holding in self.holdings.items() if worker != but
        )


def parse(content: bytes, name: str = FOLDER) -> Book:
    """A book as it was kept. Raises ``DamagedError`` for anything else; its path is ``name``."""
    try:
        value = unsealed(content)
        return Book(
            {worker: Holding(*entry) for worker, entry in value["holdings"].items()},
            {
                budget: budget_accounts.recorded(entry)
                for budget, entry in value["accounts"].items()
            },
            dict(value["limits"]),
            int(value["controls"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = (
            f"{name}, the book in which a fleet shares its limits, is damaged: {error}. Stop the "
            "processes of the run, and restore the file from a backup. Without a backup, remove it "
            "only if the run has no budget: with a budget, it records what may have been spent"
        )
        raise DamagedError(message, path=name) from error


def limit_of(name: str) -> tuple[str, str]:
    """Endpoint and kind of the limit with this name (``Limit.name``)."""
    kind, _, endpoint = name.partition(":")
    return endpoint, kind


def record_name(number: int) -> str:
    """What the book with this number is called in the store."""
    return f"{FOLDER}/{number:012d}"


def number_of(name: str) -> int:
    """The number in a book's name."""
    return int(name.rpartition("/")[2])


def latest(store: ClaimStore) -> Book:
    """The latest book; an empty one where there is none. Writes nothing. Raises ``StorageError``,
    and ``ValueError`` for a book that is none.
    """
    number = max(map(number_of, store.names(FOLDER)), default=0)
    content = store.read(record_name(number)) if number else None
    return Book() if content is None else parse(content)


def renewal_s(workers: int) -> float:
    """How often each of so many workers renews its lease."""
    return min(LEASE_S / 3, max(RENEW_S, PER_WORKER_S * workers))


def renewed(
    book: Book,
    worker: str,
    now_s: float,
    limits: tuple[Limit, ...],
    wants: Mapping[str, float],
    in_use: Mapping[str, float],
    paces: Mapping[str, float] = {},
    windows: Mapping[str, int] = {},
) -> Book:
    """The book after a worker renewed its lease, with what it found.

    ``in_use`` is what it cannot give up at once: requests in flight. Workers whose safe share has
    ended are left out; all that they held is free.
    """
    others = {
        name: holding
        for name, holding in book.holdings.items()
        if name != worker and now_s - holding.renewed_s <= SAFE_S
    }
    rest = Book(others)
    holds, parts, safe = {}, {}, {}
    for limit in limits:
        name = limit.name
        demand = {other: holding.wants.get(name, math.inf) for other, holding in others.items()}
        demand[worker] = wants.get(name, math.inf)
        fair = shares(limit, demand)[worker]
        free = max(0.0, limit.total - rest.held(name, now_s))
        part, least = min(fair, free), SAFE_SHARE * limit.total / len(demand)
        parts[name] = math.floor(part) if limit.is_whole else part
        holds[name] = max(parts[name], in_use.get(name, 0.0))
        safe[name] = min(parts[name], math.floor(least) if limit.is_whole else least)
    finite = {name: want for name, want in wants.items() if want < math.inf}
    mine = Holding(now_s, holds, parts, safe, finite, paces, windows)
    return book._replace(holdings={**others, worker: mine})


def left(book: Book, worker: str) -> Book:
    """The book after a worker has ended, which uses nothing any more. Its accounts stay open."""
    kept = {name: holding for name, holding in book.holdings.items() if name != worker}
    return book._replace(holdings=kept)


def shares(limit: Limit, demand: Mapping[str, float]) -> dict[str, float]:
    """A limit divided among workers by what they want: max-min fair, and what is left over in
    equal parts. Whole numbers where the limit has them; the first by name get the remainder.
    """
    fair: dict[str, float] = {}
    rest, waiting = limit.total, sorted(demand, key=lambda name: (demand[name], name))
    for position, name in enumerate(waiting):
        fair[name] = min(demand[name], rest / (len(waiting) - position))
        rest -= fair[name]
    if demand:
        fair = {name: part + rest / len(demand) for name, part in fair.items()}
    if not limit.is_whole:
        return fair
    whole = {name: math.floor(part + 1e-9) for name, part in fair.items()}
    missing = round(limit.total - sum(whole.values()))
    for name in sorted(fair, key=lambda name: (whole[name] - fair[name], name))[:missing]:
        whole[name] += 1
    return {name: float(part) for name, part in whole.items()}
