"""What is charged to a budget, from session to session."""

import asyncio

import pytest

from batchrun.adapters.journal.state_db import StateFile
from batchrun.engine.session.budget import Charge
from batchrun.rundir.budget_account import BudgetAccount, LedgerSums


@pytest.fixture
def account(tmp_path):
    """An account in a new state file."""
    states = StateFile(tmp_path / "journal.db")
    yield BudgetAccount(states, "cost")
    states.close()


def test_a_session_without_a_word_has_spent_its_mark(account):
    """Or what its ledger says, if that is more."""
    assert account.opened(LedgerSums(5, 0)) == Charge(5)
    asyncio.run(account.commit(100, Charge(40, 7, 2)))
    assert account.opened(LedgerSums(30, 0)) == Charge(100, 7, 2)
    asyncio.run(account.commit(100, Charge(40, 7, 2)))
    assert account.opened(LedgerSums(130, 0)) == Charge(130, 7, 2)


def test_what_sessions_without_a_budget_spend_is_added(account):
    """They keep no mark; the ledger tells."""
    account.close(Charge(50, 20, 1), LedgerSums(30, 0))
    assert account.opened(LedgerSums(45, 0)) == Charge(65, 20, 1)
    assert account.opened(LedgerSums(45, 0)) == Charge(65, 20, 1)


def test_a_ledger_that_lost_something_gives_nothing_back(account):
    """A repair may find less than was spent; what is spent afterwards counts from there."""
    account.close(Charge(50), LedgerSums(50, 0))
    assert account.opened(LedgerSums(20, 0)) == Charge(50)
    assert account.opened(LedgerSums(35, 0)) == Charge(65)
