"""Limits belong to the run, however many processes work on it."""

import threading
import time
from bisect import bisect_left

import pytest

PER_S = 20


@pytest.fixture
def counted(scripted, answer):
    """An endpoint that notes when requests came, and how many it had at once."""
    lock, came, busy, most = threading.Lock(), [], [0], [0]

    def reply(_body, _headers, _nth):
        with lock:
            came.append(time.monotonic())
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.1)
        with lock:
            busy[0] -= 1
        return 200, {}, answer("fine")

    return scripted(reply), came, most


def command(endpoint, rows, *limits):
    """The arguments of every process."""
    return (
        *(rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", 10, *limits),
    )


@pytest.mark.slow
def test_a_rate_is_that_of_all_processes(fleet, cli, jsonl, counted):
    """Three processes send no more in any second than one may, although one is killed; and not
    much less either.
    """
    endpoint, came, _ = counted
    rows = jsonl(PER_S * 30)
    processes = fleet.start_all(3, *command(endpoint, rows, "--rpm", 60 * PER_S), lease_s=3)
    while len(came) < PER_S * 8:
        time.sleep(0.05)
    processes[1].process.kill()
    assert [processes[0].wait(), processes[2].wait()] == [0, 0], [p.err for p in processes]
    cli.verified("run")
    # What a bucket holds may come at once, and so may what a busy machine held up.
    most = max(bisect_left(came, at + 1.0) - n for n, at in enumerate(came))
    assert most <= PER_S * 1.1 + 4
    used = len(came) / (came[-1] - came[0]) / PER_S
    assert used >= 0.7, used


@pytest.mark.slow
def test_requests_in_flight_are_those_of_all_processes(fleet, cli, jsonl, counted):
    """Six at once are six, not eighteen."""
    endpoint, came, most = counted
    processes = fleet.start_all(3, *command(endpoint, jsonl(240), "--concurrency", 6))
    assert [p.wait() for p in processes] == [0] * 3, [p.err for p in processes]
    cli.verified("run")
    assert len(came) == 240
    assert 3 <= most[0] <= 6
