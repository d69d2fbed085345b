"""The column ``decided_by`` of the ledger, over real HTTP: what happened to a row, in words."""

import shutil
import signal
import socket
import sys
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from batchrun.adapters.journal.journal import read_attempt, read_outcome
from batchrun.testing import samples

PLAIN = ("--no-progress", "--concurrency", 1)
OLDER = Path(__file__).resolve().parents[1] / "golden" / "trails-0.2"


def _number(body):
    return int(body["messages"][0]["content"].split()[1])


def _error(code="no"):
    return {"error": {"message": "no", "type": code, "code": code}}


@pytest.fixture
def endpoint(scripted, answer):
    """Starts an endpoint that sends each question the replies of a list, the last one for ever."""

    def start(replies):
        asked = defaultdict(int)

        def reply(body, *_):
            number = _number(body)
            listed = replies.get(number, [])
            turn = asked[number]
            asked[number] += 1
            return listed[min(turn, len(listed) - 1)] if listed else (200, {}, answer())

        return scripted(reply)

    return start


@pytest.fixture
def trails(cli, published):
    """The trails of each row's attempts, in order; the directory is verified."""

    def read(folder="run"):
        cli.verified(folder)
        found = defaultdict(list)
        for line in published(cli.folder / folder, "attempts").to_pylist():
            found[line["row"]].append(line["decided_by"])
        return dict(found)

    return read


def test_each_attempt_says_what_decided(here, endpoint, answer, jsonl, chat, trails, published):
    """An answer, refusals, errors of every kind, and checks on answers; a row that is never sent
    has no attempt.
    """
    ok = (200, {}, answer())
    cut = answer()
    cut["choices"][0]["finish_reason"] = "length"
    server = endpoint(
        {
            1: [(429, {"retry-after-ms": "10"}, _error()), ok],
            2: [(500, {}, _error()), ok],
            3: [(500, {}, _error())],
            4: [(400, {}, _error("bad_value"))],
            5: [(200, {}, cut)],
            6: [(500, {"x-should-retry": "false"}, _error())],
            7: [(400, {"x-should-retry": "true"}, _error()), ok],
            8: [(200, {}, b"<html>Please sign in</html>")],
        }
    )
    rows = [chat(number) for number in range(9)] + [{"note": "no messages"}]
    done = here(
        *(jsonl(rows), "-o", "run", *PLAIN, "--base-url", server.base_url),
        *("--max-attempts", 2, "--on-truncation", "retry"),
    )
    assert done.code == 1, done.err
    assert trails() == {
        0: ["completion"],
        1: ["rate_limit", "completion"],
        2: ["server_error", "completion"],
        3: ["server_error", "server_error>attempts_used_up"],
        4: ["invalid_request"],
        5: ["truncated_output", "truncated_output>attempts_used_up"],
        6: ["server_error>told_not_to_retry"],
        7: ["invalid_request>told_to_retry", "completion"],
        8: ["invalid_response", "invalid_response>attempts_used_up"],
    }
    names = published("run", "attempts").column_names
    assert names[names.index("request_id") + 1] == "decided_by"


def test_streams_and_plain_replies_are_told_alike(here, simulator, jsonl, trails):
    """A streamed answer is a completion as any other."""
    server = simulator()
    done = here(jsonl(5), "-o", "run", *PLAIN, "--base-url", server.base_url, "--stream")
    assert done.code == 0, done.err
    assert trails() == {row: ["completion"] for row in range(5)}


def test_a_renewed_key(cli, scripted, answer, jsonl, trails):
    """The attempt that the old key was refused for says that another one was had."""
    server = scripted(
        lambda _, headers, __: (
            (200, {}, answer()) if headers["Authorization"].endswith("2") else (401, {}, _error())
        )
    )
    program = (
        "import pathlib; p = pathlib.Path('n'); n = int(p.read_text()) if p.exists() else 0; "
        "p.write_text(str(n + 1)); print(f'sk-SECRET-{n + 1}')"
    )
    command = f'{sys.executable} -c "{program}"'
    done = cli.run(
        *(jsonl(2), "-o", "run", *PLAIN, "--base-url", server.base_url),
        *("--api-key-command", command),
    )
    assert done.code == 0, done.err
    assert trails() == {0: ["bad_key>renewed_key", "completion"], 1: ["completion"]}


def test_a_source_of_keys_that_fails(cli, scripted, jsonl, trails):
    """The key is refused and no other is to be had: the run stops, and the attempt says so."""
    server = scripted(lambda *_: (401, {}, _error()))
    program = (
        "import pathlib, sys; p = pathlib.Path('n'); sys.exit(3) if p.exists() else None; "
        "p.write_text('1'); print('sk-SECRET')"
    )
    command = f'{sys.executable} -c "{program}"'
    done = cli.run(
        *(jsonl(1), "-o", "run", *PLAIN, "--base-url", server.base_url),
        *("--api-key-command", command),
    )
    assert done.code == 3, done.err
    assert trails() == {0: ["bad_key>no_new_key"]}


def test_an_endpoint_that_is_left_out(cli, scripted, simulator, jsonl, trails):
    """A refused key at one of two endpoints sends the row to the other one."""
    closed = scripted(lambda *_: (401, {}, _error()))
    other = simulator()
    (cli.folder / "run.toml").write_text(
        f'[[endpoint]]\nname = "closed"\nbase_url = "{closed.base_url}"\nconcurrency = 1\n'
        f'[[endpoint]]\nname = "open"\nbase_url = "{other.base_url}"\nconcurrency = 1\n'
    )
    done = cli.run(jsonl(6), "-c", "run.toml", "-o", "run", "--no-progress")
    assert done.code == 0, done.err
    found = trails()
    told = [trail for row in found.values() for trail in row]
    assert told.count("bad_key>endpoint_left_out") == 1 and told.count("completion") == 6
    assert ["bad_key>endpoint_left_out", "completion"] in found.values()


def test_nobody_there(here, jsonl, trails):
    """An endpoint that never answers: what fails first is charged, then it is down, and the run
    stops when the time for that is over.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = here(
            *(jsonl(30), "-o", "run", "--no-progress", "--base-url", url),
            *("--concurrency", 8, "--max-attempts", 2, "--max-wait", 1),
        )
    assert done.code == 3, done.err
    told = {trail for row in trails().values() for trail in row}
    assert told >= {"connection", "connection>endpoint_down", "connection>never_answered"}
    assert not any("attempts_used_up" in trail for trail in told)


def test_another_model(here, jsonl, trails, scripted, answer):
    """A filtered row asks the fallback model; the attempt with its own model says so."""
    server = scripted(
        lambda body, *_: (
            (200, {}, answer())
            if body["model"] == "other" or _number(body) == 0
            else (400, {}, _error("content_filter"))
        )
    )
    done = here(
        *(jsonl(2), "-o", "run", *PLAIN, "--base-url", server.base_url),
        *("--fallback-model", "other"),
    )
    assert done.code == 0, done.err
    assert trails() == {0: ["completion"], 1: ["content_filter>other_model", "completion"]}


def test_what_is_cut_off_is_interrupted(cli, until, scripted, answer, jsonl, trails):
    """A kill, and a stop that does not wait: the next session's ledger has both."""
    going, over = [], []

    def reply(*_):
        going.append(1)
        if len(going) < 3:
            until(lambda: over, 60)
        return 200, {}, answer()

    server = scripted(reply)
    command = (jsonl(1), "-o", "run", *PLAIN, "--base-url", server.base_url)
    live = cli.start("run", *command, "--model", "m")
    until(lambda: len(going) == 1)
    live.signal(signal.SIGKILL)
    live.wait()
    live = cli.start("run", *command, "--model", "m", "--grace", 0)
    until(lambda: len(going) == 2)
    live.signal(signal.SIGINT)
    assert live.wait().code == 130
    over.append(1)
    assert cli.run(*command).code == 0
    assert trails() == {0: ["interrupted", "interrupted", "completion"]}


def test_an_older_log_has_none():
    """An attempt that an earlier version wrote into its log, without the field, reads as null."""
    outcome = samples.answered(3)
    assert outcome.attempt is not None
    fields = list(outcome)
    fields[outcome._fields.index("attempt")] = list(outcome.attempt)[:-1]
    assert read_outcome(msgspec.msgpack.encode(fields)) == outcome
    assert outcome.attempt.decided_by is None
    assert read_attempt(msgspec.msgpack.encode(list(outcome.attempt)[:-1])) == outcome.attempt


@pytest.mark.parametrize("name", ["finished", "failed", "interrupted", "killed"])
def test_directories_whose_ledgers_lack_it_go_on(cli, simulator, published, name):
    """What was recorded then reads as null, what is sent now has its trail, in parts that were
    there, in those that were rewritten, and in what only a log held; `verify` accepts both.
    """
    shutil.copytree(OLDER, cli.folder, dirs_exist_ok=True)
    if name != "killed":
        cli.verified(name)
    server = simulator()
    done = cli(
        *("run", "rows.jsonl", "-o", name, "--shard-rows", 4, "--model", "m", "--no-progress"),
        *("--base-url", server.base_url, "--retry-class", "server_error"),
    )
    assert done.code == 1, done.err  # one row is no request
    cli.verified(name)
    if name == "finished":
        return
    sent = server.stats()["requests_total"]
    lines = published(cli.folder / name, "attempts").to_pylist()
    told = [line["decided_by"] for line in lines if line["decided_by"] is not None]
    assert told.count("completion") == sent > 0
    assert set(told) <= {"completion", "interrupted"}
    assert any(line["decided_by"] is None for line in lines)
