"""Limits that a server tells, over HTTP: they are kept, and shown."""

import json

from batchrun.simulator.latency import FixedLatency
from batchrun.views import run_status


def test_a_told_limit_is_kept(cli, simulator, jsonl):
    """Without any flag next to nothing is refused, once the first replies have told the limit."""
    endpoint = simulator(rpm=1200, limit_headers="mistral")  # 20 at once, then 20 a second
    done = cli.run(
        *(jsonl(45), "-o", "run", "--no-progress", "--concurrency", 8),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] - 45 <= 5, endpoint.stats()


def test_what_was_told_is_in_the_status(cli, simulator, jsonl):
    """As data in status.json, and as a line for people."""
    endpoint = simulator(rpm=600_000, tpm=60_000_000, latency=FixedLatency(0.3))
    done = cli.run(
        *(jsonl(6), "-o", "run", "--no-progress", "--concurrency", 2),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err
    live = json.loads((cli.folder / "run" / "checkpoint" / "status.json").read_text("utf-8"))
    requests, tokens = live["endpoints"][0]["limits"]
    assert (requests["kind"], requests["per"], requests["limit"]) == ("requests", "minute", 600_000)
    assert (tokens["kind"], tokens["per"], tokens["limit"]) == ("tokens", "minute", 60_000_000)
    assert 9_900 < requests["remaining"] <= 10_000
    shown = run_status.lines({"state": "killed", "live": live}, "run")
    assert shown[-1].startswith("limits reported by the server: 600,000 requests/min (")
    assert "60,000,000 tokens/min (" in shown[-1]


def test_a_status_of_an_earlier_version_is_shown(cli, simulator, jsonl):
    """A status file without limits is read as before."""
    endpoint = simulator()
    done = cli.run(jsonl(1), "-o", "run", "--no-progress", "--base-url", endpoint.base_url)
    assert done.code == 0, done.err
    live = json.loads((cli.folder / "run" / "checkpoint" / "status.json").read_text("utf-8"))
    assert live["endpoints"][0].pop("limits") == []
    assert not any(
        "limits" in line for line in run_status.lines({"state": "killed", "live": live}, "")
    )


def test_a_day_that_is_used_up_stops_the_run(cli, scripted, answer, jsonl, summary):
    """A refusal that names no wait, with nothing left of the day: exit code 3, rows pending."""
    told = {"x-ratelimit-limit-requests-day": "3", "x-ratelimit-reset-requests-day": "33011.38"}

    def reply(_body, _headers, nth):
        left = {"x-ratelimit-remaining-requests-day": str(max(0, 3 - nth))}
        if nth <= 3:
            return 200, told | left, answer()
        return 429, told | left, {"error": {"message": "Too many requests."}}

    endpoint = scripted(reply)
    done = cli.run(
        *(jsonl(6), "-o", "run", "--no-progress", "--concurrency", 1),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 3, done.err
    rows = summary(cli.folder / "run")["rows"]
    assert (rows["ok"], rows["pending"]) == (3, 3)
    assert len(endpoint.requests) == 4
