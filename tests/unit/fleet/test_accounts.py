"""The accounts of a fleet's budget: marks never exceed the cap, whatever the order of renewals."""

from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.cost.charged import Charge, Need
from batchrun.core.fleet.accounts import Account, Accounts, recorded
from batchrun.core.fleet.quota import Book, parse

CAP = 10_000


def need(spent=0, reserved=0, first=0, line=None, cap=CAP):
    """What a worker needs."""
    return Need(cap, Charge(spent), reserved, first, first if line is None else line)


def test_a_mark_is_ahead_of_what_is_needed():
    """So that not every request has to ask."""
    accounts = Accounts(Charge(1_000)).renewed("a", need(spent=10, reserved=20, first=5), ())
    assert accounts.open["a"].mark == 10 + 20 + 5 + CAP // 200
    assert accounts.total.spent == 1_000 + accounts.open["a"].mark


def test_who_waits_is_given_what_others_do_not_need():
    """The idle one gives up what it is ahead, the busy one what is beyond an equal part."""
    accounts = Accounts().renewed("busy", need(spent=100, reserved=800, first=500, line=9_000), ())
    accounts = accounts.renewed("idle", need(), ("busy",))
    accounts = accounts.renewed("new", need(first=700), ("busy", "idle"))
    assert accounts.open["new"] == Account(0, Charge(0), waits=700)
    everybody = ("busy", "idle", "new")
    accounts = accounts.renewed("idle", need(), everybody)
    assert accounts.open["idle"].mark == 0
    busy = need(spent=100, reserved=800, first=500, line=9_000)
    accounts = accounts.renewed("busy", busy, everybody)
    assert accounts.open["busy"].mark == 100 + (CAP - 100) // 3
    accounts = accounts.renewed("new", need(first=700, line=1_400), everybody)
    assert accounts.open["new"].waits == 0
    assert accounts.open["new"].mark >= 700


def test_a_budget_is_used_up_once_nothing_is_out():
    """A process that has something out may give it back; one that died will not."""
    accounts = Accounts(Charge(9_000)).renewed("a", need(spent=300, reserved=600), ())
    accounts = accounts.renewed("b", need(first=500), ("a",))
    assert not accounts.is_used_up("b", {"a"})
    assert accounts.is_used_up("b", set())
    settled = accounts.renewed("a", need(spent=650), {"b"}).renewed("b", need(first=500), {"a"})
    assert settled.is_used_up("b", {"a"})
    assert not settled.is_used_up("a", {"b"})
    smaller = settled.renewed("b", need(first=350), {"a"})
    assert not smaller.is_used_up("b", {"a"})


def test_a_closed_account_is_charged_with_what_it_spent():
    """One that nobody closed in order, with its mark."""
    accounts = Accounts().renewed("a", need(spent=10), ()).renewed("b", need(spent=20), ())
    mark = accounts.open["b"].mark
    assert accounts.closed("a", Charge(12, 5, 1)).closed("b") == Accounts(Charge(12 + mark, 5, 1))
    assert accounts.closed("never").open.keys() == {"a", "b"}


def test_the_book_keeps_accounts():
    """As they were, beside the shares of limits."""
    accounts = Accounts(Charge(7, 3, 1)).renewed("a/1", need(spent=5, first=9), ())
    assert parse(Book({}, {"cost": accounts}).as_bytes()).accounts == {"cost": accounts}
    assert recorded(accounts.recorded()) == accounts


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.integers(0, 900),
            st.integers(0, 3_000),
            st.booleans(),
            st.sets(st.sampled_from("abcd")),
        ),
        max_size=60,
    )
)
def test_marks_never_exceed_the_cap(steps):
    """Whoever renews, spends what it was granted, waits, or is taken for dead."""
    accounts, state = Accounts(), dict.fromkeys("abcd", (0, 0))
    for name, cost, wanted, answers, living in steps:
        spent, reserved = state[name]
        if answers and reserved:
            spent, reserved = spent + min(cost, reserved), 0
        asked = need(spent, reserved, min(wanted, 900), wanted)
        accounts = accounts.renewed(name, asked, living - {name})
        mine = accounts.open[name]
        assert accounts.total.spent <= CAP
        assert mine.mark >= spent + reserved
        if wanted and not mine.waits:
            reserved += min(wanted, 900)
            assert spent + reserved <= mine.mark
        state[name] = spent, reserved


def test_what_is_out_when_a_worker_leaves_stays_charged():
    """Nobody is there any more to hear what it cost."""
    assert need(spent=100, reserved=30).final == Charge(130, 30)
