"""What servers do wrong, and what becomes of the rows and of the run."""

import gzip
import json
import os
import socket
import threading
from collections import Counter

import pytest

from tests.harness.slow import rest_slow

QUICK = ("--concurrency", 8, "--no-progress")


def _equal(endpoint, folder, published):
    """Assert that the ledger has the exchanges that the server counted; returns them by status."""
    ledger = published(folder, "attempts")
    stats = endpoint.stats()
    assert ledger.num_rows == stats["requests_total"]
    by_status = Counter(str(s) for s in ledger["http_status"].to_pylist() if s is not None)
    return by_status, stats


def test_a_sick_server_costs_no_row(cli, simulator, jsonl, published, summary):
    """5 % each of 429, 500 and 503: every row is answered, every exchange is in the ledger."""
    endpoint = simulator(
        error_rates={"429": 0.05, "500": 0.05, "503": 0.05}, retry_after_s=0.05, seed=3
    )
    done = cli.run(jsonl(600), "-o", "run", "--base-url", endpoint.base_url, "--shard-rows", 250)
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["rows"]["ok"] == 600
    by_status, stats = _equal(endpoint, cli.folder / "run", published)
    assert by_status == stats["by_status"]
    assert all(by_status[status] > 5 for status in ("429", "500", "503"))
    table = published(cli.folder / "run")
    assert sum(table["attempts"].to_pylist()) == stats["requests_total"]
    asked = published(cli.folder / "run", "attempts")
    assert Counter(asked["error_class"].to_pylist()) == {
        None: 600,
        "rate_limit": by_status["429"],
        "server_error": by_status["500"],
        "overloaded": by_status["503"],
    }
    cli.verified("run")


@pytest.mark.parametrize(
    ("name", "guard", "status"),
    [
        ("401", "auth", 401),
        ("402", "billing", 402),
        ("403", "forbidden", 403),
        ("quota", "quota", 429),
    ],
)
def test_what_stops_the_run_leaves_rows_pending(
    cli, simulator, jsonl, published, summary, name, guard, status
):
    """A refused account stops the run with exit 3; with a good one the rest is sent once."""
    source = jsonl(60)
    bad = simulator(error_rates={name: 1.0})
    command = ("run", source, "-o", "run", "--model", "m", *QUICK)
    stopped = cli(*command, "--base-url", bad.base_url)
    assert stopped.code == 3, stopped.err
    assert guard in stopped.err and f"HTTP {status}" in stopped.err and "to resume:" in stopped.err
    found = summary(cli.folder / "run")
    assert (found["status"], found["stopped_by"], found["exit_code"]) == ("stopped", guard, 3)
    assert found["rows"] == {"input": 60, "ok": 0, "error": 0, "pending": 60}
    first = bad.stats()["requests_total"]
    assert 1 <= first <= 8
    assert found["totals"]["attempts"] == first
    cli.verified("run")
    good = simulator()
    resumed = cli(*command, "--base-url", good.base_url)
    assert resumed.code == 0, resumed.err
    stats = good.stats()
    assert (stats["requests_total"], stats["asked_again"]) == (60, 0)
    assert published(cli.folder / "run", "attempts").num_rows == first + 60
    assert sum(published(cli.folder / "run")["attempts"].to_pylist()) == first + 60
    cli.verified("run")


def test_a_key_that_stops_working_midway(cli, scripted, answer, jsonl, summary):
    """A 401 after successes is tried again, then stops the run; a good key finishes it."""
    keys = []

    def reply(_body, headers, _nth):
        keys.append(headers["Authorization"])
        good = len(keys) <= 5 or headers["Authorization"] == "Bearer new"
        return (200, {}, answer()) if good else (401, {}, {"error": {"message": "expired"}})

    endpoint = scripted(reply)
    command = (
        *(jsonl(10), "-o", "run", "--base-url", endpoint.base_url),
        *("--concurrency", 1, "--no-progress"),
    )
    stopped = cli.run(*command, env={"OPENAI_API_KEY": "old"})
    assert stopped.code == 3, stopped.err
    found = summary(cli.folder / "run")
    assert found["rows"] == {"input": 10, "ok": 5, "error": 0, "pending": 5}
    assert 5 + 3 <= len(keys) <= 5 + 5 * 3
    asked = len(keys)
    assert cli.run(*command, env={"OPENAI_API_KEY": "new"}).code == 0
    assert len(keys) == asked + 5
    assert found["totals"]["attempts"] == asked
    cli.verified("run")


@pytest.mark.parametrize(
    ("name", "error_class", "code"),
    [
        ("400", "context_length", "context_length_exceeded"),
        ("404", "not_found", "model_not_found"),
        ("413", "payload_too_large", None),
        ("422", "invalid_request", None),
    ],
)
def test_what_fails_a_row_fails_it_once(
    cli, simulator, jsonl, published, summary, name, error_class, code
):
    """A request that can never pass is an error row after one attempt, and exit 1."""
    endpoint = simulator(error_rates={name: 0.3}, seed=1)
    rows = jsonl(40, model="m-2")  # the rows' own: a model of the run that is missing ends the run
    done = cli.run(rows, "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    stats = endpoint.stats()
    assert stats["requests_total"] == 40
    failed = stats["by_status"][name]
    found = summary(cli.folder / "run")
    assert found["status"] == "complete_with_errors"
    assert found["rows"] == {"input": 40, "ok": 40 - failed, "error": failed, "pending": 0}
    assert found["errors"] == {error_class: failed}
    rows = [row for row in published(cli.folder / "run").to_pylist() if row["status"] == "error"]
    assert len(rows) == failed
    for row in rows:
        assert (row["error_class"], row["error_code"]) == (error_class, code)
        assert row["http_status"] == int(name)
        assert row["content"] is None and row["error_message"] and row["response"]
    cli.verified("run")


# Option of the simulator, what the ledger calls it, and how the server counts it.
FAULTS = {
    "drop": ({"drop_rate": 0.2}, "connection", "dropped"),
    "cut": ({"cut_rate": 0.2}, "connection", "cut"),
    "stall": ({"stall_rate": 0.1}, "timeout", "stalled"),
    "garbage": ({"garbage_rate": 0.06}, "invalid_response", None),
    "error-200": ({"error_200_rate": 0.2}, "server_error", None),
}


@pytest.mark.parametrize(
    ("options", "error_class", "counted"),
    rest_slow(FAULTS.values(), 3, several=True),
    ids=[*FAULTS],
)
def test_a_fault_on_the_wire_is_survived(
    cli, simulator, jsonl, published, options, error_class, counted
):
    """Dropped, cut, stalled and disguised answers are asked for again, and all are counted."""
    endpoint = simulator(**options, seed=5)
    done = cli.run(
        *(jsonl(60), "-o", "run", *QUICK, "--base-url", endpoint.base_url, "--timeout", 1),
        *("--concurrency", 32),
    )
    assert done.code == 0, done.err
    _, stats = _equal(endpoint, cli.folder / "run", published)
    ledger = Counter(published(cli.folder / "run", "attempts")["error_class"].to_pylist())
    assert ledger[None] == 60
    assert set(ledger) == {None, error_class}
    if counted is not None:
        assert ledger[error_class] == stats[counted] > 3
        assert done.err.count("may be billed") == 1
    cli.verified("run")


def test_a_server_that_never_gets_well_fails_rows_not_the_run(
    cli, simulator, jsonl, published, summary
):
    """A row that fails every time is charged so many attempts and then is an error row."""
    endpoint = simulator(fail_first=2)
    done = cli.run(
        jsonl(4), "-o", "run", *QUICK, "--max-attempts", 2, "--base-url", endpoint.base_url
    )
    assert done.code == 1, done.err
    assert summary(cli.folder / "run")["errors"] == {"server_error": 4}
    assert endpoint.stats()["requests_total"] == 8
    assert published(cli.folder / "run")["attempts"].to_pylist() == [2] * 4
    cli.verified("run")


def test_throttling_is_not_charged(cli, scripted, answer, jsonl, published):
    """A row may be throttled more often than it may fail."""

    def reply(_body, _headers, nth):
        if nth <= 4:
            return 429, {"Retry-After-Ms": "20"}, {"error": {"message": "slow down"}}
        return 200, {}, answer()

    done = cli.run(
        *(jsonl(1), "-o", "run", *QUICK, "--max-attempts", 1),
        *("--base-url", scripted(reply).base_url),
    )
    assert done.code == 0, done.err
    assert published(cli.folder / "run")["attempts"].to_pylist() == [5]
    waits = published(cli.folder / "run", "attempts")["retry_after_s"].to_pylist()
    assert waits == [pytest.approx(0.02)] * 4 + [None]
    cli.verified("run")


def test_a_wait_longer_than_ours_stops_the_run(cli, scripted, jsonl, summary):
    """Who is told to come back in an hour stops, says when, and leaves the rows pending."""
    endpoint = scripted(lambda *_: (429, {"Retry-After": "3600"}, {"error": {"message": "day"}}))
    done = cli.run(jsonl(5), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert done.code == 3, done.err
    assert "3600 s" in done.err and "--max-wait" in done.err
    assert summary(cli.folder / "run")["rows"]["pending"] == 5
    cli.verified("run")


def test_a_redirect_stops_the_run(cli, scripted, jsonl):
    """A redirect is a wrong base URL; nothing, and no key, is sent where it points."""
    other = scripted(lambda *_: (200, {}, {}))
    endpoint = scripted(lambda *_: (302, {"Location": other.base_url}, b""))
    done = cli.run(
        *(jsonl(5), "-o", "run", *QUICK, "--base-url", endpoint.base_url),
        env={"OPENAI_API_KEY": "k"},
    )
    assert done.code == 3, done.err
    assert "base URL" in done.err
    assert other.requests == []


def test_a_reply_that_is_too_large_is_not_read(cli, scripted, answer, jsonl, published):
    """A reply over the bound fails its row; one within it does not."""

    def reply(body, *_):
        size = 100_000 if body["messages"][0]["content"].endswith("0") else 10
        return 200, {}, answer("x" * size)

    done = cli.run(
        *(jsonl(2), "-o", "run", *QUICK, "--max-response-bytes", 50_000),
        *("--base-url", scripted(reply).base_url),
    )
    assert done.code == 1, done.err
    assert published(cli.folder / "run")["error_class"].to_pylist() == ["response_too_large", None]
    cli.verified("run")


# Replies that deviate, and the content that is read all the same.
DEVIATIONS = {
    "blank lines first": (b'\n\n\n{"choices":[{"message":{"content":"a"}}]}', "a"),
    "byte-order mark": (b"\xef\xbb\xbf" + b'{"choices":[{"message":{"content":"a"}}]}', "a"),
    "half a surrogate pair": (b'{"choices":[{"message":{"content":"a\\ud800"}}]}', "a�"),
    "bytes that are not UTF-8": (b'{"choices":[{"message":{"content":"a\xff"}}]}', "a�"),
    "NaN and a huge integer": (
        b'{"choices":[{"message":{"content":"a"},"logprobs":{"x":NaN,"y":' + b"9" * 300 + b"}}]}",
        "a",
    ),
    "parts": (b'{"choices":[{"message":{"content":[{"type":"text","text":"a"}]}}]}', "a"),
    "no content": (
        b'{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"arguments":{}}}]}}]}',
        None,
    ),
    "choices numbered by booleans": (
        b'{"choices":[{"index":false,"message":{"content":"a"}},{"index":true,"message":{}}]}',
        "a",
    ),
    "a zero byte": (b'{"choices":[{"message":{"content":"a\\u0000b"}}]}', "a\0b"),
    "strange usage": (
        b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":true,"total_tokens":'
        + b"9" * 30 + b'},"created":1e300,"model":7}',
        "a",
    ),
    **{
        f"all the tokens of 64 bits, {time}": (
            b'{"choices":[{"message":{"content":"a"}}],"usage":{"total_tokens":%d}}' % (2**63 - 1),
            "a",
        )
        for time in ("once", "twice")
    },
}  # fmt: skip


def test_deviating_replies_are_answers(cli, scripted, jsonl, published):
    """What real servers make of a completion is read, stored and verified."""
    replies = [body for body, _ in DEVIATIONS.values()]

    def reply(body, *_):
        return 200, {}, replies[int(body["messages"][0]["content"].split()[1])]

    endpoint = scripted(reply)
    done = cli.run(jsonl(len(replies)), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert done.code == 0, done.err
    contents = published(cli.folder / "run")["content"].to_pylist()
    assert dict(zip(DEVIATIONS, contents, strict=True)) == {
        name: content for name, (_, content) in DEVIATIONS.items()
    }
    cli.verified("run")


def test_error_bodies_of_any_size_and_kind_are_kept_in_part(cli, scripted, jsonl, published):
    """A huge or binary error body is an error row with a bounded text."""
    bodies = [b"x" * 5_000_000, bytes(range(256)) * 40, b"\xf0\x9f\x98\x80" * 5000, b""]

    def reply(body, *_):
        return 400, {}, bodies[int(body["messages"][0]["content"].split()[1])]

    done = cli.run(jsonl(4), "-o", "run", *QUICK, "--base-url", scripted(reply).base_url)
    assert done.code == 1, done.err
    for row in published(cli.folder / "run").to_pylist():
        assert row["error_class"] == "invalid_request"
        assert len(row["response"].encode()) <= 3 * 4096
    cli.verified("run")


def test_compressed_replies_are_read(cli, scripted, answer, jsonl, published):
    """Gzip is taken, and broken gzip is a cut reply that is asked for again."""
    whole = gzip.compress(json.dumps(answer("packed")).encode())

    def reply(_body, _headers, nth):
        return 200, {"Content-Encoding": "gzip"}, whole if nth > 1 else whole[:-12]

    done = cli.run(jsonl(1), "-o", "run", *QUICK, "--base-url", scripted(reply).base_url)
    assert done.code == 0, done.err
    row = published(cli.folder / "run").to_pylist()[0]
    assert (row["content"], row["attempts"]) == ("packed", 2)


def test_a_server_that_does_not_speak_http_fails_rows(cli, jsonl, summary):
    """Bytes that are no HTTP are a fault of the connection, not a crash."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n\0\0")

        thread = threading.Thread(target=babble, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        done = cli.run(jsonl(2), "-o", "run", *QUICK, "--max-attempts", 1, "--base-url", url)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert done.code == 1, done.err
    assert summary(cli.folder / "run")["errors"] == {"connection": 2}


def test_nobody_listening_fails_rows_as_connection(cli, jsonl, summary):
    """A refused connection is charged, and it cannot have been billed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    done = cli.run(jsonl(2), "-o", "run", *QUICK, "--max-attempts", 2, "--base-url", url)
    assert done.code == 1, done.err
    found = summary(cli.folder / "run")
    assert found["errors"] == {"connection": 2}
    assert found["totals"]["attempts"] == 4
    assert found["totals"]["unanswered_attempts"] == 0
    cli.verified("run")


def _played(*, stops):
    """The simulator's errors that stop a run before its first answer, or those that do not."""
    from batchrun.core.verdict.judge import Action, Circumstances, judge
    from batchrun.records import Reply
    from batchrun.simulator.rejections import INJECTED, injected

    found = []
    for name in INJECTED:
        error = injected(name, 0.05)
        headers = {name.lower(): text for name, text in error.headers.items()}
        verdict = judge(
            Reply(error.status, headers, error.body),
            Circumstances({}, succeeded=False, wall_s=0.0, wait_s_max=600.0, runs_model=True),
        )
        if (verdict.action is Action.STOP) is stops:
            found.append(name)
    return found


BROKEN = {"connection", "timeout", "incomplete_stream"}


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "count"), [("--no-stream", 500), ("--stream", 300)])
def test_every_fault_at_once_loses_nothing(cli, simulator, jsonl, published, summary, flag, count):
    """With all that a server can do short of stopping the run: every row has its outcome, and the
    ledger is what the server counted.
    """
    count = int(os.environ.get("BATCHRUN_FAULT_ROWS", count))
    names = [name for name in _played(stops=False) if name not in ("525", "526")]  # thrice: a stop
    endpoint = simulator(
        error_rates=dict.fromkeys(names, 0.35 / len(names)),
        drop_rate=0.02,
        cut_rate=0.02,
        stall_rate=0.005,
        garbage_rate=0.01,
        error_200_rate=0.02,
        stream_end_rate=0.05,
        stream_stall_rate=0.005,
        stream_error_rate=0.05,
        no_done_rate=0.1,
        odd_framing_rate=0.2,
        retry_after_s=0.05,
        seed=4,
    )
    done = cli.run(
        *(jsonl(count), "-o", "run", "--no-progress", "--concurrency", 64, "--timeout", 1, flag),
        *("--shard-rows", 200, "--max-attempts", 3, "--base-url", endpoint.base_url),
    )
    assert done.code == 1, done.err
    found = summary(cli.folder / "run")
    rows = found["rows"]
    assert rows["ok"] + rows["error"] == rows["input"] == count and rows["ok"] > 0.6 * count
    table = published(cli.folder / "run")
    assert table["row"].to_pylist() == list(range(count))
    by_status, stats = _equal(endpoint, cli.folder / "run", published)
    assert sum(table["attempts"].to_pylist()) == stats["requests_total"]
    # A broken answer has a status for the client and none for the server.
    ledger = published(cli.folder / "run", "attempts").to_pylist()
    classes = [line["error_class"] for line in ledger if line["http_status"] == 200]
    by_status["200"] -= sum(name in BROKEN for name in classes)
    assert by_status == stats["by_status"]
    assert len(by_status) > 20
    assert ("incomplete_stream" in classes) is (flag == "--stream")
    cli.verified("run")


def test_every_stop_leaves_rows_for_the_next_run(cli, simulator, jsonl, published, summary):
    """With all that stops a run, now and then: the same command goes on each time, until every row
    is answered once and the ledger is what the server counted.
    """
    names = _played(stops=True)
    endpoint = simulator(error_rates=dict.fromkeys(names, 0.04 / len(names)), seed=9)
    source = jsonl(120)
    stops = []
    for _ in range(30):
        done = cli.run(source, "-o", "run", *QUICK, "--base-url", endpoint.base_url)
        assert done.code in (0, 3), done.err
        found = summary(cli.folder / "run")
        if done.code == 0:
            break
        stops.append(found["stopped_by"])
        assert found["rows"]["pending"] > 0 and "to resume:" in done.err
    assert found["rows"] == {"input": 120, "ok": 120, "error": 0, "pending": 0}
    assert len(stops) >= 3, stops
    by_status, stats = _equal(endpoint, cli.folder / "run", published)
    assert by_status == stats["by_status"]
    cli.verified("run")


def test_a_misspelt_host_stops_the_run(cli, jsonl, summary):
    """A host that no name server knows ends the run; no row fails for it."""
    done = cli.run(
        *(jsonl(5), "-o", "run", *QUICK, "--max-attempts", 1),
        *("--base-url", "http://no-such-host.invalid/v1"),
    )
    assert done.code == 3, done.err
    assert "base URL" in done.err
    found = summary(cli.folder / "run")
    assert (found["stopped_by"], found["rows"]["pending"]) == ("connection", 5)
    assert found["totals"]["unanswered_attempts"] == 0
    cli.verified("run")


@pytest.mark.slow
def test_one_refusal_in_twenty_costs_its_rows_only(cli, simulator, jsonl, summary):
    """Refused at random with waits of 2 s, 1,500 rows take little longer than without."""
    endpoint = simulator(error_rates={"429": 0.05}, retry_after_s=2.0, seed=2)
    done = cli.run(
        *(jsonl(1500), "-o", "run", "--no-progress", "--concurrency", 32),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err
    refusals = endpoint.stats()["by_status"]["429"]
    assert refusals > 50
    assert summary(cli.folder / "run")["wall_s"] < 2.0 * refusals / 3, "they were held together"
    cli.verified("run")


@pytest.mark.slow
def test_a_limit_that_is_met_draws_few_refusals(cli, simulator, jsonl, summary):
    """Without --rpm, against 6,000 a minute: less than one refusal per answer, at full rate."""
    endpoint = simulator(rpm=6000)
    done = cli.run(jsonl(400), "-o", "run", "--no-progress", "--base-url", endpoint.base_url)
    assert done.code == 0, done.err
    assert endpoint.stats()["by_status"].get("429", 0) < 400
    assert summary(cli.folder / "run")["wall_s"] < 12, "400 rows at 100 a second, 100 at once"
    cli.verified("run")
