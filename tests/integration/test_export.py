"""``batchrun export``: results as one file, from finished, stopped and changing run directories."""

import csv
import datetime as dt
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.cli.main import main
from batchrun.views.flat import flat
from batchrun.views.published import Results


@pytest.fixture
def ran(cli, simulator, samples):
    """Runs a sample into ``run``; returns its folder."""

    def start(name="batch_lines.jsonl", *flags):
        done = cli.run(
            samples / name, "-o", "run", "--base-url", simulator().base_url, "--no-progress", *flags
        )
        assert done.code == 0, done.err
        return cli.folder / "run"

    return start


def _lines(path):
    return [json.loads(text) for text in path.read_text("utf-8").splitlines()]


def test_a_batch_file_in_and_out(cli, ran, samples):
    """A file made for the Batch API runs unchanged, and a consumer of its results reads ours."""
    ran("batch_lines.jsonl", "--shard-rows", 25)
    done = cli("export", "run", "-o", "out.jsonl", "--errors", "err.jsonl")
    assert done.code == 0, done.err
    assert "exported 60 rows to out.jsonl: 60 ok, 0 failed" in done.err
    asked = [line["custom_id"] for line in _lines(samples / "batch_lines.jsonl")]
    answers = {}
    for line in _lines(cli.folder / "out.jsonl"):
        assert line.keys() == {"id", "custom_id", "response", "error"}
        assert line["response"]["status_code"] == 200
        answers[line["custom_id"]] = line["response"]["body"]["choices"][0]["message"]["content"]
    assert list(answers) == asked
    assert all(answers.values())
    assert (cli.folder / "err.jsonl").read_bytes() == b""


@pytest.mark.parametrize("raw", ["all", "none"])
def test_the_official_client_reads_every_body(cli, ran, published, raw):
    """Bodies are completions by OpenAI's own types, kept or built again, and say the same."""
    chat = pytest.importorskip("openai.types.chat")
    folder = ran("chat_rows.jsonl", "--raw", raw)
    assert cli("export", "run", "-o", "out.jsonl").code == 0
    rows = published(folder).select(["content", "created", "total_tokens"]).to_pylist()
    for line, row in zip(_lines(cli.folder / "out.jsonl"), rows, strict=True):
        completion = chat.ChatCompletion.model_validate(line["response"]["body"])
        assert completion.choices[0].message.content == row["content"]
        assert completion.created == row["created"].timestamp()
        assert completion.usage.total_tokens == row["total_tokens"]


def test_failed_rows_as_the_batch_api_writes_them(cli, scripted, answer, jsonl):
    """A refusal is in the response, a reply without an answer is an error, and both go apart."""

    def replies(body, _headers, _nth):
        match body["messages"][0]["content"]:
            case "refuse":
                return 400, {"x-request-id": "req_9"}, {"error": {"message": "no", "code": "bad"}}
            case "long":
                return 400, {}, {"error": {"message": "x" * 9000}}
            case "odd":
                return 200, {}, {"hello": 1}
            case _:
                return 200, {}, answer("fine")

    texts = ["refuse", "long", "odd", "ok"]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    source = jsonl([*rows, {"messages": [], "custom_id": "bad"}])
    endpoint = scripted(replies)
    flags = ("--base-url", endpoint.base_url, "--max-attempts", 1, "--no-progress")
    assert cli.run(source, "-o", "run", *flags).code == 1
    assert cli("export", "run", "-o", "out.jsonl", "--errors", "err.jsonl").code == 0
    assert [line["custom_id"] for line in _lines(cli.folder / "out.jsonl")] == ["row-3"]
    refused, long, odd, bad = _lines(cli.folder / "err.jsonl")
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["request_id"] == "req_9"
    assert refused["response"]["body"] == {"error": {"message": "no", "code": "bad"}}
    assert refused["error"] is None
    assert long["response"]["body"]["error"]["type"] == "invalid_request"
    assert (odd["response"], odd["error"]["code"]) == (None, "invalid_response")
    assert (bad["custom_id"], bad["error"]["code"]) == ("bad", "invalid_row")
    whole = cli("export", "run", "-o", "-")
    assert [json.loads(t)["id"] for t in whole.out.splitlines()] == [
        f"batch_req_{n}" for n in range(5)
    ]


def test_one_parquet_file_equals_the_parts(cli, ran, published):
    """All rows in order, with the same columns and types, and nothing touched in the directory."""
    folder = ran("nightly_eval.parquet", "--shard-rows", 7)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = cli("export", "run", "-o", "all.parquet", "--json")
    assert done.json == {"rows": 40, "ok": 40, "error": 0, "pending": 0, "live": False}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert pq.read_table(cli.folder / "all.parquet").equals(published(folder))
    mask = os.umask(0)
    os.umask(mask)
    assert (cli.folder / "all.parquet").stat().st_mode & 0o777 == 0o666 & ~mask


def test_csv_is_flat(cli, ran, published):
    """A plain CSV reader finds every row, times in ISO 8601 and nested columns as JSON."""
    folder = ran("nightly_eval.parquet", "--shard-rows", 7)
    assert cli("export", "run", "-o", "all.csv").code == 0
    table = published(folder)
    with (cli.folder / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(rows[0]) == sorted(table.schema.names)
    assert list(rows[0])[:5] == ["id", "topic", "difficulty", "expected", "content"]
    assert [row["content"] for row in rows] == table.column("content").to_pylist()
    started = [dt.datetime.fromisoformat(row["started_at"]) for row in rows]
    assert started == table.column("started_at").to_pylist()
    assert [int(row["row"]) for row in rows] == list(range(40))


def test_pending_rows_are_told(cli, interrupted):
    """Of a stopped run what is published is exported, and the rest is counted."""
    folder, _, _ = interrupted()
    done = cli("export", folder, "-o", "out.jsonl")
    assert done.code == 0, done.err
    count = len(_lines(cli.folder / "out.jsonl"))
    assert 0 < count < 40
    assert f"{40 - count} rows are pending" in done.err


def test_a_live_run_is_exported_without_its_lock(cli, simulator, jsonl, until):
    """While the run goes on, published parts are read and the others are counted."""
    from batchrun.simulator.latency import FixedLatency

    endpoint = simulator(latency=FixedLatency(0.05))
    live = cli.start(
        *("run", jsonl(60), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--shard-rows", 5, "--concurrency", 1, "--no-progress"),
    )
    parts = cli.folder / "run" / "results"
    until(lambda: parts.exists() and len(list(parts.glob("part-*.parquet"))) >= 2)
    done = cli("export", "run", "-o", "out.jsonl")
    assert live.process.poll() is None, "the run ended before it was exported"
    assert done.code == 0, done.err
    rows = _lines(cli.folder / "out.jsonl")
    assert [line["id"] for line in rows] == [f"batch_req_{n}" for n in range(len(rows))]
    assert len(rows) >= 10
    assert len(rows) % 5 == 0
    assert "the run is still live" in done.err


def test_nothing_published_is_said(cli, scripted, jsonl):
    """A run that stopped before its first answer has nothing to export."""
    endpoint = scripted(lambda *_: (401, {}, {"error": {"message": "who?"}}))
    assert cli.run(jsonl(3), "-o", "run", "--base-url", endpoint.base_url).code == 3
    for part in (cli.folder / "run" / "results").glob("*"):
        part.unlink()
    done = cli("export", "run", "-o", "out.csv")
    assert done.code == 2
    assert "no part is published" in done.err
    assert not (cli.folder / "out.csv").exists()


def test_parts_replaced_while_they_are_read(ran):
    """A part that gives way to a new one, or moves away, is read to its end as it was."""
    folder = ran("nightly_eval.parquet", "--shard-rows", 20)
    with Results(DiskStore(folder)) as results:
        tables = results.tables(["row"])
        first = next(tables).column("row").to_pylist()
        for part in (folder / "results").glob("*.parquet"):
            aside = part.with_suffix(".new")
            rows = pq.read_table(part, partitioning=None)
            pq.write_table(rows.slice(0, 3), aside)
            aside.replace(part)
        folder.rename(folder.with_name("moved"))
        rest = [row for table in tables for row in table.column("row").to_pylist()]
    assert first + rest == [*range(20), 20, 21, 22]


def test_a_damaged_part_leaves_no_file(cli, ran):
    """A part that cannot be read is named, and no half of an export is left."""
    folder = ran("nightly_eval.parquet", "--shard-rows", 20)
    part = folder / "results" / "part-00000001.parquet"
    data = bytearray(part.read_bytes())
    data[100:4000] = bytes(3900)
    part.write_bytes(data)
    done = cli("export", "run", "-o", "out.csv")
    assert done.code == 2
    assert "part-00000001.parquet is damaged" in done.err
    assert [path.name for path in cli.folder.iterdir()] == ["run"]


REFUSED = [
    (("-o", "old.csv"), "--force"),
    (("-o", "out.docx"), "--format"),
    (("-o", "run", "--format", "csv"), "is a folder"),
    (("-o", "run/results/x.csv"), "run's own files"),
    (("-o", "missing/out.csv"), "No such file"),
    (("-o", "out.csv", "--errors", "e.jsonl"), "--errors"),
    (("-o", "out.jsonl", "--errors", "./out.jsonl"), "named twice"),
    (("-o", "-", "--json"), "cannot be combined"),
    (("-o", "-", "--format", "parquet"), "cannot be combined"),
]


def test_what_cannot_be_written_is_refused(ran, monkeypatch):
    """Exit 2, what is there stays as it is, and the message tells what to do."""
    folder = ran("nightly_eval.parquet").parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr("batchrun.cli.process.make_lean", lambda: None)  # not in this process
    (folder / "old.csv").write_text("kept")
    for arguments, said in REFUSED:
        done = CliRunner().invoke(main, ["export", "run", *arguments])
        assert (done.exit_code, said in done.stderr) == (2, True), (arguments, done.stderr)
    assert (folder / "old.csv").read_text() == "kept"
    assert sorted(path.name for path in folder.iterdir()) == ["old.csv", "run"]


def test_force_replaces(cli, ran):
    """With --force the new file takes the place of the old one."""
    ran("nightly_eval.parquet")
    (cli.folder / "out.csv").write_text("old")
    assert cli("export", "run", "-o", "out.csv", "--force", "--quiet").code == 0
    assert (cli.folder / "out.csv").read_text().startswith('"id","topic"')


def test_a_reader_that_has_enough_is_no_error(ran):
    """``export -o - | head -1`` ends without a complaint."""
    folder = ran()
    script = f"{sys.executable} -m batchrun export run -o - | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_every_type_becomes_flat():
    """Carried columns of any type are text, numbers or dates in CSV; nulls stay nulls."""
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
    berlin = pa.array([moment, None], pa.timestamp("us", "Europe/Berlin"))
    nested = pa.array([[{"at": 1}], None], pa.list_(pa.struct([("at", pa.timestamp("ns"))])))
    table = pa.table(
        {
            "text": ["a", None],
            "number": [1, None],
            "exact": pa.array([Decimal("1.50"), None]),
            "word": pa.array(["x", None]).dictionary_encode(),
            "zoned": berlin,
            "naive": berlin.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")),
            "nano": pa.array([1, None], pa.timestamp("ns", "UTC")),
            "day": pa.array([dt.date(2026, 1, 2), None]),
            "hour": pa.array([dt.time(3, 4, 5), None]),
            "span": pa.array([dt.timedelta(seconds=90), None]),
            "bytes": pa.array([b"\x00\xff", None]),
            "list": pa.array([[1, None, 2.5], None]),
            "struct": pa.array([{"a": "\u00e9", "at": moment}, None]),
            "nested": nested,
            "nothing": pa.nulls(2),
        }
    )
    first, second = flat(table).to_pylist()
    assert set(second.values()) == {None}
    assert first == {
        "text": "a",
        "number": 1,
        "exact": Decimal("1.50"),
        "word": "x",
        "zoned": "2026-01-02T03:04:05.000006Z",
        "naive": "2026-01-02T03:04:05.000006",
        "nano": "1970-01-01T00:00:00.000000001Z",
        "day": dt.date(2026, 1, 2),
        "hour": "03:04:05.000000",
        "span": "PT90S",
        "bytes": "AP8=",
        "list": "[1.0,null,2.5]",
        "struct": '{"a":"\u00e9","at":"2026-01-02T03:04:05.000006Z"}',
        "nested": '[{"at":"1970-01-01T00:00:00"}]',
        "nothing": None,
    }


def test_a_column_of_the_input_under_another_name_is_noted(cli, simulator):
    """Asking for `model` gives the answer's; a note names the input's."""
    rows = cli.folder / "rows.jsonl"
    rows.write_text('{"question": "q", "model": "theirs"}\n', "utf-8")
    asked = ("--prompt", "{{ question }}", "--model", "m", "--no-progress")
    cli("run", rows, "-o", "run", "--base-url", simulator().base_url, *asked)
    done = cli("export", "run", "-o", "out.csv", "--columns", "row,model")
    assert "the column of the input is `input_model`" in done.err, done.err
    assert done.err.count("note:") == 1


def test_a_workbook_is_refused_with_what_spreadsheets_open(cli, ran):
    """It is no format; CSV as Excel reads it is."""
    ran()
    done = cli("export", "run", "-o", "out.xlsx")
    assert done.code == 2 and "--excel" in done.err, done.err
