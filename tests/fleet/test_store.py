"""``--shard`` and ``--workers`` over a run directory in an object store."""

import json
import shutil
import signal
import time

import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.verify import verify
from tests.conftest import ROOT

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
        assert shared_store.json("fleet/launch.json")["state"] in ("folded", "withdrawn")
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
    paths = [fleet.folder / f"cp{i}" / "series.json" for i in (1, 2)]
    series = [json.loads(path.read_text())["points"] for path in paths if path.exists()]
    assert 130 in [sum(points["requests"]) for points in series]
    for checkpoint in ("cp1", "cp2"):
        sound(checkpoint)
        again = cli.fresh(
            "run",
            *given(endpoint, rows, checkpoint=checkpoint),
            "--no-progress",
            env=shared_store.env,
        )
        assert (again.code, "nothing left to send" in again.err) == (0, True), again.err
    assert endpoint.stats()["requests_total"] == 260


@pytest.mark.slow
def test_workers_are_one_command(cli, jsonl, simulator, shared_store, given, sound):
    """With one checkpoint for all of them."""
    rows, endpoint = jsonl(300), simulator(latency=FAST)
    done = cli.fresh(
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


@pytest.mark.slow
def test_a_machine_that_dies_costs_no_row(
    fleet, jsonl, simulator, shared_store, given, alone, sound, until
):
    """Its disk is lost with it. The other one does its shards again: at most those are paid twice,
    and the results are those of one process.
    """
    rows, endpoint = jsonl(400), simulator(latency=FixedLatency(0.1))
    expected, before = alone(endpoint, rows, 25), endpoint.stats()["requests_total"]
    one, two = (
        fleet.start(
            f"{i}/2",
            *given(endpoint, rows, checkpoint=f"cp{i}", shard_rows=25, concurrency=8),
            lease_s=12,
        )
        for i in (1, 2)
    )
    until(lambda: len({w for ws in shared_store.claimed_by().values() for w in ws}) == 2)
    until(lambda: endpoint.stats()["requests_total"] >= before + 60)
    one.send(signal.SIGKILL)
    one.process.wait()
    shutil.rmtree(fleet.folder / "cp1")
    assert two.wait() == 0, two.err
    assert _without_counts(shared_store.published()).equals(_without_counts(expected))
    sound("cp2")
    # Two shards are open at once where one ends and the next begins.
    asked = endpoint.stats()["requests_total"] - before
    assert 400 <= asked <= 400 + 2 * 25 + 8


@pytest.mark.slow
def test_a_zombie_publishes_nothing(fleet, jsonl, simulator, shared_store, given, alone, until):
    """It is suspended until its lease expires, and the other one ends the run. Awake again it says
    what happened, and changes no object that anybody reads.
    """
    rows, endpoint = jsonl(300), simulator(latency=FixedLatency(0.1))
    expected = alone(endpoint, rows)
    zombie = fleet.start("1/2", *given(endpoint, rows, checkpoint="cp1", concurrency=8), lease_s=10)
    until(shared_store.claimed_by)
    zombie.suspend()
    other = fleet.start("2/2", *given(endpoint, rows, checkpoint="cp2", concurrency=8), lease_s=10)
    assert other.wait() == 0, other.err
    seen = {name: shared_store.get(name) for name in shared_store.keys("")}
    zombie.send(signal.SIGCONT)
    assert zombie.wait() == 5, zombie.err
    assert "were taken over by others" in zombie.err
    assert {name: shared_store.get(name) for name in seen} == seen
    new = set(shared_store.keys()) - set(seen)
    assert all(name.startswith("fleet/") for name in new), new
    assert _without_counts(shared_store.published()).equals(_without_counts(expected))
    verified = verify.check(shared_store.address, str(fleet.folder / "cp2"))
    assert verified.problems == []


@pytest.mark.slow
def test_a_fleet_that_is_stopped_goes_on_elsewhere(
    fleet, cli, jsonl, simulator, shared_store, given, until, sound
):
    """Both processes are stopped in order: what was answered is handed on through the bucket, and a
    plain run on a third machine goes on from there without asking for any of it again.
    """
    rows, endpoint = jsonl(300), simulator(latency=SLOW)
    processes = [fleet.start(f"{i}/2", *given(endpoint, rows, checkpoint=f"cp{i}")) for i in (1, 2)]
    until(lambda: len({w for ws in shared_store.claimed_by().values() for w in ws}) == 2)
    until(lambda: endpoint.stats()["requests_total"] >= 40)
    for process in processes:
        process.send(signal.SIGINT)
    assert [p.wait() for p in processes] == [130, 130], [p.err for p in processes]
    found = shared_store.json("summary.json")
    assert (found["status"], found["stopped_by"]) == ("interrupted", "SIGINT")
    assert 0 < found["rows"]["ok"] == endpoint.stats()["requests_total"] < 300
    third = cli.fresh(
        "run", *given(endpoint, rows, checkpoint="cp3"), "--no-progress", env=shared_store.env
    )
    assert third.code == 0, third.err
    assert endpoint.stats()["requests_total"] == 300
    sound("cp3")


@pytest.mark.slow
def test_a_store_that_misbehaves_costs_no_row(
    fleet, jsonl, simulator, shared_store, given, alone, sound
):
    """Requests refused at random, conditional puts that meet others, writes whose answer is lost:
    nothing is done twice, and nobody gives up.
    """
    rows, endpoint = jsonl(190), simulator(latency=FAST)
    expected, before = alone(endpoint, rows), endpoint.stats()["requests_total"]
    shared_store.misbehave(refuse=0.05, conflict=0.3, lost=0.05)
    processes = [fleet.start(f"{i}/2", *given(endpoint, rows, checkpoint=f"cp{i}")) for i in (1, 2)]
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    shared_store.misbehave()
    assert shared_store.published().equals(expected)
    sound("cp1")
    assert endpoint.stats()["requests_total"] - before == 190


@pytest.mark.slow
def test_a_store_that_takes_seconds_for_each_call_stops_nobody(
    fleet, jsonl, simulator, shared_store, given, until
):
    """Two processes that have begun go on sending, though to renew a share of the limit takes
    longer than the share lasts.
    """
    rows, endpoint = jsonl(3000), simulator(latency=FixedLatency(0.5))
    processes = [
        fleet.start(f"{i}/2", *given(endpoint, rows, checkpoint=f"cp{i}", shard_rows=1000))
        for i in (1, 2)
    ]
    until(lambda: len({w for ws in shared_store.claimed_by().values() for w in ws}) == 2)
    shared_store.misbehave(slow_s=2)
    launch = shared_store.json("fleet/launch.json")["id"]

    def latest():
        return max(shared_store.keys(f"fleet/{launch}/quota/"), default="")

    for _ in range(2):  # the shares from before it was slow are over
        book = latest()
        until(lambda book=book: latest() > book)
    before = endpoint.stats()["requests_total"]
    until(lambda: endpoint.stats()["requests_total"] > before + 16)
    shared_store.misbehave()
    for process in processes:
        process.send(signal.SIGTERM)
    assert [p.wait() for p in processes] == [143, 143], [p.err for p in processes]


@pytest.mark.quiet
def test_a_network_that_is_cut_for_longer_than_a_lease_costs_no_row(
    fleet, jsonl, simulator, shared_store, given, alone, sound, until
):
    """Nobody can renew anything meanwhile. Afterwards the processes go on, or one of them does and
    says that it took over what the other had; what was in flight is paid twice at most.
    """
    rows, endpoint = jsonl(400), simulator(latency=FixedLatency(0.1))
    expected, before = alone(endpoint, rows, 25), endpoint.stats()["requests_total"]
    processes = [
        fleet.start(
            f"{i}/2",
            *given(endpoint, rows, checkpoint=f"cp{i}", shard_rows=25, concurrency=4),
            lease_s=6,
        )
        for i in (1, 2)
    ]
    until(lambda: len({w for ws in shared_store.claimed_by().values() for w in ws}) == 2)
    until(lambda: endpoint.stats()["requests_total"] >= before + 60)
    shared_store.misbehave(cut=True)
    time.sleep(15)  # two leases and a half: nothing can be seen from outside meanwhile
    shared_store.misbehave()
    codes = [p.wait() for p in processes]
    assert 0 in codes and set(codes) <= {0, 5}, [p.err for p in processes]
    ended = processes[codes.index(0)]
    assert _without_counts(shared_store.published()).equals(_without_counts(expected)), ended.err
    sound(f"cp{codes.index(0) + 1}")
    asked = endpoint.stats()["requests_total"] - before
    assert 400 <= asked <= 400 + 2 * 25 + 8, (codes, [p.err for p in processes])


def test_a_directory_in_use_by_a_fleet_is_refused(
    fleet, cli, jsonl, simulator, shared_store, given, until
):
    """To a plain run, with exit code 2; and --restart once a fleet worked there."""
    rows, endpoint = jsonl(300), simulator(latency=FixedLatency(0.3))
    one = given(endpoint, rows, checkpoint="cp1", concurrency=4, shard_rows=10)
    two = given(endpoint, rows, checkpoint="cp2", concurrency=4, shard_rows=10)
    process = fleet.start("1/1", *one)
    until(shared_store.claimed_by)
    refused = cli.fresh("run", *two, "--no-progress", env=shared_store.env)
    assert (refused.code, "in use by" in refused.err) == (2, True), refused.err
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.err
    restarted = cli.fresh("run", *one, "--restart", "--no-progress", env=shared_store.env)
    assert (restarted.code, "--restart" in restarted.err) == (2, True), restarted.err


@pytest.mark.slow
def test_scores_wait_for_the_processes_and_are_then_computed(
    fleet, cli, jsonl, simulator, shared_store, given, sound, until
):
    """`score` names the processes that share the directory, and how to stop them; once the run has
    ended it scores a bucket as it does a disk.
    """
    (cli.folder / "scores.toml").write_text('[scores]\nlong = "len(content) > 10"\n')
    score = ("score", shared_store.address, "--checkpoint", "cp", "-c", "scores.toml")
    rows, endpoint = jsonl(60), simulator(latency=FixedLatency(0.3))
    process = fleet.start("1/1", *given(endpoint, rows, shard_rows=10, concurrency=4))
    until(shared_store.claimed_by)
    refused = cli.fresh(*score, env=shared_store.env)
    assert refused.code == 2, refused.err
    assert "in use by 1 process that share" in refused.err
    assert f"batchrun ctl {shared_store.address} drain" in refused.err
    process.send(signal.SIGKILL)
    process.process.wait()
    left = cli.fresh(*score, env=shared_store.env)
    assert (left.code, "run the same `batchrun run` command" in left.err) == (2, True), left.err
    again = fleet.start("1/1", *given(endpoint, rows, shard_rows=10, concurrency=16))
    assert again.wait() == 0, again.err
    done = cli.fresh(*score, "--json", env=shared_store.env)
    assert done.code == 0, done.err
    assert shared_store.json("summary.json")["scores"]["long"]["scored"] == 60
    sound()


def test_without_the_package_for_it_the_command_says_what_to_install(
    cli, jsonl, simulator, shared_store, given
):
    """Exit code 2 and one line, before anything is made."""
    (cli.folder / "obstore.py").write_text("raise ImportError('obstore')\n")
    environment = shared_store.env | {"PYTHONPATH": f"{cli.folder}:{ROOT}"}
    for how in (("--shard", "1/2"), ("--workers", "2")):
        done = cli.fresh("run", *given(simulator(), jsonl(3)), *how, env=environment)
        assert done.code == 2, done.err
        assert "pip install 'batchrun-llm[s3]'" in done.err
    assert shared_store.keys() == []
    assert not (cli.folder / "cp").exists()


def test_a_store_that_cannot_be_shared_is_refused(cli, jsonl, simulator):
    """It has no conditional writes: exit code 2 names those that have."""
    flags = ("--base-url", simulator().base_url, "--model", "m", "--checkpoint", "cp")
    done = cli("run", jsonl(3), "-o", "memory://run", *flags, "--shard", "1/2")
    assert (done.code, "s3://" in done.err) == (2, True), done.err
