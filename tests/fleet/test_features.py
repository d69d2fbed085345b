"""What a run can do, several processes do together: row for row as one process does."""

import signal
import time

import pytest

from tests.harness.slow import rest_slow
from tests.integration.test_judges import TONE, world  # noqa: F401 - a fixture

PROMPT = ("--prompt", "Say {{ text }} of {{ topic }}")


@pytest.fixture
def echo(scripted, answer):
    """An endpoint that gives back what it is asked last."""

    def reply(body, _headers, _nth):
        time.sleep(0.01)
        return 200, {}, answer(f"re: {body['messages'][-1]['content']}")

    return scripted(reply)


def command(endpoint, directory, *more):
    """The arguments of a run over what ``more`` names."""
    return (
        *("-o", directory, "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", 20, "--concurrency", 8, *more),
    )


def questions(count):
    """Rows of two columns."""
    return [
        {"text": f"t{n}", "topic": f"topic {n % 7}", "custom_id": f"q{n}"} for n in range(count)
    ]


@pytest.fixture
def same(fleet, cli, comparable, summary, echo):
    """Runs ``more`` by one process and by three; says whether both left the same."""

    def check(*more, count=3, code=0):
        alone = cli("run", *command(echo, "alone", *more), "--no-progress")
        assert alone.code == code, alone.err
        asked = len(echo.requests)
        processes = fleet.start_all(count, *command(echo, "run", *more))
        assert [p.wait() for p in processes] == [code] * count, [p.err for p in processes]
        assert len(echo.requests) == 2 * asked, [p.err for p in processes]
        for kind in ("results", "attempts"):
            one, other = (comparable(fleet.folder / name, kind) for name in ("alone", "run"))
            assert other.equals(one), kind
        one, other = (summary(fleet.folder / name) for name in ("alone", "run"))
        for key in ("status", "exit_code", "rows", "errors", "outputs"):
            assert other[key] == one[key], key
        cli.verified("run")

    return check


@pytest.mark.parametrize("limit", rest_slow([47, 60, 130, 500]))
def test_a_limit_is_that_of_all(same, fleet, cli, jsonl, echo, summary, limit):
    """Inside a shard, at its end, at the input's end and behind it; the rest is done later."""
    rows = jsonl(questions(130))
    same(rows, *PROMPT, "--limit", limit)
    processes = fleet.start_all(2, *command(echo, "run", rows, *PROMPT))
    assert [p.wait() for p in processes] == [0, 0], [p.err for p in processes]
    assert summary(fleet.folder / "run")["rows"]["ok"] == 130
    assert len(echo.requests) == min(limit, 130) + 130
    again = cli("run", *command(echo, "run", rows, *PROMPT), "--no-progress")
    assert (again.code, "nothing left to send" in again.err) == (0, True), again.err
    cli.verified("run")


@pytest.mark.slow
def test_every_row_is_sent_as_often_as_one_process_sends_it(same, jsonl):
    """``--repeat``, also with a limit and a number of rows that fills no shard."""
    same(jsonl(questions(50)), *PROMPT, "--repeat", 3, "--limit", 47)


@pytest.mark.parametrize("status", rest_slow(["ok", "any"]))
def test_the_results_of_another_run_are_an_input(same, cli, jsonl, echo, status):
    """``--from``, with rows that are left out in between."""
    rows = questions(90)
    for row in rows[10:80:9]:
        row["text"] = None
    made = cli("run", jsonl(rows), *command(echo, "one", *PROMPT), "--no-progress")
    assert made.code in (0, 1), made.err
    echo.requests.clear()
    same("--from", "one", "--from-status", status, "--prompt", "Is it so: {{ row.content }}?")


@pytest.mark.slow
def test_conversations_are_held_by_all(same, jsonl):
    """``--turns``: rows of up to three turns."""
    rows = [{"turns": [f"{n} {turn}" for turn in range(1 + n % 3)]} for n in range(70)]
    same(jsonl(rows), "--turns", "turns")


def test_answers_of_another_run_are_taken_once(same, fleet, cli, jsonl, echo, published):
    """``--reuse``: nobody asks for what is known."""
    rows = questions(100)
    old = jsonl(rows[:70], "old.jsonl")
    assert cli("run", old, *command(echo, "before", *PROMPT), "--no-progress").code == 0
    echo.requests.clear()
    same(jsonl(rows), *PROMPT, "--reuse", "before")
    assert len(echo.requests) == 2 * 30
    taken = published(fleet.folder / "run").column("reused_from").to_pylist()
    assert sum(origin is not None for origin in taken) == 70


@pytest.mark.slow
def test_lengths_of_another_run_order_the_rows(same, cli, jsonl, echo):
    """``--lengths-from`` changes the order alone."""
    rows = jsonl(questions(90))
    assert cli("run", rows, *command(echo, "old", *PROMPT), "--no-progress").code == 0
    echo.requests.clear()
    same(rows, *PROMPT, "--lengths-from", "old")


@pytest.mark.slow
def test_old_answers_are_taken_after_a_restart(fleet, cli, jsonl, echo, summary):
    """``--restart --reuse old`` by three processes moves the old contents once, and asks for new
    rows alone.
    """
    rows = questions(60)
    first = jsonl(rows[:40], "rows.jsonl")
    assert cli("run", first, *command(echo, "run", *PROMPT), "--no-progress").code == 0
    jsonl(rows, "rows.jsonl")
    again = command(echo, "run", first, *PROMPT, "--restart", "--reuse", "old")
    processes = fleet.start_all(3, *again)
    assert [p.wait() for p in processes] == [0] * 3, [p.err for p in processes]
    assert len(list(fleet.folder.glob("run.old-*"))) == 1
    assert len(echo.requests) == 60
    assert summary(fleet.folder / "run")["rows"]["ok"] == 60
    cli.verified("run")


def test_answers_are_judged_once_by_whoever_sums_up(fleet, world, cli):  # noqa: F811
    """Every answer once, after the last one; all processes say how it ended."""
    world.config(TONE)
    processes = fleet.start_all(3, "-c", "c.toml")
    assert [p.wait() for p in processes] == [1] * 3, [p.err for p in processes]
    assert len(world.asked()) == 9
    said = world.summary()["judges"]["tone"]
    assert (said["rows"], said["missing"]) == (9, 0)
    cli.verified("run")
    cli.verified("run/judges/tone")


@pytest.mark.slow
def test_a_conversation_goes_on_with_another_process(fleet, cli, jsonl, scripted, answer, until):
    """Answered turns of a process that was killed are not asked for again."""
    asked = []

    def reply(body, _headers, _nth):
        said = [message["content"] for message in body["messages"]]
        asked.append(tuple(said))
        time.sleep(0.1)
        return 200, {}, answer(f"re: {said[-1]}")

    endpoint = scripted(reply)
    rows = jsonl([{"turns": [f"{n} {turn}" for turn in range(6)]} for n in range(40)])
    given = command(endpoint, "run", rows, "--turns", "turns")
    processes = fleet.start_all(2, *given, lease_s=3)
    until(lambda: len(asked) >= 80)
    processes[0].send(signal.SIGKILL)
    assert processes[1].wait() == 0, processes[1].err
    # What was in flight, or not flushed, when the one was killed.
    assert len(asked) <= 40 * 6 + 16
    assert len(set(asked)) == 40 * 6
    cli.verified("run")


def test_a_pipe_is_refused_with_the_reason(cli, simulator):
    """It can be read once, and each process reads its own shards."""
    refused = cli("run", "-", *command(simulator(), "run"), "--shard", "1/2")
    assert refused.code == 2
    assert "write it to a file" in refused.err
