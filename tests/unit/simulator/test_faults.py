import hashlib

import pytest

from batchrun.simulator.faults import FaultTable
from batchrun.simulator.writing.draws import draw_exchange, seed_key

RATES = {"429": 0.05, "500": 0.02, "drop": 0.01, "stall": 0.005}
KEY = seed_key(7)
DIGESTS = [hashlib.sha256(str(k).encode()).digest() for k in range(20_000)]


def _faults_of(table, digests, asked_before=0, key=KEY):
    return [
        table.draw(draw_exchange(key, digest, asked_before).fault, asked_before)
        for digest in digests
    ]


def test_rates_are_met():
    """Over 20,000 requests each share lies within five standard deviations."""
    drawn = _faults_of(FaultTable(RATES), DIGESTS)
    for name, rate in RATES.items():
        deviation = (rate * (1 - rate) / len(DIGESTS)) ** 0.5
        assert drawn.count(name) / len(DIGESTS) == pytest.approx(rate, abs=5 * deviation), name


def test_draws_do_not_depend_on_order():
    """The same seed gives every request its own fate, in whatever order they come."""
    table = FaultTable(RATES)
    forward = _faults_of(table, DIGESTS[:2000])
    backward = _faults_of(table, DIGESTS[1999::-1])
    assert forward == backward[::-1]
    assert forward != _faults_of(table, DIGESTS[:2000], key=seed_key(8))


def test_asking_again_draws_again():
    """Of the requests that failed, the usual share fails at the next asking, and all end well."""
    table = FaultTable({"500": 0.3})
    failed = DIGESTS[:5000]
    for asked_before in range(20):
        drawn = _faults_of(table, failed, asked_before)
        again = [digest for digest, fault in zip(failed, drawn, strict=True) if fault]
        if len(failed) > 500:
            assert len(again) / len(failed) == pytest.approx(0.3, abs=0.1)
        failed = again
    assert failed == []


def test_fail_first_comes_before_chance():
    """The first N askings get status 500, later ones their draw."""
    table = FaultTable({}, fail_first=2)
    assert [table.draw(0.5, asked_before) for asked_before in range(4)] == [
        "500",
        "500",
        None,
        None,
    ]
    assert table.may_fault


def test_no_rates_no_faults():
    """An empty table and rates of 0 never fault, and say so."""
    for rates in ({}, {"500": 0.0, "drop": 0.0}):
        table = FaultTable(rates)
        assert not table.may_fault
        assert [table.draw(chance, 0) for chance in (0.0, 0.5, 1 - 2**-53)] == [None] * 3


def test_a_rate_of_one_is_always():
    """Also when several shares add up to 1 in floating point."""
    table = FaultTable(dict.fromkeys(("429", "500", "503", "drop", "cut", "stall"), 1 / 6))
    assert None not in _faults_of(table, DIGESTS)
    assert FaultTable({"500": 1.0}).draw(0.0, 0) == "500"


@pytest.mark.parametrize("rates", [{"418": 0.1}, {"500": -0.1}, {"500": 0.6, "drop": 0.5}])
def test_impossible_rates_are_refused(rates):
    """An unknown name, a negative share and shares above 1 in sum raise ValueError."""
    with pytest.raises(ValueError, match=r"fault|rate"):
        FaultTable(rates)


def test_draws_are_uniform_and_ids_differ():
    """Both chances spread evenly over [0, 1), apart from each other; ids are one per asking."""
    draws = [draw_exchange(KEY, digest, n) for digest in DIGESTS[:2000] for n in range(2)]
    assert len({draw.completion_id for draw in draws}) == 4000
    for chances in ([draw.fault for draw in draws], [draw.latency for draw in draws]):
        tenths = [sum(k <= 10 * chance < k + 1 for chance in chances) for k in range(10)]
        assert sum(tenths) == 4000
        assert all(300 < tenth < 500 for tenth in tenths), tenths
    assert all(draw.fault != draw.latency for draw in draws)
