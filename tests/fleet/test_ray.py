"""``--engine ray``: the fleet's workers as actors on a real Ray cluster of this machine."""

import contextlib
import importlib.util
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchrun.simulator.latency import FixedLatency
from tests.conftest import PATIENCE_S, ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: make test-ray"
    ),
]
CPUS = 2
RAY = (sys.executable, "-m", "ray.scripts.scripts")


@dataclass(frozen=True)
class Cluster:
    """A cluster of one node."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def cluster():
    """A cluster of this machine with two CPUs, for all tests of a process."""
    # Not pytest's folder: Ray's sockets are in it, and their names must be short.
    room = Path(tempfile.mkdtemp(prefix="ray-"))
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(room),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    said = room / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [
                *(*RAY, "start", "--head", "--block", "--port=0", "--node-ip-address=127.0.0.1"),
                *(f"--num-cpus={CPUS}", "--include-dashboard=false", f"--temp-dir={room / 't'}"),
                *("--object-store-memory=80000000", "--disable-usage-stats"),
            ],
            env=environment,
            cwd=room,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    until_s, found = time.monotonic() + PATIENCE_S, None
    while found is None:
        found = re.search(r"--address='([\d.]+:\d+)'", said.read_text())
        assert process.poll() is None and time.monotonic() < until_s, said.read_text()
        time.sleep(0.1)
    yield Cluster(found[1], environment)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(room, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def wrong_token(cluster, tmp_path_factory):
    """A command with another token than the cluster's, and its run directory. Ray takes ten seconds
    to give up, so it is started before all tests.
    """
    folder = tmp_path_factory.mktemp("token")
    (folder / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    command = subprocess.Popen(
        [
            *(sys.executable, "-m", "batchrun", "run", "rows.jsonl", "-o", "run", "--model", "m"),
            *("--base-url", "http://127.0.0.1:9/v1", "--engine", "ray", "--workers", "1"),
            *("--address", cluster.address, "--no-progress"),
        ],
        env=cluster.environment
        | {"HOME": str(folder), "RAY_AUTH_TOKEN": "0" * 64, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield command, folder / "run"
    if command.poll() is None:
        command.kill()
    command.communicate()


@pytest.fixture
def on_ray(cli, cluster):
    """Starts ``batchrun run`` with two workers on the cluster; none works when the test ends."""

    def start(endpoint, rows, *more, workers=2, shard_rows=20):
        return cli.start(
            *("run", rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
            *("--shard-rows", shard_rows, "--concurrency", 16, "--engine", "ray"),
            *("--workers", workers, "--address", cluster.address, *more),
            env=cluster.environment | {"HOME": str(cli.folder)},
        )

    yield start
    for pid in working(cli.folder / "run"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def working(run):
    """The process ids of the workers that hold a lock in the run directory, by their names."""
    found = {}
    for note in sorted(run.glob("fleet/*/workers/*/lock")):
        with contextlib.suppress(OSError):
            match = re.match(r"process (\d+) on ", note.read_text())
            if match and Path("/proc", match[1]).exists():
                found[int(match[1])] = note.parent.name
    return found


def claimants(run):
    """The workers that claimed a shard in the launch that is live."""
    found = set()
    for path in run.glob("fleet/*/claims/[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            found.add(json.loads(path.read_text())["worker"])
    return found


def both_work(run):
    """Whether two workers live, and each has claimed something."""
    return len(set(working(run).values()) & claimants(run)) == 2


def test_two_actors_do_what_one_process_does(
    cli, cluster, on_ray, jsonl, simulator, comparable, summary
):
    """Row for row, in every part; with one display, one summary and one exit code, and nothing of
    Ray's own on the terminal.
    """
    chats = [{"messages": [{"role": "user", "content": f"row {n}"}]} for n in range(210)]
    chats[77] = {"messages": 3}
    rows, endpoint = jsonl(chats), simulator(latency=FixedLatency(0.02))
    given = ("--base-url", endpoint.base_url, "--model", "m", "--shard-rows", 20)
    alone = cli("run", rows, "-o", "alone", *given, "--concurrency", 16, "--no-progress")
    ended = on_ray(endpoint, rows, "--json").wait()
    assert (ended.code, alone.code) == (1, 1), ended.err
    for kind in ("results", "attempts"):
        left, right = (comparable(cli.folder / each, kind) for each in ("run", "alone"))
        assert left.equals(right), kind
    assert ended.json == summary(cli.folder / "run")
    assert ended.err.count("209 of 210 rows ok") == 1
    of_ray = [line for line in ended.err.splitlines() if "ray" in line.lower()]
    assert of_ray == [f"starting 2 workers on the Ray cluster at {cluster.address}"], ended.err
    assert endpoint.stats()["requests_total"] == 2 * 209
    cli.verified("run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_all_actors(cli, on_ray, jsonl, simulator, until, summary, number):
    """In order: what was answered is published, and the command that resumes is the user's."""
    rows, endpoint = jsonl(5000), simulator(latency=FixedLatency(0.15))
    live = on_ray(endpoint, rows, "--no-progress")
    until(lambda: both_work(cli.folder / "run"))
    live.signal(number)
    ended = live.wait()
    assert ended.code == 128 + number, ended.err
    found = summary(cli.folder / "run")
    assert (found["status"], found["stopped_by"]) == ("interrupted", number.name)
    assert 0 < found["rows"]["ok"] == endpoint.stats()["requests_total"] < 5000
    assert "--engine ray --workers 2" in ended.err
    assert "--shard " not in ended.err
    cli.verified("run")


@pytest.mark.parametrize("seed", range(3))
def test_actors_that_are_killed_are_replaced(cli, on_ray, jsonl, simulator, until, published, seed):
    """SIGKILL at any moment, one or two times: every row is published once, and only what was in
    flight is asked for again.
    """
    dice = random.Random(seed)
    rows, endpoint = jsonl(500), simulator(latency=FixedLatency(0.1))
    run = cli.folder / "run"
    live = on_ray(endpoint, rows, "--no-progress")
    kills = dice.randint(1, 2)
    for _ in range(kills):
        until(lambda: both_work(run) or live.process.poll() is not None)
        time.sleep(dice.uniform(0, 0.3))
        pids = [*working(run)]
        if pids:
            os.kill(dice.choice(pids), signal.SIGKILL)
            until(lambda: len(working(run)) < 2)
    ended = live.wait()
    assert ended.code == 0, (seed, ended.err)
    assert "died and is restarted" in ended.err
    assert not ended.out, "Ray's own words are not the command's output"
    assert published(run).column("row").to_pylist() == list(range(500))
    asked = endpoint.stats()["requests_total"]
    assert 500 <= asked <= 500 + kills * 32, f"seed {seed}"
    cli.verified("run")


def test_an_actor_that_cannot_live_is_left_out(cli, on_ray, jsonl, scripted, answer, until):
    """Its process dies whenever it has begun, and nothing is answered in the meantime. After three
    deaths the other one does all.
    """
    released = threading.Event()

    def reply(*_):
        assert released.wait(PATIENCE_S)
        return 200, {}, answer("yes")

    run = cli.folder / "run"
    # More shards than the first to begin can have open.
    live = on_ray(scripted(reply), jsonl(400), "--no-progress", shard_rows=10)
    until(lambda: both_work(run))
    victim = min(working(run).values()).partition("-")[0]
    for deaths in range(1, 4):
        until(lambda: any(name.startswith(victim) for name in working(run).values()))
        (pid,) = (pid for pid, name in working(run).items() if name.startswith(victim))
        os.kill(pid, signal.SIGKILL)
        said = "died 3 times" if deaths == 3 else "died and is restarted"
        until(lambda pid=pid, said=said: pid not in working(run) and said in live.err)
    released.set()
    ended = live.wait()
    assert ended.code == 0, ended.err
    cli.verified("run")


def test_a_driver_that_is_killed_is_replaced(cli, on_ray, jsonl, simulator, until, published):
    """Ray ends its actors; the same command goes on, and nothing is lost or sent twice but what was
    in flight.
    """
    rows, endpoint = jsonl(500), simulator(latency=FixedLatency(0.1))
    run = cli.folder / "run"
    live = on_ray(endpoint, rows, "--no-progress")
    until(lambda: both_work(run))
    live.signal(signal.SIGKILL)
    live.wait()
    ended = on_ray(endpoint, rows, "--no-progress").wait()
    assert ended.code == 0, ended.err
    assert published(run).column("row").to_pylist() == list(range(500))
    assert endpoint.stats()["requests_total"] <= 500 + 2 * 32
    cli.verified("run")
    assert not working(run)


def test_actors_without_a_cpu_wait(cli, on_ray, jsonl, simulator):
    """The cluster has fewer CPUs than workers: the others do their shards, and the command ends
    although some never began.
    """
    rows, endpoint = jsonl(100), simulator(latency=FixedLatency(0.02))
    ended = on_ray(endpoint, rows, "--no-progress", workers=4).wait()
    assert ended.code == 0, ended.err
    assert "reserve 1 each: 2 can start now" in ended.err
    assert endpoint.stats()["requests_total"] == 100
    cli.verified("run")


def test_actors_with_less_than_a_cpu_share_a_limit(cli, on_ray, jsonl, simulator):
    """``--worker-cpus`` says how much each reserves, so that four fit. By the server's own count
    they keep to one limit: none of its refusals, which come one over it.
    """
    rows, endpoint = jsonl(150), simulator(latency=FixedLatency(0.02), rpm=1200)
    given = ("--no-progress", "--worker-cpus", 0.5, "--rpm", 1200)
    ended = on_ray(endpoint, rows, *given, workers=4, shard_rows=5).wait()
    assert ended.code == 0, ended.err
    assert "can start now" not in ended.err
    assert endpoint.stats()["requests_total"] == 150
    cli.verified("run")


def test_actors_have_the_keys_of_the_command(cli, cluster, jsonl, scripted, answer):
    """A key of the command's environment, which the cluster's own does not have, is what a worker
    sends; what is about a machine stays the machine's.
    """
    endpoint = scripted(lambda *_: (200, {}, answer("yes")))
    live = cli.start(
        *("run", jsonl(3), "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--api-key-env", "SECRET_OF_MINE", "--engine", "ray", "--workers", 1),
        *("--address", cluster.address, "--no-progress"),
        env=cluster.environment | {"HOME": str(cli.folder), "SECRET_OF_MINE": "sesame"},
    )
    ended = live.wait()
    assert ended.code == 0, ended.err
    keys = {headers.get("Authorization") for _, headers, _ in endpoint.requests}
    assert keys == {"Bearer sesame"}
    assert "sesame" not in ended.err


def test_a_cluster_that_is_not_there_is_named(cli, jsonl, simulator, cluster):
    """Exit code 2 and the address, before anything is made."""
    endpoint = simulator()
    live = cli.start(
        *("run", jsonl(3), "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--engine", "ray", "--workers", 1, "--address", "127.0.0.1:1", "--no-progress"),
        env=cluster.environment | {"HOME": str(cli.folder)},
    )
    ended = live.wait()
    assert ended.code == 2, ended.err
    assert "127.0.0.1:1" in ended.err
    assert not (cli.folder / "run").exists()


def test_a_cluster_asks_for_its_token(wrong_token):
    """With another one the command is refused, and says that it was for the token."""
    command, run = wrong_token
    out, err = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 2, err
    assert "token" in err.lower()
    assert not out
    assert not run.exists()
