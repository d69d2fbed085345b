"""Changing a live run from another process: ``batchrun ctl``."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from batchrun.adapters.environment import control_socket
from batchrun.simulator.latency import FixedLatency


@pytest.fixture
def live(cli, simulator, jsonl, until):
    """Starts a run of many rows, and waits until it answers."""

    def start(*flags, rows=3000, latency_s=0.05, folder="run", **popen):
        endpoint = simulator(latency=FixedLatency(latency_s))
        running = cli.start(
            *("run", jsonl(rows), "-o", folder, "--model", "m", "--base-url", endpoint.base_url),
            *("--no-progress", *flags),
            **popen,
        )
        until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 5)
        running.endpoint = endpoint
        return running

    return start


def _now(cli, *words, folder="run"):
    """What holds after a change."""
    done = cli("ctl", folder, *words, "--json")
    assert done.code == 0, done.err
    return done.json


def _live(cli, folder="run"):
    return cli("status", folder, "--json").json["live"]


def test_concurrency_is_changed_both_ways(cli, live, until, summary):
    """More requests go out at once, then fewer; the reply, the status and the summary say so."""
    running = live("--concurrency", 2)
    endpoint = running.endpoint
    assert _now(cli, "set", "concurrency=20")["endpoints"]["default"]["concurrency"] == 20
    until(lambda: endpoint.stats()["in_flight_max"] == 20)
    now = _now(cli, "set", "concurrency=3")
    assert (now["state"], now["endpoints"]["default"]["concurrency"]) == ("running", 3)
    until(lambda: endpoint.stats()["in_flight"] <= 3)
    endpoint.reset_stats()
    until(lambda: endpoint.stats()["requests_total"] >= 10)
    assert endpoint.stats()["in_flight_max"] <= 3
    until(lambda: _live(cli)["controls"] == {"concurrency": 3})
    assert "changed with batchrun ctl: concurrency 3" in cli("status", "run").out
    running.signal(signal.SIGINT)
    running.wait()
    told = summary(cli.folder / "run")["controls"]
    assert [entry["set"] for entry in told] == [{"concurrency": 20}, {"concurrency": 3}]
    assert all(set(entry) == {"at", "set"} for entry in told)
    assert all(entry["at"].endswith("Z") for entry in told)
    cli.verified("run")


def test_a_pause_sends_nothing_until_the_run_is_resumed(cli, live, until, summary):
    """What is in flight comes back, nothing more goes out, and then the run goes on to its end."""
    running = live("--concurrency", 8, rows=300)
    endpoint = running.endpoint
    assert _now(cli, "pause")["state"] == "paused"
    until(lambda: endpoint.stats()["in_flight"] == 0)
    asked = endpoint.stats()["requests_total"]
    until(lambda: _live(cli)["state"] == "paused")
    assert (_live(cli)["bound_by"], _live(cli)["in_flight"]) == ("pause", 0)
    assert "bound by a pause" in cli("status", "run").out
    assert endpoint.stats()["requests_total"] == asked
    assert _now(cli, "resume")["state"] == "running"
    done = running.wait()
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 300
    told = summary(cli.folder / "run")["controls"]
    assert [entry["set"] for entry in told] == [{"paused": True}, {"paused": False}]
    cli.verified("run")


def test_a_drain_lets_requests_in_flight_finish_whatever_the_grace(cli, live, summary):
    """Nothing more goes out, nothing is given up, and `ctl` comes back once the run has stopped:
    exit code 3 with rows pending, which the same command sends.
    """
    running = live("--concurrency", 4, "--grace", 0.01, rows=100, latency_s=0.3)
    done = cli("ctl", "run", "drain")
    assert (done.code, "pending; the same command resumes" in done.out) == (0, True), done.err
    ended = running.wait()
    assert ended.code == 3, ended.err
    assert "drained by `batchrun ctl drain`" in ended.err
    stats, found = running.endpoint.stats(), summary(cli.folder / "run")
    assert stats["given_up"] == 0
    assert (found["status"], found["stopped_by"], found["exit_code"]) == ("stopped", "drain", 3)
    assert found["rows"]["ok"] == stats["by_status"]["200"] < 100
    assert found["controls"][-1]["set"] == {"drain": True}
    cli.verified("run")


def test_a_paused_run_can_be_drained(cli, live, summary):
    """A drain ends a pause: nothing is in flight, so the run stops at once."""
    running = live("--concurrency", 2)
    _now(cli, "pause")
    assert cli("ctl", "run", "drain").code == 0
    assert running.wait().code == 3
    assert summary(cli.folder / "run")["stopped_by"] == "drain"


def test_a_request_rate_is_set_changed_and_lifted(cli, live, until):
    """A run without limits is slowed down to one request per 20 s; the row that waits for its turn
    goes out as soon as the rate allows more.
    """
    running = live("--concurrency", 4, rows=2000)
    endpoint = running.endpoint
    assert _now(cli, "set", "rpm=3")["endpoints"]["default"]["rpm"] == 3
    until(lambda: endpoint.stats()["in_flight"] == 0)
    endpoint.reset_stats()
    until(lambda: _live(cli)["bound_by"] == "rpm")
    assert endpoint.stats()["requests_total"] <= 2
    _now(cli, "set", "rpm=60000")
    until(lambda: endpoint.stats()["requests_total"] >= 20, timeout_s=15)
    assert _now(cli, "set", "rpm=none")["endpoints"]["default"]["rpm"] is None
    running.signal(signal.SIGINT)
    running.wait()


def test_a_token_rate_is_set_changed_and_lifted(cli, live, until):
    """The same for tokens, of a run that began with a limit."""
    running = live("--concurrency", 4, "--tpm", 10_000_000, rows=2000)
    endpoint = running.endpoint
    _now(cli, "set", "tpm=60")
    until(lambda: endpoint.stats()["in_flight"] == 0)
    until(lambda: _live(cli)["bound_by"] == "tpm")
    asked = endpoint.stats()["requests_total"]
    _now(cli, "set", "tpm=none", "concurrency=5")
    until(lambda: endpoint.stats()["requests_total"] >= asked + 20, timeout_s=15)
    assert _now(cli, "set", "tpm=6e6")["endpoints"]["default"] == {
        "concurrency": 5,
        "rpm": None,
        "tpm": 6e6,
    }
    running.signal(signal.SIGINT)
    running.wait()


def test_a_budget_is_raised_and_cut(cli, live, summary):
    """`max_cost` below what is spent stops the run as a budget does, with nothing overshot."""
    (cli.folder / "prices.toml").write_text('[prices."m"]\ninput = 1\noutput = 4\n')
    running = live("--concurrency", 2, "-c", "prices.toml", "--max-cost", 5, "--max-tokens", 50)
    assert _now(cli, "set", "max_cost=7.5")["max_cost_usd"] == 7.5
    assert _now(cli, "set", "max_cost=0.000001")["max_cost_usd"] == 0.000001
    done = running.wait()
    assert done.code == 3, done.err
    assert summary(cli.folder / "run")["stopped_by"] == "max_cost"
    cli.verified("run")


def test_a_budget_that_never_was_cannot_be_changed(cli, live):
    """Prices and worst cases are checked at the start: the error says so, and nothing changes."""
    running = live("--concurrency", 2)
    done = cli("ctl", "run", "set", "max_cost=5", "concurrency=9")
    assert (done.code, "--max-cost" in done.err) == (2, True)
    assert _now(cli, "set", "rpm=none")["endpoints"]["default"]["concurrency"] == 2
    running.signal(signal.SIGINT)
    running.wait()


def test_one_of_several_endpoints(cli, simulator, jsonl, until):
    """`NAME.rpm` sets one endpoint's, `rpm` every endpoint's."""
    racks = [simulator(latency=FixedLatency(0.05)) for _ in range(2)]
    (cli.folder / "two.toml").write_text(
        "".join(
            f'[[endpoint]]\nname = "{name}"\nbase_url = "{rack.base_url}"\nconcurrency = 2\n'
            for name, rack in zip(("rack-1", "rack.2"), racks, strict=True)
        )
    )
    running = cli.start(
        *("run", jsonl(3000), "-o", "run", "--model", "m", "-c", "two.toml", "--no-progress")
    )
    until(lambda: all(rack.stats()["requests_total"] for rack in racks))
    _now(cli, "set", "rpm=6000")
    now = _now(cli, "set", "rack.2.rpm=600", "rack-1.concurrency=7")["endpoints"]
    assert now["rack-1"] == {"concurrency": 7, "rpm": 6000, "tpm": None}
    assert now["rack.2"] == {"concurrency": 2, "rpm": 600, "tpm": None}
    done = cli("ctl", "run", "set", "rack-3.rpm=600")
    assert (done.code, "no endpoint is called rack-3" in done.err) == (2, True)
    text = cli("ctl", "run", "set", "tpm=none").out
    assert "rack-1: concurrency 7, rpm 6,000, tpm none" in text
    running.signal(signal.SIGINT)
    running.wait()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set",), "set needs at least one of"),
        (("set", "rps=5"), "'rps=5' is none of rpm=..., tpm=..., concurrency=..., max_cost=..."),
        (("set", "rpm"), "is none of rpm=..."),
        (("set", "rpm=fast"), "rpm must be a number between 0.001"),
        (("set", "rpm=0"), "rpm must be a number between 0.001"),
        (("set", "rpm=nan"), "rpm must be a number between 0.001"),
        (("set", "concurrency=0"), "concurrency must be a whole number between 1"),
        (("set", "concurrency=2.5"), "concurrency must be a whole number"),
        (("set", "concurrency=none"), "concurrency must be a whole number"),
        (("set", "max_cost=none"), "max_cost must be a number"),
        (("set", "rpm=5", "rpm=6"), "rpm is set twice"),
        (("pause", "rpm=5"), "pause takes no values, such as 'rpm=5'; did you mean set?"),
        (("stop",), "'stop' is not one of"),
    ],
)
def test_a_bad_key_or_value_is_named(cli, words, said):
    """It is found before anybody is asked: exit code 2."""
    done = cli("ctl", "run", *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())


@pytest.mark.slow
def test_without_a_live_run(cli, live):
    """A directory without a run, one whose run has ended, and one whose run was killed: exit code
    2, and the socket that the kill left is replaced by the next run.
    """
    done = cli("ctl", "nothing", "pause")
    assert (done.code, "no run is live in nothing" in done.err) == (2, True)
    running = live("--concurrency", 2)
    running.signal(signal.SIGKILL)
    running.wait()
    assert stat.S_ISSOCK((cli.folder / "run/checkpoint/control.sock").stat().st_mode)
    done = cli("ctl", "run", "pause")
    assert (done.code, "no run is live in run" in done.err) == (2, True)
    again = live("--concurrency", 2)
    assert _now(cli, "pause")["state"] == "paused"
    cli("ctl", "run", "drain")
    again.wait()
    assert not (cli.folder / "run/checkpoint/control.sock").exists()
    done = cli("ctl", "run", "drain", "--json")
    assert (done.code, "no run is live" in done.json["error"]) == (2, True)


def test_the_path_of_the_directory_may_be_of_any_length(cli, live):
    """A socket's address has room for 107 bytes; the directory's path is longer, and not ASCII."""
    folder = "/".join(["ñandú-" * 12] * 4)
    running = live("--concurrency", 2, folder=folder)
    assert _now(cli, "set", "concurrency=3", folder=folder)["state"] == "running"
    full = cli.folder / folder
    assert len(os.fsencode(full)) > 300
    assert stat.S_IMODE((full / "checkpoint/control.sock").stat().st_mode) == 0o600
    cli("ctl", str(full), "drain")
    assert running.wait().code == 3


def test_a_checkpoint_elsewhere(cli, live):
    """The socket is where the checkpoint is, and `--checkpoint` names that."""
    running = live("--concurrency", 2, "--checkpoint", "aside")
    done = cli("ctl", "run", "pause", "--checkpoint", "aside")
    assert (done.code, done.out.splitlines()[0]) == (0, "paused")
    cli("ctl", "run", "drain", "--checkpoint", "aside")
    assert running.wait().code == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_control_the_run(cli, live):
    """Neither by the command nor by the socket; the command says whose run it is."""
    running = live("--concurrency", 2)
    path = str(cli.folder / "run/checkpoint")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setuid(65534)
            from pathlib import Path

            try:
                control_socket.ask(Path(path), {"do": "pause"}, timeout_s=5)
            except (PermissionError, control_socket.NoAnswerError):
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _now(cli, "set", "rpm=none")["state"] == "running"
    running.signal(signal.SIGINT)
    running.wait()


JUNK = [
    b"\n",
    b"pause\n",
    b"[1]\n",
    b'{"do": "stop"}\n',
    b'{"do": ["pause"]}\n',
    b'{"do": "set"}\n',
    b'{"do": "set", "values": {"rpm": "\\ud800"}}\n',
    b"\xff\n",
    b"x" * 200_000,
]


@pytest.mark.slow
def test_junk_on_the_socket_is_refused_and_changes_nothing(cli, live, monkeypatch, until):
    """Whatever else talks to the socket gets an error, and the run goes on."""
    running = live("--concurrency", 2)
    monkeypatch.chdir(cli.folder / "run/checkpoint")
    for line in JUNK:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("control.sock")
            client.settimeout(30)
            try:
                client.sendall(line)
                client.shutdown(socket.SHUT_WR)
                reply = client.makefile("rb").readline()
                assert "error" in json.loads(reply), line
            except (BrokenPipeError, ConnectionResetError):
                assert len(line) > 2**16
    asked = running.endpoint.stats()["requests_total"]
    until(lambda: running.endpoint.stats()["requests_total"] >= asked + 5)
    running.signal(signal.SIGINT)
    assert running.wait().code == 130
    assert cli.verified("run")["rows"] > 0


@pytest.mark.slow
def test_a_python_run_is_controlled_too(cli, simulator, jsonl, until):
    """A session of the Python functions has the socket as well."""
    endpoint = simulator(latency=FixedLatency(0.05))
    code = (
        "import batchrun\n"
        f"run = batchrun.run({str(jsonl(2000))!r}, output='run', model='m',"
        f" base_url={endpoint.base_url!r}, concurrency=2)\n"
    )
    program = cli.folder / "program.py"
    program.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=cli.folder,
        stderr=subprocess.PIPE,
        env=cli._environment(None),
    )
    try:
        until(lambda: endpoint.stats()["requests_total"] > 5)
        assert _now(cli, "set", "concurrency=6")["endpoints"]["default"]["concurrency"] == 6
        until(lambda: endpoint.stats()["in_flight_max"] == 6)
        assert cli("ctl", "run", "drain").code == 0
    finally:
        process.communicate(timeout=60)
