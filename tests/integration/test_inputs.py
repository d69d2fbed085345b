"""Every kind of input by the real command: CSV, compressed files, folders, globs, a pipe."""

import csv
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import opening
from batchrun.adapters.sources.files import finding, storage
from batchrun.core.request.body import Split
from batchrun.errors import InputError
from batchrun.records import Position, Span
from batchrun.simulator.latency import FixedLatency

QUICK = ("--no-progress", "--shard-rows", 10)


def _csv(path, rows, **more):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), **more)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _cell(number):
    return json.dumps([{"role": "user", "content": f"question {number}"}])


@pytest.fixture
def run(cli, simulator):
    """Runs inputs into ``run``; the endpoint is its attribute."""
    endpoint = simulator()

    def start(*arguments, **more):
        flags = ("-o", "run", *QUICK, "--base-url", endpoint.base_url)
        return cli.run(*arguments, *flags, **more)

    start.endpoint = endpoint
    return start


# CSV


def test_csv_cells_become_parameters_and_text(cli, scripted, answer, tmp_path, published):
    """Columns named like parameters are JSON, numbers, booleans or text; others stay text."""
    server = scripted(lambda *_: (200, {}, answer()))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    row = {
        "custom_id": "00001", "messages": _cell(0), "model": "4", "temperature": "0.5", "n": "1",
        "logprobs": "TRUE", "seed": "", "user": "00017", "stop": "7", "tools": json.dumps(tools),
        "zip": "00005", "note": "", "price": "1.0",
    }  # fmt: skip
    other = row | {"custom_id": "2", "stop": '["a"]', "seed": "5", "tools": "", "note": "a\r\nb"}
    path = _csv(tmp_path / "rows.csv", [row, other])
    done = cli.run(path, "-o", "run", "--base-url", server.base_url, "--concurrency", 1)
    assert done.code == 0, done.err
    body = {
        "messages": json.loads(_cell(0)), "model": "4", "temperature": 0.5, "n": 1,
        "logprobs": True,
    }  # fmt: skip
    sent = [request[2] for request in server.requests]
    assert sent == [body | {"stop": "7", "tools": tools}, body | {"stop": ["a"], "seed": 5}]
    table = published(cli.folder / "run")
    assert table["custom_id"].to_pylist() == ["00001", "2"]
    assert table["user"].to_pylist() == ["00017"] * 2  # in a table it is sent by name alone
    assert table["zip"].to_pylist() == ["00005"] * 2
    assert table["note"].to_pylist() == ["", "a\r\nb"]
    assert table["price"].to_pylist() == ["1.0"] * 2
    assert table.schema.field("price").type == pa.string()
    cli.verified("run")


def test_csv_files_with_other_columns_are_one_table(run, cli, tmp_path, published):
    """Columns are matched by name, whatever their order; an absent one is null."""
    one = _csv(tmp_path / "1.csv", [{"a": "x", "messages": _cell(0)}])
    two = _csv(tmp_path / "2.csv", [{"messages": _cell(1), "b": "y", "a": "z"}])
    assert run(one, two).code == 0
    table = published(cli.folder / "run")
    assert (table["a"].to_pylist(), table["b"].to_pylist()) == (["x", "z"], [None, "y"])


def test_bad_csv_rows_are_error_rows_that_name_their_place(run, cli, tmp_path, published):
    """Each bad record is an invalid_row with file and line; those around it are sent."""
    good = b'"[{""role"": ""user"", ""content"": ""q""}]",x'
    bad = {
        b"only one": "1 fields where the header has 2",
        good + b",more": "3 fields where the header has 2",
        b'"[{""role"" oops",x': "column 'messages' is not valid JSON",
        good[:-1] + b"\xff\xfe": "not valid UTF-8",
        b'"text" behind,x': "text behind a closing quote",
        b",x": "neither `messages`",
        b'"' + b"x" * (17 * 2**20) + b'",y': "more than 16,777,216",
        b'"never closed': "a quote that opens here is not closed",
    }
    lines = [b"messages,note"]
    for line in bad:
        lines += [good, b"", line]
    (tmp_path / "in.csv").write_bytes(b"\r\n".join([*lines, good.replace(b'"', b"")]))
    done = run(tmp_path / "in.csv")
    assert done.code == 1, done.err
    rows = published(cli.folder / "run").to_pylist()
    assert len(rows) == 2 * len(bad) + 1
    for place, words in enumerate(bad.values()):
        assert rows[2 * place]["status"] == "ok"
        row = rows[2 * place + 1]
        assert (row["error_class"], row["attempts"]) == ("invalid_row", 0)
        assert f"in.csv line {3 * place + 4}: " in row["error_message"]
        assert words in row["error_message"]
        assert len(row["error_message"]) < 1000
    cli.verified("run")


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.jsonl.zst"])
def test_stopped_resumed_edited(cli, interrupted, chat, tmp_path, published, name):
    """Each kind of file: a stopped run goes on where it was; an edit of a done row is refused."""
    path = tmp_path / name

    def write(edited=None):
        if "csv" in name:
            plain = _csv(
                tmp_path / "plain", [{"id": n, "messages": _cell(n)} for n in range(40)]
            ).read_bytes()
        else:
            plain = "".join(json.dumps(chat(n, id=str(n))) + "\n" for n in range(40)).encode()
        if edited is not None:
            assert plain.count(f"question {edited}".encode()) == 1
            plain = plain.replace(f"question {edited}".encode(), b"question 99")
        if path.suffix == ".gz":
            plain = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])
        elif path.suffix == ".zst":
            plain = pa.compress(plain, codec="zstd", asbytes=True)
        path.write_bytes(plain)

    write()
    folder, _, endpoint = interrupted(rows=40, done=15, source=path)
    command = (path, "-o", folder, *QUICK, "--base-url", endpoint.base_url, "--concurrency", 20)
    done = cli.run(*command)
    assert done.code == 0, done.err
    assert published(folder)["id"].to_pylist() == [str(n) for n in range(40)]
    assert endpoint.stats()["by_status"] == {"200": 40}
    write(edited=12)
    os.utime(path, (time.time() + 5, time.time() + 5))
    done = cli.run(*command)
    assert done.code == 2, done.err
    assert "difference is within rows 10 to 19 (1 of 4 shards read differ)" in done.err
    assert endpoint.stats()["by_status"] == {"200": 40}
    cli.verified(folder)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 12_000])
def test_a_damaged_compressed_file(cli, tmp_path, chat, published, rows):
    """Found at the very start nothing is sent (exit 2); found midway the rows before are kept
    (exit 5), and both name the file.
    """
    lines = "".join(json.dumps(chat(n)) + "\n" for n in range(rows)).encode()
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(lines, 1)[:-20])
    done = cli(
        *("run", path, "-o", "run", "--model", "m", "--provider", "simulator", "--no-progress"),
        *("--shard-rows", 1000, "--carry", "none"),
    )
    assert done.code == (2 if rows == 30 else 5), done.err
    assert "rows.jsonl.gz is damaged" in done.err and "Truncated" in done.err
    if rows == 30:
        assert not (cli.folder / "run").exists()
    else:
        assert 5000 < published(cli.folder / "run").num_rows < rows
        cli.verified("run")


# Which files


@pytest.fixture
def tree(tmp_path, chat):
    """A folder of inputs; returns its path. Rows are numbered by ``id`` in the order of paths."""
    folder = tmp_path / "in"
    for number, name in enumerate(
        ["a.jsonl", "b/a.ndjson", "b/c/d.jsonl", "b.jsonl.gz", "c [1].JSONL"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(chat(number, id=name)).encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    for name in ("_SUCCESS", ".a.jsonl.crc", "_tmp/x.jsonl", ".git/x.jsonl", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not data")
    return folder


def test_a_directory_is_all_its_data(run, cli, tree, published, summary):
    """Files of known suffixes, at any depth, in the order of their paths; a file that comes later
    and sorts last is appended, one that goes is noticed.
    """
    done = run(tree)
    assert done.code == 0, done.err
    names = ["a.jsonl", "b.jsonl.gz", "b/a.ndjson", "b/c/d.jsonl", "c [1].JSONL"]
    assert published(cli.folder / "run")["id"].to_pylist() == names
    (tree / "z.jsonl").write_text((tree / "a.jsonl").read_text().replace("a.jsonl", "z.jsonl"))
    assert run(tree).code == 0
    assert published(cli.folder / "run")["id"].to_pylist() == [*names, "z.jsonl"]
    assert summary(cli.folder / "run")["rows"]["input"] == 6
    (tree / "0.jsonl").write_text((tree / "a.jsonl").read_text())
    shifted = run(tree)
    assert shifted.code == 2 and "difference is within rows 0 to" in shifted.err, shifted.err
    (tree / "0.jsonl").unlink()
    (tree / "b" / "a.ndjson").unlink()
    gone = run(tree)
    assert gone.code == 2 and "difference is within rows 0 to" in gone.err, gone.err
    assert run.endpoint.stats()["requests_total"] == 6


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b/c/d.jsonl"]),
        ("b/*", ["b/a.ndjson"]),
        ("?.jsonl*", ["a.jsonl", "b.jsonl.gz"]),
        ("c [[]1].JSONL", ["c [1].JSONL"]),
        ("c [1].JSONL", ["c [1].JSONL"]),
        ("_tmp/*", ["_tmp/x.jsonl"]),
        ("_*/_*", []),
        ("_*", ["_SUCCESS"]),
    ],
)
def test_globs(tree, pattern, expected):
    """A glob means files; a name with brackets that exists is that file."""
    if not expected:
        with pytest.raises(InputError, match="no file matches"):
            finding.expand([f"{tree}/{pattern}"], "auto")
        return
    found = finding.expand([f"{tree}/{pattern}"], "auto")
    assert [file.path for file in found] == [f"{tree}/{name}" for name in expected]


def test_a_file_address_is_a_local_file(tree):
    """``file://`` names a path, with its escapes undone."""
    [stamp] = storage.stamp([f"file://{tree}/c%20%5B1%5D.JSONL"])
    assert stamp.path == f"{tree}/c [1].JSONL"


@pytest.mark.parametrize(
    ("names", "given_format", "words"),
    [
        (["empty"], "auto", "the directory holds no file at all"),
        (["odd"], "auto", "the directory holds 2 files, none of a known suffix"),
        (["none/*.jsonl"], "auto", "no file matches"),
        (["odd/x.parquet.gz"], "auto", ".gz is not a format"),
        (["odd/x.parquet.gz"], "parquet", "compressed inside"),
        (["zz://bucket/x.jsonl"], "auto", "zz"),
        (["s3://key:secret@bucket/x.jsonl"], "auto", "credentials do not belong into an address"),
        (["-", "odd/x.txt"], "auto", "standard input is an input of its own"),
        (["-"], "parquet", "cannot be read from a pipe"),
    ],
)
def test_what_is_no_input_is_said(tmp_path, monkeypatch, names, given_format, words):
    """A clear error that never repeats a credential."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    for name in ("x.txt", "x.parquet.gz"):
        (tmp_path / "odd" / name).write_bytes(b"x")
    with pytest.raises(InputError) as refused:
        opening.find(names, given_format)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch):
    """An address that needs a library says which one to install."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        storage.stamp(["hf://datasets/a/b.parquet"])
    with pytest.raises(InputError, match="pip install fsspec"):
        storage.stamp(["memory://a.jsonl"])


def test_an_address_that_fsspec_opens(chat):
    """File systems beyond Arrow's are read through fsspec, folders too."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for number in range(3):
        row = json.dumps(chat(number, id=number)) + "\n"
        memory.pipe(f"/rows/{number}.jsonl", row.encode() * 5)
    try:
        for address in ("memory://rows", "memory://rows/*.jsonl"):
            given = opening.find([address], "auto")
            assert len(given.stamps) == 3
            assert given.reader(None, 10).count(lambda: False) == 15
    finally:
        memory.rm("/rows", recursive=True)


def test_parquet_reads_only_the_columns_it_needs(tmp_path):
    """With --carry none, or a list, other columns are not read, be they damaged; a splitter gets
    those it names.
    """
    path = tmp_path / "rows.parquet"
    columns = {
        "messages": [_cell(n) for n in range(50)],
        "big": ["x" * 999] * 50,
        "q": [*range(50)],
    }
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
    data = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(1)
    start = chunk.data_page_offset
    path.write_bytes(data[:start] + b"\xff" * 64 + data[start + 64 :])
    seen = []

    class Splitter:
        needs = frozenset({"q"})

        def __call__(self, fields):
            seen.append(fields["q"])
            return Split(None, {"messages": []}, {})

    given = opening.Input(tuple(storage.stamp([str(path)])), "parquet", Splitter())
    reader = given.reader(given.carry("none", 10), 10)
    seen.clear()
    assert len(list(reader.blocks([Span(0, None, Position())], limit=None))) == 5
    assert seen == list(range(50))


def test_parquet_files_that_do_not_fit_name_the_column(run, tmp_path):
    """Types that widen are widened; a column that is text here and a number there is refused."""
    for name, table in {
        "1": {"messages": [_cell(0)], "a": pa.array([1], pa.int16())},
        "2": {"messages": [_cell(1)], "a": pa.array([2.5]), "b": ["x"]},
        "3": {"messages": [_cell(2)], "a": ["text"]},
    }.items():
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    done = run(tmp_path / "1.parquet", tmp_path / "3.parquet")
    assert done.code == 2, done.err
    for word in ("3.parquet", "column 'a'", "string", "int16"):
        assert word in done.err
    fits = opening.find([str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")], "auto")
    schema = fits.carry("all", 10).schema
    assert [(f.name, str(f.type)) for f in schema] == [("a", "double"), ("b", "string")]


# Standard input


@pytest.fixture
def pipe(cli):
    """Starts a run over a pipe; the caller writes into it and closes it."""
    ends = []

    def start(endpoint, *flags):
        read, write = os.pipe()
        command = ("run", "-", "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
        arguments = list(map(str, (sys.executable, "-m", "batchrun", *command, *QUICK, *flags)))
        process = subprocess.Popen(
            arguments, cwd=cli.folder, stdin=read, stderr=subprocess.PIPE,
            env=cli._environment(None),
        )  # fmt: skip
        os.close(read)
        ends.append((process, file := os.fdopen(write, "wb", buffering=0)))
        return process, file

    yield start
    for process, file in ends:
        file.close()
        process.kill()
        process.communicate()


def _bytes(chat, numbers):
    return "".join(json.dumps(chat(n, ticket=n)) + "\n" for n in numbers).encode()


def _piped(cli, endpoint, data, *flags):
    return cli.run("-", "-o", "run", "--base-url", endpoint.base_url, *QUICK, *flags, stdin=data)


def test_requests_go_out_while_the_pipe_is_open(simulator, pipe, cli, chat, until, published):
    """Rows that came are sent although no more come yet; a stop leaves the count unknown, and the
    same bytes again send the rest alone.
    """
    endpoint = simulator()
    process, file = pipe(endpoint, "--carry", "none")
    file.write(_bytes(chat, range(15)))
    until(lambda: endpoint.stats()["by_status"].get("200", 0) == 15)
    file.write(_bytes(chat, range(15, 17))[:-30])  # a row and a half
    until(lambda: endpoint.stats()["by_status"].get("200", 0) == 16)
    file.close()  # whoever writes dies of the same Ctrl-C, and before this process hears of it
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    stopped = json.loads((cli.folder / "run" / "summary.json").read_text())
    assert stopped["rows"] == {"input": None, "ok": 16, "error": 0, "pending": None}
    done = _piped(cli, endpoint, _bytes(chat, range(33)), "--carry", "none", "--json")
    assert done.code == 0, done.err
    rows = done.json["rows"]
    assert rows == {"input": 33, "ok": 33, "error": 0, "pending": 0}
    assert endpoint.stats()["by_status"] == {"200": 33}
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(33))
    cli.verified("run")


@pytest.mark.slow
def test_a_pipe_again(simulator, cli, chat, published):
    """The same bytes send nothing; other bytes send nothing, lose nothing and are exit 2; more
    bytes send what is new.
    """
    endpoint = simulator()

    def rows(data):
        done = _piped(cli, endpoint, data, "--json")
        total = endpoint.stats()["requests_total"]
        return done.code, total, done.err

    whole = _bytes(chat, range(25))
    assert rows(whole)[:2] == (0, 25)
    assert rows(whole)[:2] == (0, 25)
    kept = published(cli.folder / "run")
    code, total, err = rows(whole.replace(b"question 13", b"question 99"))
    assert (code, total) == (2, 25) and "rows 10 to 19 are others" in err
    code, total, err = rows(_bytes(chat, range(22)))
    assert (code, total) == (2, 25) and "it ends before row 24" in err
    cli.verified("run")
    assert published(cli.folder / "run").equals(kept)
    assert rows(_bytes(chat, range(31)))[:2] == (0, 31)
    assert published(cli.folder / "run")["ticket"].to_pylist() == list(range(31))
    cli.verified("run")


@pytest.mark.slow
def test_an_edited_row_of_a_half_done_shard_sends_nothing(
    scripted, answer, pipe, cli, chat, until, published
):
    """A row that was left pending waits until everything recorded of its shard was found equal,
    also what was recorded blocks later.
    """
    late = threading.Event()

    def reply(body, _headers, _nth):
        if body["messages"][0]["content"] == "question 5":
            late.wait(60)
        return 200, {}, answer()

    endpoint = scripted(reply)
    data = _bytes(chat, range(600))
    process, file = pipe(endpoint, "--shard-rows", 1000, "--concurrency", 4, "--grace", 0)
    file.write(data)
    file.close()
    until(lambda: len(endpoint.requests) >= 300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    late.set()
    done_rows = published(cli.folder / "run")["row"].to_pylist()
    assert 5 not in done_rows and 250 in done_rows
    endpoint.requests.clear()
    edited = data.replace(b"question 250", b"question 999")
    done = _piped(cli, endpoint, edited, "--shard-rows", 1000)
    assert done.code == 2, done.err
    assert endpoint.requests == []
    done = _piped(cli, endpoint, data, "--shard-rows", 1000)
    assert done.code == 0, done.err
    assert len(endpoint.requests) == 600 - len(done_rows)
    cli.verified("run")


@pytest.mark.slow
def test_a_limit_on_a_pipe(simulator, cli, chat):
    """A limit counts as the whole input; later the rest is sent."""
    endpoint = simulator()
    for limit, expected in ((7, 7), (12, 12), (3, 12)):
        done = _piped(cli, endpoint, _bytes(chat, range(25)), "--limit", limit, "--json")
        assert done.code == 0, done.err
        rows = done.json["rows"]
        assert rows == {"input": expected, "ok": expected, "error": 0, "pending": 0}
    assert _piped(cli, endpoint, _bytes(chat, range(25))).code == 0
    assert endpoint.stats()["requests_total"] == 25
    cli.verified("run")


def test_csv_through_a_pipe(simulator, cli, tmp_path, published):
    """--format says what a pipe holds."""
    path = _csv(tmp_path / "x", [{"id": f"{n:03}", "messages": _cell(n)} for n in range(12)])
    done = _piped(cli, simulator(), path.read_bytes(), "--format", "csv")
    assert done.code == 0, done.err
    assert published(cli.folder / "run")["id"].to_pylist() == [f"{n:03}" for n in range(12)]


@pytest.mark.slow
def test_the_first_rows_of_a_pipe_fix_the_columns_and_are_sent(cli, simulator, chat, published):
    """What is read ahead to find the columns is not lost, and a key that changes its type behind
    those rows goes to ``extra``.
    """
    rows = [chat(n, score=n if n < 11_000 else "high") for n in range(11_500)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = _piped(
        cli, simulator(latency=FixedLatency(0)), data, "--shard-rows", 10_000, "--limit", 11_002
    )
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table["score"].to_pylist() == [*range(11_000), None, None]
    assert table["extra"].to_pylist()[-2:] == ['{"score":"high"}'] * 2


@pytest.mark.parametrize("what", ["a terminal", "nothing", "gzip"])
def test_standard_input_that_holds_no_rows(cli, what):
    """A terminal, an empty pipe and compressed bytes are told at once."""
    master, slave = pty.openpty()
    given = {"a terminal": slave, "nothing": b"", "gzip": gzip.compress(b"{}\n")}[what]
    done = cli("run", "-", "-o", "run", "--provider", "simulator", stdin=given)
    os.close(master)
    os.close(slave)
    assert done.code == 2, done.err
    words = {"a terminal": "terminal", "nothing": "not a single row", "gzip": "zcat"}[what]
    assert words in done.err
    assert not (cli.folder / "run").exists()


def test_columns_that_change_behind_the_sample(jsonl, chat):
    """A column that is null at first has the type of what comes later within the first 10,000
    rows; a key that changes its type at row 15,000 goes to ``extra`` from there on.
    """
    rows = [
        chat(n, late=None if n < 9_000 else n / 2, score=n if n < 15_000 else "high")
        for n in range(16_000)
    ]
    given = opening.find([str(jsonl(rows))], "auto")
    carry = given.carry("all", 10_000)
    assert [str(field.type) for field in carry.schema] == ["double", "int64", "string"]
    late, score, extra = [], [], []
    for block in given.reader(carry, 10_000).blocks([Span(0, None, Position())], limit=None):
        columns = part_schema.from_ipc(block.carried).to_pydict()
        late += columns["late"]
        score += columns["score"]
        extra += columns["extra"]
    assert late == [None if n < 9_000 else n / 2 for n in range(16_000)]
    assert score == [*range(15_000), *[None] * 1000]
    assert extra == [None] * 15_000 + ['{"score":"high"}'] * 1000
