"""``batchrun verify`` as a proof: every kind of damage to a real run directory is found and named.

Parts that are rewritten get their new digest into the state file, as a defect in the writer would
do: so it is the checks of what they hold that are proven, and not the digests alone.
"""

import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.views.verify import verify
from batchrun.views.verify.findings import KINDS, SHOWN, Report
from tests.harness import forked
from tests.harness.slow import rest_slow

ROOT = Path(__file__).resolve().parents[2]
PART = "part-00000001.parquet"
FAILED, RETRIED = "failed", "retried"


def _rows(count, word="question"):
    rows = [
        {
            "custom_id": f"id-{n}",
            "messages": [{"role": "user", "content": f"{word} {n}"}],
            "note": n,
            "tag": f"tag {n}",
        }
        for n in range(count)
    ]
    for n in range(3, count, 10):
        rows[n] = {"note": n, "tag": "bad"}
    return "".join(json.dumps(row) + "\n" for row in rows)


def _command(folder, endpoint, *more):
    words = ["run", "rows.jsonl", "-o", "run", "--model", "m", "--base-url", endpoint.base_url]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    said = folder / "said"
    given = [*words, "--shard-rows", "10", "--no-progress", *more]
    return forked.Forked(forked.start(given, environment, folder, said, said)), said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Run directories by the real command: a finished one with failures and retries, another of
    other rows, and one that was interrupted.
    """
    from batchrun.simulator.embedded import EmbeddedSimulator
    from batchrun.simulator.latency import FixedLatency
    from batchrun.simulator.plan import SimulatorOptions

    root = tmp_path_factory.mktemp("made")
    faulty = SimulatorOptions(error_rates={"500": 0.2, "400": 0.1}, seed=3)
    for name, word in (("finished", "question"), ("other", "another question, longer")):
        folder = root / name
        folder.mkdir()
        (folder / "rows.jsonl").write_text(_rows(45, word))
        with EmbeddedSimulator(faulty) as endpoint:
            live, said = _command(folder, endpoint)
            assert live.wait(240) == 1, said.read_text()
    folder = shutil.copytree(root / "finished", root / "reused")
    (folder / "run").rename(folder / "pilot")
    with EmbeddedSimulator(faulty) as endpoint:
        live, said = _command(folder, endpoint, "--reuse", "pilot")
        assert live.wait(240) in (0, 1), said.read_text()
    folder = root / "interrupted"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(_rows(45))
    with EmbeddedSimulator(SimulatorOptions(latency=FixedLatency(0.05))) as endpoint:
        live, said = _command(folder, endpoint, "--concurrency", "2")
        while endpoint.stats()["by_status"].get("200", 0) < 12:
            assert live.poll() is None, said.read_text()
            time.sleep(0.01)
        live.send_signal(signal.SIGINT)
        assert live.wait(240) == 130, said.read_text()
    return root


class Copy:
    """A copy of a run directory, and what can be done to it."""

    def __init__(self, made, name, to):
        self.made = made
        self.base = shutil.copytree(made / name, to)
        self.run = self.base / "run"

    def path(self, kind="results", part=1):
        """A part."""
        return self.run / kind / f"part-{part:08d}.parquet"

    def table(self, kind="results", part=1):
        """A part's table."""
        return pq.read_table(self.path(kind, part), partitioning=None)

    def write(self, table, kind="results", part=1):
        """Replace a part, and its digest in the state file."""
        pq.write_table(table, self.path(kind, part))
        self.sign(kind, part)

    def sign(self, kind="results", part=1):
        """Note the digest of a part as it is now."""
        import dataclasses
        import hashlib

        digest = hashlib.sha256(self.path(kind, part).read_bytes()).hexdigest()
        self.published(part, lambda p: dataclasses.replace(p, **{f"{kind}_sha256": digest}))

    def published(self, part, change):
        """Change what the state file records of a shard, by the writer's own means."""
        from batchrun.adapters.journal.state_db import StateFile

        states = StateFile(self.run / "checkpoint" / "journal.db")
        try:
            found = next(p for p in states.published() if p.state.shard == part)
            states.seal(change(found))
        finally:
            states.close()

    def sql(self, statement, *values):
        """Change the state file behind the writer's back."""
        db = sqlite3.connect(self.run / "checkpoint" / "journal.db")
        with db:
            db.execute(statement, values)
        db.close()

    def name_file(self, said, *, there):
        """Let an answer name a file of ``responses/``, and its part say that so many do."""
        import hashlib

        name = f"responses/{hashlib.sha256(b'a reply').hexdigest()}"
        self.cell("response", json.dumps({"file": name}), which=_ok)
        metadata = self.table().schema.metadata | {b"batchrun.references": str(said).encode()}
        self.write(self.table().replace_schema_metadata(metadata))
        if there:
            (self.run / "responses").mkdir()
            (self.run / name).write_bytes(b"a reply")

    def cell(self, name, value, *, kind="results", part=1, which=None):
        """Set one cell: of the first row that ``which`` (a function of the row) picks."""
        table = self.table(kind, part)
        rows = table.to_pylist()
        place = next(n for n, row in enumerate(rows) if which is None or which(row))
        values = table[name].to_pylist()
        values[place] = value(rows[place]) if callable(value) else value
        self.write(_with(table, name, values), kind, part)

    def summary(self, change):
        """Change the summary."""
        path = self.run / "summary.json"
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    def usage(self, change):
        """Change the usage table."""
        path = self.run / "usage.parquet"
        pq.write_table(change(pq.read_table(path)), path)

    def input(self, change):
        """Change the lines of the input."""
        path = self.base / "rows.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    def check(self, *, against=False):
        """What verify says of it."""
        source = [str(self.base / "rows.jsonl")] if against else []
        return verify.check(str(self.run), against=source)


def _with(table, name, values):
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table[name].type))


def _plus(name, more=1):
    return lambda row: (row[name] or 0) + more


def _ok(row):
    return row["status"] == "ok"


def _failed(row):
    return row["status"] == "error"


def _sent_and_failed(row):
    return row["status"] == "error" and row["endpoint"] is not None


def _answered(row):
    return row["error_class"] is None


def _again(row):
    return row["attempt"] == 2


@pytest.fixture
def copy(made, tmp_path):
    """Makes a copy of a run directory."""

    def make(name="finished"):
        return Copy(made, name, tmp_path / name)

    return make


@pytest.mark.parametrize("name", ["finished", "other", "interrupted"])
def test_what_the_command_made_is_green(copy, name):
    """Undamaged directories hold, beside their input too, and they have what is damaged later."""
    run = copy(name)
    report = run.check(against=True)
    assert report.problems == []
    assert report.compared == report.rows > 0
    if name == "finished":
        rows = [row for part in range(5) for row in run.table(part=part).to_pylist()]
        assert {row["error_class"] for row in rows} >= {None, "invalid_row", "context_length"}
        assert max(row["attempts"] for row in rows) > 1
        assert report.notes == []
    elif name == "interrupted":
        assert any("rows of the input have no result" in note for note in report.notes)


def _swap_neighbours(table):
    return table.take([1, 0, *range(2, table.num_rows)])


def _doubled(table, place=4):
    return pa.concat_tables([table[: place + 1], table[place:]])


def _without(table, place=4):
    return pa.concat_tables([table[:place], table[place + 1 :]])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _of_another_run(run):
    for kind in ("results", "attempts"):
        shutil.copy(run.made / "other" / "run" / kind / PART, run.path(kind))


def _sign_both(run):
    for kind in ("results", "attempts"):
        run.sign(kind)


def _generation(run, value):
    run.sql("UPDATE shards SET generation = ? WHERE shard = 1", value)


def _state(run, **changes):
    import dataclasses

    run.published(
        1, lambda p: dataclasses.replace(p, state=dataclasses.replace(p.state, **changes))
    )


def _journal_totals(run):
    import dataclasses

    def change(published):
        totals = json.loads(json.dumps(published.totals))
        totals["groups"][0][3]["prompt_tokens"] += 1
        return dataclasses.replace(published, totals=totals)

    run.published(1, change)


def _lines(number, change):
    def edit(lines):
        row = json.loads(lines[number])
        change(row)
        lines[number] = json.dumps(row) + "\n"
        return lines

    return edit


def _rename(table, old, new):
    return table.rename_columns([new if name == old else name for name in table.column_names])


# What is done to the finished run, the kind of damage to be named, and words of the sentence.
DAMAGES = {
    # Rows of results
    "a row removed": (lambda r: r.write(_without(r.table())), "row_missing", "row 14 is missing"),
    "the last row removed": (
        lambda r: r.write(r.table(part=4)[:-1], part=4), "row_missing", "row 44 is missing"),
    "a row doubled": (lambda r: r.write(_doubled(r.table())), "row_twice", "row 14 is there twice"),
    "neighbours swapped": (
        lambda r: r.write(_swap_neighbours(r.table())), "row_order", "row 10 comes after row 11"),
    "a row of another part": (
        lambda r: r.cell("row", 99, which=lambda w: w["row"] == 19), "row_elsewhere",
        "row 99 belongs to another part"),
    "a row without a number": (
        lambda r: r.cell("row", None, which=lambda w: w["row"] == 19), "row_without_number", PART),
    # Files
    "a part of results missing": (
        lambda r: r.path().unlink(), "file_missing", f"results/{PART} is missing"),
    "a part of attempts missing": (
        lambda r: r.path("attempts").unlink(), "file_missing", f"attempts/{PART} is missing"),
    "both parts missing": (
        lambda r: [r.path(k).unlink() for k in ("results", "attempts")], "file_missing",
        f"results/{PART} is missing"),
    "no results folder": (
        lambda r: shutil.rmtree(r.run / "results"), "file_missing",
        "results/part-00000000.parquet is missing"),
    "a part of another run": (_of_another_run, "digest", f"results/{PART} is not what was written"),
    "a part of another run, signed": (
        lambda r: [_of_another_run(r), _sign_both(r)], "state_totals", "part-00000001"),
    "a truncated part": (
        lambda r: r.path().write_bytes(r.path().read_bytes()[:-200]), "file_unreadable",
        f"results/{PART} cannot be read"),
    "a truncated part of attempts": (
        lambda r: r.path("attempts").write_bytes(b"PAR1"), "file_unreadable",
        f"attempts/{PART} cannot be read"),
    "a flipped byte": (
        lambda r: _flip(r.path()), "digest", f"results/{PART} is not what was written"),
    "a flipped byte in the ledger": (
        lambda r: _flip(r.path("attempts")), "digest", f"attempts/{PART} is not what was written"),
    "a renamed part": (
        lambda r: r.path().rename(r.path(part=7)), "file_unknown",
        "results/part-00000007.parquet is not known"),
    "an unrecorded pair": (
        lambda r: [shutil.copy(r.path(k), r.path(k, 7)) for k in ("results", "attempts")],
        "file_unknown", "attempts/part-00000007.parquet is not known"),
    "a leftover draft": (
        lambda r: (r.run / "results" / f"{PART}.tmp").write_bytes(b""), "left_over", f"{PART}.tmp"),
    "a leftover draft of the summary": (
        lambda r: (r.run / "summary.json.tmp").write_bytes(b""), "left_over", "summary.json.tmp"),
    "a reply's file removed": (
        lambda r: r.name_file(1, there=False), "response_file", "which is missing"),
    "fewer files of replies than said": (
        lambda r: r.name_file(2, there=True), "response_count", "they name 1"),
    "a stray file": (
        lambda r: (r.run / "attempts" / "notes.txt").write_text(""), "stray", "attempts/notes.txt"),
    "a stray folder": (lambda r: (r.run / "results" / "x").mkdir(), "stray", "results/x/"),
    "an answer changed": (
        lambda r: pq.write_table(_with(r.table(), "content", ["x"] * 10), r.path()), "digest",
        f"results/{PART} is not what was written"),
    # Rows in themselves
    "a success called a failure": (
        lambda r: r.cell("status", "error", which=_ok), "error_with_answer",
        "has status 'error' and content"),
    "a failure called a success": (
        lambda r: r.cell("status", "ok", which=_failed), "ok_with_error",
        "has status 'ok' and error_class"),
    "a status that there is not": (
        lambda r: r.cell("status", "done", which=_ok), "status", "has status 'done'"),
    "a null status": (lambda r: r.cell("status", None), "status", "has status None"),
    "an unknown error class": (
        lambda r: r.cell("error_class", "bad_luck", which=_failed), "unknown_class",
        "has error_class 'bad_luck'"),
    "an unknown error class in the ledger": (
        lambda r: r.cell("error_class", "bad_luck", kind="attempts"), "unknown_class",
        "has error_class 'bad_luck'"),
    "an ok row with an error message": (
        lambda r: r.cell("error_message", "no", which=_ok), "ok_with_error", "error_message 'no'"),
    "an ok row with a failure's status code": (
        lambda r: r.cell("http_status", 500, which=_ok), "ok_http_status", "http_status 500"),
    "an error row with content": (
        lambda r: r.cell("content", "hm", which=_failed), "error_with_answer", "and content"),
    "an error row with choices": (
        lambda r: r.cell("choices", [{"index": 0, "content": "x"}], which=_failed),
        "error_with_answer", "and choices"),
    "an error row without a class": (
        lambda r: r.cell("error_class", None, which=_failed), "error_without_reason",
        "no error_class"),
    "an error row without a message": (
        lambda r: r.cell("error_message", None, which=_failed), "error_without_reason",
        "no error_message"),
    "a row without its request's hash": (
        lambda r: r.cell("request_hash", None, which=_ok), "request_hash", "request_hash None"),
    # The ledger
    "an only attempt removed": (
        lambda r: r.write(_without(r.table("attempts"), 0), "attempts"), "attempts",
        "row 10 says"),
    "a last attempt removed": (
        lambda r: r.write(r.table("attempts", 4)[:-1], "attempts", 4), "attempts", "row 44 says"),
    "an attempt doubled": (
        lambda r: r.write(_doubled(r.table("attempts"), 0), "attempts"), "attempt_number",
        "row 10 has attempt 1 where attempt 2 belongs"),
    "attempts renumbered": (
        lambda r: r.cell("attempt", 5, kind="attempts"), "attempt_number",
        "row 10 has attempt 5 where attempt 1 belongs"),
    "the ledger out of order": (
        lambda r: r.write(r.table("attempts").sort_by([("row", "descending")]), "attempts"),
        "ledger_order", "comes after row"),
    "a line of another part": (
        lambda r: r.cell("row", 5, kind="attempts"), "row_elsewhere", "row 5 belongs"),
    "a trail that tells of another class": (
        lambda r: r.cell("decided_by", "rate_limit", kind="attempts", which=_answered),
        "decided_by", "has decided_by rate_limit and error_class None"),
    "a trail with an unknown word": (
        lambda r: r.cell("decided_by", "completion>moonlight", kind="attempts", which=_answered),
        "decided_by", "has decided_by completion>moonlight"),
    "an empty trail": (
        lambda r: r.cell("decided_by", "", kind="attempts", which=_answered), "decided_by",
        "has decided_by  and"),
    "attempts off by one": (
        lambda r: r.cell("attempts", _plus("attempts")), "attempts", "row 10 says"),
    "latency changed": (
        lambda r: r.cell("latency_s", _plus("latency_s"), which=_ok), "ledger", "has latency_s"),
    "endpoint changed in the ledger": (
        lambda r: r.cell("endpoint", "x", kind="attempts", which=_answered), "ledger",
        "has endpoint default"),
    "tokens changed in a result": (
        lambda r: r.cell("prompt_tokens", _plus("prompt_tokens"), which=_ok), "ledger",
        "has prompt_tokens"),
    "tokens changed in the ledger": (
        lambda r: r.cell("completion_tokens", _plus("completion_tokens"), kind="attempts",
                         which=_answered), "ledger", "has completion_tokens"),
    "tokens changed in both": (
        lambda r: [r.cell("total_tokens", 10**6, which=lambda w: w["row"] == 11),
                   r.cell("total_tokens", 10**6, kind="attempts",
                          which=lambda w: w["row"] == 11 and _answered(w))],
        "summary", "says total_tokens"),
    "a cost below zero": (
        lambda r: r.cell("cost_usd", -0.25, kind="attempts", which=_answered), "cost",
        "has cost_usd -0.25"),
    "a cost that is no number": (
        lambda r: r.cell("cost_usd", float("nan"), kind="attempts", which=_answered), "cost",
        "has cost_usd nan"),
    "a cost finer than picodollars": (
        lambda r: r.cell("cost_usd", 1.5e-12, kind="attempts", which=_answered), "cost",
        "has cost_usd 1.5e-12"),
    "a cost that no exchange has": (
        lambda r: r.cell("cost_usd", 1e300, kind="attempts", which=_answered), "cost",
        "has cost_usd 1e+300"),
    "a day of the summary": (
        lambda r: r.summary(lambda s: s["totals"]["by_day"].update({"2026-01-01": {}})),
        "summary", "says by_day"),
    "the summary without its days": (
        lambda r: r.summary(lambda s: s["totals"].update(by_day=None)), "state_summary",
        "does not say by_day"),
    "the summary's unpriced attempts": (
        lambda r: r.summary(lambda s: s["totals"].update(unpriced_attempts=-1)), "summary",
        "says unpriced_attempts"),
    "a cost in a result": (
        lambda r: r.cell("cost_usd", 0.25, which=_ok), "ledger", "has cost_usd 0.25"),
    "a cost in the ledger": (
        lambda r: r.cell("cost_usd", 0.25, kind="attempts"), "summary", "says cost_usd None"),
    "the class of a failed attempt changed": (
        lambda r: r.cell("error_class", "quota", which=_sent_and_failed), "ledger",
        "has error_class quota"),
    "the answering model changed": (
        lambda r: r.cell("model", "x", which=_ok), "ledger", "has model x"),
    "a result without an attempt": (
        lambda r: [r.write(_without(r.table("attempts"), 0), "attempts")], "attempts", "row 10"),
    # Columns
    "a column missing": (
        lambda r: r.write(r.table().drop_columns(["request_hash"])), "columns",
        f"results/{PART}: it lacks the column 'request_hash'"),
    "a carried column missing": (
        lambda r: r.write(r.table().drop_columns(["tag"])), "columns", "lacks the column 'tag'"),
    "a column of the ledger missing": (
        lambda r: r.write(r.table("attempts").drop_columns(["queue_s"]), "attempts"), "columns",
        f"attempts/{PART}: it lacks the column 'queue_s'"),
    "a column added": (
        lambda r: r.write(r.table().append_column("more", pa.array([1] * 10))), "columns",
        "has the column 'more'"),
    "a column renamed": (
        lambda r: r.write(_rename(r.table(), "created", "made")), "columns", "'created'"),
    "a column twice": (
        lambda r: r.write(r.table().append_column("note", pa.array([1] * 10))), "columns",
        "'note' more than once"),
    "another type": (
        lambda r: r.write(r.table().cast(r.table().schema.set(
            r.table().schema.get_field_index("attempts"), pa.field("attempts", pa.int64())))),
        "columns", "'attempts' is int64, and not int32"),
    "another order": (
        lambda r: r.write(r.table().select([*r.table().column_names[1::-1],
                                            *r.table().column_names[2:]])),
        "columns", "in another order, from 'custom_id' on"),
    "no row numbers": (
        lambda r: r.write(r.table().drop_columns(["row"])), "file_unreadable", "no numbers"),
    "no mark of the format": (
        lambda r: r.write(r.table().replace_schema_metadata({})), "format", "format None"),
    "a column of the usage table missing": (
        lambda r: r.usage(lambda t: t.drop_columns(["attempts"])), "columns", "usage.parquet"),
    # Usage and summary
    "a usage line missing": (lambda r: r.usage(lambda t: t[1:]), "usage", "has no line for"),
    "a usage line added": (
        lambda r: r.usage(lambda t: pa.concat_tables([t, _with(t[:1], "model", ["x"])])),
        "usage", "the parts have nothing of it"),
    "a usage line doubled": (
        lambda r: r.usage(lambda t: pa.concat_tables([t, t[:1]])), "usage", "twice"),
    "a usage count changed": (
        lambda r: r.usage(lambda t: _with(t, "prompt_tokens", [5] * t.num_rows)), "usage",
        "says prompt_tokens 5"),
    "usage moved between tiers": (
        lambda r: r.usage(lambda t: _with(t, "service_tier", ["x"] * t.num_rows)), "usage", "x"),
    "usage unreadable": (
        lambda r: (r.run / "usage.parquet").write_bytes(b"x"), "usage", "cannot be read"),
    "the summary's ok rows": (
        lambda r: r.summary(lambda s: s["rows"].update(ok=1)), "summary", "1 rows ok"),
    "the summary's input": (
        lambda r: r.summary(lambda s: s["rows"].update(input=46)), "summary", "pending"),
    "the summary's tokens": (
        lambda r: r.summary(lambda s: s["totals"].update(prompt_tokens=1)), "summary",
        "says prompt_tokens 1"),
    "the summary's cost": (
        lambda r: r.summary(lambda s: s["totals"].update(cost_usd=1.5)), "summary",
        "says cost_usd 1.5"),
    "the summary's errors": (
        lambda r: r.summary(lambda s: s["errors"].pop("invalid_row")), "summary", "counts errors"),
    "the summary's outputs": (
        lambda r: r.summary(lambda s: s["outputs"].update(truncated=3)), "summary",
        "counts outputs"),
    "the summary's times": (
        lambda r: r.summary(lambda s: s.update(ended_at="soon")), "summary", "not a time"),
    "the exit code": (
        lambda r: r.summary(lambda s: s.update(exit_code=0)), "summary_status", "exit code 0"),
    "the status": (
        lambda r: r.summary(lambda s: s.update(status="stopped")), "summary_status", "stopped"),
    "a setting of the summary": (
        lambda r: r.summary(lambda s: s["settings"].update({"request.model": "x"})),
        "state_summary", "setting request.model 'x'"),
    "the summary missing": (
        lambda r: (r.run / "summary.json").unlink(), "summary_missing", "summary.json is missing"),
    "the summary torn": (
        lambda r: (r.run / "summary.json").write_text("{"), "summary", "no JSON object"),
    # The journal
    "a generation changed": (lambda r: _generation(r, 2), "state", "shard 1 changed on the disk"),
    "a generation of nothing": (lambda r: _state(r, generation=0), "state", "generation 0"),
    "rows read changed": (lambda r: _state(r, rows_read=12), "row_missing", "20 to 21 are missing"),
    "a digest changed": (
        lambda r: r.sql("UPDATE shards SET results_sha256 = 'x' WHERE shard = 1"), "digest",
        f"results/{PART}"),
    "a digest missing": (
        lambda r: r.sql("UPDATE shards SET results_sha256 = '' WHERE shard = 1"), "state",
        "--repair of shard 1"),
    "a shard missing in the journal": (
        lambda r: r.sql("DELETE FROM shards WHERE shard = 1"), "file_unknown", PART),
    "the journal's totals changed": (_journal_totals, "state_totals", "say prompt_tokens"),
    "the journal's settings missing": (
        lambda r: r.sql("DELETE FROM meta WHERE key = 'settings'"), "state", "'settings'"),
    "the journal's columns torn": (
        lambda r: r.sql("UPDATE meta SET value = x'00' WHERE key = 'carry_schema'"), "state",
        "'carry_schema' is no schema"),
    "another format of the journal": (
        lambda r: r.sql("PRAGMA user_version = 9"), "state", "format 9"),
    "the journal missing": (
        lambda r: (r.run / "checkpoint" / "journal.db").unlink(), "state", "journal.db is missing"),
    "the journal no database": (
        lambda r: (r.run / "checkpoint" / "journal.db").write_bytes(b"x" * 9000), "state",
        "cannot be read"),
    "a log that waits": (
        lambda r: (r.run / "checkpoint" / "shard-00000001.2.log").write_bytes(b""), "log_waiting",
        "shard-00000001.2.log waits"),
}  # fmt: skip

# The same beside the input.
AGAINST = {
    "a carried value changed": (
        lambda r: r.cell("tag", "x"), "input_carried", "row 10 has tag 'x', the input gives"),
    "a carried number changed": (
        lambda r: r.cell("note", _plus("note")), "input_carried", "row 10 has note 11, the input"),
    "a custom_id changed": (
        lambda r: r.cell("custom_id", "x"), "input_custom_id", "row 10 has custom_id 'x'"),
    "a request_hash changed": (
        lambda r: r.cell("request_hash", "0" * 64), "input_request_hash",
        "row 10 has request_hash"),
    "a part of another run": (
        lambda r: [_of_another_run(r), _sign_both(r)], "input_request_hash", "row 10 has"),
    "a question changed in the input": (
        lambda r: r.input(_lines(12, lambda row: row["messages"][0].update(content="else?"))),
        "input_request_hash", "row 12 has request_hash"),
    "a field changed in the input": (
        lambda r: r.input(_lines(12, lambda row: row.update(tag="new"))), "input_carried",
        "row 12 has tag 'tag 12', the input gives 'new'"),
    "the input shorter": (
        lambda r: r.input(lambda lines: lines[:40]), "input_row_missing",
        "row 40 has a result and is not in the input"),
    "a bad row mended in the input": (
        lambda r: r.input(_lines(3, lambda row: row.update(messages=[
            {"role": "user", "content": "x"}]))),
        "input_request_hash", "row 3 has request_hash None"),
}  # fmt: skip

# What is done to the interrupted run.
PROVISIONAL = {
    "a row removed": (lambda r: r.write(_without(r.table(part=0)), part=0), "row_missing", "row 4"),
    "called complete": (
        lambda r: r.summary(lambda s: s.update(status="complete", exit_code=0)), "summary_status",
        "with rows pending"),
    "nothing pending": (
        lambda r: r.summary(lambda s: s["rows"].update(pending=0)), "row_missing", "are missing"),
    "pending off by one": (
        lambda r: r.summary(lambda s: s["rows"].update(pending=s["rows"]["pending"] - 1)),
        "summary", "the parts leave"),
    "an exit code of success": (
        lambda r: r.summary(lambda s: s.update(exit_code=0)), "summary_status", "exit code 0"),
    "a signal's name missing": (
        lambda r: r.summary(lambda s: s.update(stopped_by=None)), "summary_status", "None"),
    "a row removed from the provisional part": (
        lambda r: r.write(r.table()[1:]), "state_totals", "part-00000001"),
}  # fmt: skip


def _reused(row):
    return row["reused_from"] is not None


# What is done to a run that took most of its answers from another.
REUSED = {
    "an origin that is none": (
        lambda r: r.cell("reused_from", "pilot", which=_reused), "reused_from",
        "has reused_from 'pilot'"),
    "an origin taken away": (
        lambda r: r.cell("reused_from", None, which=_reused), "ledger", "no attempt in the ledger"),
    "an origin given to a failed row": (
        lambda r: r.cell("reused_from", "a:1", which=_failed), "reused_status", "status 'error'"),
    "a cost": (
        lambda r: r.cell("cost_usd", 0.5, which=_reused), "reused_cost", "and cost_usd 0.5"),
    "an unknown cost": (
        lambda r: r.cell("cost_usd", None, which=_reused), "reused_cost", "and cost_usd None"),
    "an attempt": (
        lambda r: r.cell("attempts", 1, which=_reused), "attempts", "says 1 attempts, the ledger"),
    "a hash taken away": (
        lambda r: r.cell("request_hash", None, which=_reused), "request_hash", "request_hash None"),
    "another endpoint": (
        lambda r: r.cell("endpoint", "x", which=_reused), "state_totals", "reused"),
    "the summary's count": (
        lambda r: r.summary(lambda s: s["rows"].update(reused=1)), "summary", "1 rows reused"),
    "the summary's endpoints": (
        lambda r: r.summary(lambda s: s.update(reused={})), "summary", "counts reused {}"),
}  # fmt: skip


def _assert_found(report, kind, words):
    assert not report.ok
    assert kind in report.kinds, (report.kinds, report.problems)
    assert any(words in problem for problem in report.problems), report.problems


@pytest.mark.parametrize(
    ("damage", "kind", "words"), rest_slow(DAMAGES.values(), 36, several=True), ids=[*DAMAGES]
)
def test_damage_is_found_and_named(copy, damage, kind, words):
    """Every damage to the finished run is told as what it is, with its file or row."""
    run = copy()
    damage(run)
    _assert_found(run.check(), kind, words)


@pytest.mark.parametrize(("damage", "kind", "words"), AGAINST.values(), ids=AGAINST)
def test_differences_from_the_input_are_found(copy, damage, kind, words):
    """What differs from the input is found with --against, by row and column."""
    run = copy()
    damage(run)
    _assert_found(run.check(against=True), kind, words)


@pytest.mark.parametrize(("damage", "kind", "words"), PROVISIONAL.values(), ids=PROVISIONAL)
def test_damage_to_an_interrupted_run(copy, damage, kind, words):
    """Pending rows are no damage, and hide none."""
    run = copy("interrupted")
    damage(run)
    _assert_found(run.check(), kind, words)


@pytest.mark.parametrize(
    ("damage", "kind", "words"), rest_slow(REUSED.values(), 4, several=True), ids=[*REUSED]
)
def test_damage_to_reused_answers(copy, damage, kind, words):
    """What a run took from another is proven without that other run."""
    run = copy("reused")
    shutil.rmtree(run.base / "pilot")
    assert run.check(against=True).problems == []
    damage(run)
    _assert_found(run.check(), kind, words)


def test_every_kind_of_damage_is_proven():
    """No check of verify is without a case above that turns it red."""
    tables = (DAMAGES, AGAINST, PROVISIONAL, REUSED)
    proven = {kind for table in tables for _, kind, _ in table.values()}
    # A live run is looked at in test_changed_runs.py, scores and gates in test_verify_scores.py,
    # requests in test_requests_kept.py, conversations in test_turns.py, repeats in test_repeat.py,
    # verdicts in test_judges.py, chains in test_chains.py, here and among the crash tests.
    scored = {kind for kind in KINDS if kind.startswith(("score", "metric", "gate"))}
    scored |= {"verdict", "judge_rows", "judge_counts", "repeat"}
    elsewhere = {"live", "request_body", "request_count"}
    elsewhere |= {"parts_waiting", "source_row", "source_hash"}
    elsewhere |= {"turn_number", "turn_sums", "turn_messages"}
    assert proven | elsewhere == set(KINDS) - scored


def test_several_kinds_are_told_together(copy):
    """One damage does not hide another."""
    run = copy()
    run.path(part=0).unlink()
    run.cell("status", "done", which=_ok)
    run.cell("attempt", 7, kind="attempts", part=2)
    (run.run / "attempts" / "x.txt").write_text("")
    run.summary(lambda s: s.update(exit_code=0))
    report = run.check()
    assert {"file_missing", "status", "attempt_number", "stray", "summary_status"} <= {
        *report.kinds
    }


def test_the_report_does_not_grow_with_the_damage():
    """A million findings are counted, and the first ones told."""
    report = Report("run")
    wrong = pa.array([True] * 1_000_000)
    report.where("row_twice", wrong, lambda place: f"row {place}")
    report.where("row_twice", wrong, lambda place: f"row {place}")
    assert report.kinds == {"row_twice": 2_000_000}
    assert len(report.problems) == SHOWN + 1 and "1,999,990 more" in report.problems[-1]


def test_costs_are_held_to_the_ledger(copy):
    """With prices, a directory holds; a picodollar more in any place does not."""
    run = copy()
    priced(run)
    assert run.check().problems == []
    run.summary(lambda s: s["totals"].update(cost_usd=s["totals"]["cost_usd"] + 1e-12))
    _assert_found(run.check(), "summary", "says cost_usd")
    priced(run)
    run.usage(lambda t: _with(t, "cost_usd", [v and v + 1e-12 for v in t["cost_usd"].to_pylist()]))
    _assert_found(run.check(), "usage", "says cost_usd")
    priced(run)
    run.cell("cost_usd", _plus("cost_usd", 1e-12), which=_ok)
    _assert_found(run.check(), "ledger", "has cost_usd")


def priced(run):
    """Give every answer a price, in all files alike."""
    import dataclasses

    from batchrun.adapters.columns import schema as part_schema
    from batchrun.core.cost.money import picodollars, usd
    from batchrun.core.run.totals import AttemptLine, ResultLine, Totals, day_of

    tokens = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens",
              "reasoning_tokens", "cache_write_tokens")  # fmt: skip
    whole = Totals()
    for part in range(5):
        for kind in ("attempts", "results"):
            table = run.table(kind, part)
            prices = [n and usd(n * 1_700_000) for n in table["total_tokens"].to_pylist()]
            run.write(_with(table, "cost_usd", prices), kind, part)
        totals = Totals()
        totals.add_attempts(
            AttemptLine(
                w["row"], (w["endpoint"], w["model"], w["service_tier"]),
                w["cost_usd"] and picodollars(w["cost_usd"]),
                w["unanswered"], [w[name] for name in tokens],
                day_of(int(w["started_at"].timestamp() * 1e6)),
            )
            for w in run.table("attempts", part).to_pylist()
        )  # fmt: skip
        totals.add_results(
            ResultLine(w["row"], w["error_class"], any(w[n] is not None for n in tokens),
                       w["cost_usd"] and picodollars(w["cost_usd"]))
            for w in run.table("results", part).to_pylist()
        )  # fmt: skip
        recorded = totals.recorded()
        run.published(part, lambda p, t=recorded: dataclasses.replace(p, totals=t))
        whole.add(recorded)
    run.summary(lambda s: s.update(totals=whole.overall()))
    table = pa.Table.from_pylist(whole.usage_rows(), schema=part_schema.USAGE_SCHEMA)
    pq.write_table(table, run.run / "usage.parquet")


def test_a_row_sent_again_without_a_new_outcome(copy):
    """A later failed attempt beside an old outcome is sound; a later success is not."""
    run = copy()
    table = run.table("attempts", 4)
    last = table[-1:]
    more = _with(_with(last, "attempt", [table["attempt"][-1].as_py() + 1]), "latency_s", [9.0])
    failed = _with(_with(more, "error_class", ["connection"]), "total_tokens", [None])
    for lines, holds in ((failed, True), (more, False)):
        run.write(pa.concat_tables([table, lines]), "attempts", 4)
        run.cell("attempts", more["attempt"][0].as_py(), part=4, which=lambda w: w["row"] == 44)
        assert ("ledger" not in run.check().kinds) is holds
        assert "attempts" not in run.check().kinds


def test_the_command(cli, copy):
    """Exit codes, sentences and the JSON of the command itself."""
    run = copy()
    source = run.base / "rows.jsonl"
    done = cli("verify", run.run, "--against", source)
    assert done.code == 0, done.out + done.err
    assert "45 rows compared with the input" in done.out and "verified" in done.out
    run.input(_lines(12, lambda row: row.update(tag="new")))
    done = cli("verify", run.run, "--against", source, "--json")
    assert done.code == 1 and done.json["kinds"] == {"input_carried": 1}
    assert done.json["compared"] == 45
    done = cli("verify", run.run, "--against", "missing.jsonl")
    assert done.code == 2 and "missing.jsonl" in done.err
    other = cli.folder / "rows.csv"
    other.write_text("a\n1\n")
    done = cli("verify", run.run, "--against", other)
    assert done.code == 2, done.out + done.err
    run.sql("DELETE FROM meta WHERE key = 'settings'")
    (run.run / "summary.json").unlink()
    done = cli("verify", run.run, "--against", source)
    assert done.code == 2 and "not recorded" in done.err


def test_without_the_journal_the_rest_is_proven(copy):
    """A run directory without its checkpoint is checked as far as its files go, and says so."""
    run = copy()
    shutil.rmtree(run.run / "checkpoint")
    report = run.check(against=True)
    assert report.problems == [] and report.digests == 0 and report.compared == 45
    assert any("digests were not compared" in note for note in report.notes)
