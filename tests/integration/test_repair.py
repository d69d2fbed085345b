"""``--repair``: whatever is damaged is set aside, and the run ends as if it had not been."""

import json
import shutil
import sqlite3
import threading
from collections import Counter

import pyarrow.parquet as pq
import pytest

from batchrun.adapters.journal.shard_log import OUTCOME, sound_records
from tests.harness.slow import rest_slow

ROWS = 35
DURABLE = 14
"""Rows of which a killed run has answers in its log."""


def _flip(path, share=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A finished run of 35 rows in parts of 10, retries and failures in it; never touched."""
    from batchrun import assemble
    from batchrun.core.settings.resolve import resolve
    from batchrun.simulator.embedded import EmbeddedSimulator
    from batchrun.simulator.plan import SimulatorOptions

    folder = tmp_path_factory.mktemp("pristine")
    rows = [
        {"custom_id": f"id {n}", "note": n, "messages": [{"role": "user", "content": f"row {n}"}]}
        for n in range(ROWS)
    ]
    del rows[7]["messages"]
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
        assert assemble.run(settings, {}).summary["rows"]["error"] == 1
    return folder


@pytest.fixture
def mend(cli, here, pristine, simulator, published):
    """A copy of the finished run, and what repairs it and proves that all is well again."""
    folder = shutil.copytree(pristine / "run", cli.folder / "run")
    endpoint = simulator()
    command = (
        *(pristine / "rows.jsonl", "-o", "run", "--shard-rows", 10, "--no-progress"),
        *("--base-url", endpoint.base_url),
    )
    before = published(folder).to_pylist()

    def run(*more):
        done = here(*command, "--repair", *more)
        assert done.code == 1, done.err
        cli.verified("run")
        after = published(folder)
        assert after["row"].to_pylist() == list(range(ROWS))
        assert after["note"].to_pylist() == list(range(ROWS))
        assert after["custom_id"].to_pylist() == [f"id {n}" for n in range(ROWS)]
        sent = endpoint.stats()["requests_total"]
        again = here(*command)
        assert again.code == 1 and "nothing left to send" in again.err, again.err
        assert endpoint.stats()["requests_total"] == sent
        kept = [n for n, row in enumerate(after.to_pylist()) if row == before[n]]
        return done.err, sent, set(range(ROWS)) - set(kept)

    run.folder = folder
    run.command = command
    run.endpoint = endpoint
    return run


def _aside(folder):
    return sorted(
        path.name.rpartition(".")[0] for path in (folder / "checkpoint/damaged").iterdir()
    )


def _part(folder, kind, shard=1):
    return folder / kind / f"part-{shard:08d}.parquet"


def _other_schema(path):
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["request_hash"]), path)


DAMAGES = {
    "a flipped byte": _flip,
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "another schema": _other_schema,
}


@pytest.mark.parametrize("damage", rest_slow(DAMAGES.values(), 2), ids=[*DAMAGES])
def test_a_damaged_results_part(cli, mend, published, damage):
    """Its rows are sent again, their attempts count on, and no other row is touched."""
    ledger = published(mend.folder, "attempts").to_pylist()
    path = _part(mend.folder, "results")
    data = path.read_bytes()
    damage(path)
    broken = path.read_bytes() if path.exists() else None
    assert any(path.name in problem for problem in cli("verify", "run", "--json").json["problems"])
    said, sent, changed = mend()
    assert f"results/{path.name} is" in said and "10 rows of it are sent again" in said
    assert sent == 10 and changed == set(range(10, 20))
    now = published(mend.folder, "attempts").to_pylist()
    assert [line for line in ledger if line not in now] == []
    assert len(now) == len(ledger) + 10
    if broken is None:
        assert not (mend.folder / "checkpoint/damaged").exists()
    else:
        assert _aside(mend.folder) == [f"results-{path.name}"]
        [aside] = (mend.folder / "checkpoint/damaged").iterdir()
        assert aside.read_bytes() == broken != data


@pytest.mark.parametrize("damage", [_flip, lambda path: path.unlink()], ids=["flipped", "removed"])
def test_a_damaged_ledger(mend, published, damage):
    """Results stay; the ledger is written again from them, with a line for every attempt."""
    before = published(mend.folder, "attempts").to_pylist()
    path = _part(mend.folder, "attempts", 2)
    damage(path)
    said, sent, changed = mend()
    assert sent == 0 and changed == set()
    assert pq.read_schema(path).equals(pq.read_schema(_part(mend.folder, "attempts", 0)))
    assert f"attempts/{path.name} is" in said and "ledger_lost" in said
    after = published(mend.folder, "attempts").to_pylist()
    assert [(a["row"], a["attempt"]) for a in after] == [(a["row"], a["attempt"]) for a in before]
    told = [a for a in after if a["error_code"] != "ledger_lost"]
    assert {a["error_class"] for a in after if a not in told} <= {"connection"}
    unknown = {"queue_s", "retry_after_s", "decided_by", "usage_raw", "billed_from"}
    for line in told:
        if line["row"] in range(20, 30):
            [old] = [
                b for b in before if (b["row"], b["attempt"]) == (line["row"], line["attempt"])
            ]
            assert {k: v for k, v in line.items() if k not in unknown} == {
                k: v for k, v in old.items() if k not in unknown
            }
    lost = [b for b in before if b["row"] in range(20, 30) and b["error_class"]]
    assert lost and len(after) - len(told) == len(lost)


def test_both_parts_of_a_shard(mend, published):
    """The shard is begun again from nothing; a short one too."""
    _flip(_part(mend.folder, "attempts", 3))
    _flip(_part(mend.folder, "results", 3))
    _, sent, changed = mend()
    assert sent == 5 and changed == set(range(30, 35))
    assert Counter(published(mend.folder, "attempts")["row"].to_pylist())[34] == 1


@pytest.mark.parametrize(
    ("damage", "summary"),
    [("removed", True), ("emptied", False), ("flipped", True), ("not SQLite", False)],
)
def test_a_lost_state_file(mend, damage, summary):
    """It is made again from the parts and the input: no row is sent."""
    state = mend.folder / "checkpoint" / "journal.db"
    if damage == "removed":
        state.unlink()
    elif damage == "emptied":
        state.write_bytes(b"")
    elif damage == "flipped":
        _flip(state, 0)
    else:
        state.write_bytes(b"not a database" * 100)
    if not summary:
        (mend.folder / "summary.json").unlink()
    said, sent, changed = mend()
    assert sent == 0 and changed == set()
    assert ("summary.json" if summary else "settings of this run") in said
    if damage != "removed":
        assert _aside(mend.folder) == ["journal.db"]


def test_a_lost_state_file_and_damaged_parts(mend):
    """What the parts still hold is kept, the rest is sent."""
    (mend.folder / "checkpoint" / "journal.db").unlink()
    _part(mend.folder, "results", 1).unlink()
    _part(mend.folder, "results", 2).write_bytes(b"PAR1")
    for kind in ("results", "attempts"):
        _part(mend.folder, kind, 3).unlink()
    _, sent, changed = mend()
    assert sent == 25 and changed == set(range(10, 35))


@pytest.mark.parametrize(
    ("flags", "words"),
    rest_slow(
        [
            (("--shard-rows", 7), ["another --shard-rows", "rows 0 to 9"]),
            (("--param", "seed=1"), ["do not answer the requests", "34 requests differ"]),
            (("--carry", "none"), ["other columns", "--carry"]),
        ],
        several=True,
    ),
)
def test_a_lost_state_file_and_other_settings(cli, mend, flags, words):
    """Nobody knows the settings any more but the parts: those that do not fit are refused."""
    (mend.folder / "checkpoint" / "journal.db").unlink()
    (mend.folder / "summary.json").unlink()
    done = cli.run(*mend.command, "--repair", *flags)
    assert done.code == 2, done.err
    assert all(word in done.err for word in words), done.err
    assert mend.endpoint.stats()["requests_total"] == 0
    refused = cli.run(*mend.command)
    assert refused.code == 2 and "--repair" in refused.err
    _, sent, changed = mend()
    assert sent == 0 and changed == set()


def test_settings_that_differ_from_the_summary(cli, mend):
    """With the state file lost, summary.json tells what the run was begun with."""
    (mend.folder / "checkpoint" / "journal.db").unlink()
    done = cli.run(*mend.command, "--repair", "--param", "seed=1")
    assert done.code == 2 and "request.params" in done.err and "--resend-changed" in done.err
    assert mend.endpoint.stats()["requests_total"] == 0


def test_a_part_that_nobody_knows(mend):
    """A stray part is set aside."""
    shutil.copy(_part(mend.folder, "results"), _part(mend.folder, "results", 7))
    said, sent, changed = mend()
    assert sent == 0 and changed == set() and "the journal does not know it" in said


def test_usage_and_summary_are_written_again(cli, mend):
    """A repair ends with both, even where no part is damaged."""
    (mend.folder / "usage.parquet").write_bytes(b"x")
    assert cli("verify", "run").code == 1
    _, sent, changed = mend()
    assert sent == 0 and changed == set()


@pytest.mark.parametrize("kind", ["results", "attempts"])
def test_without_repair_a_missing_part_is_refused(cli, mend, kind):
    """A start looks whether the parts are there, and names --repair."""
    path = _part(mend.folder, kind)
    path.unlink()
    done = cli.run(*mend.command)
    assert done.code == 2
    assert str(path.name) in done.err and "--repair" in done.err and "missing" in done.err


@pytest.fixture
def killed(cli, scripted, answer, jsonl, until):
    """A run that was killed once 14 of 30 rows were in its log: the command that goes on, and the
    endpoint, which has forgotten what it was asked.
    """
    gone = threading.Event()

    def reply(body, _headers, _nth):
        if int(body["messages"][0]["content"].split()[1]) >= DURABLE:
            gone.wait(60)
        return 200, {}, answer()

    def outcomes():
        logs = (cli.folder / "run" / "checkpoint").glob("shard-*.log")
        return sum(
            kind == OUTCOME
            for log in logs
            for _, kind, _ in sound_records(log.read_bytes(), range(30))
        )

    endpoint = scripted(reply)
    rows = [
        {"messages": [{"role": "user", "content": f"row {n}"}], "note": "x" * n} for n in range(30)
    ]
    command = (
        *("run", jsonl(rows), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--concurrency", 2, "--no-progress"),
    )
    live = cli.start(*command)
    until(lambda: outcomes() == DURABLE and len(endpoint.requests) == DURABLE + 2)
    live.kill()
    gone.set()
    endpoint.requests.clear()
    return command, endpoint


@pytest.mark.parametrize("share", rest_slow([0.0, 0.02, 0.4, 0.7], 2))
def test_a_damaged_log_keeps_its_sound_records(cli, killed, published, share):
    """Whatever the byte, every other record of the log is kept; its carried columns come back."""
    command, endpoint = killed
    [log] = (cli.folder / "run" / "checkpoint").glob("shard-*.log")
    _flip(log, share)
    refused = cli(*command)
    assert refused.code == 2 and "--repair" in refused.err and log.name in refused.err
    # Publishes what the log holds, of rows that are not read again.
    assert cli(*command, "--repair", "--limit", 1).code == 0
    done = cli(*command)
    assert done.code == 0, done.err
    assert len(endpoint.requests) <= 30 - DURABLE + 3
    assert _aside(cli.folder / "run") == [log.name]
    assert published(cli.folder / "run")["note"].to_pylist() == ["x" * n for n in range(30)]
    cli.verified("run")


def test_logs_without_their_state_file(cli, killed, published):
    """A state file lost before the first part: the log is enough."""
    command, endpoint = killed
    for path in (cli.folder / "run" / "checkpoint").glob("journal.db*"):
        path.unlink()
    assert cli(*command).code == 2
    done = cli(*command, "--repair")
    assert done.code == 0, done.err
    assert len(endpoint.requests) == 30 - DURABLE
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(30))
    cli.verified("run")


def test_a_damaged_part_of_an_interrupted_run(cli, interrupted, published):
    """Provisional parts are mended like others."""
    folder, source, endpoint = interrupted(rows=40, done=12)
    part = max((folder / "results").iterdir())
    part.write_bytes(part.read_bytes()[:-30])
    command = (source, "-o", folder, "--shard-rows", 10, "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 2
    done = cli.run(*command, "--repair")
    assert done.code == 0, done.err
    assert published(folder)["row"].to_pylist() == list(range(40))
    cli.verified(folder)


def test_no_room_for_a_repair(mend, monkeypatch):
    """Parts are written again only where the disk has room: else exit 5, saying how much it takes,
    and the repair can be had later.
    """
    from batchrun import assemble
    from batchrun.core.run.changes import Changes
    from batchrun.core.settings.resolve import resolve
    from batchrun.errors import StorageError

    _flip(_part(mend.folder, "results"))
    settings = resolve(
        {
            "input.files": [str(mend.command[0])],
            "output.dir": str(mend.folder),
            "output.shard_rows": 10,
            "request.model": "m",
            "endpoint.base_url": mend.endpoint.base_url,
        }
    )
    with monkeypatch.context() as patch:
        full = shutil.disk_usage(mend.folder)._replace(free=100)
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(StorageError, match="bytes are needed"):
            assemble.run(settings, {}, changes=Changes(repair=True))
    assert not (mend.folder / "checkpoint/damaged").exists()
    _, sent, _ = mend()
    assert sent == 10


def test_a_state_file_that_forgot(mend):
    """An older copy of the state file knows fewer parts: those it does not know are sent again."""
    state = mend.folder / "checkpoint" / "journal.db"
    with sqlite3.connect(state) as db:
        db.execute("DELETE FROM shards WHERE shard = 2")
    db.close()
    _, sent, changed = mend()
    assert sent == 10 and changed == set(range(20, 30))
