"""The book of a fleet's limits: who holds how much, whatever the order of renewals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.fleet import quota
from batchrun.core.fleet.quota import Book, Limit, shares
from batchrun.errors import DamagedError

RATE = Limit("e", quota.RPM, 600.0)
WHOLE = Limit("e", quota.CONCURRENCY, 10.0)
MUCH = math.inf


@pytest.mark.parametrize(
    ("limit", "wants", "expected"),
    [
        (RATE, {"a": MUCH, "b": MUCH}, {"a": 300, "b": 300}),
        (RATE, {"a": 60, "b": MUCH, "c": MUCH}, {"a": 60, "b": 270, "c": 270}),
        (RATE, {"a": 0, "b": 0}, {"a": 300, "b": 300}),
        (RATE, {"a": 100, "b": 200}, {"a": 250, "b": 350}),
        (WHOLE, {"a": MUCH, "b": MUCH, "c": MUCH}, {"a": 4, "b": 3, "c": 3}),
        (WHOLE, {"a": 1, "b": MUCH}, {"a": 1, "b": 9}),
        (WHOLE, {str(number): MUCH for number in range(12)}, {"0": 1, "1": 1, "9": 0}),
    ],
)
def test_a_limit_is_divided_by_what_is_wanted(limit, wants, expected):
    """Who wants little has it, the others divide the rest; nothing is left over."""
    found = shares(limit, wants)
    assert sum(found.values()) == pytest.approx(limit.total)
    assert {name: found[name] for name in expected} == expected


def renew(book, worker, now_s, limit=RATE, wants=MUCH, in_use=0.0):
    """A renewal of one limit."""
    return quota.renewed(book, worker, now_s, (limit,), {limit.name: wants}, {limit.name: in_use})


def held(book, limit=RATE):
    """What each holds."""
    return {name: holding.holds[limit.name] for name, holding in book.holdings.items()}


def test_a_newcomer_waits_for_what_is_given_up():
    """It has nothing until the other one has renewed."""
    book = renew(Book(), "a", 0.0)
    book = renew(book, "b", 1.0)
    assert held(book) == {"a": 600, "b": 0}
    book = renew(renew(book, "a", 2.0), "b", 3.0)
    assert held(book) == {"a": 300, "b": 300}


def test_the_share_of_the_dead_is_free_in_two_steps():
    """After the lease its safe share is left to it, and after that nothing."""
    book = renew(renew(renew(Book(), "a", 0.0), "b", 0.0), "a", 1.0)
    book = renew(book, "b", 1.0)
    alone = renew(book, "a", 1.0 + quota.LEASE_S + 0.1)
    assert held(alone)["a"] == pytest.approx(300), "the other one still counts"
    gone = renew(book, "a", 1.1 + quota.SAFE_S)
    assert held(gone) == {"a": 600}
    assert "b" not in quota.left(book, "b").holdings


def test_requests_in_flight_are_kept():
    """They cannot be taken back: a share does not fall below them."""
    book = renew(renew(Book(), "a", 0.0, WHOLE), "b", 0.0, WHOLE)
    book = renew(book, "a", 1.0, WHOLE, in_use=8)
    assert held(book, WHOLE) == {"a": 8, "b": 0}
    assert held(renew(book, "b", 1.0, WHOLE), WHOLE) == {"a": 8, "b": 2}


def test_it_is_what_was_kept():
    """A book survives the store; anything else is refused."""
    book = renew(renew(Book(), "a", 0.5), "b", 1.5, wants=3.0)
    assert quota.parse(book.as_bytes()) == book
    flipped = book.as_bytes().replace(b"600", b"700")
    for content in (b"", b"{}", b'{"holdings": 1}', b"[]", flipped):
        with pytest.raises(DamagedError, match=r"quota/000000000007, the book .* is damaged"):
            quota.parse(content, quota.record_name(7))


@given(
    st.sampled_from([RATE, WHOLE, Limit("e", quota.TPM, 0.5)]),
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.floats(0, 20), st.floats(0, 700) | st.just(MUCH),
            st.floats(0, 1),
        ),
        max_size=60,
    ),
)  # fmt: skip
def test_the_sum_is_never_above_the_limit(limit, renewals):
    """Whoever renews when, and wants what: what all may use at any time is within the limit."""
    book, now_s = Book(), 0.0
    for worker, later_s, wants, busy in renewals:
        now_s += later_s
        mine = book.holdings.get(worker)
        using = 0.0 if mine is None else mine.at(limit.name, now_s) * busy
        using = math.floor(using) if limit.is_whole else 0.0
        book = renew(book, worker, now_s, limit, wants, using)
        for at_s in (now_s, now_s + quota.LEASE_S, now_s + quota.SAFE_S):
            assert book.held(limit.name, at_s) <= limit.total * (1 + 1e-9)
        assert book.holdings[worker].holds[limit.name] >= using
