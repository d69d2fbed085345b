"""``--shard``: several processes do one run together, and it is what one process would have done."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest


def settings_for(endpoint, rows, directory="run", *, shard_rows=50, concurrency=16):
    """The arguments of a run that every process is started with."""
    return (
        *(str(rows), "-o", directory, "--base-url", endpoint.base_url),
        *("--model", "m", "--shard-rows", str(shard_rows), "--concurrency", str(concurrency)),
    )


def attempts_by_row(table):
    """How many attempts the ledger has of each row."""
    found = {}
    for row in table.column("row").to_pylist():
        found[row] = found.get(row, 0) + 1
    return found


def test_four_processes_do_what_one_does(fleet, cli, jsonl, simulator, comparable, summary):
    """Row for row, in every column but times and the server's ids; each exits with 0, and the
    directory is an ordinary one.
    """
    rows, endpoint = jsonl(1030), simulator(latency="fixed:0.01")
    assert cli("run", *settings_for(endpoint, rows, "alone"), "--no-progress").code == 0
    processes = fleet.start_all(4, *settings_for(endpoint, rows))
    assert [p.wait() for p in processes] == [0, 0, 0, 0], [p.err for p in processes]
    run, alone = fleet.folder / "run", fleet.folder / "alone"
    assert comparable(run).equals(comparable(alone))
    assert comparable(run, "attempts").equals(comparable(alone, "attempts"))
    found, expected = summary(run), summary(alone)
    for key in ("status", "exit_code", "rows", "errors", "outputs"):
        assert found[key] == expected[key]
    assert found["totals"]["attempts"] == 1030
    cli.verified("run")
    assert not (run / "fleet" / "claims").exists()
    assert sorted(p.name for p in (run / "fleet").iterdir()) == ["launch.json"]
    assert not list(run.rglob("*.staged"))
