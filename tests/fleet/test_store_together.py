"""What the processes of a fleet do together, where the run directory is in an object store."""

import re
import shutil
import signal

import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.verify import verify
from tests.integration.test_judges import world  # noqa: F401 - a fixture

CAP, MOST = 20_000, 200
"""Tokens: of the run, and of an answer."""


@pytest.fixture
def given(shared_store):
    """Makes the arguments of the process with this checkpoint."""

    def arguments(endpoint, rows, checkpoint, *more, shard_rows=20, concurrency=8):
        return (
            *(rows, "-o", shared_store.address, "--checkpoint", checkpoint),
            *("--base-url", endpoint.base_url, "--model", "m"),
            *("--shard-rows", shard_rows, "--concurrency", concurrency, *more),
        )

    return arguments


@pytest.fixture
def both(fleet, given):
    """Starts two processes as on two machines, each with a checkpoint of its own."""

    def start(*arguments, **options):
        return [
            fleet.start(f"{i}/2", *given(*arguments[:2], f"cp{i}", *arguments[2:]), **options)
            for i in (1, 2)
        ]

    return start


def sound(folder, shared_store):
    """Everything in the directory adds up, by the checkpoint of whoever had it last."""
    checkpoint = shared_store.json("owner.json")["checkpoint"]
    report = verify.check(shared_store.address, str(folder / checkpoint))
    assert report.problems == []


@pytest.fixture
def billing(scripted):
    """An endpoint whose answers take a known number of tokens, and the sum that it billed."""
    billed = [0]

    def reply(body, _headers, _nth):
        prompt = len(body["messages"][0]["content"].encode())
        billed[0] += prompt + MOST
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": MOST,
            "total_tokens": prompt + MOST,
        }
        message = {"role": "assistant", "content": "."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {}, {"id": "x", "model": "m", "choices": [choice], "usage": usage}

    return scripted(reply), billed


def next_of(err):
    """The tokens that the request which had no room might have taken."""
    return int(re.search(r"may take ([\d,]+) tokens", err)[1].replace(",", ""))


def test_a_budget_is_one_for_all(fleet, jsonl, billing, both, shared_store):
    """Processes without a common disk stop together at the limit, with what was billed."""
    endpoint, billed = billing
    budget = ("--max-tokens", MOST, "--max-total-tokens", CAP)
    processes = both(endpoint, jsonl(400), *budget)
    assert [p.wait() for p in processes] == [3, 3], [p.err for p in processes]
    found = shared_store.json("summary.json")
    assert (found["status"], found["stopped_by"]) == ("stopped", "max_total_tokens")
    charged = found["budget"]["charged_tokens"]
    told = next(p.err for p in processes if "has no room for the next request" in p.err)
    assert CAP - next_of(told) < charged <= CAP
    assert billed[0] == charged
    sound(fleet.folder, shared_store)


@pytest.mark.slow
def test_what_a_lost_machine_held_stays_charged(
    fleet, cli, jsonl, billing, given, both, shared_store, until
):
    """Its disk is lost with it, and so is the record of what it spent: the account is what counts,
    so the server never bills more than the budget.
    """
    endpoint, billed = billing
    cap = 3 * CAP
    budget = ("--max-tokens", MOST, "--max-total-tokens", cap)
    rows = jsonl(900)
    one, two = both(endpoint, rows, *budget, lease_s=6)
    until(lambda: len({w for ws in shared_store.claimed_by().values() for w in ws}) == 2)
    until(lambda: billed[0] > cap // 4)
    one.send(signal.SIGKILL)
    one.process.wait()
    shutil.rmtree(fleet.folder / "cp1")
    assert two.wait() == 3, two.err
    # Until the lease of the lost one expires, nobody may put the directory together.
    alone = ("run", *given(endpoint, rows, "cp2", *budget), "--no-progress")
    until(lambda: cli.fresh(*alone, env=shared_store.env).code == 3)
    charged = shared_store.json("summary.json")["budget"]["charged_tokens"]
    assert billed[0] <= charged <= cap
    sound(fleet.folder, shared_store)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--retry-failed", "--resend-changed"])
def test_rows_are_sent_again_once(fleet, jsonl, scripted, answer, both, shared_store, flag):
    """By one start of two processes: each row that failed, or was changed, once."""
    rows, failing = jsonl(100), [True]

    def reply(body, _headers, _nth):
        if failing[0] and body["messages"][0]["content"].endswith("7"):
            return 400, {}, {"error": {"message": "not now"}}
        return 200, {}, answer("fine")

    endpoint = scripted(reply)
    processes = both(endpoint, rows)
    assert [p.wait() for p in processes] == [1, 1], [p.err for p in processes]
    failing[0] = False
    before = len(endpoint.requests)
    start = {"BATCHRUN_START": "again"}
    more = (flag,) if flag == "--retry-failed" else (flag, "--temperature", "0.5")
    processes = both(endpoint, rows, *more, environment=start)
    assert {p.wait() for p in processes} <= {0, 1}, [p.err for p in processes]
    found = shared_store.json("summary.json")
    sent = len(endpoint.requests) - before
    assert sent == (10 if flag == "--retry-failed" else 100), [p.err for p in processes]
    assert (found["rows"]["ok"], found["rows"]["error"]) == (100, 0)
    sound(fleet.folder, shared_store)


@pytest.mark.slow
def test_ctl_reaches_every_process(cli, jsonl, simulator, both, shared_store, until):
    """From a machine that has none of their checkpoints; and ``status`` says that they work, how
    far they are.
    """
    endpoint = simulator(latency=FixedLatency(0.3))
    processes = both(endpoint, jsonl(2000))
    until(lambda: len({w for ws in shared_store.claimed_by().values() for w in ws}) == 2)
    status = ("status", shared_store.address)

    def sending():
        seen = cli.fresh(*status, "--json", env=shared_store.env)
        assert (seen.code, seen.json["state"]) == (0, "running"), seen.err
        found = seen.json["fleet"]["workers"]
        told = [each for each in found if each["rows"] and each["requests_per_s"]]
        return seen.json if len(told) == 2 else None

    seen = until(sending)
    pids = {process.process.pid for process in processes}
    assert {each["pid"] for each in seen["fleet"]["workers"]} == pids
    assert {each["state"] for each in seen["fleet"]["workers"]} == {"alive"}
    done = seen["live"]["ok"]
    assert 0 < done == sum(each["rows"] for each in seen["fleet"]["workers"])
    assert done <= endpoint.stats()["requests_total"]
    assert seen["fleet"]["shards"]["all"] == 100
    shown = cli.fresh(*status, env=shared_store.env)
    assert "running: 2 processes together" in shown.out
    words = ("ctl", shared_store.address)
    now = cli.fresh(*words, "set", "rpm=6000", "--json", env=shared_store.env)
    assert now.code == 0, now.err
    assert now.json["endpoints"]["default"]["rpm"] == 6000
    drained = cli.fresh(*words, "drain", "--json", env=shared_store.env)
    assert (drained.code, drained.json["stopped_by"]) == (0, "drain"), drained.err
    assert [p.wait() for p in processes] == [3, 3], [p.err for p in processes]
    assert shared_store.json("summary.json")["rows"]["ok"] == endpoint.stats()["requests_total"]


@pytest.mark.slow
def test_answers_are_judged_once_the_run_has_ended(fleet, cli, world, shared_store):  # noqa: F811
    """Each answer once. The judge's own checkpoint stays where it was judged: with another one the
    command names it.
    """
    world.env = shared_store.env
    given = ("-c", "c.toml", "-o", shared_store.address)
    processes = [fleet.start(f"{i}/2", *given, "--checkpoint", f"cp{i}") for i in (1, 2)]
    assert [p.wait() for p in processes] == [1, 1], [p.err for p in processes]
    world.asked()
    for asked in (9, 0):
        done = world.judged("--checkpoint", "cp1", folder=shared_store.address)
        assert done.code == 1, done.err
        assert len(world.asked()) == asked
    done = world.judged("--checkpoint", "cp2", folder=shared_store.address)
    assert (done.code, "cp1/judges/tone" in done.err) == (2, True), done.err
    assert world.asked() == []
    assert shared_store.json("summary.json")["judges"]["tone"]["rows"] == 9
    sound(cli.folder, shared_store)


@pytest.mark.slow
def test_a_limit_ends_in_the_middle_of_a_shard(fleet, jsonl, simulator, both, shared_store):
    """The first rows alone, each once."""
    endpoint = simulator(latency=FixedLatency(0.01))
    processes = both(endpoint, jsonl(200), "--limit", 50)
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert endpoint.stats()["requests_total"] == 50
    assert shared_store.json("summary.json")["rows"]["ok"] == 50
    sound(fleet.folder, shared_store)


@pytest.mark.slow
def test_answers_of_another_run_are_taken(cli, jsonl, simulator, both, shared_store):
    """Each process has an index of its own."""
    rows, endpoint = jsonl(130), simulator(latency=FixedLatency(0.01))
    old = cli(
        *("run", jsonl(100, "old.jsonl"), "-o", "earlier", "--base-url", endpoint.base_url),
        *("--model", "m", "--no-progress"),
    )
    assert old.code == 0, old.err
    processes = both(endpoint, rows, "--reuse", "earlier")
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert endpoint.stats()["requests_total"] == 130
    assert shared_store.json("summary.json")["rows"]["ok"] == 130


def test_repair_is_for_one_process(cli, jsonl, simulator, given, shared_store):
    """Exit code 2 before anything is made."""
    for how in (("--shard", "1/2"), ("--workers", "2")):
        more = ("--repair", *how)
        done = cli.fresh("run", *given(simulator(), jsonl(3), "cp", *more), env=shared_store.env)
        assert (done.code, "--repair" in done.err) == (2, True), done.err
    assert shared_store.keys() == []
