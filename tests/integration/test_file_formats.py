"""The same table in every format that it may come in: the same requests, whatever the file."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from tests.harness.slow import rest_slow

COMMAND = (sys.executable, "-m", "batchrun")
ROWS = [
    {"id": 1, "frage": "Wie groß ist das Gerät?", "anzahl": 3, "ort": "Köln"},
    {"id": 2, "frage": 'Er sagte: "Öffnen; bitte", dann nichts', "anzahl": 12, "ort": "Zürich"},
    {"id": 3, "frage": "Preis 1,50 €, oder?", "anzahl": 0, "ort": ""},
    {"id": 4, "frage": "eins\nzwei; drei", "anzahl": 40000, "ort": "Malmö"},
]
COLUMNS = list(ROWS[0])
PROMPT = "{{ frage }} ({{ anzahl }} Stück, {{ ort }}) – Nr. {{ id }}"
ASKED = ("--prompt", PROMPT, "--no-progress")


def _text(delimiter, *, first="", end="\r\n", rows=ROWS):
    out = io.StringIO()
    out.write(first)
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(COLUMNS)
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def _workbook(rows=ROWS):
    out = io.BytesIO()
    with xlsxwriter.Workbook(out) as book:
        sheet = book.add_worksheet("Fragen")
        sheet.write_row(0, 0, COLUMNS)
        for number, row in enumerate(rows, 1):
            sheet.write_row(number, 0, list(row.values()))
    return out.getvalue()


def _parquet():
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, ensure_ascii=False, indent=2).encode()

SHAPES = {
    "comma.csv": _text(",").encode(),
    "bom.csv": _text(",").encode("utf-8-sig"),
    "sep.csv": _text(";", first="sep=;\r\n").encode(),
    "sep-utf-16.csv": _text("\t", first="sep=\t\r\n").encode("utf-16"),
    "semicolon.csv": _text(";", end="\n").encode(),
    "pipe.csv": _text("|").encode(),
    "tabs.csv": _text("\t").encode(),
    "utf-16.csv": _text("\t").encode("utf-16"),
    "utf-16-be.csv": b"\xfe\xff" + _text(";").encode("utf-16-be"),
    "no-mark.csv": _text(";").encode("utf-16-le"),
    "cp1252.csv": _text(";").encode("cp1252"),
    "cp1252.csv.gz": gzip.compress(_text(";").encode("cp1252")),
    "utf-16.csv.zst": pa.compress(_text(";").encode("utf-16"), "zstd", asbytes=True),
    "rows.tsv": _text("\t").encode(),
    "cp1252.tsv": _text("\t").encode("cp1252"),
    "rows.xlsx": _workbook(),
    "rows.jsonl": LINES,
    "rows.json": ARRAY,
    "one-line.json": json.dumps(ROWS).encode(),
    "lines.json": LINES,
    "array.jsonl": ARRAY,
    "rows.json.gz": gzip.compress(ARRAY),
    "rows.parquet": _parquet(),
}
QUICK = (
    "comma.csv",
    "utf-16.csv",
    "cp1252.csv.gz",
    "rows.tsv",
    "rows.xlsx",
    "rows.json",
    "rows.jsonl",
)
QUICK_FIRST = rest_slow(sorted(SHAPES, key=lambda name: name not in QUICK), len(QUICK))


@pytest.fixture
def asked(scripted, answer):
    """An endpoint that keeps the bodies it is sent."""
    return scripted(lambda *_: (200, {}, answer()))


def _flags(name):
    return ("--quoting", "csv") if name.endswith(".tsv") else ()


def _sent(endpoint):
    return sorted(json.dumps(body) for _, _, body in endpoint.requests)


@pytest.fixture
def expected(here, cli, asked, published):
    """The requests and their hashes as JSON lines give them."""
    (cli.folder / "expected.jsonl").write_bytes(LINES)
    done = here("expected.jsonl", "-o", "expected", *ASKED, "--base-url", asked.base_url)
    assert done.code == 0, done.err
    found = _sent(asked), published(cli.folder / "expected")["request_hash"].to_pylist()
    asked.requests.clear()
    return found


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_every_format_gives_the_same_requests(cli, here, asked, expected, published, name):
    """Byte for byte, as the hashes of the bodies say, and none of them is changed on a resume."""
    (cli.folder / name).write_bytes(SHAPES[name])
    command = (name, "-o", "run", *ASKED, *_flags(name), "--base-url", asked.base_url)
    half = here(*command, "--limit", "2")
    assert half.code == 0, half.err
    done = here(*command)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert (_sent(asked), table["request_hash"].to_pylist()) == expected
    assert [str(value) for value in table["id"].to_pylist()] == ["1", "2", "3", "4"]
    assert cli.verified("run")["rows"] == 4
    again = cli("verify", "run", "--against", name)
    assert again.code == 0, again.out + again.err


@pytest.mark.parametrize(
    ("name", "said"),
    rest_slow(
        [
            ("comma.csv", None),
            ("utf-16.csv", "delimiter tab, encoding utf-16-le"),
            ("cp1252.tsv", "encoding cp1252"),
            ("bom.csv", None),
            ("rows.tsv", None),
            ("semicolon.csv", "delimiter ';'"),
            ("tabs.csv", "delimiter tab"),
            ("cp1252.csv", "delimiter ';', encoding cp1252"),
        ],
        3,
        several=True,
    ),
)
def test_what_is_not_the_default_is_said_once(cli, simulator, name, said):
    """``run``, ``validate`` and ``estimate`` say how a file is written; of what is asked for, and
    of the default, they say nothing.
    """
    (cli.folder / name).write_bytes(SHAPES[name])
    url = simulator().base_url
    run = cli.run(name, "-o", "run", *ASKED, *_flags(name), "--base-url", url)
    looked = cli("validate", name, "--model", "m", *ASKED[:2], *_flags(name))
    guessed = cli("estimate", name, "--model", "m", *ASKED[:2], *_flags(name))
    line = f"{name}: {said}"
    for text in (run.err, looked.out + looked.err, guessed.out + guessed.err):
        assert text.count(line if said else "delimiter") == (1 if said else 0), text
        assert said or "encoding" not in text
    known = {"delimiter ';'": ";", "delimiter tab": "tab"}
    flags = [f for words, c in known.items() if words in (said or "") for f in ("--delimiter", c)]
    if "encoding" in (said or ""):
        flags += ["--encoding", said.rpartition(" ")[2]]
    asked_for = cli("validate", name, "--model", "m", *ASKED[:2], *_flags(name), *flags)
    assert asked_for.code == 0 and "delimiter" not in asked_for.out + asked_for.err


@pytest.mark.parametrize(
    "name", rest_slow([n for n in SHAPES if not n.endswith(("parquet", "xlsx", "gz", "zst"))], 5)
)
def test_a_pipe_is_recognised(cli, asked, expected, published, name):
    """What is piped in without a format is told from its first bytes; ``-`` and ``/dev/stdin``
    read the same.
    """
    if name.endswith("tsv"):
        pytest.skip("a pipe of tabs is TSV, whose quotes are text")
    path = cli.folder / name
    path.write_bytes(SHAPES[name])
    flags = ("--quoting", "csv") if "\t" in path.read_bytes()[:40].decode("latin-1") else ()
    for place, given in enumerate(("-", "/dev/stdin")):
        with path.open("rb") as file:
            done = cli.run(
                given,
                "-o",
                f"run-{place}",
                *ASKED,
                *flags,
                "--base-url",
                asked.base_url,
                stdin=file,
            )
        assert done.code == 0, done.err
        hashes = published(cli.folder / f"run-{place}")["request_hash"].to_pylist()
        assert hashes == expected[1]


def test_a_pipe_of_tabs_is_tsv(cli):
    """And its quotes are text, as those of a file with that suffix."""
    path = cli.folder / "rows"
    path.write_bytes(b'id\ttext\n1\t5\'9" tall\n2\t"so\n')
    with path.open("rb") as file:
        done = cli("validate", "-", "--model", "m", "--prompt", "{{ text }}", "--json", stdin=file)
    assert done.code == 0 and done.json["rows"] == 2, done.out


@pytest.mark.parametrize(
    ("data", "words"),
    rest_slow(
        [
            (SHAPES["rows.parquet"], "Parquet cannot be read from a pipe; save it to a file first"),
            (SHAPES["rows.xlsx"], "a workbook cannot be read from a pipe; save it to a file first"),
            (gzip.compress(LINES), "zcat"),
            (LINES.decode().encode("utf-16"), "UTF-16"),
            (b"", "not a single row"),
            (b"\n \n", "not a single row"),
        ],
        3,
        several=True,
    ),
)
def test_a_pipe_that_holds_no_rows_is_named(cli, data, words):
    """Exit 2, with what it is and what to do."""
    path = cli.folder / "rows"
    path.write_bytes(data)
    with path.open("rb") as file:
        done = cli("validate", "-", "--model", "m", *ASKED[:2], stdin=file)
    assert done.code == 2 and words in done.err, done.err


def test_bad_lines_before_json_lines_are_bad_rows(cli):
    """A line that is not JSON does not make a CSV of JSON lines on a pipe; --format decides."""
    path = cli.folder / "rows"
    path.write_bytes(b"warning: a, b\n" + LINES)
    for flags, bad in (((), 1), (("--format", "csv"), 0)):
        with path.open("rb") as file:
            done = cli(
                "validate", "-", "--model", "m", "--prompt", "x", "--json", *flags, stdin=file
            )
        if flags:
            assert done.code == 2 or done.json["bad"] != 1
        else:
            assert (done.json["bad"], done.json["rows"]) == (bad, 5)


def test_a_resume_reads_as_it_was_begun(cli, simulator, published):
    """Delimiter and encoding are recorded: rows that come later cannot change them, the same
    command goes on, and another one is refused.
    """
    path = cli.folder / "rows.csv"
    path.write_bytes(b"id;frage\n1;alt\n2;neu\n")
    command = (path, "-o", "run", "--prompt", "{{ frage }}", "--base-url", simulator().base_url)
    assert cli.run(*command).code == 0
    settings = json.loads((cli.folder / "run" / "summary.json").read_text())["settings"]
    assert (settings["input.delimiter"], settings["input.encoding"]) == (";", "utf-8")
    for flags in (("--delimiter", ","), ("--encoding", "cp1252")):
        refused = cli.run(*command, *flags)
        assert refused.code == 2 and f"(input.{flags[0][2:]}: was" in refused.err, refused.err
    assert cli.run(*command, "--delimiter", ";", "--encoding", "UTF8").code == 0
    with path.open("ab") as file:
        file.write("3;Größe\n4;gut\n".encode("cp1252"))
    done = cli.run(*command)
    assert done.code == 1 and "line is not valid UTF-8" in done.err, done.err
    assert "--encoding cp1252" in done.err
    assert published(cli.folder / "run")["status"].to_pylist() == ["ok", "ok", "error", "ok"]


def test_every_file_has_its_own_dialect(cli, simulator, published):
    """Files of several colleagues are one input, and a file that comes later is looked at."""
    folder = cli.folder / "rows"
    folder.mkdir()
    (folder / "a.csv").write_bytes(SHAPES["comma.csv"])
    (folder / "b.csv").write_bytes(SHAPES["cp1252.csv"])
    command = ("rows", "-o", "run", *ASKED, "--base-url", simulator().base_url)
    assert cli.run(*command).code == 0
    (folder / "c.csv").write_bytes(SHAPES["utf-16.csv"])
    done = cli.run(*command)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table.num_rows == 12
    assert table["frage"].to_pylist() == [row["frage"] for row in ROWS] * 3
    settings = json.loads((cli.folder / "run" / "summary.json").read_text())["settings"]
    assert settings["input.delimiter"] == [",", ";", "\t"]
    assert cli("verify", "run", "--against", "rows").code == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--delimiter", ";;"), "input.delimiter is ';;'; expected one character"),
        (("--delimiter", '"'), "expected one character"),
        (("--encoding", "klingon"), "input.encoding is 'klingon'; expected an encoding"),
        (("--encoding", "utf-7"), "expected an encoding"),
        (("--encoding", "cp037"), "expected an encoding"),
        (("--encoding", "base64"), "expected an encoding"),
    ],
)
def test_what_cannot_be_is_refused(cli, flags, words):
    """Exit 2, naming what is expected."""
    (cli.folder / "rows.csv").write_bytes(SHAPES["comma.csv"])
    done = cli("validate", "rows.csv", "--model", "m", *ASKED[:2], *flags)
    assert done.code == 2 and words in done.err, done.err


@pytest.mark.parametrize("flags", [("--delimiter", ";"), ("--encoding", "cp1252")])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "rows.xlsx"])
def test_they_are_for_csv_and_tsv(cli, flags, name):
    """Elsewhere they would do nothing."""
    (cli.folder / name).write_bytes(SHAPES[name])
    done = cli("validate", name, "--model", "m", *ASKED[:2], *flags)
    assert done.code == 2 and f"input.{flags[0][2:]} is" in done.err


@pytest.mark.parametrize(
    "encoding",
    rest_slow(
        [
            "latin-1",
            "cp1250",
            "koi8-r",
            "gb18030",
            "shift_jis",
            "big5",
            "utf-16",
            "utf-16-be",
            "utf-32",
            "utf-8-sig",
        ],
        3,
    ),
)
def test_any_encoding_that_is_asked_for(cli, encoding):
    """Characters of several bytes, whose bytes may be those of delimiters and quotes, too."""
    text = {
        "koi8-r": "Сколько; это",
        "cp1250": "Łódź",
        "gb18030": "多少钱?",
        "shift_jis": "表ソ能いくら",
    }
    words = text.get(encoding, "表 價" if encoding == "big5" else "Größe")
    data = f'id|text\n1|"{words}"\n2|x\n'.encode(encoding)
    (cli.folder / "rows.csv").write_bytes(data)
    asked = ("--model", "m", "--prompt", "{{ text }}", "--provider", "simulator", "--no-progress")
    done = cli("run", "rows.csv", "-o", "run", *asked, "--delimiter", "|", "--encoding", encoding)
    assert done.code == 0, done.err
    [one, _] = pq.read_table(cli.folder / "run" / "results")["text"].to_pylist()
    assert one == words


def test_settings_and_python(cli, simulator):
    """The keys of the config file and the keywords of Python are the flags' names."""
    import batchrun

    path = cli.folder / "rows.csv"
    path.write_bytes("a:t\n1:Größe, ja\n".encode("cp1252"))
    (cli.folder / "c.toml").write_text('[input]\ndelimiter = ":"\nencoding = "cp1252"\n')
    done = cli("validate", path, "-c", "c.toml", "--model", "m", "--prompt", "{{ t }}", "--json")
    assert done.code == 0 and done.json["rows"] == 1, done.err
    got = batchrun.run(
        path, output=cli.folder / "run", model="m", prompt="{{ t }}", delimiter=":",
        encoding="windows-1252", base_url=simulator().base_url,
    )  # fmt: skip
    assert got.exit_code == 0
    assert pq.read_table(cli.folder / "run" / "results")["t"].to_pylist() == ["Größe, ja"]


@pytest.mark.parametrize("name", rest_slow(["utf-16", "cp1252", "gb18030"]))
def test_a_resume_enters_in_the_middle(cli, simulator, published, name):
    """The rows of shards that are done are not read again, and no row comes twice or is missing."""
    path = cli.folder / "rows.csv"
    lines = "".join(f'{n};"Größe\n{n}; ü"\n' for n in range(50))
    path.write_bytes(("id;text\n" + lines).encode(name))
    command = (
        *(path, "-o", "run", "--prompt", "{{ text }}", "--shard-rows", "7", "--encoding", name),
        *("--base-url", simulator().base_url),
    )
    for limit in (3, 7, 20, 21, 33):
        assert cli.run(*command, "--limit", str(limit)).code == 0
    done = cli.run(*command)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table["id"].to_pylist() == [str(n) for n in range(50)]
    assert table["text"].to_pylist() == [f"Größe\n{n}; ü" for n in range(50)]
    assert cli("verify", "run", "--against", path).code == 0


@pytest.mark.parametrize(
    ("data", "rows", "bad"),
    [
        (b"text\nHello; world\na, b\n", 2, 1),
        (b"text\n1,5\n2\n", 2, 1),
        (b"text\nHello\nYou\n", 2, 0),
        (b'text;n\n"a;b";1\n"c,d";2\n', 2, 0),
        (b"text;price\na;1,50\nb;2,75\n", 2, 0),
        (b'"text";"n"\r\n"a";"1"\r\n', 1, 0),
        (b"text,n\na;b,1\nc;d,2\n", 2, 0),
        (b"sep=|\ntext|n\na|1\n", 1, 0),
        (b'sep=;\n"text";"n"\n"a;b";1\n', 1, 0),
        (b'"sep=;"\ntext;n\na,b;1\n', 1, 0),
        (b"SEP=;\r\ntext;n\r\na;1\r\n", 1, 0),
        (b'text;n\na;1\n"never closed;2\nb;3\n', 3, 1),
        (b"text;n\na;1\n\xff\xfe;2\nb;3\n", 3, 1),
        (b"text\na\0b\n", 1, 0),
        (b"text,n\n\xef\xbb\xbfa,1\n", 1, 0),
        ("text;n\na;1\nb;2\n".encode("utf-16") + b"x", 3, 1),
        (
            b",".join(b"text" if n == 0 else b"c%d" % n for n in range(1000))
            + b"\n"
            + b"," * 999
            + b"\n",
            1,
            1,
        ),
        (b"text;n\n" + b"a" * 20_000_000 + b";1\nb;2\n", 2, 1),
    ],
)
def test_hostile_files(cli, data, rows, bad):
    """What is not certain stays comma and UTF-8; a fault is one bad row, and nothing is fatal."""
    (cli.folder / "rows.csv").write_bytes(data)
    done = cli("validate", "rows.csv", "--model", "m", "--prompt", "{{ text }}", "--json")
    assert done.code == (1 if bad else 0), done.out + done.err
    assert (done.json["rows"], done.json["bad"]) == (rows, bad)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a single row"),
        (b"text;n\n", "not a single row"),
        (b"sep=;\ntext;n\n", "not a single row"),
        (b"\xff\xfe", "not a single row"),
        (b"text\rHello\rYou\r", "CR"),
        (b"PK\x03\x04 and so on", "is a workbook"),
        (b"\xd0\xcf\x11\xe0 and so on", "is a workbook"),
        (b"a;a\n1;2\n", "more than once"),
    ],
)
def test_files_without_rows(cli, data, words):
    """Exit 2, and what is wrong."""
    (cli.folder / "rows.csv").write_bytes(data)
    done = cli("validate", "rows.csv", "--model", "m", "--prompt", "hi")
    assert done.code == 2 and words in done.err, done.err


def test_line_numbers_are_those_of_the_file(cli):
    """With ``sep=``, and in UTF-16."""
    for encoding in ("utf-8", "utf-16", "cp1252"):
        data = 'sep=;\r\ntext;n\r\n"ü\r\nü";1\r\n\r\nzu;viele;hier\r\n'.encode(encoding)
        (cli.folder / "rows.csv").write_bytes(data)
        done = cli("validate", "rows.csv", "--model", "m", "--prompt", "{{ text }}")
        assert "rows.csv line 6 (row 1): 3 fields where the header has 2" in done.out, done.out


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.xlsx"])
def test_columns_without_a_name(cli, simulator, published, name):
    """They are called by their place, beside a real column of that name, and it is said."""
    header, row = ["", "text", "", "column_3", " "], ["0", "hi", "x", "y", "z"]
    if name.endswith("xlsx"):
        with xlsxwriter.Workbook(cli.folder / name) as book:
            sheet = book.add_worksheet()
            sheet.write_row(0, 0, header)
            sheet.write_row(1, 0, row)
    else:
        delimiter = "," if name.endswith("csv") else "\t"
        lines = (delimiter.join(cells) + "\n" for cells in (header, row))
        (cli.folder / name).write_text("".join(lines))
    done = cli.run(
        *(name, "-o", "run", "--prompt", "{{ column_1 }} {{ text }} {{ column_3_ }}"),
        *("--base-url", simulator().base_url),
    )
    assert done.code == 0, done.err
    assert (
        f"{name}: 3 columns have no name in the header; they are column_1, column_3_, column_5"
        in done.err
    )
    table = published(cli.folder / "run")
    assert table.select(["column_1", "column_3_", "column_3", "column_5"]).to_pylist() == [
        {"column_1": "0", "column_3_": "x", "column_3": "y", "column_5": "z"}
    ]


@pytest.mark.parametrize(
    "data", rest_slow([b"text;n\nhi;1\n", b"sep=;\ntext;n\nhi;1\n", b"text\nhi\n"])
)
@pytest.mark.parametrize("flags", [(), ("--delimiter", ";", "--encoding", "utf-8")])
def test_a_slow_pipe_is_not_waited_for(cli, scripted, answer, until, data, flags):
    """A header and a row are enough to begin: the first request goes out while the pipe is open."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    reading, writing = os.pipe()
    live = subprocess.Popen(
        [*COMMAND, "run", "-", "-o", "run", "--model", "m", "--prompt", "{{ text }}", *flags,
         "--base-url", endpoint.base_url],
        cwd=cli.folder, stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(reading)
    try:
        os.write(writing, data)
        until(lambda: endpoint.requests)
        os.close(writing)
        assert live.wait(60) == 0
    finally:
        live.kill()
        live.wait()
    assert cli.verified("run")["rows"] == 1


@pytest.mark.parametrize(
    "name", rest_slow(["semicolon.csv", "cp1252.csv", "rows.json", "no-mark.csv"])
)
def test_a_sample_of_a_pipe(cli, simulator, name):
    """What came through the pipe is kept, and read as it was recognised."""
    path = cli.folder / name
    path.write_bytes(SHAPES[name])
    for _ in range(2):
        with path.open("rb") as file:
            done = cli.run(
                *("-", "-o", "run", *ASKED, "--sample", "2", "--base-url", simulator().base_url),
                stdin=file,
            )
        assert done.code == 0, done.err
    assert cli.verified("run")["rows"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="named pipes")
def test_a_named_pipe_without_a_suffix(cli):
    """A named pipe is recognised as standard input is."""
    import threading

    path = cli.folder / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(SHAPES["semicolon.csv"],), daemon=True).start()
    done = cli("validate", path, "--model", "m", *ASKED[:2], "--json")
    assert done.code == 0 and done.json["rows"] == 4, done.err
