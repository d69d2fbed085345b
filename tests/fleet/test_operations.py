"""``--restart``, ``--retry-*`` and the like, given to every process, are done once."""

import signal

import pytest

from batchrun.simulator.latency import FixedLatency
from tests.fleet.conftest import chats

JOB = {"SLURM_ARRAY_JOB_ID": "4711"}


def command(endpoint, rows, directory="run", *more):
    """The arguments of every process."""
    return (
        *(rows, "-o", directory, "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", 20, "--concurrency", 8, "--no-repeated-failure", *more),
    )


def olds(folder):
    """What restarts have set aside."""
    return sorted(path.name for path in folder.glob("run.old-*"))


def test_a_restart_happens_once(fleet, cli, jsonl, held, until):
    """For all processes, one that comes after the end included; by hand, one that took part and
    comes again restarts again.
    """
    rows, endpoint = jsonl(90), held(95)
    given = command(endpoint, rows)
    assert cli("run", *given, "--no-progress").code == 0
    processes = [fleet.start(f"{index}/4", *given, "--restart") for index in (1, 2, 3)]
    until(lambda: len(list((fleet.folder / "run" / "fleet").glob("*/workers/*"))) == 3)
    endpoint.release()
    assert [p.wait() for p in processes] == [0] * 3, [p.err for p in processes]
    assert len(olds(fleet.folder)) == 1, [p.err for p in processes]
    assert endpoint.asked == 180
    late = fleet.start("4/4", *given, "--restart")
    assert late.wait() == 0, late.err
    assert "has already done what this command asks for" in late.err
    assert (len(olds(fleet.folder)), endpoint.asked) == (1, 180)
    again = fleet.start("1/4", *given, "--restart")
    assert again.wait() == 0, again.err
    assert (len(olds(fleet.folder)), endpoint.asked) == (2, 270)
    cli.verified("run")


@pytest.mark.slow
def test_a_process_that_a_scheduler_starts_again_restarts_nothing(fleet, cli, jsonl, simulator):
    """It has the same job id. Another job means another restart."""
    rows, endpoint = jsonl(60), simulator(latency=FixedLatency(0.01))
    given = command(endpoint, rows, "run", "--restart")
    assert cli("run", *given, "--no-progress").code == 0
    for environment, restarts in ((JOB, 1), (JOB, 1), ({"SLURM_ARRAY_JOB_ID": "4712"}, 2)):
        processes = fleet.start_all(2, *given, environment=environment)
        assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
        assert len(olds(fleet.folder)) == restarts
    assert endpoint.stats()["requests_total"] == 180


@pytest.mark.slow
def test_what_was_answered_after_a_restart_is_kept(fleet, cli, jsonl, simulator, summary, until):
    """All processes of a job are killed, and the scheduler starts them again."""
    rows, endpoint = jsonl(200), simulator(latency=FixedLatency(0.1))
    given = command(endpoint, rows, "run", "--restart")
    assert cli("run", *command(endpoint, jsonl(5, "few.jsonl")), "--no-progress").code == 0
    processes = fleet.start_all(2, *given, environment=JOB)
    until(lambda: endpoint.stats()["requests_total"] >= 60)
    for process in processes:
        process.send(signal.SIGKILL)
        process.wait()
    processes = fleet.start_all(2, *given, environment=JOB)
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert len(olds(fleet.folder)) == 1
    assert endpoint.stats()["requests_total"] <= 5 + 200 + 24
    assert summary(fleet.folder / "run")["rows"]["ok"] == 200
    cli.verified("run")


@pytest.mark.slow
def test_failed_rows_are_sent_again_once(fleet, cli, jsonl, asked, summary, comparable):
    """Each once, whoever has its shard; those that fail again stay failed. As by one process."""
    endpoint, counts, refusals = asked
    refusals[0] = 2
    rows = jsonl(chats(130))
    for directory in ("alone", "run"):
        failed = cli("run", *command(endpoint, rows, directory), "--no-progress")
        assert failed.code == 1, failed.err
        if directory == "alone":
            assert cli("run", *command(endpoint, rows, "alone", "--retry-failed")).code == 1
            counts.clear()
    processes = fleet.start_all(3, *command(endpoint, rows, "run", "--retry-failed"))
    assert [p.wait() for p in processes] == [1] * 3, [p.err for p in processes]
    assert counts == {row: 2 if row % 3 == 0 else 1 for row in range(130)}
    for kind in ("results", "attempts"):
        assert comparable(fleet.folder / "run", kind).equals(
            comparable(fleet.folder / "alone", kind)
        )
    found = summary(fleet.folder / "run")
    assert found["errors"] == summary(fleet.folder / "alone")["errors"]
    # Which failure comes first is up to the server.
    assert found["examples"].keys() == summary(fleet.folder / "alone")["examples"].keys()
    cli.verified("run")
    processes = fleet.start_all(2, *command(endpoint, rows, "run", "--retry-class", "rejected"))
    codes = [p.wait() for p in processes]
    assert codes in ([0, 0], [2, 2]), [p.err for p in processes]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_retry_that_is_killed_sends_no_row_a_third_time(
    fleet, cli, jsonl, asked, summary, until, seed
):
    """But for what was in flight: whoever takes a shard over knows what was sent again."""
    endpoint, counts, refusals = asked
    refusals[0] = 99
    rows = jsonl(chats(300))
    assert cli("run", *command(endpoint, rows), "--no-progress").code == 1
    given = command(endpoint, rows, "run", "--retry-failed", "--concurrency", 4)
    processes = fleet.start_all(3, *given, lease_s=3)
    until(lambda: counts.total() >= 320 + 20 * seed)
    processes[seed].process.kill()
    living = [p for n, p in enumerate(processes) if n != seed]
    assert [p.wait() for p in living] == [1, 1], [p.err for p in living]
    assert all(counts[row] >= 2 for row in range(0, 300, 3))
    assert counts.total() <= 300 + 100 + 12, f"seed {seed}"
    assert summary(fleet.folder / "run")["rows"]["error"] == 100
    cli.verified("run")


def test_changed_rows_are_sent_again_once(fleet, cli, jsonl, simulator, comparable):
    """After a change of the settings: results and settings are those of one process."""
    rows, endpoint = jsonl(70), simulator(latency=FixedLatency(0.01))
    changed = ("--temperature", "0.5", "--resend-changed")
    for directory in ("alone", "run"):
        assert cli("run", *command(endpoint, rows, directory), "--no-progress").code == 0
    assert cli("run", *command(endpoint, rows, "alone", *changed), "--no-progress").code == 0
    before = endpoint.stats()["requests_total"]
    processes = fleet.start_all(2, *command(endpoint, rows, "run", *changed))
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert endpoint.stats()["requests_total"] == before + 70
    assert comparable(fleet.folder / "run").equals(comparable(fleet.folder / "alone"))
    cli.verified("run")
    plain = cli("run", *command(endpoint, rows, "run", "--temperature", "0.5"), "--no-progress")
    assert (plain.code, "nothing left to send" in plain.err) == (0, True), plain.err


def test_done_rows_are_kept_and_damage_is_repaired(fleet, cli, jsonl, simulator, summary):
    """With other settings, and with a part that is lost: only what is missing is sent."""
    rows, endpoint = jsonl(60), simulator(latency=FixedLatency(0.01))
    assert cli("run", *command(endpoint, rows), "--limit", 30, "--no-progress").code == 0
    given = command(endpoint, rows, "run", "--temperature", "0.5", "--keep-done")
    processes = fleet.start_all(2, *given)
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert endpoint.stats()["requests_total"] == 60
    run = fleet.folder / "run"
    next(iter(sorted(run.glob("results/part-*")))).unlink()
    refused = fleet.start("1/2", *command(endpoint, rows, "run", "--temperature", "0.5"))
    assert refused.wait() == 2, refused.err
    assert not (run / "fleet" / "launch.json").exists(), "it was not launched"
    processes = fleet.start_all(
        2, *command(endpoint, rows, "run", "--temperature", "0.5", "--repair")
    )
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert endpoint.stats()["requests_total"] == 80
    assert summary(run)["rows"]["ok"] == 60
    cli.verified("run")


def test_workers_of_one_command_restart_once(cli, jsonl, simulator):
    """And the next command restarts again."""
    rows, endpoint = jsonl(40), simulator(latency=FixedLatency(0.01))
    given = (*command(endpoint, rows), "--workers", 2, "--restart", "--no-progress")
    for restarts in (0, 1, 2):
        done = cli("run", *given)
        assert done.code == 0, done.err
        assert len(olds(cli.folder)) == restarts
    assert endpoint.stats()["requests_total"] == 120
