"""Faults of the place that a run works in: open files, locks, permissions, the time of day."""

import errno
import os
import resource
import threading
import time

import pytest

from batchrun.adapters import faults, lock
from batchrun.errors import BatchrunError
from batchrun.simulator.latency import FixedLatency


def _open_files(soft, hard):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return limit


def test_too_few_open_files_are_refused_before_anything_is_sent(cli, simulator, jsonl):
    """Exit 2 with both numbers, never an `error` row; with what fits, the run completes."""
    endpoint = simulator()
    words = ("run", jsonl(30), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    limit = {"preexec_fn": _open_files(100, 100)}
    done = cli.start(*words, "--concurrency", 500, **limit).wait()
    assert done.code == 2, done.err
    assert "a concurrency of 500 needs 5" in done.err and "may have 100 (`ulimit -n`)" in done.err
    assert not (cli.folder / "run").exists()
    assert endpoint.stats()["requests_total"] == 0
    fits = cli.start(*words, "--concurrency", 20, **limit).wait()
    assert fits.code == 0, fits.err
    cli.verified("run")


def test_the_limit_on_open_files_is_raised_where_it_may_be(cli, simulator, jsonl):
    """A soft limit is a default: the command raises its own, for sockets and for many logs."""
    endpoint = simulator()
    done = cli.start(
        *("run", jsonl(120), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--concurrency", 120, "--shard-rows", 2),
        preexec_fn=_open_files(100, 8000),
    ).wait()
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 120


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE"])
def test_no_row_fails_for_want_of_files(number):
    """A socket that this process may not open ends the run; it is no row's fault."""
    with pytest.raises(BatchrunError, match=r"Too many open files.*ulimit -n") as caught:
        faults.fault(OSError(getattr(errno, number), os.strerror(24)), None, where="server:1")
    assert caught.value.exit_code == 5


ELSEWHERE = "process 7 on other-host, since 2026-01-01T00:00:00Z\nkernel another-boot\n"


@pytest.fixture
def quick(monkeypatch):
    """Signs of life in tenths of seconds."""
    monkeypatch.setattr(lock, "BEAT_S", 0.04)
    monkeypatch.setattr(lock, "WATCH_S", 0.4)


@pytest.fixture
def words(simulator, jsonl):
    """A run of thirty rows."""
    endpoint = simulator()
    return (jsonl(30), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")


def _note(cli, text):
    note = cli.folder / "run" / "checkpoint" / "lock"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(text, "utf-8")
    return note


def test_the_lock_of_a_dead_process_is_free(cli, here, words):
    """What a killed process of this machine left in the note delays nobody."""
    _note(cli, f"process 999999 on here, since then\nkernel {lock.this_kernel()}\n")
    began_s = time.monotonic()
    done = here(*words)
    assert done.code == 0, done.err
    assert time.monotonic() - began_s < lock.WATCH_S / 2
    assert "another machine" not in done.err


@pytest.mark.usefixtures("quick")
def test_a_run_that_lives_on_another_machine_is_refused(cli, here, words):
    """Where the system's lock does not reach, a note that is touched meanwhile means life."""
    note = _note(cli, ELSEWHERE)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(note)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        done = here(*words)
        assert lock.is_held_elsewhere(note.parent)
    finally:
        ended.set()
        thread.join()
    assert done.code == 2, done.err
    assert "in use by another run (process 7 on other-host, since 2026-01-01" in done.err
    assert note.read_text("utf-8") == ELSEWHERE
    assert sorted(p.name for p in note.parent.iterdir()) == ["lock"]


@pytest.mark.usefixtures("quick")
def test_a_run_that_died_on_another_machine_is_succeeded(cli, here, words):
    """Nobody touches its note: the run goes on here, and says what it waits for."""
    note = _note(cli, ELSEWHERE)
    done = here(*words)
    assert done.code == 0, done.err
    assert "names a run on another machine (process 7 on other-host" in done.err
    assert note.read_text("utf-8") == ""
    cli.verified("run")


@pytest.mark.usefixtures("quick")
def test_who_was_succeeded_writes_nothing_more(cli, here, simulator, jsonl):
    """A run that was thought dead finds another name in its note: exit 5, nothing published, and
    the other's note stays.
    """
    endpoint = simulator(latency=FixedLatency(0.03))
    note = cli.folder / "run" / "checkpoint" / "lock"

    def usurp():
        deadline_s = time.monotonic() + 10
        while endpoint.stats()["requests_total"] < 20 and time.monotonic() < deadline_s:
            time.sleep(0.005)
        note.write_text(ELSEWHERE, "utf-8")

    thread = threading.Thread(target=usurp)
    thread.start()
    words = (jsonl(300), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    done = here(*words, "--concurrency", 4)
    thread.join()
    assert done.code == 5, done.err
    assert "was taken over by another run (process 7 on other-host" in done.err
    assert list((cli.folder / "run" / "results").iterdir()) == []
    assert note.read_text("utf-8") == ELSEWHERE
    again = here(*words, "--concurrency", 64)
    assert again.code == 0, again.err
    cli.verified("run")
