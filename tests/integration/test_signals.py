"""Stopping a run by signals: what is kept, what is said, and how it goes on."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow


@pytest.mark.parametrize(
    ("number", "code"),
    rest_slow([(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], several=True),
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_lets_requests_in_flight_finish(
    cli, simulator, jsonl, until, published, summary, number, code
):
    """Every answered row is in the results, and the printed command sends the rest."""
    endpoint = simulator(latency=FixedLatency(0.15))
    live = cli.start(
        *("run", jsonl(60), "-o", "my run", "--model", "m", "--base-url", endpoint.base_url),
        *("--shard-rows", 7, "--concurrency", 8, "--no-progress", "--json"),
    )
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 10)
    live.signal(number)
    done = live.wait()
    assert done.code == code, done.err
    answered = endpoint.stats()["by_status"]["200"]
    assert endpoint.stats()["given_up"] == 0
    found = summary(cli.folder / "my run")
    assert done.json == found
    assert (found["status"], found["stopped_by"]) == ("interrupted", number.name)
    assert found["exit_code"] == code
    assert found["rows"] == {"input": 60, "ok": answered, "error": 0, "pending": 60 - answered}
    assert 10 <= answered < 60
    assert published(cli.folder / "my run").num_rows == answered
    cli.verified("my run")
    resume = done.err.split("to resume: ")[1].splitlines()[0]
    words = shlex.split(resume)
    assert words[0] == "batchrun"
    again = cli(*words[1:])
    assert again.code == 0, again.err
    assert endpoint.stats()["requests_total"] == 60
    assert published(cli.folder / "my run")["row"].to_pylist() == list(range(60))
    cli.verified("my run")


def test_the_second_signal_stops_at_once(cli, simulator, jsonl, until, summary, published):
    """Who asks twice does not wait; what was in flight is counted as possibly billed."""
    endpoint = simulator(latency=FixedLatency(600))
    live = cli.start(
        *("run", jsonl(10), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--concurrency", 4, "--grace", 600, "--no-progress"),
    )
    until(lambda: endpoint.stats()["in_flight"] == 4)
    live.signal(signal.SIGINT)
    until(lambda: "another one stops immediately" in live.err)
    assert live.process.poll() is None
    live.signal(signal.SIGINT)
    done = live.wait()
    assert done.code == 130, done.err
    found = summary(cli.folder / "run")
    assert found["rows"] == {"input": 10, "ok": 0, "error": 0, "pending": 10}
    assert found["totals"]["attempts"] == found["totals"]["unanswered_attempts"] == 4
    ledger = published(cli.folder / "run", "attempts")
    assert set(ledger["error_code"].to_pylist()) == {"interrupted"}
    assert endpoint.stats()["requests_total"] == 4
    cli.verified("run")


def test_the_grace_is_bounded(cli, simulator, jsonl, until):
    """Requests that do not finish within --grace are given up."""
    endpoint = simulator(latency=FixedLatency(600))
    live = cli.start(
        *("run", jsonl(4), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--grace", 0.3, "--no-progress"),
    )
    until(lambda: endpoint.stats()["in_flight"] == 4)
    asked = time.monotonic()
    live.signal(signal.SIGTERM)
    assert live.wait().code == 143
    assert 0.3 <= time.monotonic() - asked < 15


def test_rows_that_wait_are_given_up_at_once(cli, scripted, jsonl, until, summary):
    """A run that waits for its turn or for a server's pause ends as soon as it is asked to."""
    endpoint = scripted(lambda *_: (503, {"Retry-After": "600"}, {"error": {"message": "busy"}}))
    live = cli.start(
        *("run", jsonl(5), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--no-progress", "--rpm", 120),
    )
    until(lambda: len(endpoint.requests) >= 2)
    asked = time.monotonic()
    live.signal(signal.SIGINT)
    done = live.wait()
    assert done.code == 130, done.err
    assert time.monotonic() - asked < 15
    found = summary(cli.folder / "run")
    assert found["rows"]["pending"] == 5
    assert found["totals"]["attempts"] == len(endpoint.requests)
    cli.verified("run")


def test_a_signal_is_acknowledged_while_the_run_drains(cli, simulator, jsonl, until):
    """Who presses Ctrl-C is told right away that requests in flight may finish."""
    endpoint = simulator(latency=FixedLatency(300))
    live = cli.start(
        *("run", jsonl(4), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        "--no-progress",
    )
    until(lambda: endpoint.stats()["in_flight"] == 4)
    live.signal(signal.SIGINT)
    until(lambda: "another one stops immediately" in live.err)
    live.kill()


def test_a_stop_after_the_last_answer_is_no_stop(cli, simulator, jsonl, until, summary):
    """A signal that leaves nothing pending ends as a complete run, exit 0."""
    endpoint = simulator(latency=FixedLatency(0.7))
    live = cli.start(
        *("run", jsonl(3), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        "--no-progress",
    )
    until(lambda: endpoint.stats()["in_flight"] == 3)
    live.signal(signal.SIGINT)
    done = live.wait()
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["status"] == "complete"


def test_a_killed_run_goes_on(cli, simulator, jsonl, until, published):
    """After SIGKILL the same command finishes: every row once, every exchange in the ledger."""
    endpoint = simulator(latency=FixedLatency(0.05))
    command = (
        *("run", jsonl(60), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--shard-rows", 7, "--concurrency", 4, "--no-progress"),
    )
    live = cli.start(*command)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 20)
    live.kill()
    assert "killed" in cli("status", "run").out
    assert cli(*command).code == 0
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(60))
    cli.verified("run")
    ledger = published(cli.folder / "run", "attempts")
    interrupted = ledger["error_code"].to_pylist().count("interrupted")
    # A request noted as going out when the kill came may never have reached the server.
    assert 0 <= ledger.num_rows - endpoint.stats()["requests_total"] <= interrupted


@pytest.mark.parametrize("command", ["providers", "verify", "status"])
def test_a_reader_that_goes_away_is_no_defect(cli, simulator, jsonl, command):
    """`batchrun verify DIR | head -0`: nothing is said, and the exit code is that of SIGPIPE."""
    endpoint = simulator()
    done = cli.run(jsonl(3), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    assert done.code == 0, done.err
    reader, writer = os.pipe()
    os.close(reader)
    folder = () if command == "providers" else ("run",)
    ended = subprocess.run(
        [sys.executable, "-m", "batchrun", command, *folder],
        cwd=cli.folder,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
