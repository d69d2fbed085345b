"""What is recorded of a run over time."""

import json

import pytest

from batchrun.core.run.series import KEYS, Series
from batchrun.simulator.latency import FixedLatency


def _series(folder):
    return json.loads((folder / "checkpoint" / "series.json").read_text("utf-8"))


@pytest.mark.slow
def test_what_was_sent_is_in_the_series(cli, simulator, jsonl, summary):
    """Its sums are those of the ledger; sessions go on with it; its columns are documented."""
    endpoint = simulator(latency=FixedLatency(0.05))
    command = (jsonl(60), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    assert cli.run(*command, "--limit", 20).code == 0
    assert cli.run(*command).code == 0
    found, totals = _series(cli.folder / "run"), summary(cli.folder / "run")["totals"]
    assert set(found["points"]) == set(KEYS)
    assert sum(found["points"]["requests"]) == sum(found["points"]["answers"]) == totals["attempts"]
    assert sum(found["points"]["completion_tokens"]) == totals["completion_tokens"]
    assert oct((cli.folder / "run/checkpoint/series.json").stat().st_mode)[-3:] == "600"


@pytest.mark.slow
def test_refusals_are_in_the_series(cli, simulator, jsonl):
    """Throttling shows over time, with what the server was found to take."""
    endpoint = simulator(latency=FixedLatency(0.05), rpm=3000)
    done = cli.run(jsonl(150), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    assert done.code == 0, done.err
    points = _series(cli.folder / "run")["points"]
    assert sum(points["refusals"]) > 0 and any(points["window"])


@pytest.mark.slow
def test_a_kill_loses_seconds_of_the_series(cli, simulator, jsonl, until):
    """It is there after SIGKILL, and the next session goes on with it."""
    endpoint = simulator(latency=FixedLatency(0.2))
    command = ("run", jsonl(400), "--model", "m", "-o", "run", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--no-progress", "--concurrency", 4)
    path = cli.folder / "run" / "checkpoint" / "series.json"
    until(lambda: path.exists() and sum(_series(cli.folder / "run")["points"]["requests"]) > 40)
    live.kill()
    before = Series.of(_series(cli.folder / "run"))
    assert cli(*command, "--no-progress").code == 0
    after = Series.of(_series(cli.folder / "run"))
    assert after.points[0].at_s == before.points[0].at_s
    assert sum(p.requests for p in after.points) > sum(p.requests for p in before.points)


def test_a_damaged_series_costs_nothing_else(cli, simulator, jsonl):
    """The run goes on, and begins a new one."""
    endpoint = simulator()
    command = (jsonl(8), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    assert cli.run(*command, "--limit", 4).code == 0
    (cli.folder / "run" / "checkpoint" / "series.json").write_bytes(b'{"format": 1, "poi')
    assert cli.run(*command).code == 0
    assert sum(_series(cli.folder / "run")["points"]["requests"]) == 4
    cli.verified("run")
