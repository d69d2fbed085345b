"""Looking at a run that several processes do: from what is durable, without disturbing it."""

import signal

import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.verify import verify

ROWS, SHARD_ROWS = 300, 20


def command(endpoint, rows, *more, concurrency=12):
    """The arguments of every process."""
    return (
        *(rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", SHARD_ROWS, "--concurrency", concurrency, *more),
    )


def workers(cli):
    """The processes, as the status has them."""
    found = cli("status", "run", "--json")
    return found.json.get("fleet", {"workers": []})["workers"] if found.code == 0 else []


@pytest.fixture
def live(fleet, cli, jsonl, held, until):
    """Starts four processes. Half of the rows are answered, the others once that is allowed; by
    then all processes are there.
    """

    def start(*more):
        fleet.endpoint = held(ROWS // 2)
        fleet.given = command(fleet.endpoint, jsonl(ROWS), *more)
        fleet.start_all(4, *fleet.given)
        run = fleet.folder / "run"
        until((run / "fleet" / "launch.json").exists)
        until(lambda: fleet.endpoint.asked > ROWS // 2)
        until(lambda: len(workers(cli)) == 4)
        until(lambda: cli("status", "run", "--json").json["live"]["ok"] == ROWS // 2)
        return run

    return start


def files_of(folder):
    """Everything in a folder but what live processes keep writing, with its times."""
    return {
        str(path.relative_to(folder)): path.lstat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".")
    }


@pytest.mark.slow
def test_a_live_fleet_is_one_run_to_who_looks(fleet, cli, live):
    """Status, export, show and report read what is durable of all processes; verify checks what is
    published and says what is not finished; in the end every row is there once.
    """
    run = live()
    found = cli("status", "run", "--json").json
    assert found["state"] == "running"
    workers = found["fleet"]["workers"]
    assert [worker["state"] for worker in workers] == ["alive"] * 4
    pids = {process.process.pid for process in fleet.processes}
    assert {worker["pid"] for worker in workers} == pids
    assert found["live"]["rows_input"] == ROWS
    assert (found["live"]["ok"], found["live"]["error"]) == (ROWS // 2, 0)
    assert sum(worker["rows"] for worker in workers) == found["live"]["ok"]
    shards = found["fleet"]["shards"]
    assert shards["all"] == ROWS // SHARD_ROWS
    assert shards["published"] + shards["claimed"] + shards["free"] == shards["all"]
    assert {"endpoint": "default", "kind": "concurrency", "total": 12} in found["fleet"]["limits"]
    shares = [one["share"] for worker in workers for one in worker["shares"]]
    assert 0 < sum(shares) <= 12
    text = cli("status", "run").out
    assert "4 processes together (4 alive)" in text
    assert "limits of all together: concurrency 12" in text
    assert all(f"process {pid} on " in text for pid in pids)

    partial = cli("export", "run", "-o", "part.parquet", "--partial")
    assert partial.code == 0, partial.err
    table = pq.read_table(cli.folder / "part.parquet")
    numbers = table.column("row").to_pylist()
    assert numbers == sorted(set(numbers))
    assert len(numbers) == ROWS // 2
    last = cli("show", "run", str(numbers[-1]), "--json")
    assert (last.code, last.json["rows"][0]["status"]) == (0, "ok"), last.err
    report = cli("report", "run", "-o", "report.html", "--json")
    assert (report.code, report.json["live"]) == (0, True), report.err

    checked = verify.check(str(run))
    assert set(checked.kinds) == {"live"}, checked.problems
    assert "are not finished" in checked.problems[0]
    assert checked.parts == shards["published"] > 0
    assert checked.digests == 2 * checked.parts
    fleet.endpoint.release()
    assert [process.wait() for process in fleet.processes] == [0] * 4
    cli.verified("run")
    ended = cli("status", "run", "--json").json
    assert (ended["state"], "fleet" in ended) == ("complete", False)


@pytest.mark.slow
def test_who_looks_writes_nothing_and_holds_nothing_up(fleet, cli, live):
    """All processes are suspended: after many looks every file is as it was."""
    run = live()
    for process in fleet.processes:
        process.suspend()
    before = files_of(run)
    for words in (("status", "run"), ("status", "run", "--json"), ("show", "run", "0")):
        assert cli(*words).code == 0, words
    verify.check(str(run))
    assert cli("costs", "run", "--json").code == 0
    assert files_of(run) == before
    for process in fleet.processes:
        process.send(signal.SIGCONT)
    fleet.endpoint.release()
    assert [process.wait() for process in fleet.processes] == [0] * 4


@pytest.mark.slow
def test_a_fleet_that_died_is_told_apart_and_looked_at(fleet, cli, live, summary):
    """One of four is killed: it is dead, and the others go on. All are killed: the status says that
    the same command goes on, counts what is durable, and readers find just that.
    """
    run = live()
    first = fleet.processes[0]
    first.send(signal.SIGKILL)
    first.wait()
    found = cli("status", "run", "--json").json
    assert found["state"] == "running"
    states = {worker["pid"]: worker["state"] for worker in found["fleet"]["workers"]}
    assert states[first.process.pid] == "dead"
    assert sorted(states.values()) == ["alive"] * 3 + ["dead"]
    assert "(3 alive, 1 dead)" in cli("status", "run").out
    for process in fleet.processes[1:]:
        process.send(signal.SIGKILL)
        process.wait()
    found = cli("status", "run", "--json").json
    assert found["state"] == "killed"
    ok = found["live"]["ok"]
    assert ok == ROWS // 2
    text = cli("status", "run").out
    assert "the same command resumes" in text
    assert text.startswith("killed: 4 processes")
    exported = cli("export", "run", "-o", "part.parquet", "--partial")
    assert exported.code == 0, exported.err
    assert pq.read_table(cli.folder / "part.parquet").num_rows == ok
    checked = verify.check(str(run))
    assert set(checked.kinds) == {"log_waiting"}, checked.problems
    assert "run the same command again" in checked.problems[0]
    part = min((run / "results").glob("part-*"))
    staged = part.with_name(f".{part.name}.000001.0000-abc.staged")
    part.rename(staged)
    assert set(verify.check(str(run)).kinds) == {"log_waiting"}, "it only has to get its name"
    aside = staged.rename(cli.folder / "aside.parquet")
    assert set(verify.check(str(run)).kinds) == {"log_waiting", "file_missing"}
    aside.rename(part)
    refused = cli("ctl", "run", "pause")
    assert (refused.code, "no run is live" in refused.err) == (2, True)
    asked = fleet.endpoint.asked
    fleet.endpoint.release()
    ended = cli("run", *fleet.given, "--no-progress")
    assert ended.code == 0, ended.err
    assert summary(run)["rows"]["ok"] == ROWS
    assert fleet.endpoint.asked == asked + ROWS - ok
    cli.verified("run")


@pytest.mark.slow
def test_failures_of_all_processes_appear_by_class(fleet, cli, jsonl, held, until):
    """With the first row of each class as the example, and what all of it cost."""
    chats = [{"messages": [{"role": "user", "content": f"row {n}"}]} for n in range(200)]
    for row in (3, 60, 130):
        chats[row] = {"messages": 3}
    endpoint = held(190)
    given = command(endpoint, jsonl(chats), concurrency=16)
    fleet.start_all(4, *given)
    until((fleet.folder / "run" / "fleet" / "launch.json").exists)

    def failed():
        found = cli("status", "run", "--json").json
        return found if found["errors"].get("invalid_row") == 3 else None

    found = until(failed)
    assert found["examples"]["invalid_row"]["row"] == 3
    assert found["state"] == "running"
    assert "failed by class: invalid_row 3" in cli("status", "run").out
    endpoint.release()
    assert [process.wait() for process in fleet.processes] == [1] * 4
    cli.verified("run")


@pytest.mark.slow
def test_a_watch_ends_with_the_run(fleet, cli, live, until):
    """It shows the processes while they work, and how the whole ended."""
    live()
    watching = cli.start("status", "run", "--watch")
    until(lambda: "4 processes together" in watching.out)
    fleet.endpoint.release()
    watched = watching.wait()
    assert watched.code == 0, watched.err
    assert f"complete: {ROWS} of {ROWS} rows ok" in watched.out
    assert [process.wait() for process in fleet.processes] == [0] * 4


@pytest.mark.slow
def test_notices_of_all_processes_reach_the_summary(fleet, cli, jsonl, scripted, answer, summary):
    """Those of one that was killed too: what all of them told is there once."""
    cheap = jsonl(60)

    def reply(_body, _headers, _nth):
        return 200, {}, answer("fine") | {"model": "another-model"}

    endpoint = scripted(reply)
    given = (
        *(cheap, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", "10", "--concurrency", "4"),
    )
    alone = cli("run", cheap, "-o", "alone", *given[3:], "--no-progress")
    assert alone.code == 0, alone.err
    expected = summary(cli.folder / "alone")["notices"]
    processes = fleet.start_all(2, *given)
    assert [process.wait() for process in processes] == [0, 0], [p.err for p in processes]
    told = summary(cli.folder / "run")["notices"]
    texts = {text.partition(": ")[2] if text[:3] == "000" else text for text in told}
    assert expected
    assert set(expected) <= texts
    assert len(told) == len(set(told))


def test_a_directory_of_one_process_has_no_fleet(cli, jsonl, simulator):
    """Its status has no such key, and nothing of fleets is loaded to look at it."""
    endpoint = simulator(latency=FixedLatency(0.01))
    done = cli("run", *command(endpoint, jsonl(5)), "--no-progress")
    assert done.code == 0, done.err
    assert "fleet" not in cli("status", "run", "--json").json
    assert not (cli.folder / "run" / "fleet").exists()
