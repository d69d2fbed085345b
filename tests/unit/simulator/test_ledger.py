import json

from batchrun.simulator import ledger
from batchrun.simulator.ledger import ExchangeLog, RequestLedger

ONE, TWO = bytes(32), bytes([1]) * 32


def test_every_exchange_is_settled_once():
    """The total is the sum of all ends, whichever way each exchange ended."""
    book = RequestLedger(remember_requests=True)
    with book.exchange() as exchange:
        exchange.identify(ONE)
        exchange.answered(429)
    with book.exchange() as exchange:
        exchange.identify(ONE)
        assert exchange.admit() == 0
        exchange.completed(10, 20)
    for how in (ledger.DROPPED, ledger.CUT, ledger.STALLED):
        with book.exchange() as exchange:
            exchange.identify(TWO)
            exchange.admit()
            exchange.broken(how)
    with book.exchange():
        assert book.stats()["in_flight"] == 1
    assert book.stats(detail=True) == {
        "requests_total": 6,
        "by_status": {"200": 1, "429": 1},
        "dropped": 1,
        "stalled": 1,
        "cut": 1,
        "given_up": 1,
        "unreadable": 0,
        "in_flight": 0,
        "in_flight_max": 1,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "distinct_requests": 2,
        "asked_again": 3,
        "requests": {
            ONE.hex(): {"asked": 2, "answered_ok": 1},
            TWO.hex(): {"asked": 3, "answered_ok": 0},
        },
    }


def test_only_admitted_askings_number_the_draws():
    """A refusal by a limit does not use up a draw: the faults stay the same under throttling."""
    book = RequestLedger(remember_requests=True)
    numbers = []
    for admitted in (True, False, True):
        with book.exchange() as exchange:
            exchange.identify(ONE)
            if admitted:
                numbers.append(exchange.admit())
            exchange.answered(200 if admitted else 429)
    assert numbers == [0, 1]


def test_a_reset_forgets_what_is_still_in_flight():
    """An exchange that began before ends in the old counts and leaves the new ones alone."""
    book = RequestLedger(remember_requests=True)
    with book.exchange() as exchange:
        book.reset()
        exchange.answered(200)
        assert book.stats()["in_flight_max"] == 1
    stats = book.stats()
    assert (stats["requests_total"], stats["by_status"], stats["in_flight"]) == (0, {}, 0)


def test_without_memory_nothing_is_kept_per_request():
    """Figures that would need it are null, not 0."""
    book = RequestLedger(remember_requests=False)
    with book.exchange() as exchange:
        exchange.identify(ONE)
        assert exchange.admit() == 0
        exchange.completed(1, 1)
    stats = book.stats(detail=True)
    assert (stats["distinct_requests"], stats["asked_again"], stats["requests"]) == (None, None, {})


def test_the_log_has_one_line_per_end(tmp_path):
    """Hash, number of the asking and how it ended, readable while the log is open."""
    path = tmp_path / "log.jsonl"
    log = ExchangeLog(path)
    book = RequestLedger(remember_requests=True, log=log)
    for settle in (lambda e: e.completed(1, 1), lambda e: e.broken(ledger.CUT)):
        with book.exchange() as exchange:
            exchange.identify(ONE)
            settle(exchange)
    with book.exchange():
        pass
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    log.close()
    assert [(line["hash"], line["ask"], line["status"]) for line in lines] == [
        (ONE.hex(), 1, 200),
        (ONE.hex(), 2, "cut"),
        (None, None, "given_up"),
    ]
    assert all(line["t"] > 1e9 for line in lines)
