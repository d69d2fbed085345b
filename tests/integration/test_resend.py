"""Done rows whose request changed, because of the settings or an edited input, are sent again."""

import json
import os
import signal
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

QUICK = ("--no-progress", "--shard-rows", 10)


def _asked(endpoint):
    """The questions asked since the last look."""
    asked = [body["messages"][0]["content"] for _, _, body in endpoint.requests]
    endpoint.requests.clear()
    return sorted(asked)


def _rows(table):
    return {row["row"]: row for row in table.to_pylist()}


def _write(path, rows):
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(
            [row | {"messages": json.dumps(row["messages"])} for row in rows]
        )
        pq.write_table(table, path, row_group_size=7)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    later = time.time() + 5 * (1 + len(list(path.parent.glob("*.stamp"))))
    path.with_name(f"{later}.stamp").touch()
    os.utime(path, (later, later))


def _row(number, **more):
    message = {"role": "user", "content": f"question {number:02}"}
    return {"custom_id": f"id {number}", "messages": [message], "note": number} | more


@pytest.fixture(params=["jsonl", "parquet"])
def source(request, tmp_path):
    """A path for the input, in both formats."""
    return tmp_path / f"rows.{request.param}"


@pytest.fixture
def begun(scripted, answer, tmp_path, here):
    """Runs 25 rows in parts of 10; every third of them sets its own temperature."""
    endpoint = scripted(lambda _b, _h, nth: (200, {}, answer(f"answer {nth}")))

    def run(source=tmp_path / "rows.jsonl"):
        rows = [_row(n, **({"temperature": 0.5} if n % 3 == 0 else {})) for n in range(25)]
        _write(source, rows)
        command = (source, "-o", "run", *QUICK, "--base-url", endpoint.base_url)
        assert here(*command).code == 0
        endpoint.requests.clear()
        return rows, command, endpoint

    return run


def test_changed_settings(cli, begun, published, here):
    """Rows whose request is another one by now are sent again, rows that set the value themselves
    keep their answer; the message had counted them.
    """
    _, command, endpoint = begun()
    kept = [n for n in range(25) if n % 3 == 0]
    before = _rows(published(cli.folder / "run"))
    refused = here(*command, "--param", "temperature=0.9")
    assert refused.code == 2
    for word in ("request.params", "25 rows are done", "--keep-done", "sends 16 done rows again"):
        assert word in refused.err, refused.err
    done = here(*command, "--param", "temperature=0.9", "--resend-changed")
    assert done.code == 0, done.err
    assert "16 changed rows are sent again" in done.err
    assert _asked(endpoint) == [f"question {n:02}" for n in range(25) if n not in kept]
    after = _rows(published(cli.folder / "run"))
    assert [n for n in range(25) if after[n] == before[n]] == kept
    assert {n for n in range(25) if after[n]["attempts"] == 2} == set(range(25)) - set(kept)
    assert published(cli.folder / "run", "attempts").num_rows == 25 + 16
    cli.verified("run")
    plain = here(*command, "--param", "temperature=0.9")
    assert plain.code == 0 and "nothing left to send" in plain.err
    again = here(*command, "--param", "temperature=0.9", "--resend-changed")
    assert again.code == 0 and "no changed rows to send again" in again.err
    assert here(*command, "--param", "temperature=0.9").code == 0
    assert _asked(endpoint) == []


def test_an_edited_input(cli, begun, source, published, here):
    """Edited requests are sent again with their new carried values; where only what is carried
    changed, the row is written again without being sent; other rows and parts stay.
    """
    rows, command, endpoint = begun(source)
    before = _rows(published(cli.folder / "run"))
    part = cli.folder / "run" / "results" / "part-00000002.parquet"
    untouched = part.read_bytes()
    rows[3] = _row(33, note=-3)
    rows[4] |= {"note": -4}
    rows[5] |= {"custom_id": "other"}
    rows[12] |= {"note": -12, "custom_id": "x"}
    _write(source, rows)
    refused = here(*command)
    assert refused.code == 2
    for word in (
        "difference is within rows 0 to 9 (2 of 3 shards read differ)",
        "25 rows are done",
        "sends 1 done row again",
    ):
        assert word in refused.err, refused.err
    done = here(*command, "--resend-changed")
    assert done.code == 0, done.err
    assert _asked(endpoint) == ["question 33"]
    after = _rows(published(cli.folder / "run"))
    assert [after[n]["note"] for n in (3, 4, 5, 12)] == [-3, -4, 5, -12]
    assert [after[n]["custom_id"] for n in (3, 4, 5, 12)] == ["id 33", "id 4", "other", "x"]
    for number in set(range(25)) - {3}:
        changed = {"note", "custom_id"}
        assert {k: v for k, v in after[number].items() if k not in changed} == {
            k: v for k, v in before[number].items() if k not in changed
        }
    assert part.read_bytes() == untouched
    cli.verified("run")
    plain = here(*command)
    assert plain.code == 0 and "nothing left to send" in plain.err


def test_rows_that_moved_are_compared_by_position(cli, begun, published, here):
    """A row put in front shifts all others: every one of them has another request now, and the
    one behind the end is new.
    """
    rows, command, endpoint = begun()
    _write(command[0], [_row(99), *rows])
    done = here(*command, "--resend-changed")
    assert done.code == 0, done.err
    assert len(_asked(endpoint)) == 26
    assert published(cli.folder / "run")["custom_id"].to_pylist() == [
        "id 99", *[f"id {n}" for n in range(25)],
    ]  # fmt: skip
    cli.verified("run")


@pytest.mark.parametrize("left", [24, 14], ids=["a row less", "a part less"])
def test_an_input_that_became_shorter(cli, begun, published, summary, left, here):
    """Rows that are gone cannot be sent again: exit 2 says so; --keep-done keeps their answers."""
    rows, command, endpoint = begun()
    before = published(cli.folder / "run")
    _write(command[0], rows[:left])
    for flags in ((), ("--resend-changed",)):
        refused = here(*command, *flags)
        assert refused.code == 2, refused.err
        gone = "1 done row, from 24 on, is" if left == 24 else "11 done rows, from 14 on, are"
        assert f"{gone} not in it any more" in refused.err
        assert "--keep-done" in refused.err and "--restart" in refused.err
        assert "--resend-changed" not in refused.err
    done = here(*command, "--keep-done")
    assert done.code == 0, done.err
    assert _asked(endpoint) == []
    assert published(cli.folder / "run").equals(before)
    assert summary(cli.folder / "run")["rows"] == {"input": 25, "ok": 25, "error": 0, "pending": 0}
    cli.verified("run")
    assert here(*command).code == 0
    cli.verified("run")


def test_changed_and_failed_rows_and_pending_ones(
    cli, scripted, answer, chat, jsonl, published, here
):
    """One session does all three: a row is sent once."""
    broken = {"question 2", "question 4"}
    endpoint = scripted(
        lambda body, _h, _n: (
            (400, {}, {"error": {"message": "no"}})
            if body["messages"][0]["content"] in broken
            else (200, {}, answer("ok"))
        )
    )
    source = jsonl([chat(n, **({"seed": 7} if n < 5 else {})) for n in range(25)])
    command = (source, "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert here(*command, "--limit", 15).code == 1
    endpoint.requests.clear()
    broken.clear()
    done = here(*command, "--param", "seed=1", "--resend-changed", "--retry-failed")
    assert done.code == 0, done.err
    # Rows 0 to 4 bring their seed; 2 and 4 of them had failed; 15 to 24 were pending.
    asked = Counter(body["messages"][0]["content"] for _, _, body in endpoint.requests)
    assert asked == {f"question {n}": 1 for n in (2, 4, *range(5, 25))}
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(25))
    cli.verified("run")


@pytest.mark.slow
def test_a_stop_in_the_middle_of_a_resend(cli, scripted, answer, jsonl, until, published, here):
    """Rows keep their old answer until they have a new one; a start without a flag says that some
    do, and the same command goes on with those.
    """
    held = []

    def reply(_body, _headers, nth):
        if nth <= 29 or nth >= 100:
            return 200, {}, answer(f"answer {nth}")
        held.append(nth)
        return 500, {"Retry-After": "30"}, {"error": {"message": "no"}}

    endpoint = scripted(reply)
    command = (jsonl(25), "-o", "run", *QUICK, "--concurrency", 1, "--base-url", endpoint.base_url)
    assert here(*command).code == 0
    changed = ("--param", "seed=1")
    live = cli.start("run", "--model", "m", *command, *changed, "--resend-changed")
    until(lambda: held)
    live.signal(signal.SIGINT)
    done = live.wait()
    assert "keep the outcome they had" in done.err
    assert published(cli.folder / "run")["status"].to_pylist() == ["ok"] * 25
    cli.verified("run")
    for flags in (changed, ()):
        refused = here(*command, *flags)
        assert refused.code == 2, refused.err
    assert "--resend-changed" in refused.err
    endpoint.requests.extend([None] * 100)
    asked = len(endpoint.requests)
    again = here(*command, *changed, "--resend-changed")
    assert again.code == 0, again.err
    assert "21 changed rows are sent again" in again.err
    assert len(endpoint.requests) == asked + 21
    cli.verified("run")
    assert here(*command, *changed).code == 0


def test_an_unfinished_resend_may_be_left(cli, begun, here):
    """--limit leaves rows beyond it as they were; --keep-done then declares them good."""
    _, command, endpoint = begun()
    changed = (*command, "--param", "temperature=0.9")
    assert here(*changed, "--resend-changed", "--limit", 5).code == 0
    assert len(_asked(endpoint)) == 3
    refused = here(*changed)
    assert refused.code == 2 and "did not finish" in refused.err
    assert here(*changed, "--keep-done").code == 0
    assert here(*changed).code == 0
    assert _asked(endpoint) == []
    cli.verified("run")
