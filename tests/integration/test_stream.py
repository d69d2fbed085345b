"""``batchrun.stream``: outcomes as they become durable, no faster than they are read."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import batchrun
from batchrun.engine import outbox
from batchrun.simulator.latency import FixedLatency

ROOT = Path(__file__).resolve().parents[2]


def _rows(count):
    return [
        {"custom_id": str(n), "messages": [{"role": "user", "content": f"question {n}"}]}
        for n in range(count)
    ]


@pytest.fixture
def options(tmp_path):
    """The settings that all runs here share."""
    return {"output": tmp_path / "run", "model": "m"}


def test_every_outcome_comes_once(simulator, options, published):
    """Each row's outcome is yielded once, and says what the results say."""
    rows = [*_rows(300), {"messages": []}]

    async def play():
        base_url = simulator().base_url
        return [found async for found in batchrun.stream(rows, base_url=base_url, **options)]

    found = sorted(asyncio.run(play()))
    assert [outcome.row for outcome in found] == list(range(301))
    names = [
        name
        for name in batchrun.RowOutcome._fields
        if name not in ("tool_calls", "response", "messages")
    ]
    table = published(options["output"]).select(names)
    assert [tuple(getattr(o, n) for n in names) for o in found] == [
        tuple(row.values()) for row in table.to_pylist()
    ]
    assert [o.ok for o in found] == [True] * 300 + [False]
    assert found[-1].error_class == "invalid_row"
    with pytest.raises(AttributeError):
        found[0].content = "other"


def test_a_slow_reader_slows_the_run(simulator, options):
    """While nobody takes outcomes, only so many rows are sent; all come in the end."""
    endpoint = simulator()

    async def play():
        stream = batchrun.stream(_rows(3000), base_url=endpoint.base_url, concurrency=8, **options)
        async with contextlib.aclosing(stream):
            await anext(stream)
            sent = [-1, 0]
            while sent[-2] < sent[-1]:
                await asyncio.sleep(0.3)
                sent.append(endpoint.stats()["requests_total"])
            rest = [outcome.row async for outcome in stream]
        return sent[-1], rest

    sent, rest = asyncio.run(play())
    assert outbox.HELD_ROWS <= sent < 1000
    assert len(rest) == 2999
    assert endpoint.stats()["requests_total"] == 3000


def test_closing_early_stops_in_order(simulator, options, published):
    """Leaving the loop ends the run: what was answered is kept, the rest is pending."""
    endpoint = simulator(latency=FixedLatency(0.01))

    async def play():
        stream = batchrun.stream(_rows(500), base_url=endpoint.base_url, concurrency=4, **options)
        async with contextlib.aclosing(stream):
            async for outcome in stream:
                if outcome.row >= 30:
                    break

    asyncio.run(play())
    sent = endpoint.stats()["requests_total"]
    assert published(options["output"]).num_rows == sent < 500
    found = json.loads((options["output"] / "summary.json").read_text())
    assert (found["status"], found["stopped_by"]) == ("interrupted", "closed")
    done = batchrun.run(_rows(500), base_url=endpoint.base_url, **options)
    assert (done.ok, endpoint.stats()["requests_total"]) == (500, 500)


def test_a_resumed_stream_yields_the_rest(simulator, options):
    """Rows that an earlier session finished do not come again."""
    endpoint = simulator()
    batchrun.run(_rows(20), base_url=endpoint.base_url, limit=8, **options)

    async def play():
        stream = batchrun.stream(_rows(20), base_url=endpoint.base_url, **options)
        return [outcome.row async for outcome in stream]

    assert sorted(asyncio.run(play())) == list(range(8, 20))
    assert asyncio.run(play()) == []


def test_a_guard_is_raised_at_the_end(scripted, options, answer):
    """Outcomes that there are come first; then the reader is told that rows are missing."""

    def refuse(_body, _headers, nth):
        if nth > 5:
            return 402, {}, {"error": {"message": "no money"}}
        return 200, {}, answer()

    endpoint = scripted(refuse)
    seen = []

    async def play():
        stream = batchrun.stream(_rows(50), base_url=endpoint.base_url, concurrency=1, **options)
        async for outcome in stream:
            seen.append(outcome.row)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(batchrun.RunStoppedError, match="no money") as caught:
        asyncio.run(play())
    assert caught.value.by == "billing"
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_an_error_at_the_start_reaches_the_reader(options):
    """What would end the command with exit 2 is raised at the first step."""

    async def play():
        return [o async for o in batchrun.stream("missing.jsonl", provider="simulator", **options)]

    with pytest.raises(batchrun.InputError, match=r"missing\.jsonl"):
        asyncio.run(play())


READER = """
import asyncio, sys, batchrun
rows = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(1500)]
async def main():
    options = dict(output="run", model="m", base_url=sys.argv[1], shard_rows=50)
    async for outcome in batchrun.stream(rows, **options):
        print(outcome.row, flush=True)
asyncio.run(main())
"""


def test_what_was_yielded_survives_a_kill(simulator, tmp_path):
    """Every outcome that the reader saw before SIGKILL is in the run directory."""
    endpoint = simulator()
    process = subprocess.Popen(
        [sys.executable, "-c", READER, endpoint.base_url],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    seen = [int(process.stdout.readline()) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    seen += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.wait(10)
    process.stdout.close()
    rows = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(1500)]

    async def play():
        options = {"output": tmp_path / "run", "model": "m", "shard_rows": 50}
        stream = batchrun.stream(rows, base_url=endpoint.base_url, **options)
        return {outcome.row async for outcome in stream}

    again = asyncio.run(play())
    assert len(set(seen)) == len(seen) >= 200
    assert not again & set(seen)
    assert len(again) >= 1500 - endpoint.stats()["requests_total"]
