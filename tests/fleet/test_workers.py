"""`--workers N`: several processes as one command, whatever happens to one of them."""

import os
import signal

import pytest

from batchrun.simulator.latency import FixedLatency


def command(endpoint, rows, *more, shard_rows=20):
    """The arguments of the command."""
    return (
        *("run", rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", shard_rows, "--concurrency", 12, "--no-progress", *more),
    )


def workers(cli):
    """The processes that work, by their process id."""
    path = cli.folder / "run" / "fleet" / "launch.json"
    found = cli("status", "run", "--json").json if path.exists() else {}
    return {
        worker["pid"]: worker
        for worker in found.get("fleet", {"workers": []})["workers"]
        if worker["state"] == "alive" and worker["pid"] is not None
    }


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again(cli, jsonl, held, until, summary):
    """The command says which and why, and ends as if nothing had happened."""
    endpoint = held(100)
    live = cli.start(*command(endpoint, jsonl(500)), "--workers", "2")
    before = until(lambda: len(found := workers(cli)) == 2 and found)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(now := workers(cli)) == 2 and now.keys() - before.keys())
    endpoint.release()
    ended = live.wait()
    assert ended.code == 0, ended.err
    told = [line for line in ended.err.splitlines() if f"(process {victim})" in line]
    assert len(told) == 1, ended.err
    assert "was killed by SIGKILL" in told[0]
    assert "restarting it" in told[0]
    assert summary(cli.folder / "run")["rows"]["ok"] == 500
    cli.verified("run")


@pytest.mark.slow
def test_a_drain_and_a_second_signal_end_all_workers(cli, jsonl, simulator, until, summary):
    """By `ctl drain` with exit code 3; by two signals at once, without waiting for answers."""
    endpoint = simulator(latency=FixedLatency(0.2))
    rows = jsonl(20_000)
    live = cli.start(*command(endpoint, rows), "--workers", "2")
    until(lambda: len(workers(cli)) == 2)
    assert cli("ctl", "run", "drain").code == 0
    ended = live.wait()
    assert ended.code == 3, ended.err
    assert summary(cli.folder / "run")["stopped_by"] == "drain"

    slow = simulator(latency=FixedLatency(300.0))
    live = cli.start(*command(slow, rows), "--workers", "2", "--grace", "600")
    until(lambda: slow.stats()["in_flight"] >= 4)
    live.signal(signal.SIGINT)
    until(lambda: "another one stops immediately" in live.err)
    live.signal(signal.SIGINT)
    ended = live.wait()
    assert ended.code == 130, ended.err
    assert "another one stops immediately" in ended.err
    cli.verified("run")


@pytest.mark.slow
def test_lines_of_a_log_name_the_worker(cli, jsonl, simulator):
    """Both workers write into one file, each whole line with its place and process id."""
    endpoint = simulator(latency=FixedLatency(0.05))
    done = cli(*command(endpoint, jsonl(120)), "--workers", "2", "--log-file", "run.log")
    assert done.code == 0, done.err
    lines = (cli.folder / "run.log").read_text().splitlines()
    assert all(" [1/2 " in line or " [2/2 " in line for line in lines), lines
    assert {line.split(" [")[1].split(" ")[0] for line in lines} == {"1/2", "2/2"}


def test_more_workers_than_shards_are_noted(cli, jsonl, simulator):
    """Once, with the setting that gives each of them work."""
    flags = command(simulator(), jsonl(12))
    done = cli(*flags, "--shard-rows", "12", "--workers", "2")
    assert done.code == 0 and done.err.count("1 shard is left to do") == 1, done.err
    assert "--shard-rows" in done.err


@pytest.mark.slow
def test_a_process_that_does_not_wait_leaves_the_rest_to_the_others(
    fleet, cli, jsonl, held, until, summary
):
    """There is one shard, and another process has it: exit code 0, and the run goes on."""
    endpoint = held(10)
    given = (
        *(jsonl(40), "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", 40, "--concurrency", 2),
    )
    first = fleet.start("1/2", *given)
    until(lambda: endpoint.asked > 10)
    second = fleet.start("2/2", *given, "--no-wait")
    assert second.wait() == 0, second.err
    assert "nothing left to claim" in second.err
    assert first.process.poll() is None
    endpoint.release()
    assert first.wait() == 0, first.err
    assert summary(fleet.folder / "run")["rows"]["ok"] == 40
    cli.verified("run")


def test_not_to_wait_is_for_one_of_several(cli, jsonl, simulator):
    """Exit code 2 for a run of one process."""
    refused = cli(*command(simulator(), jsonl(3)), "--no-wait")
    assert (refused.code, "--no-wait is for one of several" in refused.err) == (2, True)


@pytest.mark.slow
def test_the_workers_of_a_command_that_is_killed_stop_in_order(cli, jsonl, held, until, summary):
    """They publish what they have, within the grace, and nothing is left at work; the same command
    finishes the run.
    """
    endpoint = held(100)
    arguments = (*command(endpoint, jsonl(500)), "--grace", "1", "--workers", "2")
    live = cli.start(*arguments)
    until(lambda: len(workers(cli)) == 2)
    live.signal(signal.SIGKILL)
    until(lambda: not workers(cli))
    until((cli.folder / "run/summary.json").exists)
    told = summary(cli.folder / "run")
    assert told["stopped_by"] == "SIGTERM"
    assert told["rows"]["ok"] + told["rows"]["pending"] == 500
    endpoint.release()
    assert cli(*arguments).code == 0
    cli.verified("run")
