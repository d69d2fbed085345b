"""Faults of the place that a run works in: open files, locks, permissions, the time of day."""

import ctypes
import errno
import itertools
import os
import resource
import subprocess
import threading
import time

import pyarrow.compute as pc
import pytest

from batchrun.adapters.environment.clock import real_s
from batchrun.adapters.http import faults
from batchrun.adapters.parts import sealer
from batchrun.engine import engine
from batchrun.errors import BatchrunError, StorageError
from batchrun.rundir import lock
from batchrun.simulator.latency import FixedLatency
from batchrun.views import run_status


def _open_files(soft, hard):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return limit


def test_too_few_open_files_are_refused_before_anything_is_sent(cli, simulator, jsonl):
    """Exit 2 with both numbers, never an `error` row."""
    endpoint = simulator()
    words = ("run", jsonl(30), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    limit = {"preexec_fn": _open_files(100, 100)}
    done = cli.start(*words, "--concurrency", 500, **limit).wait()
    assert done.code == 2, done.err
    assert "a concurrency of 500 needs 5" in done.err and "may have 100 (`ulimit -n`)" in done.err
    assert not (cli.folder / "run").exists()
    assert endpoint.stats()["requests_total"] == 0


@pytest.mark.slow
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


def test_a_second_run_in_one_directory_is_refused(cli, simulator, jsonl, until):
    """Exit 2 at once, naming the process; the first run goes on undisturbed."""
    endpoint = simulator(latency=FixedLatency(0.1))
    words = ("run", jsonl(40), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    live = cli.start(*words, "--concurrency", 4, "--no-progress")
    until(lambda: endpoint.stats()["requests_total"] > 3)
    second = cli(*words)
    assert second.code == 2, second.err
    assert f"run is in use by another run (process {live.process.pid} on " in second.err
    assert live.wait().code == 0
    assert endpoint.stats()["requests_total"] == 40
    cli.verified("run")


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


@pytest.mark.slow
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


def test_who_was_succeeded_while_suspended_writes_nothing_more(tmp_path, monkeypatch):
    """A run that wakes up after a takeover finds that out before its next write, even where that
    comes before its thread has looked again; one that nobody succeeded goes on.
    """
    now_s = real_s()
    monkeypatch.setattr(lock, "BEAT_S", 3600.0)
    monkeypatch.setattr(lock, "real_s", lambda: now_s)
    held = lock.Lock(tmp_path, tmp_path / "lock")
    held.acquire()
    try:
        now_s += 3600.0
        held.check()
        (tmp_path / "lock").write_text(ELSEWHERE, "utf-8")
        now_s += lock.BEAT_S
        with pytest.raises(StorageError, match=r"taken over by another run \(process 7"):
            held.check()
    finally:
        held.release()
    assert (tmp_path / "lock").read_text("utf-8") == ELSEWHERE


@pytest.mark.parametrize("jumps_s", [(0, 3600, -7200, 5), (0, -86_400)], ids=["both ways", "back"])
def test_a_clock_that_jumps_spoils_no_figure(
    cli, here, simulator, jsonl, monkeypatch, published, summary, jumps_s
):
    """The wall clock is set again and again, within sessions and between them: what lasts is never
    negative, nothing ends before it began, and nobody takes an ended run for a killed one.
    """
    real_ns, times = time.time_ns, itertools.count()

    def jumping_ns():
        return real_ns() + jumps_s[min(next(times) // 7, 10**6) % len(jumps_s)] * 10**9

    monkeypatch.setattr("time.time_ns", jumping_ns)
    endpoint = simulator(latency=FixedLatency(0.01))
    words = (jsonl(40), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    for limit in (25, 40):
        done = here(*words, "--concurrency", 4, "--limit", limit)
        assert done.code == 0, done.err
        found = summary(cli.folder / "run")
        assert found["started_at"] <= found["ended_at"]
        assert 0 < found["wall_s"] < 60
        assert run_status.read(str(cli.folder / "run"))["state"] == "complete"
    for kind, columns in (("results", ["latency_s"]), ("attempts", ["latency_s", "queue_s"])):
        for column in columns:
            assert pc.min(published(cli.folder / "run", kind)[column]).as_py() >= 0
    cli.verified("run")


def test_a_journal_at_its_bound_makes_the_feeder_wait(cli, here, simulator, jsonl, monkeypatch):
    """Publishing that is slower than the answers: the logs stay at their bound, and all is done."""
    bound = 40_000
    monkeypatch.setattr(engine, "BACKLOG_BYTES_MAX", bound)
    monkeypatch.setattr(engine, "BACKLOG_POLL_S", 0.005)
    held = []
    publish = sealer.publish

    def slowly(to, journal, *rest):
        held.append(journal.size_bytes)
        time.sleep(0.1)
        held.append(journal.size_bytes)
        publish(to, journal, *rest)

    monkeypatch.setattr(sealer, "publish", slowly)
    endpoint = simulator(reply_bytes=1500, latency=FixedLatency(0.02))
    words = (jsonl(120), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    done = here(*words, "--concurrency", 4, "--shard-rows", 10)
    assert done.code == 0, done.err
    # The rows that were open, and those of a group that is being written, come on top of it.
    assert bound < max(held) < 4 * bound, max(held)
    assert len(held) == 2 * 12
    cli.verified("run")


def _no_override():
    """In a child: root like everybody else, for whom a folder's mode counts."""
    if os.getuid() == 0:
        for capability in range(64):
            ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


@pytest.fixture
def held_to_modes(tmp_path):
    """Options for processes that may not write where a mode forbids it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    options = {"preexec_fn": _no_override}
    tried = subprocess.run(["touch", closed / "x"], capture_output=True, check=False, **options)
    if tried.returncode == 0:
        pytest.skip("modes of folders hold nobody here")
    return options


def test_a_place_without_permission_is_refused(cli, simulator, jsonl, held_to_modes):
    """Exit 2 naming the folder, before anything is sent."""
    endpoint = simulator()
    (cli.folder / "closed").mkdir(mode=0o555)
    words = (jsonl(3), "-o", "closed/run", "--base-url", endpoint.base_url)
    done = cli.run(*words, **held_to_modes)
    assert done.code == 2, done.err
    assert "closed/run: Permission denied" in done.err and "Traceback" not in done.err
    assert endpoint.stats()["requests_total"] == 0


def test_a_run_of_another_user_is_refused(cli, simulator, jsonl, held_to_modes):
    """What one user began another cannot go on with: a clear word, and it stays as it was."""
    endpoint = simulator()
    words = (jsonl(6), "-o", "run", "--base-url", endpoint.base_url)
    assert cli.run(*words, "--limit", 2).code == 0
    checkpoint = cli.folder / "run" / "checkpoint"
    checkpoint.chmod(0o500)
    lock_file = checkpoint / "lock"
    lock_file.chmod(0o400)
    done = cli.run(*words, **held_to_modes)
    assert done.code == 2, done.err
    assert "Permission denied" in done.err and "Traceback" not in done.err
    assert endpoint.stats()["requests_total"] == 2
    checkpoint.chmod(0o700)
    lock_file.chmod(0o600)
    assert cli.run(*words).code == 0
    cli.verified("run")


def test_permission_that_is_withdrawn_midway(
    cli, simulator, jsonl, until, held_to_modes, published
):
    """A folder that takes no more files: exit 5, every answer safe; with permission it goes on."""
    endpoint = simulator(latency=FixedLatency(0.05))
    words = (*("run", jsonl(60), "-o", "run", "--model", "m"), "--base-url", endpoint.base_url)
    words = (*words, "--concurrency", 4, "--shard-rows", 30, "--no-progress")
    live = cli.start(*words, **held_to_modes)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 8)
    results = cli.folder / "run" / "results"
    results.chmod(0o555)
    done = live.wait()
    results.chmod(0o755)
    assert done.code == 5, done.err
    assert "Permission denied" in done.err and "safe in the journal" in done.err
    assert "to resume: batchrun run" in done.err
    assert cli(*words).code == 0
    ledger = published(cli.folder / "run", "attempts")
    assert endpoint.stats()["requests_total"] == ledger.num_rows
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(60))
    cli.verified("run")
