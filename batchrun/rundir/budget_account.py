"""What is charged to a run's budgets, in its state file.

While a session may spend, the state file has a mark that its charge never exceeds; when the session
ends in an orderly way, the charge replaces the mark. A session that finds a mark therefore knows
that the previous one was killed, and counts the whole mark as spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from batchrun.adapters.journal.state_db import StateFile
from batchrun.core.cost.charged import Charge
from batchrun.rundir.spent import Spent


class LedgerSums(NamedTuple):
    """The sums of a run directory's ledger: picodollars (0 if no cost is known) and tokens. The
    fields have the names of the budgets.
    """

    cost: int
    tokens: int


def ledger_sums(found: Spent) -> LedgerSums:
    """The sums that budgets are checked against."""
    return LedgerSums(found.bill_pd or 0, found.tokens)


def charges_before(
    states: StateFile, ledger: LedgerSums, names: Iterable[str]
) -> dict[str, Charge]:
    """What is charged to these budgets before several processes share them."""
    return {name: BudgetAccount(states, name).opened(ledger) for name in names}


class BudgetAccount:
    """The charge to one budget. ``name`` is a field of ``LedgerSums``."""

    def __init__(self, states: StateFile, name: str) -> None:
        self._states = states
        self._key = f"budget_{name}"
        self._name = name

    def opened(self, ledger: LedgerSums) -> Charge:
        """What earlier sessions left charged, including those without a budget. ``ledger`` has the
        present sums.
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
        """Replace the mark with the charge: nothing more is spent."""
        kept = charge._asdict() | {"ledger": getattr(ledger, self._name)}
        self._states.put(**{self._key: kept})
