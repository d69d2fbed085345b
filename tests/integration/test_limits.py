"""Requests and tokens per minute, and concurrency, against a server that enforces the same."""

import pytest

from batchrun.simulator.latency import FixedLatency


@pytest.mark.parametrize(
    ("server", "ours", "rows", "seconds"),
    [
        ({"rpm": 3000}, ("--rpm", 3000), 150, 2.0),
        ({"tpm": 180_000}, ("--tpm", 180_000, "--param", "max_tokens=100"), 60, 1.2),
        pytest.param({"tpm": 180_000}, ("--tpm", 180_000), 60, 1.0, marks=pytest.mark.slow),
    ],
    ids=["requests", "tokens", "tokens without a stated maximum"],
)
def test_a_limit_is_kept(cli, simulator, jsonl, summary, server, ours, rows, seconds):
    """A server with the same limit rejects next to nothing, and the limit is made use of."""
    endpoint = simulator(**server)
    done = cli.run(
        jsonl(rows), "-o", "run", "--no-progress", *ours, "--base-url", endpoint.base_url
    )
    assert done.code == 0, done.err
    stats = endpoint.stats()
    assert stats["requests_total"] - rows <= rows * 0.02, stats
    took_s = summary(cli.folder / "run")["wall_s"]
    assert seconds <= took_s <= 3 * seconds + 12, "a whole minute was waited for, or more"


def test_concurrency_is_kept_and_used(cli, simulator, jsonl):
    """Never more requests in flight than allowed, and no fewer than that for long."""
    endpoint = simulator(latency=FixedLatency(0.2))
    done = cli.run(
        *(jsonl(60), "-o", "run", "--no-progress", "--concurrency", 7),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err
    assert endpoint.stats()["in_flight_max"] == 7


def test_a_request_larger_than_the_budget_waits_and_passes(cli, simulator, jsonl):
    """A row that may use more tokens than a minute has is sent when the budget is full."""
    endpoint = simulator()
    done = cli.run(
        *(jsonl(1), "-o", "run", "--no-progress", "--tpm", 600, "--param", "max_tokens=2000"),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err


@pytest.mark.slow
def test_who_has_no_limits_is_slowed_by_the_server(cli, simulator, jsonl):
    """A 429 with Retry-After slows the whole endpoint: rejections stay few without any --rpm."""
    endpoint = simulator(rpm=6000)
    done = cli.run(jsonl(300), "-o", "run", "--no-progress", "--base-url", endpoint.base_url)
    assert done.code == 0, done.err
    cli.verified("run")
