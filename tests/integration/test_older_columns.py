"""Run directories begun when columns called like parameters were sent: they go on that way."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.harness.slow import rest_slow

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "columns-0.2"
STARTED = ("rows.csv", "--prompt", "{{ question }}", "--shard-rows", 4, "--model", "m")
ROWS = 12


@pytest.fixture(params=["finished", "failed", "interrupted", "killed"])
def old(request, cli):
    """A copy of a directory, beside its input with the time that it had when it was read."""
    shutil.copytree(GOLDEN, cli.folder, dirs_exist_ok=True)
    db = sqlite3.connect(cli.folder / request.param / "checkpoint" / "journal.db")
    [(value,)] = db.execute("SELECT value FROM meta WHERE key = 'input'").fetchall()
    db.close()
    [stamp] = json.loads(value)
    os.utime(cli.folder / "rows.csv", ns=(stamp["mtime_ns"], stamp["mtime_ns"]))
    return request.param


@pytest.fixture
def heard(scripted, answer):
    """An endpoint that answers everything."""
    return scripted(lambda *_: (200, {}, answer()))


@pytest.mark.parametrize("more", rest_slow([(), ("--retry-failed",), ("--keep-done",)]))
def test_it_goes_on_by_its_own_rules(cli, heard, old, published, more):
    """No done row is sent again; what is pending or failed goes out with its columns, as then."""
    flags = ("-o", old, "--no-progress", "--base-url", heard.base_url)
    before = json.loads((GOLDEN / "finished" / "summary.json").read_text("utf-8"))["rows"]
    done = cli("run", *STARTED, *flags, *more)
    assert done.code == 1, done.err  # of the row without a question
    assert "sends columns called like request parameters" in done.err
    sent = [body for _, _, body in heard.requests]
    assert before["ok"] + before["error"] == ROWS
    again = old == "failed" and more == ("--retry-failed",)
    assert len(sent) < ROWS and bool(sent) is (again or old in ("interrupted", "killed"))
    for body in sent:
        number = body["messages"][0]["content"].removeprefix("q")
        assert (body["temperature"], body["user"]) == (float(f"0.{number}"), f"u{number}")
    table = published(cli.folder / old)
    assert table.num_rows == ROWS
    assert table["note"].to_pylist() == [f"n{n}" for n in range(ROWS)]
    assert not {"temperature", "user"} & set(table.column_names)
    assert cli("verify", old, "--against", "rows.csv").code == 0


@pytest.mark.parametrize("flags", [("--send", "user"), ("--send", "none"), ("--id", "note")])
def test_the_new_settings_need_a_new_start(cli, heard, old, flags):
    """Rules are never mixed: what is asked for is refused, kept rows or not, with nothing sent."""
    base = ("-o", old, "--no-progress", "--base-url", heard.base_url)
    for more in ((), ("--keep-done",), ("--resend-changed",)):
        done = cli("run", *STARTED, *base, *flags, *more)
        assert done.code == 2 and "--restart" in done.err and "rows are done" in done.err
    assert heard.requests == []
