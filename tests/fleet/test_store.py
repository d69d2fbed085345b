"""``--shard`` and ``--workers`` over a run directory in an object store."""

import itertools
import json
import random
import signal
import time

import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.verify import verify

FAST, SLOW = FixedLatency(0.01), FixedLatency(0.15)


@pytest.fixture
def given(shared_store):
    """Makes the arguments of one process, with a checkpoint of its own or a common one."""

    def arguments(endpoint, rows, *more, checkpoint="cp", shard_rows=50, concurrency=16):
        return (
            *(rows, "-o", shared_store.address, "--checkpoint", checkpoint),
            *("--base-url", endpoint.base_url, "--model", "m"),
            *("--shard-rows", shard_rows, "--concurrency", concurrency, *more),
        )

    return arguments


@pytest.fixture
def alone(cli, comparable):
    """The results of one process over the same rows."""

    def run(endpoint, rows, shard_rows=50):
        done = cli(
            *("run", rows, "-o", "alone", "--base-url", endpoint.base_url, "--model", "m"),
            *("--shard-rows", shard_rows, "--no-progress"),
        )
        assert done.code == 0, done.err
        return comparable(cli.folder / "alone")

    return run


@pytest.fixture
def sound(cli, shared_store):
    """Looks whether the directory is an ordinary one and everything in it adds up."""

    def check(checkpoint="cp"):
        report = verify.check(shared_store.address, str(cli.folder / checkpoint))
        assert report.problems == []
        assert report.digests == 2 * report.parts > 0
        assert shared_store.json("fleet/launch.json")["state"] == "folded"
        kept = ("fleet/launch.json", "fleet/lock", "fleet/states/")
        assert [k for k in shared_store.keys("fleet/") if not k.startswith(kept)] == []

    return check


def _without_counts(table):
    return table.drop_columns(["attempts"])


def test_two_processes_do_what_one_does(
    fleet, cli, jsonl, simulator, shared_store, given, alone, sound
):
    """Row for row, each with a checkpoint of its own, as on two machines; afterwards the directory
    is an ordinary one, which a plain run with either checkpoint finds finished.
    """
    rows, endpoint = jsonl(130), simulator(latency=FAST)
    expected = alone(endpoint, rows)
    processes = [fleet.start(f"{i}/2", *given(endpoint, rows, checkpoint=f"cp{i}")) for i in (1, 2)]
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert shared_store.published().equals(expected)
    for checkpoint in ("cp1", "cp2"):
        sound(checkpoint)
        again = cli(
            "run",
            *given(endpoint, rows, checkpoint=checkpoint),
            "--no-progress",
            env=shared_store.env,
        )
        assert (again.code, "nothing left to send" in again.err) == (0, True), again.err
    assert endpoint.stats()["requests_total"] == 260


def test_workers_are_one_command(cli, jsonl, simulator, shared_store, given, sound):
    """With one checkpoint for all of them."""
    rows, endpoint = jsonl(300), simulator(latency=FAST)
    done = cli(
        "run",
        *given(endpoint, rows),
        *("--workers", "3", "--json", "--no-progress"),
        env=shared_store.env,
    )
    assert done.code == 0, done.err
    assert done.json == shared_store.json("summary.json")
    assert done.json["rows"]["ok"] == 300
    assert endpoint.stats()["requests_total"] == 300
    sound()
