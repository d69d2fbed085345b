"""Input that is missing, broken, huge or strange: what is said, and what becomes of its rows."""

import gzip
import json
import math
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.harness.slow import rest_slow

GOOD = b'{"messages": [{"role": "user", "content": "hi"}]}'


@pytest.fixture
def endpoint(simulator):
    """An endpoint that answers everything."""
    return simulator()


@pytest.fixture
def run(cli, endpoint):
    """Runs an input into ``run`` against the endpoint."""

    def start(source, *flags, **more):
        return cli.run(
            source, "-o", "run", "--no-progress", "--base-url", endpoint.base_url, *flags, **more
        )

    return start


def _file(tmp_path, data, name="in.jsonl"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\n\r\n  \n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n"],
    ids=["empty", "one blank line", "blank lines", "a byte-order mark", "a mark and blank lines"],
)
def test_jsonl_without_a_row_is_refused(run, endpoint, tmp_path, data):
    """An input without a single row is a mistake: exit 2, naming the file."""
    done = run(_file(tmp_path, data))
    assert done.code == 2, done.err
    assert "in.jsonl" in done.err
    assert endpoint.stats()["requests_total"] == 0


def test_parquet_without_a_row_is_refused(run, tmp_path):
    """An empty table is a mistake as well."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"messages": pa.array([], pa.string())}), path)
    done = run(path)
    assert done.code == 2, done.err
    assert "in.parquet" in done.err


def test_one_empty_file_among_others_is_no_mistake(cli, tmp_path, jsonl, summary):
    """Only an input that is empty as a whole is refused."""
    done = cli.run(
        *(_file(tmp_path, b""), jsonl(2), "-o", "run", "--provider", "simulator"),
    )
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["rows"]["input"] == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.jsonl", ["missing.jsonl", "No such file"]),
        ("folder.jsonl", ["folder.jsonl", "the directory holds no file at all"]),
        ("rows.txt", ["rows.txt", ".txt", "--format"]),
        ("rows", ["rows", "no suffix", "--format"]),
        ("rows.csv", ["rows.csv", "the first line must name the columns"]),
        ("rows.xml", ["rows.xml", ".xml", ".csv", "--format"]),
        ("utf-16.csv", ["utf-16.csv: not a single row"]),
        ("utf-16.jsonl", ["utf-16.jsonl is UTF-16", "iconv -f UTF-16"]),
        ("broken.csv", ["broken.csv line 1: the header", "--encoding cp1252"]),
        ("broken.parquet", ["broken.parquet", "not a readable Parquet file"]),
        ("half.parquet", ["half.parquet", "not a readable Parquet file"]),
    ],
)
def test_an_input_that_cannot_be_read_is_named(run, endpoint, cli, tmp_path, samples, name, words):
    """Exit 2 with the file's name and the reason; nothing is sent and no directory is begun."""
    (tmp_path / "folder.jsonl").mkdir()
    for plain in ("rows.txt", "rows", "rows.xml"):
        _file(tmp_path, GOOD, plain)
    _file(tmp_path, b'"[{""role"": ""user"", ""content"": ""hi""}]",x\n', "rows.csv")
    _file(tmp_path, b"Frage,Gr\xff\xfee\n?,1\n", "broken.csv")
    for suffix in ("csv", "jsonl"):
        _file(tmp_path, "messages\r\n".encode("utf-16"), f"utf-16.{suffix}")
    _file(tmp_path, b"PAR1 no, PAR1", "broken.parquet")
    whole = (samples / "nightly_eval.parquet").read_bytes()
    _file(tmp_path, whole[: len(whole) // 2], "half.parquet")
    done = run(tmp_path / name)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err
    assert endpoint.stats()["requests_total"] == 0
    assert not (cli.folder / "run").exists()


def test_the_format_can_be_said(run, cli, tmp_path, summary):
    """--format reads a file of any name."""
    assert run(_file(tmp_path, GOOD, "rows.txt"), "--format", "jsonl").code == 0
    assert summary(cli.folder / "run")["rows"]["ok"] == 1


def test_two_formats_in_one_run_are_refused(run, tmp_path, samples):
    """One run reads one format."""
    done = run(_file(tmp_path, GOOD), samples / "nightly_eval.parquet")
    assert done.code == 2
    assert "in.jsonl" in done.err and "nightly_eval.parquet" in done.err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_an_unreadable_input_is_named(tmp_path):
    """A file that may not be read is exit 2 with the reason."""
    script = (
        "from batchrun.adapters.sources.files.storage import stamp\n"
        "from batchrun.errors import InputError\n"
        "import os, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    stamp([sys.argv[1]])\n"
        "except InputError as error:\n    print(error.exit_code, error)\n"
    )
    path = _file(tmp_path, GOOD)
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o755)
    path.chmod(0o000)
    root = str(pytest.importorskip("batchrun").__path__[0]).removesuffix("/batchrun")
    done = subprocess.run(
        [sys.executable, "-c", script, path], env={"PYTHONPATH": root}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("2 ")
    assert "Permission denied" in done.stdout or "Errno" in done.stdout


# A bad line, and what its message says.
BAD_LINES = {
    "not JSON": (b"{oops", "not valid JSON"),
    "half a line": (GOOD[:20], "not valid JSON"),
    "two objects": (GOOD + GOOD, "not valid JSON"),
    "no object": (b'["a"]', "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "not UTF-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "UTF-8"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), "line"),
    "half a surrogate pair": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "line"),
    "NaN": (GOOD[:-1] + b', "top_p": NaN}', "`top_p` holds NaN or an infinity"),
    "neither kind": (b'{"prompt": "hi"}', "neither"),
    "messages of the wrong type": (b'{"messages": "hi"}', "messages"),
    "a huge seed": (GOOD[:-1] + b', "seed": 99999999999999999999}', "64 bits"),
    "too deep": (GOOD[:-1] + b', "metadata": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
    "nearly too deep": (GOOD[:-1] + b', "metadata": ' + b"[" * 985 + b"]" * 985 + b"}", None),
    "a batch line of another endpoint": (
        b'{"custom_id": "e", "url": "/v1/embeddings", "body": {"input": "x"}}',
        "/v1/embeddings",
    ),
    "a zero byte": (b"\0" * 10, "not valid JSON"),
}


def test_bad_lines_are_error_rows_that_name_their_place(run, cli, tmp_path, published):
    """Every bad line becomes an invalid_row error with file and line; the good ones are sent."""
    lines = [line for bad, _ in BAD_LINES.values() for line in (bad, GOOD)]
    done = run(_file(tmp_path, b"\n".join(lines)))
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    rows = published(cli.folder / "run").to_pylist()
    assert len(rows) == 2 * len(BAD_LINES)
    for number, (name, (_, words)) in enumerate(BAD_LINES.items()):
        bad, good = rows[2 * number], rows[2 * number + 1]
        assert good["status"] == "ok", name
        if words is None:
            continue
        assert (bad["status"], bad["error_class"], bad["attempts"]) == ("error", "invalid_row", 0)
        assert words in bad["error_message"], name
        assert f"in.jsonl line {2 * number + 1}:" in bad["error_message"], name
        assert len(bad["error_message"]) < 1000, name
    cli.verified("run")


@pytest.mark.parametrize("depth", [*range(940, 1001, 4)])
def test_no_depth_of_nesting_stops_the_run(depth, tmp_path):
    """Close to what the parser bears a deep line is a row or an error row, carried or sent."""
    from batchrun.adapters.sources import opening
    from batchrun.adapters.sources.reader import choose
    from batchrun.core.request.body import build
    from batchrun.errors import RowError
    from batchrun.records import Position, Span

    nested = b"[" * depth + b"]" * depth
    lines = [GOOD[:-1] + b', "%s": %s}' % (key, nested) for key in (b"note", b"metadata")]
    lines += [b'{"custom_id": ' + nested + b", " + GOOD[1:], GOOD]
    path = _file(tmp_path, b"\n".join(lines))
    given = opening.find([str(path)], "jsonl")
    schema = given.reader(None, 10).schema()
    carry = choose(schema, "all", with_extra=True)
    reader = given.reader(carry, 10)
    rows = [row for b in reader.blocks([Span(0, None, Position())], limit=None) for row in b.rows]
    assert len(rows) == 4
    for row in rows:
        try:
            build(row, {"model": "m"}, body_bytes_max=10**6)
        except RowError:
            continue


def test_line_endings_marks_and_blank_lines_do_not_matter(run, cli, tmp_path, published):
    """CRLF, a byte-order mark, blank lines and a missing final newline make no rows."""
    data = b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n" + GOOD + b"\r\n\n\n" + GOOD
    done = run(_file(tmp_path, data))
    assert done.code == 0, done.err
    assert published(cli.folder / "run")["status"].to_pylist() == ["ok"] * 3
    cli.verified("run")


def test_duplicate_custom_ids_are_allowed_and_warned_of_once(run, cli, jsonl, chat, published):
    """Every row is answered; the warning names one of the ids."""
    done = run(jsonl([chat(n, custom_id=f"id-{n % 2}") for n in range(6)]))
    assert done.code == 0, done.err
    assert published(cli.folder / "run")["custom_id"].to_pylist() == ["id-0", "id-1"] * 3
    assert done.err.count("custom_id") == 1 and "id-" in done.err


def _max_rss(cli, arguments):
    """Runs a command; its exit code and the most memory it ever held, in bytes."""
    process = cli.start("run", "--model", "m", *arguments, fresh=True).process
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


@pytest.mark.parametrize("name", rest_slow(["big.jsonl", "big.csv", "big.csv.gz"]))
def test_a_line_of_100_mb_is_one_bad_row_in_flat_memory(cli, endpoint, tmp_path, published, name):
    """The line is passed over, not held; the rows around it are sent."""
    small = _file(tmp_path, GOOD, "small.jsonl")
    head, good, before, after = b"", GOOD, b'{"messages": "', b'"}'
    if "csv" in name:
        head, before, after = b"messages,note\n", b'"', b'",x'
        good = b'"[{""role"": ""user"", ""content"": ""hi""}]",x'
    big = tmp_path / name
    with gzip.open(big, "wb", 1) if name.endswith("gz") else big.open("wb") as file:
        file.write(head + good + b"\n" + before)
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(after + b"\n" + good + b"\n")
    flags = ("--no-progress", "--base-url", endpoint.base_url)
    code, least = _max_rss(cli, (small, "-o", "small", *flags))
    assert code == 0
    code, most = _max_rss(cli, (big, "-o", "run", *flags))
    assert code == 1
    assert most - least < 110 * 2**20, f"{(most - least) / 2**20:.0f} MiB more than for one row"
    table = published(cli.folder / "run")
    assert table["status"].to_pylist() == ["ok", "error", "ok"]
    line = 3 if head else 2
    assert f"{name} line {line}" in table["error_message"].to_pylist()[1]
    big.unlink()


def _nested(rows):
    return pa.Table.from_pylist(rows)


def test_parquet_may_hold_json_text(run, cli, tmp_path, endpoint, published):
    """Messages, tools and stop as JSON text are sent as JSON; plain words stay words."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    rows = [
        {
            "messages": json.dumps([{"role": "user", "content": f"q{n}"}]),
            "tools": json.dumps(tools) if n else None,
            "stop": '["a", "b"]' if n else "END",
            "temperature": 0.5,
            "custom_id": n,
            "note": '{"not": "parsed"}',
        }
        for n in range(2)
    ]
    path = tmp_path / "in.parquet"
    pq.write_table(_nested(rows), path)
    done = run(path)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table["custom_id"].to_pylist() == ["0", "1"]
    assert table["note"].to_pylist() == ['{"not": "parsed"}'] * 2
    assert "temperature" not in table.column_names
    assert endpoint.stats()["by_status"] == {"200": 2}


def test_parquet_batch_lines_may_be_nested_or_text(cli, scripted, answer, tmp_path):
    """A body column makes Batch lines; nulls of nested structs are not sent."""
    server = scripted(lambda *_: (200, {}, answer()))
    body = {"model": "x", "messages": [{"role": "user", "content": "q", "name": None}]}
    rows = [
        {"custom_id": "a", "body": body | {"seed": 1}},
        {"custom_id": "b", "body": body | {"seed": None}},
    ]
    for name, table in {
        "nested.parquet": _nested(rows),
        "text.parquet": pa.table(
            {
                "custom_id": ["a", "b"],
                "body": [
                    json.dumps(
                        {"model": "x", "seed": 1, "messages": [{"role": "user", "content": "q"}]}
                    ),
                    json.dumps({"model": "x", "messages": [{"role": "user", "content": "q"}]}),
                ],
            }
        ),
    }.items():
        server.requests.clear()
        pq.write_table(table, tmp_path / name)
        done = cli(
            *("run", tmp_path / name, "-o", name + "-run", "--base-url", server.base_url),
            *("--concurrency", 1),
        )
        assert done.code == 0, done.err
        sent = [request[2] for request in server.requests]
        assert sent == [
            {"messages": [{"content": "q", "role": "user"}], "model": "x", "seed": 1},
            {"messages": [{"content": "q", "role": "user"}], "model": "x"},
        ]


def test_bad_parquet_rows_name_their_place(run, cli, tmp_path, published):
    """A broken cell is an error row with file and row; the others are sent."""
    good = json.dumps([{"role": "user", "content": "q"}])
    path = tmp_path / "in.parquet"
    pq.write_table(
        pa.table({"messages": [good, "{oops", None, "[]", good], "top_p": [1, 1, 1, 1, math.nan]}),
        path,
    )  # fmt: skip
    done = run(path)
    assert done.code == 1, done.err
    rows = published(cli.folder / "run").to_pylist()
    assert [row["error_class"] for row in rows] == [None, *["invalid_row"] * 4]
    for number in range(1, 5):
        assert f"in.parquet row {number}:" in rows[number]["error_message"]
    cli.verified("run")


def test_nan_inside_messages_is_an_error_row_too(run, cli, tmp_path, published):
    """A number that JSON cannot hold is nowhere sent as something else."""
    path = tmp_path / "in.parquet"
    rows = [
        {"messages": [{"role": "user", "content": "q", "weight": w}]} for w in (1.0, float("nan"))
    ]
    pq.write_table(_nested(rows), path)
    assert run(path).code == 1
    assert published(cli.folder / "run")["error_class"].to_pylist() == [None, "invalid_row"]


def test_parquet_without_a_messages_column(run, cli, endpoint, tmp_path, published):
    """Rows of neither kind are error rows that say what is missing, and nothing is sent."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"question": ["a", "b"]}), path)
    done = run(path)
    assert done.code in (1, 2), done.err
    assert endpoint.stats()["requests_total"] == 0
    if done.code == 1:
        for row in published(cli.folder / "run").to_pylist():
            assert row["error_class"] == "invalid_row"
            assert "in.parquet row" in row["error_message"] and "messages" in row["error_message"]
    else:
        assert "messages" in done.err


def test_null_columns_are_no_parameters(cli, scripted, answer, tmp_path, published):
    """A column without a single value is not sent as null, and carried as it is."""
    server = scripted(lambda *_: (200, {}, answer()))
    path = tmp_path / "in.parquet"
    table = _nested([{"messages": [{"role": "user", "content": "q"}]}] * 3)
    table = table.append_column("seed", pa.nulls(3)).append_column("note", pa.nulls(3))
    pq.write_table(table, path)
    done = cli.run(path, "-o", "run", "--base-url", server.base_url)
    assert done.code == 0, done.err
    assert all("seed" not in body for _, _, body in server.requests)
    assert published(cli.folder / "run")["note"].to_pylist() == [None] * 3
    cli.verified("run")


def test_an_input_that_shrinks_midway_stops_the_run(cli, simulator, jsonl, until, published):
    """What was read is answered and published; the run ends with exit 5 and can be resumed."""
    from batchrun.simulator.latency import FixedLatency

    endpoint = simulator(latency=FixedLatency(0.1))
    source = jsonl(400, user="x" * 20_000)
    live = cli.start(
        *("run", source, "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--no-progress", "--concurrency", 16, "--shard-rows", 50),
    )
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 4)
    whole = source.read_bytes()
    os.truncate(source, 6_000_000)
    done = live.wait()
    assert done.code == 5, done.err
    assert "rows.jsonl" in done.err
    rows = published(cli.folder / "run").num_rows
    assert rows > 4
    source.write_bytes(whole)
    again = cli.run(
        *(source, "-o", "run", "--no-progress", "--shard-rows", 50, "--concurrency", 100),
        *("--base-url", endpoint.base_url),
    )
    assert again.code == 0, again.err
    assert published(cli.folder / "run").num_rows == 400
    assert endpoint.stats()["by_status"]["200"] == 400
    cli.verified("run")
