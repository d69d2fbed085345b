"""Who may spend how much of a budget that a fleet has together: accounts in the fleet's book.

A worker's account has a *mark*: what it has spent, and what it has set aside for requests that are
out, never goes above it. All marks together, and what ended processes have spent, never go above
the cap. Unlike a share of a rate (``quota.py``) a mark does not expire, since a process that is
suspended or was killed may have requests out that are billed:

- A worker raises its mark by no more than what nobody has.
- It lowers its mark at its own renewal alone, and keeps to the new one before it writes.
- When it leaves, its charge takes the mark's place. The mark of one that died stays charged, as
  that of a single process does.

Towards the end, when somebody waits for money, nobody keeps more than it has set aside or, while it
has requests in line, an equal part. So what is left comes together, and the run stops where nothing
is out and the next request does not fit: as one process does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from batchrun.core.cost.charged import Charge, Need

STEPS = 200
"""A mark is moved ahead of what is needed by this share of the cap, while there is enough."""
NOTHING = Charge(0)


class Account(NamedTuple):
    """One worker's account, as of its latest renewal."""

    mark: int
    charge: Charge = NOTHING
    waits: int = 0
    """The worst case of its next request, if that has no room; else 0."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is out that could give something back."""
        return self.mark == self.charge.spent


class Accounts(NamedTuple):
    """The accounts of one budget. Immutable: a renewal makes the next ones."""

    ended: Charge = NOTHING
    """What processes that ended have spent, and sessions before the fleet."""
    open: Mapping[str, Account] = {}

    @property
    def total(self) -> Charge:
        """What is charged if nobody spends any more: of open accounts, all that they may have."""
        whole = self.ended
        for account in self.open.values():
            whole = whole.plus(account.charge._replace(spent=account.mark))
        return whole

    def renewed(self, name: str, need: Need, living: Collection[str]) -> Accounts:
        """After worker ``name`` renewed its account. ``living`` are the others that may still give
        something back: the mark of any other one is as good as spent.
        """
        others = {other: account for other, account in self.open.items() if other != name}
        alive = [account for other, account in others.items() if other in living]
        free = need.cap - Accounts(self.ended, others).total.spent
        spent = need.charge.spent
        base = spent + need.reserved
        wanted = base + need.line + max(1, need.cap // STEPS)
        if any(account.waits for account in alive):
            unspent = free - spent + sum(each.mark - each.charge.spent for each in alive)
            fair = spent + unspent // (len(alive) + 1) if need.line else base
            wanted = min(base + need.line, max(base + need.first, fair))
        mark = min(wanted, free)
        fits = mark >= base + need.first
        mine = Account(max(base, mark) if fits else base, need.charge, 0 if fits else need.first)
        return Accounts(self.ended, {**others, name: mine})

    def is_used_up(self, name: str, living: Collection[str]) -> bool:
        """Whether the next request of a worker will never fit: nothing is out anywhere."""
        mine = self.open[name]
        alive = [each for other, each in self.open.items() if other in living and other != name]
        return mine.waits > 0 and all(account.is_settled for account in [*alive, mine])

    def closed(self, name: str, charge: Charge | None = None) -> Accounts:
        """After a worker left that was charged so much; None: nobody knows, its mark is."""
        account = self.open.get(name)
        if account is None:
            return self if charge is None else self._replace(ended=self.ended.plus(charge))
        rest = {other: each for other, each in self.open.items() if other != name}
        known = account.charge._replace(spent=account.mark) if charge is None else charge
        return Accounts(self.ended.plus(known), rest)

    def recorded(self) -> list[Any]:
        """As the book has it."""
        return [list(self.ended), {name: list(account) for name, account in self.open.items()}]


def recorded(value: Any) -> Accounts:
    """The accounts that the book has. Raises ``ValueError`` or ``TypeError`` for anything else."""
    ended, accounts = value
    return Accounts(
        Charge(*ended),
        {
            name: Account(mark, Charge(*charge), waits)
            for name, (mark, charge, waits) in accounts.items()
        },
    )
