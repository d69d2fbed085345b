"""A budget belongs to the run, however many processes spend of it."""

import json
import random
import re
import signal
import threading
import time

import pytest

CAP, MOST = 20_000, 200
"""Tokens: of the run, and of an answer."""


@pytest.fixture
def billing(scripted):
    """An endpoint that counts the tokens that it bills, as requests come."""
    lock, dice, billed = threading.Lock(), random.Random(1), [0]

    def reply(body, _headers, _nth):
        completion = dice.randint(1, body["max_tokens"])
        prompt = len(body["messages"][0]["content"].encode())
        with lock:
            billed[0] += prompt + completion
        time.sleep(0.05)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        message = {"role": "assistant", "content": "."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "x", "model": "m", "choices": [choice], "usage": usage}
        return 200, {}, answer

    return scripted(reply), billed


def command(endpoint, rows, *more):
    """The arguments of every process."""
    return (
        *(rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--max-tokens", MOST, "--shard-rows", 20, "--concurrency", 8, *more),
    )


def next_of(err):
    """The tokens that the request which had no room might have taken."""
    return int(re.search(r"may take ([\d,]+) tokens", err)[1].replace(",", ""))


@pytest.mark.slow
def test_processes_stop_together_at_the_limit(fleet, cli, jsonl, billing, summary):
    """With the message and the exit code of a single one, as close to the limit; a plain run with a
    higher one goes on.
    """
    endpoint, billed = billing
    rows = jsonl(400)
    given = command(endpoint, rows, "--max-total-tokens", CAP)
    processes = fleet.start_all(3, *given)
    assert [p.wait() for p in processes] == [3] * 3, [p.err for p in processes]
    told = [p for p in processes if "has no room for the next request" in p.err]
    assert told, [p.err for p in processes]
    found = summary(fleet.folder / "run")
    assert (found["status"], found["stopped_by"]) == ("stopped", "max_total_tokens")
    charged = found["budget"]["charged_tokens"]
    assert CAP - next_of(told[0].err) < charged <= CAP
    assert billed[0] == charged, "every answer told what it cost"
    assert 0 < found["rows"]["ok"] < 400
    cli.verified("run")
    more = command(endpoint, rows, "--max-total-tokens", 10 * CAP)
    ended = cli("run", *more, "--no-progress")
    assert ended.code == 0, ended.err
    assert summary(fleet.folder / "run")["budget"]["charged_tokens"] == billed[0]


@pytest.mark.slow
def test_what_a_killed_process_held_stays_charged(fleet, cli, jsonl, billing, summary, until):
    """Two of four are killed in the middle, one of them is started again: the server never bills
    more than the budget.
    """
    endpoint, billed = billing
    cap = 3 * CAP
    given = command(endpoint, jsonl(900), "--max-total-tokens", cap)
    processes = fleet.start_all(4, *given, lease_s=3)
    until(lambda: billed[0] > cap // 4)
    processes[0].process.kill()
    until(lambda: billed[0] > cap // 3)
    processes[1].process.kill()
    again = fleet.start("1/4", *given, lease_s=3)
    living = [*processes[2:], again]
    assert [p.wait() for p in living] == [3] * 3, [p.err for p in living]
    found = summary(fleet.folder / "run")
    charged = found["budget"]["charged_tokens"]
    worst = next_of(" ".join(p.err for p in living))
    assert billed[0] <= charged <= cap
    assert charged > cap - worst
    # Each of the dead held what it had out, and was ahead, at most.
    assert billed[0] > cap - 2 * (8 * worst + cap // 200) - worst
    cli.verified("run")


def test_a_process_with_another_budget_is_refused(fleet, jsonl, billing, until):
    """It would spend of one that the others do not know."""
    endpoint, _ = billing
    rows = jsonl(2_000)
    first = fleet.start("1/2", *command(endpoint, rows, "--max-total-tokens", 100 * CAP))
    launch = fleet.folder / "run" / "fleet" / "launch.json"
    until(lambda: launch.exists() and json.loads(launch.read_text())["state"] == "live")
    other = fleet.start("2/2", *command(endpoint, rows, "--max-total-tokens", 2 * CAP))
    assert other.wait() == 2
    assert "--max-total-tokens" in other.err
    first.send(signal.SIGTERM)
    assert first.wait() == 143, first.err
