"""`batchrun ctl` on a run that several processes do: all follow, and the summary says so."""

import signal

import pytest

from batchrun.simulator.latency import FixedLatency


@pytest.fixture
def live(fleet, cli, jsonl, simulator, until):
    """Starts four processes of a long run, and waits until all of them send."""

    def start(*more, rows=20_000, latency_s=0.1, concurrency=16):
        endpoint = fleet.endpoint = simulator(latency=FixedLatency(latency_s))
        fleet.given = (
            *(jsonl(rows), "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
            *("--shard-rows", 50, "--concurrency", concurrency, *more),
        )
        fleet.start_all(4, *fleet.given)
        until((fleet.folder / "run" / "fleet" / "launch.json").exists)
        until(lambda: in_flight(cli) == 4)
        return endpoint

    return start


def in_flight(cli):
    """How many processes have requests in flight."""
    found = cli("status", "run", "--json").json.get("fleet", {"workers": []})
    return sum(worker["in_flight"] > 0 for worker in found["workers"])


def asked(cli, *words):
    """What holds after a change."""
    done = cli("ctl", "run", *words, "--json")
    assert done.code == 0, done.err
    return done.json


@pytest.mark.slow
def test_all_processes_follow(fleet, cli, live, until, summary):
    """Concurrency, rates, pause and resume, and a drain; the reply says how many follow, and the
    summary has what was asked for, as that of one process has.
    """
    endpoint = live()
    now = asked(cli, "set", "concurrency=8")
    assert now["endpoints"]["default"] == {"concurrency": 8, "rpm": None, "tpm": None}
    assert now["workers"] == {"alive": 4, "followed": 4, "missing": []}
    until(lambda: endpoint.stats()["in_flight"] <= 8)
    endpoint.reset_stats()
    until(lambda: endpoint.stats()["requests_total"] >= 40)
    assert endpoint.stats()["in_flight_max"] <= 8
    now = asked(cli, "set", "concurrency=32", "tpm=60000000")
    assert now["endpoints"]["default"] == {"concurrency": 32, "rpm": None, "tpm": 60_000_000}
    until(lambda: endpoint.stats()["in_flight_max"] > 16)
    assert endpoint.stats()["in_flight_max"] <= 32

    assert asked(cli, "pause")["state"] == "paused"
    until(lambda: endpoint.stats()["in_flight"] == 0)
    sent = endpoint.stats()["requests_total"]
    assert cli("status", "run", "--json").json["live"]["state"] == "paused"
    assert cli("status", "run").out.startswith("paused: 4 processes")
    assert endpoint.stats()["requests_total"] == sent
    text = cli("ctl", "run", "resume")
    assert (text.code, "followed by 4 processes" in text.out) == (0, True), text.err
    until(lambda: endpoint.stats()["requests_total"] > sent)

    done = cli("ctl", "run", "drain")
    assert (done.code, "pending; the same command resumes" in done.out) == (0, True), done.err
    codes = [process.wait() for process in fleet.processes]
    assert codes == [3] * 4, [process.err for process in fleet.processes]
    told = summary(fleet.folder / "run")
    assert (told["status"], told["stopped_by"], told["exit_code"]) == ("stopped", "drain", 3)
    assert [one["set"] for one in told["controls"]] == [
        {"concurrency": 8},
        {"concurrency": 32, "tpm": 60_000_000},
        {"paused": True},
        {"paused": False},
        {"drain": True},
    ]
    assert all(one["at"].endswith("Z") for one in told["controls"])
    assert endpoint.stats()["given_up"] == 0
    cli.verified("run")


@pytest.mark.slow
def test_a_drain_ends_processes_that_wait_or_pause(fleet, cli, jsonl, simulator, until, summary):
    """There is one shard for two, so one of them waits; both end, and the run can go on."""
    endpoint = simulator(latency=FixedLatency(0.5))
    given = (
        *(jsonl(60), "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", 60, "--concurrency", 2),
    )
    processes = fleet.start_all(2, *given)
    until((fleet.folder / "run" / "fleet" / "launch.json").exists)
    until(lambda: len(cli("status", "run", "--json").json.get("fleet", {}).get("workers", ())) == 2)
    until(lambda: in_flight(cli) == 1)
    assert asked(cli, "pause")["workers"]["alive"] == 2
    assert cli("ctl", "run", "drain").code == 0
    assert [process.wait() for process in processes] == [3, 3], [p.err for p in processes]
    found = summary(fleet.folder / "run")
    assert found["stopped_by"] == "drain"
    assert 0 < found["rows"]["ok"] < 60
    cli.verified("run")
    again = cli("run", *given, "--no-progress", timeout_s=120)
    assert again.code == 0, again.err
    assert endpoint.stats()["requests_total"] == 60


@pytest.mark.slow
def test_what_cannot_be_done_is_refused(fleet, cli, live):
    """A budget, an unknown endpoint, and values that are none: exit code 2, and nothing changes."""
    live()
    for words, said in (
        (("set", "max_cost=1"), "max_cost cannot be changed while several processes"),
        (("set", "other.rpm=60"), "no endpoint is called other"),
        (("set", "rpm=0"), "rpm must be"),
        (("pause", "rpm=3"), "takes no values"),
    ):
        refused = cli("ctl", "run", *words)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    assert cli("status", "run", "--json").json["live"]["controls"] is None
    for process in fleet.processes:
        process.send(signal.SIGTERM)
    assert [process.wait() for process in fleet.processes] == [143] * 4


@pytest.mark.slow
def test_a_process_that_does_not_follow_is_named(fleet, cli, live):
    """It is suspended: the reply comes once it counts as dead, or names it."""
    live()
    victim = fleet.processes[2]
    victim.suspend()
    now = asked(cli, "set", "rpm=600")
    assert now["endpoints"]["default"]["rpm"] == 600
    followed, missing = now["workers"]["followed"], now["workers"]["missing"]
    assert followed == 3
    assert len(missing) == now["workers"]["alive"] - 3
    victim.send(signal.SIGCONT)
    assert cli("ctl", "run", "drain").code == 0
    codes = [process.wait() for process in fleet.processes]
    assert [codes[n] for n in (0, 1, 3)] == [3, 3, 3]
    assert codes[2] in (3, 5), victim.err
    cli.verified("run")
