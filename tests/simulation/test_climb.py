"""The climb on virtual time, against servers with a capacity (``tests.harness.capacity``)."""

import pytest

from batchrun.core.reply.server_load import Load
from batchrun.engine.pace.climb import Climb
from batchrun.engine.pace.reported_load import ReportedLoad
from tests.harness.capacity import Batching, Slots, Threads, Timed, best_rate, knee
from tests.harness.slow import rest_slow

SEEDS = (1, 2, 3)
SERVERS = {
    # server, fixed windows to compare with, seconds, whether the whole run counts
    "batching": (Batching(), (320, 384, 512, 768, 1024), 240, False),
    "little to gain": (Batching(0.005, 0.0001, 3_000_000), (1024,), 600, False),
    "little memory": (Batching(memory=60_000), (64, 80), 240, False),
    "at most 256": (Batching(running_max=256), (256,), 240, False),
    "a knee, 0.5 s": (Timed(knee(64, 0.5)), (64,), 240, True),
    "a knee, 5 s": (Timed(knee(64, 5)), (64,), 240, False),
    "a soft knee": (Timed(knee(200, 0.5, 0.3)), (200,), 120, True),
    "8 slots": (Slots(8, 0.5), (8,), 240, True),
    "4 slots": (Slots(4, 0.5), (4,), 240, True),
    "4 slots, 8 HTTP threads": (Threads(4, 0.5, 8), (4, 8), 240, True),
}


def _share(record, best, from_s, to_s, *, tokens):
    return record.rate(from_s, to_s, tokens=tokens) / best


@pytest.mark.parametrize("name", rest_slow(SERVERS, 3))
def test_it_delivers_what_the_best_fixed_window_does(name):
    """At least 0.95 of it in the second half, and 0.8 over the whole of a run at low latency."""
    server, windows, for_s, whole = SERVERS[name]
    best = best_rate(server, windows, for_s)
    tokens = server.tokens
    late, all_of_it = [], []
    for seed in SEEDS:
        climb = Climb(64, 1, 1024)
        record = server.serve(climb, for_s, seed)
        late.append(_share(record, best, for_s / 2, for_s, tokens=tokens))
        all_of_it.append(_share(record, best, 0, for_s, tokens=tokens))
    assert sorted(late)[1] >= 0.95, late
    assert not whole or min(all_of_it) >= 0.8, all_of_it


@pytest.mark.parametrize(
    "server",
    [Slots(4, 0.1), Slots(8, 0.1), Threads(4, 0.1, 6), Threads(4, 0.1, 8)],
    ids=["4 slots", "8 slots", "6 HTTP threads", "8 HTTP threads"],
)
def test_a_queue_inside_the_server_is_not_filled(server):
    """Where a larger window adds nothing, it comes down to what the server works on."""
    slots = server.slots
    for seed in SEEDS:
        climb = Climb(64, 1, 1024)
        record = server.serve(climb, 240, seed)
        assert abs(climb.window - slots) <= 1, (seed, climb.window)
        assert max(record.windows_after(120)) <= slots + max(1, slots / 3)


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("serve_s", [0.1, 0.5])
def test_connections_that_no_thread_reads_do_not_raise_the_window(slots, serve_s):
    """A server with few HTTP threads answers those on its connections as fast as ever, whatever
    else is in flight: by their latency alone each doubling would pay, up to 1,024. The goodput that
    is told stays near what comes.
    """
    threads, for_s = slots + 4, max(240, 960 * serve_s / slots)
    for seed in SEEDS:
        climb = Climb(64, 1, 1024)
        record = Threads(slots, serve_s, threads).serve(climb, for_s, seed)
        assert max(window for _, window in record.windows) == 128, seed
        assert slots / 2 <= climb.window <= 2 * threads, (seed, climb.window)
        assert climb.goodput.rows.per_s <= 1.5 * slots / serve_s, seed


def test_the_window_settles():
    """It swings by no more than a third once it has found the knee."""
    for seed in SEEDS:
        record = Timed(knee(64, 0.5)).serve(Climb(64, 1, 1024), 240, seed)
        late = record.windows_after(120)
        assert min(late) >= 64 / 1.34, seed
        assert max(late) <= 64 * 1.34, seed


@pytest.mark.slow
@pytest.mark.parametrize("first", [16, 64])
def test_most_of_a_wide_server_is_in_use_soon(first):
    """From a small window it reaches 90 % of the best within 20 latencies."""
    latency_s = 1.0
    server = Timed(knee(400, latency_s))
    best = best_rate(server, (400,), 60)
    reached = []
    for seed in SEEDS:
        record = server.serve(Climb(first, 1, 1024), 60, seed)
        seconds = range(58)
        rates = [record.rate(at, at + 2, tokens=False) for at in seconds]
        reached.append(next(at for at in seconds if rates[at] >= 0.9 * best))
    assert sorted(reached)[1] <= 20 * latency_s, reached


@pytest.mark.parametrize("at", [8, 64, 200])
def test_a_burst_of_errors_costs_one_cut(at):
    """Twenty replies in a row say that the server is overloaded: the window is cut once at most,
    and comes back.
    """
    for seed in SEEDS:
        climb = Climb(at, 1, 1024)
        server = Timed(knee(at, 0.5), errors=[(100, 20)])
        record = server.serve(climb, 240, seed)
        assert climb.cuts <= 1, (seed, climb.cuts)
        rate = record.rate(180, 240, tokens=False)
        assert rate >= 0.95 * best_rate(Timed(knee(at, 0.5)), (at,), 60), seed


def test_lasting_overload_is_cut_again_and_again():
    """A server that goes on failing a share of the requests gets fewer of them, to the floor."""
    climb = Climb(64, 4, 1024)
    now = 0.0
    for number in range(6000):
        now += 0.05
        if number % 3:
            climb.answered(now - 0.04, now, 0.04, 100, climb.window)
        else:
            climb.overloaded(now - 0.04, now)
    assert climb.window == 4


def test_a_capacity_that_changes_is_followed():
    """Half of it is taken away and given back: most of what there is, is used all the time."""
    server = Timed(knee(lambda now_s: 32 if 100 < now_s < 200 else 64, 0.5))
    for seed in SEEDS:
        record = server.serve(Climb(64, 1, 1024), 320, seed)
        assert record.rate(115, 200, tokens=False) >= 0.9 * 64, seed
        assert record.rate(240, 320, tokens=False) >= 0.9 * 128, seed


def test_replies_without_usage_do_too():
    """Where replies do not tell their tokens, it goes by answers."""
    server = Timed(knee(64, 0.5), told=False)
    best = best_rate(server, (64,), 120)
    record = server.serve(Climb(64, 1, 1024), 240, 1)
    assert record.rate(120, 240, tokens=False) >= 0.95 * best


def test_a_window_that_is_not_in_use_tells_nothing():
    """Where something else holds requests back, it stays as it is."""
    climb = Climb(64, 1, 1024)
    now = 0.0
    for _ in range(5000):
        now += 0.05
        assert not climb.answered(now - 1, now, 1.0, 100, 20)
    assert climb.window == 64


def test_it_stays_within_its_bounds():
    """Bounds hold from the first window on, and when they are changed."""
    assert Climb(64, 1, 16).window == 16
    assert Climb(64, 100, 1024).window == 100
    climb = Climb(64, 1, 80)
    record = Timed(knee(10_000, 0.5)).serve(climb, 120, 1)
    assert max(window for _, window in record.windows) == 80
    climb.bounds(1, 10)
    assert climb.window == 10
    climb.limit(4, "told")
    assert climb.window == 4
    assert climb.why == "told"


class Reported:
    """A climb that hears of the server's load every two seconds, of so many that run at most."""

    def __init__(self, running_max, first=64):
        self._climb = Climb(first, 1, 1024)
        self._load = ReportedLoad()
        self._running_max = running_max
        self._next_s = 2.0
        self.overloaded = self._climb.overloaded

    @property
    def window(self):
        """That of the climb."""
        return self._climb.window

    def answered(self, sent_at_s, now_s, latency_s, tokens, in_flight):
        """Told to the climb, after the report that is due by now."""
        if now_s >= self._next_s:
            self._next_s = now_s + 2
            running = min(in_flight, self._running_max)
            advice = self._load.heard(Load(running, in_flight - running), in_flight)
            if advice is not None and self._climb.hurried(advice, now_s):
                self._load.moved()
        return self._climb.answered(sent_at_s, now_s, latency_s, tokens, in_flight)


def test_a_reported_queue_brings_the_window_down_at_once():
    """Four slots of a second each: minutes without the report, seconds with it; and there it
    stays.
    """
    for seed in SEEDS:
        slow = Slots(4, 1.0).serve(Climb(64, 1, 1024), 60, seed).windows_after(10)
        soon = Slots(4, 1.0).serve(Reported(4), 120, seed).windows_after(10)
        assert max(soon) <= 6 < min(slow), seed
        assert min(soon) >= 3, seed


@pytest.mark.slow
def test_reported_room_is_used_sooner():
    """A wide server at 5 s latency: 90 % of its best within half of the time."""

    def reached(client, seed):
        record = Timed(knee(1024, 5.0)).serve(client, 200, seed)
        rates = (record.rate(at, at + 5, tokens=False) for at in range(195))
        return next(at for at, rate in enumerate(rates) if rate >= 0.9 * 1024 / 5)

    for seed in SEEDS:
        assert reached(Reported(10_000), seed) <= 0.7 * reached(Climb(64, 1, 1024), seed), seed


@pytest.mark.slow
@pytest.mark.parametrize("latency_s", [0.5, 2.0])
def test_reported_room_that_does_not_pay_is_given_back(latency_s):
    """A server that never has a queue, and slows down all the same: replies decide."""
    server = Timed(knee(64, latency_s))
    best = best_rate(server, (64,), 240)
    for seed in SEEDS:
        record = server.serve(Reported(10_000), 240, seed)
        assert record.rate(120, 240, tokens=False) >= 0.95 * best, seed
