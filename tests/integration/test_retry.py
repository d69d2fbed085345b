"""Failed rows that are sent again: all or by class, and what a stop in the middle leaves."""

import json
import signal
from collections import Counter

import pytest

QUICK = ("--no-progress", "--shard-rows", 10)


@pytest.fixture
def flaky(scripted, answer):
    """An endpoint that refuses some questions: ``broken`` maps a question's number to a status.

    A number that is taken out of it is answered from then on.
    """
    broken = {}

    def reply(body, _, nth):
        number = int(body["messages"][0]["content"].split()[1])
        status = broken.get(number)
        if status is not None:
            return status, {}, {"error": {"message": "no", "code": None}}
        return 200, {}, answer(f"answer {nth}")

    endpoint = scripted(reply)
    endpoint.broken = broken
    return endpoint


def _asked(endpoint):
    """How often each question was asked since the last look."""
    asked = Counter(
        int(body["messages"][0]["content"].split()[1]) for _, _, body in endpoint.requests
    )
    endpoint.requests.clear()
    return asked


@pytest.fixture
def failed(cli, flaky, jsonl, here):
    """A complete run of 35 rows in parts of 10, six of them failed: the command, the endpoint."""
    flaky.broken.update({3: 413, 4: 500, 12: 400, 33: 413, 34: 500})
    rows = [json.loads(line) for line in jsonl(35).read_text().splitlines()]
    rows = [row | {"note": number} for number, row in enumerate(rows)]
    rows[20] = {"note": 20}
    source = jsonl(rows)
    command = (source, "-o", "run", *QUICK, "--max-attempts", 2, "--base-url", flaky.base_url)
    assert here(*command).code == 1
    flaky.requests.clear()
    cli.verified("run")
    return command, flaky


def _rows(table):
    return {row["row"]: row for row in table.to_pylist()}


def test_failed_rows_are_sent_again_and_no_other(cli, failed, published, summary, here):
    """New outcomes replace the failed ones, attempts count on, everything else stays as it was."""
    command, endpoint = failed
    before, ledger = _rows(published(cli.folder / "run")), published(cli.folder / "run", "attempts")
    parts = {p: p.read_bytes() for p in (cli.folder / "run" / "results").iterdir()}
    del endpoint.broken[4], endpoint.broken[33]
    done = here(*command, "--retry-failed")
    assert done.code == 1, done.err
    assert "6 failed rows are sent again" in done.err
    assert _asked(endpoint) == {3: 1, 4: 1, 12: 1, 33: 1, 34: 2}
    after = _rows(published(cli.folder / "run"))
    assert [n for n in before if after[n] != before[n]] == [3, 4, 12, 33, 34]
    assert {n: row["attempts"] for n, row in after.items() if n in (3, 4, 12, 20, 33, 34)} == {
        3: 2, 4: 3, 12: 2, 20: 0, 33: 2, 34: 4,
    }  # fmt: skip
    assert {n for n, row in after.items() if row["status"] == "error"} == {3, 12, 20, 34}
    assert [after[n]["note"] for n in after] == list(range(35))
    now = published(cli.folder / "run", "attempts").to_pylist()
    assert all(line in now for line in ledger.to_pylist())
    assert len(now) == ledger.num_rows + 6
    assert summary(cli.folder / "run")["rows"] == {
        "input": 35, "ok": 31, "error": 4, "pending": 0,
    }  # fmt: skip
    cli.verified("run")
    # Shard 1 has row 12 and shard 2 row 20; all four shards have a failed row, none other is new.
    assert len(parts) == 4
    endpoint.broken.clear()
    again = here(*command, "--retry-failed")
    assert "4 failed rows" in again.err and again.code == 1  # row 20 cannot become a request
    assert _asked(endpoint) == {3: 1, 12: 1, 34: 1}
    cli.verified("run")


def test_failed_rows_of_a_class(cli, failed, published, here):
    """Only rows of the named classes are sent, and only their parts are written again."""
    command, endpoint = failed
    endpoint.broken.clear()
    before = {p.name: p.read_bytes() for p in (cli.folder / "run" / "results").iterdir()}
    done = here(*command, "--retry-class", "payload_too_large,timeout")
    assert done.code == 1, done.err
    assert "2 failed rows are sent again" in done.err
    assert _asked(endpoint) == {3: 1, 33: 1}
    after = {p.name: p.read_bytes() for p in (cli.folder / "run" / "results").iterdir()}
    changed = [name for name in before if before[name] != after[name]]
    assert sorted(changed) == ["part-00000000.parquet", "part-00000003.parquet"]
    assert {n for n, r in _rows(published(cli.folder / "run")).items() if r["error_class"]} == {
        4, 12, 20, 34,
    }  # fmt: skip
    cli.verified("run")
    nothing = here(*command, "--retry-class=payload_too_large")
    assert nothing.code == 1
    assert "no failed rows to send again" in nothing.err and "nothing left to send" in nothing.err
    assert _asked(endpoint) == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--retry-class", "tiemout"), ["'tiemout'", "timeout", "rate_limit"]),
        (("--retry-class", ","), ["names no class"]),
        (("--retry-failed", "--restart"), ["--restart and --retry-failed exclude"]),
        (("--restart", "--repair"), ["--restart and --repair exclude"]),
        (("--keep-done", "--resend-changed"), ["--keep-done and --resend-changed exclude"]),
        (("--retry-failed", "--retry-class", "timeout"), ["--retry-failed and --retry-class"]),
    ],
)
def test_flags_that_make_no_sense(cli, jsonl, flags, words, here):
    """An unknown class, and wishes that exclude one another, are exit 2 before anything is made."""
    done = here(jsonl(1), "-o", "run", "--base-url", "http://127.0.0.1:9", *flags)
    assert done.code == 2
    assert all(word in done.err for word in words), done.err
    assert list(cli.folder.iterdir()) == []


def test_a_limit_bounds_what_is_sent_again(cli, failed, published, here):
    """Rows beyond the limit keep their outcome."""
    command, endpoint = failed
    endpoint.broken.clear()
    done = here(*command, "--retry-failed", "--limit", 4)
    assert "1 failed row is sent again" in done.err
    assert _asked(endpoint) == {3: 1}
    done = here(*command, "--retry-failed", "--limit", 13)
    assert _asked(endpoint) == {4: 1, 12: 1}
    assert published(cli.folder / "run").num_rows == 35
    cli.verified("run")


def test_pending_rows_and_failed_rows_together(cli, flaky, jsonl, published, here):
    """A run with rows pending does both; a row is sent once."""
    flaky.broken.update({3: 413, 11: 413})
    command = (jsonl(35), "-o", "run", *QUICK, "--base-url", flaky.base_url)
    assert here(*command, "--limit", 15).code == 1
    flaky.broken.clear()
    flaky.requests.clear()
    assert here(*command, "--retry-failed").code == 0
    assert _asked(flaky) == dict.fromkeys([3, 11, *range(15, 35)], 1)
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(35))
    cli.verified("run")


def test_retrying_in_a_new_directory_is_a_start(simulator, jsonl, here):
    """Nothing is there yet: the run begins."""
    endpoint = simulator()
    flags = ("-o", "run", "--retry-failed", "--base-url", endpoint.base_url)
    done = here(jsonl(3), *flags)
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 3


def test_a_stop_in_the_middle_keeps_the_old_outcomes(
    cli, scripted, answer, jsonl, until, published, summary, here
):
    """Rows that had no new outcome keep their failure; attempts made so far are counted, and a
    plain run has nothing to do.
    """
    held = []

    def reply(_body, _headers, nth):
        if nth <= 18:
            return 413, {}, {"error": {"message": "no"}}
        if nth <= 22:
            return 200, {}, answer("late")
        held.append(nth)
        return 500, {"Retry-After": "30"}, {"error": {"message": "no"}}

    endpoint = scripted(reply)
    command = (jsonl(18), "-o", "run", *QUICK, "--concurrency", 1, "--base-url", endpoint.base_url)
    assert here(*command).code == 1
    live = cli.start("run", "--model", "m", *command, "--retry-failed")
    until(lambda: held)
    live.signal(signal.SIGINT)
    done = live.wait()
    assert done.code == 1, done.err
    assert "keep the outcome they had" in done.err
    table = _rows(published(cli.folder / "run"))
    assert sorted(table) == list(range(18))
    assert sum(row["status"] == "ok" for row in table.values()) == 4
    ledger = Counter(published(cli.folder / "run", "attempts")["row"].to_pylist())
    assert {n: row["attempts"] for n, row in table.items()} == ledger
    assert max(ledger.values()) == 2 and sum(ledger.values()) > 22
    assert summary(cli.folder / "run")["rows"] == {"input": 18, "ok": 4, "error": 14, "pending": 0}
    cli.verified("run")
    asked = len(endpoint.requests)
    plain = here(*command)
    assert plain.code == 1 and "nothing left to send" in plain.err
    assert len(endpoint.requests) == asked
    assert cli("status", "run", "--json").json["state"] == "complete_with_errors"
