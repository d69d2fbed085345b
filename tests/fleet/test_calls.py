"""``batchrun.run(..., workers=N)`` and ``shard="I/N"``: a fleet that a program starts."""

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path

import pytest

import batchrun
from batchrun.simulator.latency import FixedLatency


@pytest.fixture(autouse=True)
def clean(monkeypatch, cli):
    """A folder and an environment of its own."""
    monkeypatch.chdir(cli.folder)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def given(simulator):
    """Makes the keywords of a call."""

    def keywords(latency_s=0.01, **more):
        endpoint = simulator(latency=FixedLatency(latency_s))
        own = {"output": "run", "base_url": endpoint.base_url, "model": "m", "shard_rows": 20}
        return endpoint, own | more

    return keywords


@pytest.mark.slow
def test_workers_do_the_whole_run(cli, jsonl, given, comparable):
    """The summary is that of the run, and the results are those of one process."""
    endpoint, keywords = given()
    summary = batchrun.run(str(jsonl(100)), workers=2, **keywords)
    assert (summary.status, summary.exit_code, summary.ok) == ("complete", 0, 100)
    assert endpoint.stats()["requests_total"] == 100
    batchrun.run(str(jsonl(100)), **(keywords | {"output": "alone"}))
    assert comparable(cli.folder / "run").equals(comparable(cli.folder / "alone"))
    cli.verified("run")
    again = batchrun.run(str(jsonl(100)), workers=2, **keywords)
    assert (again.ok, endpoint.stats()["requests_total"]) == (100, 200)


@pytest.mark.slow
def test_shards_do_one_run_together(cli, jsonl, given):
    """Each call is one of the processes, and returns the summary of the whole."""
    endpoint, keywords = given()
    rows = str(jsonl(100))
    found = {}

    async def both():
        calls = [batchrun.arun(rows, shard=f"{i}/2", **keywords) for i in (1, 2)]
        found.update(enumerate(await asyncio.gather(*calls)))

    asyncio.run(both())
    assert [found[i].ok for i in (0, 1)] == [100, 100]
    assert found[0].totals == found[1].totals
    assert endpoint.stats()["requests_total"] == 100
    cli.verified("run")


@pytest.mark.quiet
def test_an_interrupt_stops_all_workers_in_order(cli, jsonl, given, until, summary):
    """``KeyboardInterrupt`` is raised once they have published what was answered; the same call
    resumes.
    """
    endpoint, keywords = given(latency_s=0.2)
    rows = str(jsonl(300))

    def interrupt():
        until(lambda: endpoint.stats()["requests_total"] > 20)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        batchrun.run(rows, workers=2, concurrency=8, **keywords)
    thread.join()
    found = summary(cli.folder / "run")
    assert (found["status"], found["stopped_by"]) == ("interrupted", "SIGINT")
    assert 0 < found["rows"]["ok"] == endpoint.stats()["requests_total"] < 300
    assert batchrun.run(rows, workers=2, **keywords).ok == 300
    assert endpoint.stats()["requests_total"] == 300


@pytest.mark.slow
def test_errors_of_workers_are_raised_as_they_were(jsonl, given):
    """With their type, and in the words of a call."""
    _, keywords = given()
    batchrun.run(str(jsonl(30)), **keywords)
    with pytest.raises(batchrun.RunChangedError, match="resend_changed"):
        batchrun.run(str(jsonl(40)), workers=2, **(keywords | {"model": "other"}))


@pytest.mark.slow
def test_a_guard_that_stops_workers_is_in_the_summary(jsonl, scripted, given):
    """Not an error, as without workers."""
    _, keywords = given()
    refusing = scripted(lambda *_: (401, {}, {"error": {"message": "no"}}))
    keywords["base_url"] = refusing.base_url
    summary = batchrun.run(str(jsonl(30)), workers=2, **keywords)
    assert (summary.status, summary.stopped_by, summary.exit_code) == ("stopped", "auth", 3)
    assert summary.stop_message


def test_what_other_processes_cannot_read_is_refused(given, caplog):
    """Before anything is started, in the words of a call."""
    caplog.set_level(logging.INFO, "batchrun")
    _, keywords = given()
    rows = [{"messages": [{"role": "user", "content": "hello"}]}]
    for how in ({"workers": 2}, {"shard": "1/2"}):
        named = f"{next(iter(how))}= needs rows .* not a list"
        with pytest.raises(batchrun.UsageError, match=named):
            batchrun.run(rows, **how, **keywords)
    with pytest.raises(batchrun.UsageError, match=r"workers= and shard= exclude each other"):
        batchrun.run("rows.jsonl", workers=2, shard="1/2", **keywords)
    with pytest.raises(batchrun.UsageError, match=r"not with stream"):
        batchrun.stream("rows.jsonl", workers=2, **keywords)
    with pytest.raises(batchrun.UsageError, match='shard="3/2" is not I/N'):
        batchrun.run("rows.jsonl", shard="3/2", **keywords)
    assert not Path("run").exists()
