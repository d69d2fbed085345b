"""Run directories that earlier versions wrote: this version reads them, or refuses with a reason.

They stand in tests/golden/, one folder for each version that changed a format; make.py there made
them. None is ever made again.
"""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.columns.schema import ADDED_LATER, ATTEMPT_FIELDS, RESULT_FIELDS
from tests.harness.slow import rest_slow

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = sorted(
    path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name[0].isdigit()
)
STARTED = ("--shard-rows", "4", "--model", "m", "--no-progress")


@pytest.fixture(params=VERSIONS)
def golden(request, cli):
    """Copies of the run directories of a version, beside their input."""
    shutil.copytree(GOLDEN / request.param, cli.folder, dirs_exist_ok=True)
    return cli.folder


def test_there_are_golden_directories():
    """The tests below have something to read."""
    assert VERSIONS


def _there(golden, name):
    """The directory, unless the version has none of that name."""
    folder = golden / name
    if not folder.exists():
        pytest.skip(f"there is no golden directory {name} of this version")
    return folder


def _state(folder, query):
    db = sqlite3.connect(f"file:{folder}/checkpoint/journal.db?mode=ro&immutable=1", uri=True)
    [(value,)] = db.execute(query).fetchall()
    db.close()
    return value


def _format(folder):
    return _state(folder, "PRAGMA user_version")


def _as_recorded(golden, name):
    """Give the input the time that it had when it was read: a checkout gives it another."""
    [stamp] = json.loads(_state(golden / name, "SELECT value FROM meta WHERE key = 'input'"))
    os.utime(golden / "rows.jsonl", ns=(stamp["mtime_ns"], stamp["mtime_ns"]))


def _lacking(folder):
    """The columns that any part of the directory lacks."""
    lacking = set()
    for kind, fields in (("results", RESULT_FIELDS), ("attempts", ATTEMPT_FIELDS)):
        for path in (folder / kind).glob("part-*.parquet"):
            lacking |= {name for name, _ in fields} - set(pq.read_schema(path).names)
    return lacking


@pytest.mark.parametrize("name", ["finished", "failed", "interrupted"])
def test_views_read_them(cli, golden, name):
    """verify, status and export read what was written, rows and texts unchanged."""
    _there(golden, name)
    done = cli("verify", name, "--against", "rows.jsonl", "--json")
    assert done.code == 0, done.out + done.err
    summary = json.loads((golden / name / "summary.json").read_text("utf-8"))
    rows = summary["rows"]
    assert done.json["compared"] == done.json["rows"] == rows["ok"] + rows["error"] > 0
    seen = cli("status", name, "--json").json
    assert seen["state"] == summary["status"] and seen["summary"]["rows"] == rows
    assert cli("export", name, "-o", "out.jsonl").code == 0
    lines = [json.loads(line) for line in (golden / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == rows["ok"] + rows["error"]
    said = [
        line["response"]["body"]
        for line in lines
        if line["response"] and line["response"]["status_code"] == 200
    ]
    assert len(said) == rows["ok"]
    assert all(body["choices"][0]["message"]["content"] for body in said)


def test_an_interrupted_one_goes_on(cli, golden, simulator):
    """The same command sends the pending rows, and those alone."""
    before = json.loads((golden / "interrupted" / "summary.json").read_text("utf-8"))["rows"]
    endpoint = simulator()
    done = cli("run", "rows.jsonl", "-o", "interrupted", *STARTED, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    assert endpoint.stats()["requests_total"] == before["pending"] > 0
    report = cli.verified("interrupted")
    assert report["rows"] == before["input"]
    assert _lacking(golden / "interrupted") == set()


def test_a_killed_one_goes_on(cli, golden, simulator):
    """What only its log holds is not sent again, and nothing of it is lost."""
    folder = _there(golden, "killed")
    assert not list((folder / "results").glob("part-*"))[2:], "it was killed before its end"
    known = json.loads((folder / "checkpoint" / "status.json").read_text("utf-8"))
    endpoint = simulator()
    done = cli("run", "rows.jsonl", "-o", "killed", *STARTED, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    # One row is no request; of those known to be done none is sent.
    assert 0 < endpoint.stats()["requests_total"] <= 11 - known["ok"]
    assert cli.verified("killed")["rows"] == 12
    assert _lacking(folder) == set()


def test_failed_rows_of_one_are_retried(cli, golden, simulator):
    """They alone are sent; afterwards every part has today's columns, and reads as one table."""
    folder = _there(golden, "failed")
    before = json.loads((folder / "summary.json").read_text("utf-8"))
    old = ds.dataset(folder / "results").to_table().to_pylist()
    assert ADDED_LATER >= _lacking(folder) > set()
    endpoint = simulator()
    command = ("run", "rows.jsonl", "-o", "failed", *STARTED, "--base-url", endpoint.base_url)
    done = cli(*command, "--retry-failed")
    assert done.code == 1, done.err
    assert endpoint.stats()["requests_total"] == before["errors"]["server_error"] > 0
    cli.verified("failed")
    assert _lacking(folder) == set()
    new = ds.dataset(folder / "results").to_table().to_pylist()
    for earlier, now in zip(old, new, strict=True):
        if earlier["status"] == "ok":
            assert {name: now[name] for name in earlier} == earlier
            assert all(now[name] is None for name in set(now) - set(earlier))
    assert cli("export", "failed", "-o", "out.parquet").code == 0


def test_a_start_that_is_refused_changes_nothing(cli, golden, simulator):
    """The version that made the directory can go on with it."""
    endpoint = simulator()
    _as_recorded(golden, "finished")
    command = ("run", "rows.jsonl", "-o", "finished", *STARTED, "--base-url", endpoint.base_url)
    assert _format(golden / "finished") == 1
    assert cli(*command, "--system", "another").code == 2
    assert _format(golden / "finished") == 1 and _lacking(golden / "finished") == ADDED_LATER
    assert cli(*command).code == 1  # nothing to send: only what the parts are known by is noted
    assert _format(golden / "finished") == 2 and _lacking(golden / "finished") == ADDED_LATER
    cli.verified("finished")


@pytest.mark.parametrize("kind", ["results", "attempts"])
@pytest.mark.parametrize("damage", rest_slow(["cut off", "of another shard", "of fewer rows"]))
def test_damage_of_one_is_noticed(cli, golden, simulator, kind, damage):
    """Version 0.1 recorded no sizes: its parts must be whole, and hold the rows that it counted."""
    path = golden / "finished" / kind / "part-00000001.parquet"
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "of another shard":
        shutil.copy(path.with_name("part-00000000.parquet"), path)
    else:
        pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)
    endpoint = simulator()
    command = ("run", "rows.jsonl", "-o", "finished", *STARTED, "--base-url", endpoint.base_url)
    done = cli(*command)
    assert done.code == 2 and f"{kind}/part-00000001.parquet is damaged" in done.err
    assert endpoint.stats()["requests_total"] == 0
    assert cli(*command, "--repair").code == 1
    cli.verified("finished")


@pytest.mark.usefixtures("golden")
def test_a_finished_one_sends_nothing(cli, simulator):
    """The same command finds nothing to do, and --retry-failed sends the failed rows alone."""
    endpoint = simulator()
    command = ("run", "rows.jsonl", "-o", "finished", *STARTED, "--base-url", endpoint.base_url)
    assert cli(*command).code == 1
    assert endpoint.stats()["requests_total"] == 0
    assert cli(*command, "--retry-failed").code == 1  # one row is no request
    cli.verified("finished")


def test_carried_columns_keep_names_that_came_later(cli, simulator, golden):
    """An input column called `media` stays what it was, where a run had it before."""
    if not (golden / "carrying").exists():
        pytest.skip("there is no golden directory carrying of this version")
    (golden / "rows.csv").touch()  # so that its columns are compared
    endpoint = simulator()
    done = cli(
        *("run", "rows.csv", "-o", "carrying", *STARTED, "--prompt", "{{ q }}"),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 4
    cli.verified("carrying")
    table = pq.read_table(golden / "carrying" / "results")
    assert table["media"].to_pylist() == [f"m{n}" for n in range(12)]
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        assert cli("export", "carrying", "-o", name).code == 0


@pytest.mark.parametrize("name", ["finished", "failed", "interrupted", "killed"])
def test_answers_of_one_are_reused(cli, golden, simulator, name):
    """Every answer it has, in parts or in a log, is taken by a new run, and the directory stays as
    it was; the id in `reused_from` is made from what it recorded.
    """
    folder = _there(golden, name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    parts = ds.dataset(folder / "results").to_table().to_pylist() if name != "killed" else []
    answered = {row["row"]: row["content"] for row in parts if row["status"] == "ok"}
    endpoint = simulator()
    command = ("run", "rows.jsonl", *STARTED, "--base-url", endpoint.base_url, "--reuse", name)
    done = cli(*command, "-o", "new")
    assert done.code == 1, done.err
    rows = ds.dataset(golden / "new" / "results").to_table().to_pylist()
    taken = {row["row"]: row["content"] for row in rows if row["reused_from"]}
    if name == "killed":
        known = json.loads((folder / "checkpoint" / "status.json").read_text("utf-8"))
        assert len(taken) >= known["ok"] > 0
    else:
        assert taken == answered and taken
    # Of 12 rows one is no request.
    assert endpoint.stats()["requests_total"] == 11 - len(taken)
    cli.verified("new")
    cli(*command, "-o", "more")
    again = ds.dataset(golden / "more" / "results").to_table().to_pylist()
    assert [row["reused_from"] for row in again] == [row["reused_from"] for row in rows]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_older_runs_are_scored_and_queried(golden, cli):
    """A directory of any version takes scores: columns that it lacks read as null, nothing of its
    results changes, and a run that was killed is exit code 3.
    """
    (golden / "c.toml").write_text(
        '[scores]\nlong = "len(content) > 10"\nnew = "model_asked IS NULL"\n'
        '[metrics]\nlong = "avg(long)"\n'
    )
    before = [path.read_bytes() for path in sorted((golden / "finished").rglob("results/*"))]
    done = cli("score", "finished", "-c", "c.toml")
    assert done.code == 0, done.err
    assert before == [p.read_bytes() for p in sorted((golden / "finished").rglob("results/*"))]
    sql = "SELECT count(*) AS n, count(model_asked) AS m FROM results JOIN scores USING (row)"
    done = cli("query", "finished", sql, "--json")
    assert json.loads(done.out) == [{"n": 12, "m": 0}], done.err
    done = cli("score", "interrupted", "-c", "c.toml")
    assert done.code == 3, done.err
    if (golden / "killed").exists():
        assert cli("score", "killed", "-c", "c.toml").code == 3


def test_runs_with_scores_go_on(cli, simulator):
    """What this version's predecessors scored verifies, resumes and is scored after a retry."""
    folders = sorted(GOLDEN.glob("scores-*"))
    assert folders
    for version in folders:
        folder = cli.folder / version.name
        shutil.copytree(version, folder)
        _as_recorded(folder, "finished")
        assert cli("verify", "finished", cwd=folder).code == 0
        endpoint = simulator()
        for name, flags in (("interrupted", ()), ("killed", ()), ("failed", ("--retry-failed",))):
            done = cli(
                *("run", "rows.jsonl", "-c", "scores.toml", "-o", name, *STARTED, *flags),
                *("--base-url", endpoint.base_url),
                cwd=folder,
            )
            assert done.code == 1, done.err  # one row is bad
            summary = json.loads((folder / name / "summary.json").read_text())
            assert summary["scores"]["long"]["scored"] == 11
            assert cli("verify", name, cwd=folder).code == 0


def test_judged_runs_go_on(cli, simulator, published):
    """Runs with a judge verify, resume, are retried and judged, and no answer is judged twice."""
    folders = sorted(GOLDEN.glob("judges-*"))
    assert folders
    for version in folders:
        folder = cli.folder / version.name
        shutil.copytree(version, folder)
        _as_recorded(folder, "finished")
        done = cli("verify", "finished", cwd=folder)
        assert done.code == 0, done.out
        endpoint = simulator()
        for name, flags in (
            *(("finished", ()), ("interrupted", ()), ("killed", ())),
            ("failed", ("--retry-failed",)),
        ):
            done = cli(
                *("run", "rows.jsonl", "-c", "judged.toml", "-o", name, *STARTED, *flags),
                *("--base-url", endpoint.base_url),
                cwd=folder,
            )
            assert done.code == 1, done.err  # one row is bad
            summary = json.loads((folder / name / "summary.json").read_text())
            assert summary["judges"]["tone"]["rows"] == 11
            assert summary["metrics"]["mark"]["n"] == 11
            assert cli("verify", name, cwd=folder).code == 0
            assert cli("verify", f"{name}/judges/tone", cwd=folder).code == 0
            judged = published(folder / name / "judges/tone", "attempts").column("row").to_pylist()
            assert len(judged) == len(set(judged)) == 11, name


def test_chained_runs_go_on(cli, simulator):
    """Runs that were made from another one verify, resume and are retried, although all of them
    were moved since; nothing that is done is asked again.
    """
    folders = sorted(GOLDEN.glob("chains-*"))
    assert folders
    for version in folders:
        folder = cli.folder / version.name
        shutil.copytree(version, folder)
        done = cli("verify", "finished", cwd=folder)
        assert done.code == 0, done.out
        endpoint = simulator()
        given = ("--from", "one", "--prompt", "Check {{ row.content }} {{ note }}")
        asked = 0
        for name, flags in (
            *(("finished", ()), ("interrupted", ()), ("killed", ())),
            ("failed", ("--retry-failed",)),
        ):
            lines = pq.read_table(folder / name / "results").to_pylist()
            left = 11 - sum(line["status"] == "ok" for line in lines)
            done = cli(
                *("run", *given, "-o", name, *STARTED, *flags),
                *("--base-url", endpoint.base_url),
                cwd=folder,
            )
            assert done.code == 0, done.err
            now = sum(endpoint.stats()["by_status"].values())
            assert now - asked <= left, name
            asked = now
            rows = pq.read_table(folder / name / "results").column("source_row").to_pylist()
            assert rows == [n for n in range(12) if n != 5]
            assert cli("verify", name, cwd=folder).code == 0


@pytest.fixture
def talks(cli, simulator):
    """Copies of the directories of conversations, an endpoint, and the command by directory."""
    shutil.copytree(GOLDEN / "turns-0.2", cli.folder, dirs_exist_ok=True)
    endpoint = simulator()

    def run(name, *flags):
        conversations = ("--turns", "turns", "--system", "s", "--base-url", endpoint.base_url)
        return cli("run", "rows.jsonl", "-o", name, *STARTED, *conversations, *flags)

    return run, endpoint


@pytest.mark.parametrize(("name", "asked"), [("interrupted", 25), ("killed", 26)])
def test_conversations_go_on_where_they_were(cli, talks, name, asked):
    """Of the pending row in its middle only the turns without an answer are asked, by the command
    that was stopped after two of its turns, or killed while the second one was out.
    """
    run, endpoint = talks
    done = run(name)
    assert done.code == 1, done.err  # one row has no turns
    assert endpoint.stats()["requests_total"] == asked
    assert cli.verified(name)["rows"] == 12
    table = ds.dataset(cli.folder / name / "results").to_table()
    for text in table["messages"].drop_null().to_pylist():
        assert [m["role"] for m in json.loads(text)] == ["system", *["user", "assistant"] * 3]


def test_conversations_that_failed_or_are_done(cli, talks):
    """A finished directory sends nothing; of one with failed rows each of these begins anew."""
    run, endpoint = talks
    assert run("finished").code == 1
    assert endpoint.stats()["requests_total"] == 0
    assert cli("verify", "finished", "--against", "rows.jsonl").code == 0
    before = json.loads((cli.folder / "failed" / "summary.json").read_text("utf-8"))
    assert run("failed", "--retry-failed").code == 1
    assert endpoint.stats()["requests_total"] == 3 * before["errors"]["server_error"] > 0
    assert cli.verified("failed")["rows"] == 12


KEPT = ("--requests", "all")
LOOKING = sorted(path.name for path in GOLDEN.glob("looking-*"))


def _bodies(folder):
    """The requests that are kept, by row."""
    parts = ds.dataset(folder / "requests").to_table().to_pylist()
    return {line["row"]: (line["request_hash"], line["body"]) for line in parts}


@pytest.fixture(params=LOOKING)
def looking(request, cli):
    """Copies of run directories with kept requests and labels, and the command that goes on."""
    shutil.copytree(GOLDEN / request.param, cli.folder, dirs_exist_ok=True)
    _as_recorded(cli.folder, "finished")

    def go(name, endpoint, *flags):
        command = ("run", "rows.jsonl", "-o", name, *STARTED, "--base-url", endpoint.base_url)
        return cli(*command, *flags)

    return go


def test_there_are_golden_directories_with_requests():
    """The tests below have something to read."""
    assert LOOKING


@pytest.mark.parametrize("name", ["finished", "failed", "interrupted"])
@pytest.mark.usefixtures("looking")
def test_kept_requests_and_labels_are_read(cli, name):
    """Requests fit the results, `show` finds them, `runs` and `costs` know the labels."""
    assert cli("verify", name, "--against", "rows.jsonl").code == 0
    bodies = _bodies(cli.folder / name)
    rows = ds.dataset(cli.folder / name / "results").to_table(columns=["row"])
    assert set(bodies) == set(rows.column("row").to_pylist()) - {5} != set()
    (row,) = cli("show", name, str(min(bodies)), "--json", "--content").json["rows"]
    assert row["request"]["source"] == "requests"
    assert row["request"]["body"] == json.loads(bodies[min(bodies)][1])
    listed = cli("runs", ".", "--label", "team=a", "--json").json["runs"]
    assert name in {run["dir"] for run in listed}
    assert all(run["labels"] == {"team": "a", "night": "20261130"} for run in listed)
    spent = cli("costs", name, "--by", "label.team", "--json").json["rows"]
    assert [(line["label.team"], line["judge"]) for line in spent] == [("a", None)]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("finished", ()),
        ("interrupted", ()),
        ("interrupted", KEPT),
        ("killed", KEPT),
        ("failed", ("--retry-failed",)),
        ("failed", ("--retry-failed", *KEPT)),
    ],
)
def test_runs_with_kept_requests_go_on(cli, looking, simulator, name, flags):
    """No done row is sent again; old requests and labels stay, and new rows have theirs if asked
    for.
    """
    before = _bodies(cli.folder / name) if (cli.folder / name / "requests").exists() else {}
    endpoint = simulator()
    done = looking(name, endpoint, *flags, "--label", "session=two")
    assert done.code == 1, done.err  # one row is no request
    summary = json.loads((cli.folder / name / "summary.json").read_text("utf-8"))
    counts = [summary["rows"][each] for each in ("input", "ok", "error", "pending")]
    assert counts == [12, 11, 1, 0]
    assert endpoint.stats()["requests_total"] < 11
    assert summary["labels"] == {"team": "a", "night": "20261130", "session": "two"}
    cli.verified(name)
    after = _bodies(cli.folder / name)
    assert before.items() <= after.items()
    if flags != () or name == "finished":
        assert set(after) == set(range(12)) - {5}
