"""Damaged run directories: what verify finds, what run refuses, what status says."""

import json
import os
import shutil
import sqlite3

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A finished run of 25 rows, 5 of them failed, in parts of 10; never touched."""
    from batchrun import assemble
    from batchrun.core.settings.resolve import resolve
    from batchrun.simulator.embedded import EmbeddedSimulator
    from batchrun.simulator.plan import SimulatorOptions

    folder = tmp_path_factory.mktemp("pristine")
    rows = [
        {"messages": [{"role": "user", "content": f"question {n}"}], "note": n} for n in range(25)
    ]
    for n in range(0, 25, 5):
        rows[n] = {"note": n}
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.2}, seed=2)) as endpoint:
        settings = resolve(
            {
                "input.files": [str(source)],
                "output.dir": str(folder / "run"),
                "output.shard_rows": 10,
                "request.model": "m",
                "endpoint.base_url": endpoint.base_url,
            }
        )
        assert assemble.run(settings, {}).summary["exit_code"] == 1
    return folder


@pytest.fixture
def folder(pristine, cli):
    """A copy of the finished run."""
    return shutil.copytree(pristine / "run", cli.folder / "run")


def _table(path):
    return pq.read_table(path, partitioning=None)


def _results(folder, part=1):
    return folder / "results" / f"part-{part:08d}.parquet"


def _attempts(folder, part=1):
    return folder / "attempts" / f"part-{part:08d}.parquet"


def _rewrite(path, change):
    pq.write_table(change(_table(path)), path)


def _with(table, name, values):
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table[name].type))


def _plus_one(table, name):
    first = next(n for n, value in enumerate(table[name].to_pylist()) if value is not None)
    values = table[name].to_pylist()
    values[first] += 1
    return _with(table, name, values)


def _summary(folder, change):
    path = folder / "summary.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def _flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 0x10
    path.write_bytes(data)


def _swap(one, other):
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _status_flipped(table):
    values = table["status"].to_pylist()
    values[values.index("ok")] = "error"
    return _with(table, "status", values)


# What is done to a finished run, and a word of what verify must say.
DAMAGES = {
    "a results part removed": (lambda f: _results(f).unlink(), "part-00000001"),
    "an attempts part removed": (lambda f: _attempts(f).unlink(), "part-00000001"),
    "both parts removed": (lambda f: [p(f).unlink() for p in (_results, _attempts)], "rows"),
    "a row removed": (lambda f: _rewrite(_results(f), lambda t: t.slice(1)), "rows"),
    "a row duplicated": (
        lambda f: _rewrite(_results(f), lambda t: pa.concat_tables([t.slice(0, 1), t])),
        "row 10",
    ),
    "a row duplicated in the last part": (
        lambda f: _rewrite(_results(f, 2), lambda t: pa.concat_tables([t, t[-1:]])),
        "row 24",
    ),
    "rows out of order": (
        lambda f: _rewrite(_results(f), lambda t: t.take(list(range(t.num_rows))[::-1])),
        "row",
    ),
    "rows of another part": (
        lambda f: _rewrite(_results(f), lambda t: _with(t, "row", range(30, 30 + t.num_rows))),
        "row 30",
    ),
    "two parts swapped": (lambda f: _swap(_results(f, 0), _results(f, 1)), "another part"),
    "an attempt removed": (lambda f: _rewrite(_attempts(f), lambda t: t.slice(1)), "attempts"),
    "an attempt added": (
        lambda f: _rewrite(_attempts(f), lambda t: pa.concat_tables([t, t.slice(0, 1)])),
        "attempt",
    ),
    "tokens changed in the ledger": (
        lambda f: _rewrite(_attempts(f), lambda t: _plus_one(t, "completion_tokens")),
        "completion_tokens",
    ),
    "a count of attempts changed": (
        lambda f: _rewrite(_results(f), lambda t: _plus_one(t, "attempts")),
        "attempts",
    ),
    "a failure called a success": (
        lambda f: _rewrite(_results(f), _status_flipped),
        "status",
    ),
    "a column dropped": (
        lambda f: _rewrite(_results(f), lambda t: t.drop_columns(["request_hash"])),
        "lacks the column 'request_hash'",
    ),
    "a column's type changed in one part": (
        lambda f: _rewrite(_results(f), lambda t: t.set_column(
            t.schema.get_field_index("note"), "note", pc.cast(t["note"], pa.float64()))),
        "'note' is double",
    ),
    "the summary's ok rows": (lambda f: _summary(f, lambda s: s["rows"].update(ok=21)), "ok"),
    "the summary's input": (lambda f: _summary(f, lambda s: s["rows"].update(input=26)), "pending"),
    "the summary's pending rows": (
        lambda f: _summary(f, lambda s: s["rows"].update(pending=1)),
        "pending",
    ),
    "the summary's errors": (lambda f: _summary(f, lambda s: s["errors"].clear()), "errors"),
    "the summary's tokens": (
        lambda f: _summary(f, lambda s: s["totals"].update(total_tokens=1)),
        "total_tokens",
    ),
    "the summary's attempts": (
        lambda f: _summary(f, lambda s: s["totals"].update(attempts=1)),
        "attempts",
    ),
    "the summary's cost": (
        lambda f: _summary(f, lambda s: s["totals"].update(cost_usd=0.0)),
        "cost",
    ),
    "the summary's status": (
        lambda f: _summary(f, lambda s: s.update(status="complete")),
        "status",
    ),
    "the summary removed": (lambda f: (f / "summary.json").unlink(), "summary.json"),
    "the summary torn": (lambda f: (f / "summary.json").write_text("{"), "summary.json"),
    "usage's tokens": (
        lambda f: _rewrite(f / "usage.parquet", lambda t: _plus_one(t, "prompt_tokens")),
        "usage.parquet",
    ),
    "usage's rows": (
        lambda f: _rewrite(f / "usage.parquet", lambda t: _plus_one(t, "rows_ok")),
        "usage.parquet",
    ),
    "usage's rows without usage": (
        lambda f: _rewrite(f / "usage.parquet", lambda t: _plus_one(t, "rows_without_usage")),
        "usage.parquet",
    ),
    "usage removed": (lambda f: (f / "usage.parquet").unlink(), "usage.parquet"),
    "a leftover draft": (
        lambda f: (f / "results" / "part-00000003.parquet.tmp").write_bytes(b""),
        "leftover",
    ),
    "a stray part": (
        lambda f: shutil.copy(_results(f), f / "results" / "part-00000007.parquet"),
        "part-00000007",
    ),
}  # fmt: skip

# Damage that only the recorded digests can tell from what was written.
SILENT = {
    "an answer changed": lambda f: _rewrite(
        _results(f), lambda t: _with(t, "content", ["changed"] * t.num_rows)
    ),
    "an input column changed": lambda f: _rewrite(_results(f), lambda t: _plus_one(t, "note")),
    "a part written again": lambda f: _rewrite(_results(f), lambda t: t),
}


def _check(folder):
    from batchrun.views.verify import verify

    return verify.check(str(folder))


def test_a_sound_directory_is_sound(folder):
    """The run that the damages start from holds, failures and retries included."""
    report = _check(folder)
    assert report.problems == []
    assert (report.rows, report.parts, report.digests) == (25, 3, 6)
    assert report.attempts > 20


@pytest.mark.parametrize("journal", [True, False], ids=["with journal", "files alone"])
@pytest.mark.parametrize(
    ("damage", "words"), rest_slow(DAMAGES.values(), 24, several=True), ids=[*DAMAGES]
)
def test_verify_finds_damage(folder, damage, words, journal):
    """Whatever does not add up is found, with the journal's digests and without them."""
    damage(folder)
    if not journal:
        shutil.rmtree(folder / "checkpoint")
    report = _check(folder)
    assert not report.ok
    assert any(words in problem for problem in report.problems), report.problems


@pytest.mark.parametrize("damage", SILENT.values(), ids=SILENT)
def test_verify_finds_changed_bytes(folder, damage):
    """A part that is not byte for byte what was written is found by its digest."""
    damage(folder)
    report = _check(folder)
    assert any("part-00000001" in p and "not what was written" in p for p in report.problems)


@pytest.mark.parametrize("kind", ["results", "attempts"])
def test_a_flipped_byte_in_a_part_is_found(cli, folder, kind):
    """The command says which part, and exits 1."""
    _flip(folder / kind / "part-00000001.parquet")
    done = cli("verify", "run")
    assert done.code == 1
    assert f"{kind}/part-00000001.parquet" in done.out
    assert "NOT verified" in done.out
    report = cli("verify", "run", "--json").json
    assert report["ok"] is False and report["problems"]


def test_a_flipped_byte_in_the_journals_state_is_no_crash(cli, folder, pristine):
    """Wherever a byte flips, run, status and verify end with an exit code of ours."""
    state = folder / "checkpoint" / "journal.db"
    whole = state.read_bytes()
    command = ("run", pristine / "rows.jsonl", "-o", "run", "--model", "m", "--shard-rows", 10)
    for place in (20, 100, len(whole) - 200):
        state.write_bytes(whole)
        _flip(state, place)
        for arguments in (command, ("verify", "run"), ("status", "run")):
            done = cli(*arguments, "--base-url" if arguments is command else "--json",
                       *(["http://127.0.0.1:9"] if arguments is command else []))  # fmt: skip
            assert "Traceback" not in done.err, (place, arguments[0], done.err)
            assert done.code in (0, 1, 2), (place, arguments[0], done.err)


@pytest.mark.parametrize("damage", ["removed", "emptied", "other", "not SQLite"])
def test_results_without_their_journal_are_refused(cli, folder, pristine, damage):
    """Without the journal nobody knows what is done: exit 2 naming it, and nothing is touched."""
    state = folder / "checkpoint" / "journal.db"
    if damage == "removed":
        state.unlink()
    elif damage == "emptied":
        state.write_bytes(b"")
    elif damage == "other":
        state.unlink()
        with sqlite3.connect(state) as db:
            db.execute("CREATE TABLE t (x)")
        db.close()
    else:
        state.write_bytes(b"not a database" * 100)
    before = {p: p.read_bytes() for p in (folder / "results").iterdir()}
    done = cli.run(
        *(pristine / "rows.jsonl", "-o", "run", "--shard-rows", 10),
        *("--base-url", "http://127.0.0.1:9"),
    )
    assert done.code == 2, done.err
    assert "journal.db" in done.err and "--restart" in done.err
    assert "Traceback" not in done.err
    assert {p: p.read_bytes() for p in (folder / "results").iterdir()} == before


@pytest.fixture
def killed(cli, simulator, jsonl, until):
    """A run that was killed midway, and the command that goes on."""
    endpoint = simulator(latency=FixedLatency(0.05))
    command = (
        *("run", jsonl(30), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--concurrency", 2, "--no-progress"),
    )
    live = cli.start(*command)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 12)
    live.kill()
    endpoint.reset_stats()
    return command, endpoint


@pytest.mark.parametrize("share", [0.0, 0.005, 0.3, 0.7])
def test_a_flipped_byte_in_a_log_is_named(cli, killed, share):
    """An answer that changed on the disk is never published: exit 2 naming the file."""
    command, endpoint = killed
    [log] = (cli.folder / "run" / "checkpoint").glob("shard-*.log")
    data = log.read_bytes()
    _flip(log, int(len(data) * share))
    damaged = log.read_bytes()
    done = cli(*command)
    assert done.code == 2, done.err
    assert log.name in done.err and "Traceback" not in done.err
    assert endpoint.stats()["requests_total"] == 0
    assert log.read_bytes() == damaged
    log.write_bytes(data)
    assert cli(*command).code == 0
    cli.verified("run")


@pytest.mark.parametrize("cut", [1, 300])
def test_a_torn_end_of_a_log_is_cut_off(cli, killed, cut):
    """What a power cut left half written was promised to nobody: the run goes on."""
    command, _ = killed
    [log] = (cli.folder / "run" / "checkpoint").glob("shard-*.log")
    os.truncate(log, log.stat().st_size - cut)
    done = cli(*command)
    assert done.code == 0, done.err
    cli.verified("run")


def test_a_damaged_part_is_not_merged(cli, interrupted):
    """A provisional part that cannot be read stops the run before anything is sent."""
    folder, source, endpoint = interrupted(rows=40, done=12)
    endpoint.reset_stats()
    part = max((folder / "results").iterdir())
    part.write_bytes(part.read_bytes()[:-30])
    done = cli.run(*(source, "-o", folder, "--shard-rows", 10, "--base-url", endpoint.base_url))
    assert done.code == 2, done.err
    assert part.name in done.err and "Traceback" not in done.err
    assert endpoint.stats()["requests_total"] == 0


@pytest.mark.slow
def test_status_of_a_live_a_killed_and_a_finished_run(cli, simulator, jsonl, until):
    """Another terminal sees what a run is doing, that it was killed, and how it ended."""
    endpoint = simulator(latency=FixedLatency(0.5))
    command = (
        *("run", jsonl(40), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        "--no-progress",
    )
    live = cli.start(*command, "--concurrency", 1)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 4)
    seen = cli("status", "run", "--json").json
    assert seen["state"] == "running"
    assert seen["live"]["pid"] == live.process.pid
    assert seen["live"]["ok"] > 0 and seen["live"]["rows_input"] == 40
    assert "of 40 rows done" in cli("status", "run").out
    live.kill()
    assert cli("status", "run", "--json").json["state"] == "killed"
    assert "killed" in cli("status", "run").out
    assert cli("verify", "run").code == 1
    done = cli(*command, "--concurrency", 20)
    assert done.code == 0, done.err
    seen = cli("status", "run", "--json").json
    assert seen["state"] == "complete"
    assert "complete: 40 of 40 rows ok" in cli("status", "run").out
    cli.verified("run")


@pytest.mark.parametrize("command", ["status", "verify"])
def test_what_is_no_run_directory(cli, command):
    """A missing folder, an empty one and one of other things are exit 2."""
    (cli.folder / "empty").mkdir()
    (cli.folder / "other").mkdir()
    (cli.folder / "other" / "a.txt").write_text("x")
    (cli.folder / "file").write_text("x")
    for name in ("missing", "empty", "other", "file"):
        done = cli(command, name)
        assert done.code == 2, name
        assert name in done.err and "not a run directory" in done.err
