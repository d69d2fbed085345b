"""``--shard``: several processes do one run together, and do what one process would have done."""

import csv
import gzip
import json
import random
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency

FAST, SLOW = FixedLatency(0.01), FixedLatency(0.15)


def command(endpoint, rows, directory="run", *more, shard_rows=50, concurrency=16):
    """The arguments of a run that every process is started with."""
    return (
        *(rows, "-o", directory, "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", shard_rows, "--concurrency", concurrency, *more),
    )


def launch_of(folder):
    """The folder of the launch that is live, or None."""
    path = folder / "fleet" / "launch.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return folder / "fleet" / found["id"] if found["state"] == "live" else None


def claimed_by(folder):
    """By shard, the workers that claimed it, in order; those whose records can be read."""
    launch, found = launch_of(folder), {}
    for path in sorted((launch / "claims").iterdir()) if launch else ():
        if not path.name.startswith("."):
            worker = json.loads(path.read_text())["worker"]
            found.setdefault(int(path.name.partition(".")[0]), []).append(worker)
    return found


def test_two_processes_do_what_one_does(fleet, cli, jsonl, simulator, comparable):
    """Row for row; and the directory is an ordinary one, which a plain run finds finished. One of
    them says that the run has ended.
    """
    rows, endpoint = jsonl(150), simulator(latency=FAST)
    assert cli("run", *command(endpoint, rows, "alone"), "--no-progress").code == 0
    told = ("--on-finish", "sh -c 'echo $BATCHRUN_STATUS >> told'")
    processes = fleet.start_all(2, *command(endpoint, rows), *told)
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert (fleet.folder / "told").read_text() == "complete\n"
    for kind in ("results", "attempts"):
        assert comparable(fleet.folder / "run", kind).equals(
            comparable(fleet.folder / "alone", kind)
        )
    cli.verified("run")
    series = json.loads((fleet.folder / "run" / "checkpoint" / "series.json").read_text())
    assert sum(series["points"]["requests"]) == 150
    again = cli("run", *command(endpoint, rows), "--no-progress")
    assert (again.code, "nothing left to send" in again.err) == (0, True)
    assert endpoint.stats()["requests_total"] == 300


@pytest.mark.slow
def test_four_processes_do_what_one_does(fleet, cli, jsonl, simulator, comparable, summary):
    """In every column but times and the server's ids, of results, ledger and requests; also where
    rows fail, and where the last shard is a short one.
    """
    chats = [{"messages": [{"role": "user", "content": f"row {n}"}]} for n in range(1030)]
    chats[77], chats[1029] = {"messages": 3}, {"messages": []}
    rows, endpoint = jsonl(chats), simulator(latency=FAST)
    more = ("--requests", "all")
    alone = cli("run", *command(endpoint, rows, "alone", *more), "--no-progress")
    processes = fleet.start_all(4, *command(endpoint, rows, "run", *more))
    assert [p.wait() for p in processes] == [alone.code] * 4, [p.err for p in processes]
    assert alone.code == 1
    run = fleet.folder / "run"
    for kind in ("results", "attempts", "requests"):
        assert comparable(run, kind).equals(comparable(fleet.folder / "alone", kind)), kind
    found, expected = summary(run), summary(fleet.folder / "alone")
    for key in ("status", "exit_code", "rows", "errors", "examples", "outputs"):
        assert found[key] == expected[key], key
    assert found["totals"]["attempts"] == 1028
    cli.verified("run")
    # A process that came after the end, and found nothing to do, took the note away.
    assert {p.name for p in (run / "fleet").iterdir()} <= {"launch.json"}
    assert not list(run.rglob("*.staged"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_lose_nothing(
    fleet, cli, jsonl, simulator, comparable, until, seed
):
    """Two of four die at any moment, and one is started again: every row is published once, what
    was answered durably is not asked for again, and the accounts add up.
    """
    dice = random.Random(seed)
    rows, endpoint = jsonl(800), simulator(latency=FixedLatency(0.05))
    assert cli("run", *command(endpoint, rows, "alone"), "--no-progress").code == 0
    asked_before = endpoint.stats()["requests_total"]
    given = command(endpoint, rows)
    processes = fleet.start_all(4, *given)
    until(lambda: claimed_by(fleet.folder / "run"))
    for victim in dice.sample(range(4), 2):
        time.sleep(dice.uniform(0.1, 1.5))
        processes[victim].send(signal.SIGKILL)
    again = fleet.start("1/4", *given)
    living = [p for p in (*processes, again) if p.wait() != -signal.SIGKILL]
    assert [p.wait() for p in living] == [0] * len(living), [p.err for p in living]
    run = fleet.folder / "run"
    assert (
        comparable(run)
        .drop_columns(["attempts"])
        .equals(comparable(fleet.folder / "alone").drop_columns(["attempts"]))
    ), f"seed {seed}"
    cli.verified("run")
    asked = endpoint.stats()["requests_total"] - asked_before
    # Only what was in flight, or not yet flushed, of two processes is asked for again.
    assert asked <= 800 + 2 * 16, f"seed {seed}"


@pytest.mark.slow
def test_a_zombie_publishes_nothing(fleet, cli, jsonl, simulator, comparable, until):
    """A process is suspended until its lease expires. The other one takes its shards over and ends
    the run; the first one returns, says what happened, and changes nothing.
    """
    rows, endpoint = jsonl(400), simulator(latency=FixedLatency(0.1))
    assert cli("run", *command(endpoint, rows, "alone"), "--no-progress").code == 0
    run, given = fleet.folder / "run", command(endpoint, rows, concurrency=8)
    zombie = fleet.start("1/2", *given, lease_s=2)
    until(lambda: claimed_by(run))
    zombie.suspend()
    other = fleet.start("2/2", *given, lease_s=2)
    assert other.wait() == 0, other.err
    parts = {path: path.read_bytes() for path in sorted(run.rglob("*.parquet"))}
    told = (run / "summary.json").read_bytes()
    zombie.send(signal.SIGCONT)
    assert zombie.wait() == 5, zombie.err
    assert "were taken over by others" in zombie.err
    assert {path: path.read_bytes() for path in sorted(run.rglob("*.parquet"))} == parts
    assert (run / "summary.json").read_bytes() == told
    assert (
        comparable(run)
        .drop_columns(["attempts"])
        .equals(comparable(fleet.folder / "alone").drop_columns(["attempts"]))
    )
    cli.verified("run")


@pytest.mark.slow
def test_a_signal_stops_one_process_and_the_others_go_on(
    fleet, cli, jsonl, simulator, until, summary
):
    """The one that is stopped exits with the signal's code; what it had is taken over at once."""
    rows, endpoint = jsonl(400), simulator(latency=FixedLatency(0.05))
    processes = fleet.start_all(2, *command(endpoint, rows))
    run = fleet.folder / "run"
    until(lambda: len({w for ws in claimed_by(run).values() for w in ws}) == 2)
    processes[0].send(signal.SIGTERM)
    assert [p.wait() for p in processes] == [143, 0], [p.err for p in processes]
    assert summary(run)["rows"] == {"input": 400, "ok": 400, "error": 0, "pending": 0}
    assert endpoint.stats()["requests_total"] == 400
    cli.verified("run")


@pytest.mark.slow
def test_a_fleet_that_is_stopped_leaves_an_ordinary_directory(
    fleet, cli, jsonl, simulator, until, summary, published
):
    """The last to leave publishes what there is; a plain run, with one process, goes on from it."""
    rows, endpoint = jsonl(400), simulator(latency=SLOW)
    given, run = command(endpoint, rows), fleet.folder / "run"
    processes = fleet.start_all(2, *given)
    until(lambda: len({w for ws in claimed_by(run).values() for w in ws}) == 2)
    until(lambda: endpoint.stats()["requests_total"] >= 40)
    for process in processes:
        process.send(signal.SIGINT)
    assert [p.wait() for p in processes] == [130, 130], [p.err for p in processes]
    found = summary(run)
    assert (found["status"], found["stopped_by"]) == ("interrupted", "SIGINT")
    assert 0 < found["rows"]["ok"] == published(run).num_rows < 400
    assert found["rows"]["ok"] == endpoint.stats()["requests_total"]
    cli.verified("run")
    assert cli("run", *given, "--no-progress").code == 0
    assert endpoint.stats()["requests_total"] == 400
    cli.verified("run")


@pytest.mark.slow
def test_a_process_that_waits_is_stopped_too(fleet, cli, jsonl, simulator, until, summary):
    """There is one shard for two: whichever leaves last puts together what there is."""
    rows, endpoint = jsonl(50), simulator(latency=FixedLatency(0.5))
    given, run = command(endpoint, rows, concurrency=2), fleet.folder / "run"
    processes = fleet.start_all(2, *given)
    until(lambda: claimed_by(run) and all("run" in p.err for p in processes))
    until(lambda: endpoint.stats()["requests_total"] >= 4)
    for process in processes:
        process.send(signal.SIGINT)
    assert [p.wait() for p in processes] == [130, 130], [p.err for p in processes]
    assert summary(run)["status"] == "interrupted"
    assert 0 < summary(run)["rows"]["ok"] == endpoint.stats()["requests_total"] < 50
    cli.verified("run")


@pytest.mark.slow
def test_a_fleet_that_was_killed_is_taken_in_by_a_plain_run(
    fleet, cli, jsonl, simulator, until, summary
):
    """Nobody is left to fold it: the next start of any kind does."""
    rows, endpoint = jsonl(300), simulator(latency=SLOW)
    given, run = command(endpoint, rows), fleet.folder / "run"
    processes = fleet.start_all(2, *given)
    until(lambda: len({w for ws in claimed_by(run).values() for w in ws}) == 2)
    until(lambda: endpoint.stats()["requests_total"] >= 40)
    for process in processes:
        process.send(signal.SIGKILL)
        process.wait()
    ended = cli("run", *given, "--no-progress")
    assert ended.code == 0, ended.err
    assert "the processes that worked here left" in ended.err
    assert summary(run)["rows"]["ok"] == 300
    # In flight, or not flushed yet, when the two were killed.
    assert endpoint.stats()["requests_total"] <= 300 + 48
    cli.verified("run")


@pytest.mark.slow
def test_a_fleet_goes_on_where_one_process_stopped(fleet, cli, jsonl, simulator, until, summary):
    """Rows that are done are not asked for again, those in provisional parts included."""
    rows, endpoint = jsonl(300), simulator(latency=FixedLatency(0.05))
    given, run = command(endpoint, rows), fleet.folder / "run"
    live = cli.start("run", *given, "--no-progress")
    until(lambda: endpoint.stats()["requests_total"] >= 80)
    live.signal(signal.SIGINT)
    live.wait()
    before = summary(run)["rows"]["ok"]
    assert 0 < before < 300
    processes = fleet.start_all(2, *given)
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert summary(run)["rows"]["ok"] == 300
    assert endpoint.stats()["requests_total"] == 300, f"{before} were done"
    cli.verified("run")


def test_a_directory_in_use_by_a_fleet_is_refused(fleet, cli, jsonl, simulator, until):
    """To a plain run and to `score`, with exit code 2; the fleet is not disturbed."""
    rows, endpoint = jsonl(900), simulator(latency=FixedLatency(0.3))
    given = command(endpoint, rows, concurrency=4, shard_rows=10)
    run = fleet.folder / "run"
    (process,) = fleet.start_all(1, *given)
    until(lambda: list(run.glob("results/part-*")))
    for refused in (cli("run", *given, "--no-progress"), cli("score", "run")):
        assert (refused.code, "in use" in refused.err) == (2, True), refused.err
    for shard in ((), ("--shard", "2/2")):
        restarted = cli("run", *given, "--restart", "--no-progress", *shard)
        assert (restarted.code, "in use" in restarted.err) == (2, True), restarted.err
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.err


def test_a_process_with_another_command_is_refused(fleet, jsonl, simulator, until):
    """Other settings, or another input, would mix two runs: exit code 2, naming what differs."""
    rows, endpoint = jsonl(3000), simulator(latency=FixedLatency(0.3))
    given, run = command(endpoint, rows, concurrency=4), fleet.folder / "run"
    first = fleet.start("1/2", *given)
    until(lambda: claimed_by(run))
    other = fleet.start("2/2", *given, "--temperature", "0.5")
    assert other.wait() == 2
    assert "temperature" in other.err
    strange = fleet.start("2/2", *command(endpoint, jsonl(3001, "other.jsonl"), concurrency=4))
    assert strange.wait() == 2
    assert "other.jsonl" in strange.err
    first.send(signal.SIGTERM)
    assert first.wait() == 143, first.err


def test_a_checkpoint_elsewhere_is_refused(cli, jsonl, simulator):
    """With exit code 2, before anything is made: others could not see what is there."""
    given = command(simulator(), jsonl(5), "run", "--checkpoint", "elsewhere")
    refused = cli("run", *given, "--shard", "1/2")
    assert (refused.code, "--checkpoint" in refused.err) == (2, True), refused.err
    assert not (cli.folder / "run").exists()


@pytest.mark.parametrize("rows", [40, 45])
def test_a_run_that_is_done_and_not_summed_up_is_summed_up(cli, jsonl, simulator, summary, rows):
    """The processes ended between folding and the summary: the next one writes that, and launches
    no fleet that would have nothing to do.
    """
    given = command(simulator(), jsonl(rows), shard_rows=10)
    assert cli("run", *given, "--shard", "1/1").code == 0
    (cli.folder / "run/summary.json").unlink()
    done = cli("run", *given, "--shard", "1/2")
    assert done.code == 0 and "is ready for" not in done.err, done.err
    assert summary(cli.folder / "run")["rows"]["ok"] == rows


def test_the_flags_are_in_a_group_of_their_own(cli):
    """Where the full help lists them; the short one leaves them out."""
    group = cli("run", "--help").out.partition("Several processes:")[2].partition("\n\n")[0]
    for flag in ("--shard I/N|auto", "--workers N", "--engine", "--address A", "--worker-cpus X"):
        assert flag in group, group
    assert "--shard" not in cli("run", "-h").out


@pytest.mark.slow
def test_workers_are_one_command(cli, jsonl, simulator, summary):
    """One display, one summary on stdout, one exit code; what all of them say is shown once."""
    rows, endpoint = jsonl(300), simulator(latency=FAST)
    done = cli("run", *command(endpoint, rows), "--workers", "3", "--json", "--no-progress")
    assert done.code == 0, done.err
    assert done.json == summary(cli.folder / "run")
    assert done.json["rows"]["ok"] == 300
    assert done.err.count("300 of 300 rows ok") == 1
    assert endpoint.stats()["requests_total"] == 300
    cli.verified("run")


@pytest.mark.slow
def test_one_signal_stops_all_workers(cli, jsonl, simulator, until, summary):
    """In order: what was answered is published, and the command that goes on is the user's."""
    rows, endpoint = jsonl(400), simulator(latency=SLOW)
    run = cli.folder / "run"
    live = cli.start("run", *command(endpoint, rows), "--workers", "2", "--no-progress")
    until(lambda: len({w for ws in claimed_by(run).values() for w in ws}) == 2)
    until(lambda: endpoint.stats()["requests_total"] >= 40)
    live.signal(signal.SIGINT)
    ended = live.wait()
    assert ended.code == 130, ended.err
    assert 0 < summary(run)["rows"]["ok"] == endpoint.stats()["requests_total"] < 400
    assert "--workers 2" in ended.err
    assert "--shard " not in ended.err
    assert ended.err.count("interrupted by SIGINT") == 1
    cli.verified("run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_other_formats_are_read_from_where_a_shard_begins(fleet, cli, simulator, comparable, kind):
    """Compressed text and Parquet, over two files, with carried columns: as by one process."""
    table = pa.table({"name": [f"n{row}" for row in range(170)], "size": range(170)})
    for number, part in enumerate((table.slice(0, 60), table.slice(60))):
        path = fleet.folder / f"rows-{number}.{kind}"
        if kind == "parquet":
            pq.write_table(part, path, row_group_size=25)
            continue
        with gzip.open(path, "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(part.schema.names)
            writer.writerows(zip(*part.to_pydict().values(), strict=True))
    endpoint, more = simulator(latency=FAST), ("--prompt", "{{ name }}:\n{{ size }}")
    rows, indexed = f"rows-*.{kind}", fleet.folder / "indexed"
    alone = cli("run", *command(endpoint, rows, "alone", *more, shard_rows=20), "--no-progress")
    assert alone.code == 0, alone.err
    processes = fleet.start_all(
        4,
        *command(endpoint, rows, "run", *more, shard_rows=20),
        environment={"TEST_INDEXED": str(indexed)},
    )
    assert [p.wait() for p in processes] == [0] * 4, [p.err for p in processes]
    assert indexed.read_text() == "indexed\n", "by the first process alone"
    assert comparable(fleet.folder / "run").equals(comparable(fleet.folder / "alone"))
    cli.verified("run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern",
    ["launch.json", "*/run.json", "*/shards", "*/claims/*.000001", "*/quota/0*"],
)
def test_damage_is_named(fleet, cli, jsonl, simulator, until, pattern):
    """A record that is not what was written: every process ends with exit code 2 and the file's
    name, also where none of the others lives, and a plain run does not go past it.
    """
    rows, endpoint = jsonl(400), simulator(latency=SLOW)
    given, run = command(endpoint, rows, "run", "--max-total-tokens", 10**9), fleet.folder / "run"
    first = fleet.start("1/2", *given, "--max-tokens", "10")
    until(lambda: claimed_by(run) and list(run.glob("fleet/*/quota/0*")))
    first.send(signal.SIGKILL)
    first.wait()
    damaged = max(run.glob(f"fleet/{pattern}"))
    damaged.write_bytes(b'{"worker": "0000-no", "holdings": {}, "accounts": {}}')
    second = fleet.start("2/2", *given, "--max-tokens", "10")
    plain = cli("run", *given, "--max-tokens", "10", "--no-progress")
    assert second.wait() == 2, second.err
    assert plain.code == 2, plain.err
    for err in (second.err, plain.err):
        assert damaged.name in err, err
        assert "damaged" in err
        assert "Traceback" not in err
