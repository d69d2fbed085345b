"""Rounds on virtual time, against servers that refuse and tell nothing (``harness``)."""

import pytest

from batchrun.engine.pace.rounds import Pace, Rounds
from tests.harness.rate_limits import Client, at_most, bucket, noisy, window
from tests.harness.slow import rest_slow

FOR_S = 600
LIMITS = {
    # server, its rate, share to reach in the second half, refusals for each answer there
    "a bucket of a second": (lambda: bucket(200, 1), 200, 0.97, 0.01),
    "a bucket of 0.1 s": (lambda: bucket(200, 0.1), 200, 0.97, 0.01),
    "a bucket of ten seconds": (lambda: bucket(100, 10), 100, 0.97, 0.01),
    "a window of a minute": (lambda: window(6000), 100, 0.97, 0.01),
    "a window of a second": (lambda: window(50, 1.0), 50, 0.97, 0.01),
    "twenty a second": (lambda: bucket(20, 1), 20, 0.97, 0.01),
    "twenty a second, a bucket of 0.2 s": (lambda: bucket(20, 0.2), 20, 0.97, 0.01),
    "ten a second": (lambda: bucket(10, 1), 10, 0.97, 0.01),
    "ten in each second": (lambda: window(10, 1.0), 10, 0.97, 0.01),
    "five a second": (lambda: bucket(5, 1), 5, 0.97, 0.01),
    "one a second": (lambda: bucket(1, 1), 1, 0.9, 0.1),
}


@pytest.mark.parametrize("name", rest_slow(LIMITS, 3))
def test_it_finds_the_rate(name):
    """The limit is used, and few requests are refused, once it was met."""
    server, rate, share, waste = LIMITS[name]
    for seed in (1, 2):
        sent = Client(Rounds()).run(server(), FOR_S, seed)
        assert sent.rate(FOR_S / 2, FOR_S) >= share * rate, seed
        assert sent.waste(FOR_S / 2, FOR_S) <= waste, seed


@pytest.mark.slow
def test_a_share_refused_at_random_is_no_limit():
    """Less would not help: what the server takes is sent, refusals or not."""
    most = 64 / 0.3
    for seed in (1, 2):
        sent = Client(Rounds(), most=64).run(noisy(0.03), FOR_S, seed)
        assert sent.rate(FOR_S / 2, FOR_S) >= 0.9 * most, seed
    sent = Client(Rounds()).run(noisy(0.03, bucket(200, 1)), FOR_S, 1)
    assert sent.rate(FOR_S / 2, FOR_S) >= 0.95 * 200
    assert sent.waste(FOR_S / 2, FOR_S) <= 0.06


@pytest.mark.parametrize("most", [4, 32])
def test_a_bound_on_what_is_in_flight_becomes_a_window(most):
    """It is told from a rate: there is no pace, and nothing is refused any more."""
    for seed in (1, 2):
        rounds = Rounds()
        sent = Client(rounds).run(at_most(most), FOR_S, seed)
        assert rounds.window == most, seed
        assert rounds.pace is None
        assert sent.rate(FOR_S / 2, FOR_S) >= 0.97 * most / 0.3
        assert sent.waste(FOR_S / 2, FOR_S) == 0


def test_a_refusal_that_names_what_is_in_flight_is_believed():
    """The first one sets the window."""
    rounds = Rounds()
    turns = [rounds.sent(0.0, number) for number in range(1, 11)]
    rounds.refused(turns[8], 0.1, at_once=True)
    assert rounds.window == 8
    assert rounds.ready_at(0.1) == 0.1


def test_a_server_without_limits_is_not_slowed():
    """Nothing is refused: there is no pace."""
    rounds = Rounds()
    sent = Client(rounds).run(noisy(0), 60, 1)
    assert rounds.state is Pace.FREE
    assert sent.rate(10, 60) >= 0.98 * 256 / 0.3


def test_a_rate_that_changes_is_followed():
    """Half of it is taken away and given back."""
    server = bucket(lambda now_s: 100 if 200 < now_s < 400 else 200, 1)
    sent = Client(Rounds()).run(server, 700, 1)
    assert sent.rate(220, 400) >= 0.95 * 100
    assert sent.waste(220, 400) <= 0.05
    assert sent.rate(560, 700) >= 0.9 * 200


def test_a_wait_that_is_told_is_kept():
    """While a server is closed, the next request goes out no sooner than it said."""
    rounds = Rounds()
    now = 0.0
    for _ in range(40):
        turn = rounds.sent(now, 1)
        rounds.accepted(turn, now + 0.01)
        now += 0.1
    for _ in range(12):
        rounds.refused(rounds.sent(now, 1), now, wait_s=7.0)
    assert rounds.state is Pace.CLOSED
    assert rounds.ready_at(now) == now + 7.0
    probe = rounds.sent(now + 7, 1)
    assert rounds.ready_at(now + 7) == float("inf"), "one probe at a time"
    rounds.gone(probe, now + 8)
    assert rounds.ready_at(now + 8) < now + 10
    rounds.accepted(rounds.sent(now + 9, 1), now + 9)
    assert rounds.state is Pace.STEADY
