"""The budgets of one session: opened from the state file, closed into it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from batchrun.adapters.journal.state_db import StateFile
from batchrun.core.cost.charged import Charge
from batchrun.core.cost.money import format_picodollars, usd
from batchrun.core.cost.price_book import PriceBook
from batchrun.core.settings.resolve import Settings
from batchrun.core.text.wording import counted
from batchrun.engine.session.budget import Budget
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.spending import Spending
from batchrun.rundir.budget_account import BudgetAccount, LedgerSums


class Budgets:
    """``spending`` is None if the settings name no budget."""

    def __init__(
        self,
        settings: Settings,
        states: StateFile,
        ledger: LedgerSums,
        prices: PriceBook,
        switch: StopSwitch,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``ledger`` is what the run directory adds up to before this session. Sessions without a
        budget record their spending too, because it counts in a later session that has one.
        """
        self._cost = BudgetAccount(states, "cost")
        self._tokens = BudgetAccount(states, "tokens")
        cost, tokens = self._cost.opened(ledger), self._tokens.opened(ledger)
        self.spending: Spending | None = None
        if settings.has_budget:
            self.spending = Spending(
                prices,
                say=say,
                cost=_budget(self._cost, "max_cost", settings.max_cost_pd, cost, switch),
                tokens=_budget(
                    self._tokens, "max_total_tokens", settings.max_total_tokens, tokens, switch
                ),
            )

    async def close(self) -> None:
        """Wait for the write in progress; the charge stays open."""
        for budget in self._open():
            await budget.close()

    def settle(self, ledger: LedgerSums) -> None:
        """The session ended in an orderly way, and this is what the ledger adds up to now."""
        if self.spending is None:
            return
        for account, budget in (
            (self._cost, self.spending.cost),
            (self._tokens, self.spending.tokens),
        ):
            if budget is not None:
                account.close(budget.charge, ledger)

    def public(self) -> dict[str, Any]:
        """What is charged, for the summary: None without such a budget."""
        cost = None if self.spending is None else self.spending.cost
        tokens = None if self.spending is None else self.spending.tokens
        return {
            "charged_usd": None if cost is None else usd(cost.charge.spent),
            "held_usd": None if cost is None else usd(cost.charge.held),
            "charged_tokens": None if tokens is None else tokens.charge.spent,
            "held_tokens": None if tokens is None else tokens.charge.held,
        }

    def _open(self) -> list[Budget]:
        if self.spending is None:
            return []
        return [b for b in (self.spending.cost, self.spending.tokens) if b is not None]


def _budget(
    account: BudgetAccount, guard: str, cap: int | None, before: Charge, switch: StopSwitch
) -> Budget | None:
    if cap is None:
        return None
    money = guard == "max_cost"
    return Budget(
        guard=guard,
        cap=cap,
        before=before,
        commit=account.commit,
        switch=switch,
        used_up=partial(_used_up, money=money),
    )


def _used_up(budget: Budget, amount: int, *, money: bool) -> str:
    """Why the run stops, and what to do."""

    def said(count: int) -> str:
        return format_picodollars(count) if money else counted(count, "token")

    flag = "--max-cost" if money else "--max-total-tokens"
    charge = budget.whole or budget.charge
    held = ""
    if charge.held:
        held = (
            f" (of it {said(charge.held)} for {counted(charge.unanswered, 'request')} that got "
            "no whole answer and may be billed)"
        )
    return (
        f"the budget of {said(budget.cap)} ({flag}) has no room for the next request, which may "
        f"take {said(amount)}: {said(charge.spent)} was charged so far{held}. Raise {flag} to go on"
    )
