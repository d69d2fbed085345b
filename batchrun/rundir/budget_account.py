"""What is charged to a run's budgets, in its state file.

While a session may spend, a mark stands there that its charge never goes above; when it ends in an
orderly way, the charge itself takes its place. A session that finds a mark therefore knows that the
one before ended without a word, and takes all of the mark for spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from batchrun.adapters.journal.state_db import StateFile
from batchrun.core.cost.charged import Charge
from batchrun.rundir.spent import Spent


class LedgerSums(NamedTuple):
    """What the ledger of a run directory adds up to: picodollars (0 where none are known) and
    tokens. The names are those of the budgets.
    """

    cost: int
    tokens: int


def ledger_sums(found: Spent) -> LedgerSums:
    """The sums that budgets go by."""
    return LedgerSums(found.bill_pd or 0, found.tokens)


def charges_before(
    states: StateFile, ledger: LedgerSums, names: Iterable[str]
) -> dict[str, Charge]:
    """What is charged to these budgets before several processes spend of them together."""
    return {name: BudgetAccount(states, name).opened(ledger) for name in names}


class BudgetAccount:
    """The charge to one budget. ``name`` is a field of ``LedgerSums``."""

    def __init__(self, states: StateFile, name: str) -> None:
        self._states = states
        self._key = f"budget_{name}"
        self._name = name

    def opened(self, ledger: LedgerSums) -> Charge:
        """What earlier sessions left charged, those without a budget included; as they end is set
        down. ``ledger`` is what it says now.
        """
        now: int = getattr(ledger, self._name)
        kept = self._states.get(self._key)
        if kept is None:
            return Charge(now)
        if "mark" in kept:
            spent = max(kept["mark"], now)
        else:
            # A repair may have lost a part of the ledger; what was spent is spent.
            spent = kept["spent"] + max(0, now - kept["ledger"])
        charge = Charge(spent, kept["held"], kept["unanswered"])
        self.close(charge, ledger)
        return charge

    async def commit(self, mark: int, charge: Charge) -> None:
        """Return once the mark would survive a power cut. Raises ``StorageError``."""
        kept = {"mark": mark, "held": charge.held, "unanswered": charge.unanswered}
        await asyncio.to_thread(lambda: self._states.put(**{self._key: kept}))

    def close(self, charge: Charge, ledger: LedgerSums) -> None:
        """Nothing more is spent: the charge takes the mark's place."""
        kept = charge._asdict() | {"ledger": getattr(ledger, self._name)}
        self._states.put(**{self._key: kept})
