"""Real processes, killed at every durable step one by one: the table of crash points.

Each test lives through one scenario: sessions on one run directory, each killed at the next of the
scenario's points, until one may come to its end. A point that is not reached fails the test.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrun.adapters.journal import shard_log as logs
from batchrun.adapters.journal.flight_log import read_notes
from batchrun.views.verify import verify
from tests.harness import crashpoints
from tests.harness.crashpoints import POINTS, STEPS, points

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("BATCHRUN_CRASH_ROUNDS", "1"))
"""How often each point that a session can reach again and again is tried, one later each time."""

ROWS = 40 * ROUNDS**2


@pytest.fixture
def job(new_job):
    """A run of 40 rows in parts of 8 that has not begun."""
    return new_job(ROWS)


def _ended(job, before=None):
    """The run comes to its end: every row once, answers that could be read stay, all accounted."""
    before = job.published() if before is None else before
    done = job.run()
    assert done.code == 0, done.err
    assert before.items() <= job.whole().items()
    job.accounted()
    asked = job.asked.total()
    assert job.run().code == 0 and job.asked.total() == asked, "it was at its end, and asked again"
    job.accounted()


def _killed_at_each(job, scenario, *flags, rounds=1):
    """A session killed at each point of a scenario; what could be read once stays."""
    before = job.published()
    for point in points(scenario, rounds=rounds):
        job.killed_at(point, *flags)
        now = job.published()
        assert before.items() <= now.items(), point
        before = now


@pytest.mark.slow
def test_replies_too_large_for_their_column(job):
    """Whatever a kill leaves of their files, each published row names one that is whole."""
    job.large = {3, 5, 11}
    _killed_at_each(job, "large")
    _ended(job)
    kept = {row["row"]: row["response"] for row in job.table().to_pylist()}
    for row in job.large:
        name = json.loads(kept[row])["file"]
        content = (job.folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == Path(name).name
        assert json.loads(content)["choices"][0]["message"]["content"].endswith(f" to {row}")


@pytest.mark.slow
def test_a_fleet(job):
    """A process of a fleet may die at any of its steps: another one goes on from its log, and a
    plain run ends what the last one left.
    """
    _killed_at_each(job, "fleet", "--shard", "1/1")
    _ended(job)


@pytest.mark.slow
def test_scores_of_final_parts(job):
    """Whatever a kill leaves of them, the next session has every row scored, from what the results
    are then.
    """
    (job.cwd / "c.toml").write_text(
        '[scores]\nfound = "contains_text(content, \'answer\')"\n[metrics]\nshare = "avg(found)"\n'
        '[gates]\nshare = ">= 0.97"\n'
    )
    job.flags = ["-c", "c.toml"]
    job.broken = {3, 11}
    _killed_at_each(job, "scores")
    assert job.run().code == 4, "failed rows leave the gate open"
    job.broken = set()
    for point in points("scores-retry"):
        job.killed_at(point, "--retry-failed")
    _ended(job)
    scores = job.table("scores").to_pylist()
    assert [line["row"] for line in scores] == list(range(job.count))
    assert all(line["found"] for line in scores)
    summary = json.loads((job.folder / "summary.json").read_text("utf-8"))
    assert summary["metrics"]["share"]["value"] == 1.0
    assert summary["scores"]["found"]["error_rows"] == 0


def _bodies(job):
    """The bodies that can be read, by row."""
    if not (job.folder / "requests").exists():
        return {}
    table = pq.read_table(job.folder / "requests")
    return dict(zip(table["row"].to_pylist(), table["body"].to_pylist(), strict=True))


@pytest.mark.slow
def test_requests_that_are_kept(job):
    """Whatever a kill leaves, in the end every row has the body of its request, once: also where
    failed rows are sent again.
    """
    job.broken = {2, 9, 30}
    kept = ("--requests", "all")
    _killed_at_each(job, "requests", *kept)
    assert job.run(*kept).code == 1
    bodies = _bodies(job)
    assert sorted(bodies) == list(range(ROWS))
    for row, body in bodies.items():
        assert json.loads(body)["messages"][0]["content"].split()[1] == str(row)
    job.accounted()
    job.broken = set()
    for point in points("requests")[:6]:
        job.killed_at(point, *kept, "--retry-failed")
    done = job.run(*kept, "--retry-failed")
    assert done.code == 0, done.err
    assert _bodies(job) == bodies
    job.accounted()


def _older(tmp_path, name):
    """A directory that version 0.1 left, and its input, as old as it was then."""
    golden = ROOT / "tests" / "golden" / "0.1.0"
    shutil.copytree(golden / name, tmp_path / name)
    shutil.copy(golden / "rows.jsonl", tmp_path)
    states = sqlite3.connect(tmp_path / name / "checkpoint" / "journal.db")
    [(text,)] = states.execute("SELECT value FROM meta WHERE key = 'input'").fetchall()
    states.close()
    time_ns = json.loads(text)[0]["mtime_ns"]
    os.utime(tmp_path / "rows.jsonl", ns=(time_ns, time_ns))
    return ("run", "rows.jsonl", "-o", name, "--shard-rows", "4", "--model", "m")


@pytest.mark.slow
def test_parts_of_an_earlier_version(tmp_path, sessions, simulator):
    """They get today's columns one after the other; whatever a kill leaves reads and goes on."""
    endpoint = simulator()
    command = (*_older(tmp_path, "failed"), "--base-url", endpoint.base_url, "--retry-failed")
    before = pq.read_table(tmp_path / "failed" / "results").to_pylist()
    for point in points("older"):
        sessions(command, tmp_path, point).killed()
        now = pq.read_table(tmp_path / "failed" / "results").to_pylist()
        assert [row["content"] for row in now] == [row["content"] for row in before], point
        assert endpoint.stats()["requests_total"] == 0
    assert sessions(command, tmp_path).wait() == 1  # one row is no request
    assert endpoint.stats()["requests_total"] == 4
    assert verify.check(str(tmp_path / "failed")).problems == []


def test_a_finished_directory_of_an_earlier_version(tmp_path, sessions, simulator):
    """What its parts are known by is noted once."""
    endpoint = simulator()
    command = (*_older(tmp_path, "finished"), "--base-url", endpoint.base_url)
    for point in points("older-whole"):
        sessions(command, tmp_path, point).killed()
    assert sessions(command, tmp_path).wait() == 1
    assert endpoint.stats()["requests_total"] == 0
    assert verify.check(str(tmp_path / "finished")).problems == []


def test_a_run_that_begins(job):
    """State file, first log and flight log, made and not made: the next start begins again."""
    _killed_at_each(job, "begin")
    _ended(job)


def test_a_group_of_entries(job):
    """Before, between and after the write and the flush of a group."""
    _killed_at_each(job, "group", rounds=2 * ROUNDS)
    _ended(job)


@pytest.mark.slow
def test_what_a_power_cut_left_of_a_group(job):
    """It is cut off once, however often the process that does it is killed."""
    job.killed_at("log.synced:3")
    [log, *_] = sorted((job.folder / "checkpoint").glob("shard-*.log"))
    whole = log.read_bytes()
    for point in points("torn"):
        log.write_bytes(whole + logs.group_of([(3, logs.OUTCOME, "x" * 999)], 0)[0][:-9])
        job.killed_at(point)
        assert log.read_bytes() == whole
    _ended(job)


@pytest.mark.slow
def test_requests_that_were_out(job):
    """Their notes become lines of the ledger once: before, between and after the log's flush and
    the removal of the notes.
    """
    job.held = {1, 2}
    job.killed_at("log.synced:2")
    job.released.set()
    notes = job.folder / "checkpoint" / "inflight"
    out = {(note.row, note.attempt) for note in read_notes(notes)}
    assert {(1, 1), (2, 1)} <= out
    _killed_at_each(job, "flights")
    _ended(job)
    ledger = job.table("attempts").to_pylist()
    lines = [(one["row"], one["attempt"]) for one in ledger if one["error_code"] == "interrupted"]
    assert {(1, 1), (2, 1)} <= set(lines) and len(lines) == len(set(lines))


def test_a_shard_that_is_published(job):
    """Around each flush, each of the two renames, the transaction and the removal of the log."""
    _killed_at_each(job, "seal", rounds=ROUNDS)
    _ended(job)


@pytest.mark.slow
def test_a_stop_with_rows_pending(job):
    """The same around provisional parts, which each session makes anew."""
    job.refused = {20, 21}  # in the third part
    _killed_at_each(job, "stop")
    assert job.run().code not in (0, 1)
    before = job.published()
    assert 0 < len(before) < ROWS
    job.refused = set()
    _ended(job, before)


@pytest.mark.slow
def test_the_end_of_a_session(job):
    """Around usage.parquet, summary.json and what the state file notes of the end."""
    _killed_at_each(job, "end")
    assert len(job.published()) == ROWS
    asked = job.asked.total()
    _ended(job)
    assert job.asked.total() == asked


def test_the_status_file(job):
    """Which is nobody's concern but that of who watches."""
    _killed_at_each(job, "status")
    _ended(job)


def test_an_input_that_was_touched(job):
    """It is compared again by each start until what is known of it is noted."""
    job.refused = {ROWS - 1}
    assert job.run().code not in (0, 1)
    job.refused = set()
    for point in points("touched"):
        os.utime(job.rows)
        job.killed_at(point)
    _ended(job)


@pytest.mark.slow
def test_a_restart(job):
    """With the checkpoint elsewhere, moved in two steps: nothing of the old run is lost, and only
    --restart goes on while they are apart.
    """
    job.flags = ["--checkpoint=cp"]
    assert job.run().code == 0
    old = {path.name: path.read_bytes() for path in job.folder.glob("results/part-*")}
    for point in points("restart"):
        job.killed_at(point, "--restart")
        if point.startswith("restart.renamed"):
            refused = job.run()
            assert refused.code == 2 and "--restart" in refused.err
    job.asked.clear()
    assert job.run("--restart").code == 0
    assert set(job.asked) == set(range(ROWS))
    job.accounted()
    kept = list(job.cwd.glob("run.old-*/results"))
    assert {p.name: p.read_bytes() for folder in kept for p in folder.iterdir()} == old
    assert list(job.cwd.glob("run.old-*/checkpoint/journal.db"))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inside", "elsewhere"])
def test_a_restart_that_takes_the_old_answers(job, place):
    """Killed at any step, the same command continues that restart: nothing is moved or asked for
    a second time, and every old answer is taken.
    """
    job.flags = ["--checkpoint=cp"] if place == "elsewhere" else []
    assert job.run().code == 0
    answers = job.published()
    job.asked.clear()
    again = ("--restart", "--reuse", "old", "--shard-rows", "5")
    for point in points("reuse"):
        job.killed_at(point, *again)
        assert len(list(job.cwd.glob("run.old-*"))) <= 1, point
    done = job.run(*again)
    assert done.code == 0, done.err
    assert not job.asked and len(list(job.cwd.glob("run.old-*"))) == 1
    assert not list(job.cwd.glob(".run.restart"))
    assert job.whole() == answers
    job.accounted()
    assert set(job.table().column("attempts").to_pylist()) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inside", "elsewhere"])
def test_a_plain_start_finishes_the_move(job, place):
    """While contents are being set aside, the command without ``--restart`` goes on too."""
    job.flags = ["--checkpoint=cp"] if place == "elsewhere" else []
    assert job.run().code == 0
    job.asked.clear()
    job.killed_at(points("reuse-moving")[0], "--restart", "--reuse", "old")
    job.killed_at(points("reuse-moving")[1], "--reuse", "old")
    done = job.run("--reuse", "old")
    assert done.code == 0, done.err
    assert not job.asked and len(list(job.cwd.glob("run.old-*"))) == 1
    job.accounted()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["log.synced:3", "seal.written:2", "reuse.answers:1"])
def test_a_run_that_takes_answers(job, point):
    """Killed in the middle, it comes to the same results; what a killed run left in its logs is
    taken as well.
    """
    job.held = {ROWS - 1}
    job.killed_at("log.synced:9")
    job.released.set()
    job.folder.rename(job.cwd / "pilot")
    logged = set(job.asked)
    job.asked.clear()
    job.killed_at(point, "--reuse", "pilot")
    done = job.run("--reuse", "pilot")
    assert done.code == 0, done.err
    job.accounted()
    rows = job.table().to_pylist()
    taken = {row["row"] for row in rows if row["reused_from"]}
    assert taken and taken <= logged
    assert set(range(ROWS)) - taken == set(job.asked)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["log.synced:3", "seal.written:2"])
def test_a_run_that_takes_whole_blocks(job, point):
    """What a kill leaves of them in logs counts: without the other directory the rest is asked for,
    and a third run takes it all.
    """
    assert job.run().code == 0
    job.folder.rename(job.cwd / "pilot")
    job.asked.clear()
    job.killed_at(point, "--reuse", "pilot")
    logged = [
        place.kind
        for path in (job.folder / "checkpoint").glob("shard-*.log")
        for place in _places(path)
    ]
    assert logs.REUSED in logged and logs.OUTCOME not in logged
    sockets = shutil.ignore_patterns("*.sock")  # what a kill leaves of `batchrun ctl`
    shutil.copytree(job.folder, job.cwd / "killed", ignore=sockets)
    # Where a log is damaged, rows that stand together are kept, or sent again, together.
    copied = max((job.cwd / "killed/checkpoint").glob("shard-*.log"), key=os.path.getsize)
    kept = [kind for _, kind, _ in logs.sound_records(copied.read_bytes(), range(ROWS))]
    assert logs.REUSED in kept
    done = job.run()
    assert done.code == 0, done.err
    job.accounted()
    taken = {row["row"] for row in job.table().to_pylist() if row["reused_from"]}
    assert taken and set(range(ROWS)) - taken == set(job.asked)
    shutil.rmtree(job.folder)
    (job.cwd / "killed").rename(job.cwd / "other")
    job.asked.clear()
    assert job.run("--reuse", "other").code == 0
    assert {row["row"] for row in job.table().to_pylist() if row["reused_from"]} == taken
    job.accounted()


def _places(path):
    log = logs.ShardLog(path, int(path.name[6:14]), int(path.name.split(".")[1]))
    log.close()
    return log.places


@pytest.mark.slow
def test_a_restart_whose_checkpoint_was_moved_in_part(job):
    """From one disk to another a checkpoint is copied, then deleted: logs without their state
    file are set aside as well.
    """
    job.flags = ["--checkpoint=cp"]
    job.killed_at("log.synced:3")
    (job.cwd / "cp" / "journal.db").unlink()
    refused = job.run()
    assert refused.code == 2 and "--restart" in refused.err
    assert job.run("--restart").code == 0
    assert len(job.whole()) == ROWS
    [aside] = job.cwd.glob("run.old-*")
    assert list(aside.glob("checkpoint/shard-*.log"))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_log_that_is_salvaged(job, place):
    """A damaged record costs its row, or what was carried of its block is read again; killed at
    any step, the same command goes on.
    """
    job.held = {0}
    job.killed_at("log.synced:9")
    job.released.set()
    log = max((job.folder / "checkpoint").glob("shard-*.log"), key=lambda path: path.stat().st_size)
    data = bytearray(log.read_bytes())
    data[90 if place == "first" else -5] ^= 0x41
    log.write_bytes(data)
    for point in points("salvage"):
        job.killed_at(point, "--repair")
    done = job.run("--repair")
    assert done.code == 0, done.err
    assert len(job.whole()) == ROWS
    job.verified()


def test_every_step_of_the_package_is_in_the_table():
    """And every scenario of the table is gone through by a test, which fails where a point of it
    is not reached.
    """
    source = "".join(path.read_text("utf-8") for path in (ROOT / "batchrun").rglob("*.py"))
    assert set(re.findall(r'\breached\("([a-z.]+)"', source)) == STEPS
    lived = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
                if node.func.id in ("points", "_killed_at_each"):
                    lived.update(texts)
    assert {point.scenario for point in POINTS} <= lived


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["log.gone:1", "--", "run"], "no step is called"),
        (["log.synced:0", "--", "run"], "once or more often"),
        (["log.synced:1", "run"], "usage:"),
        ([], "usage:"),
    ],
)
def test_a_crash_point_that_cannot_be_reached_is_refused(arguments, says):
    """A mistyped crash point is an error, not a run that is never killed."""
    done = subprocess.run(
        [sys.executable, crashpoints.__file__, *arguments],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=240,
        check=False,
    )
    assert done.returncode != 0 and says in done.stderr
