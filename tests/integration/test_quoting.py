"""Quotes in CSV and TSV: what they mean, who decides, and what is said of records of many lines."""

import json
import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tsv-0.1"
STARTED = ("--prompt", "{{ question }}", "--shard-rows", "4", "--model", "m", "--no-progress")
ASKED = ("--prompt", "{{ text }}", "--model", "m", "--no-progress")
TEXTS = ["5'9\" tall", '"Well then', 'nothing"', '"Hello" she said', '"whole"', "plain, too", '"']


@pytest.fixture
def quoted(tmp_path):
    """Writes a file of these lines."""

    def write(name, *lines):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def old(cli):
    """Copies of the run directories of a version that read quotes in TSV, beside their input."""
    shutil.copytree(GOLDEN, cli.folder, dirs_exist_ok=True)
    return cli.folder


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tab", "rows.TSV"])
def test_a_quote_in_tsv_is_text(cli, simulator, quoted, published, name):
    """Every line of TSV is a row with its text as it stands, and nothing is said about it."""
    path = quoted(name, "id\ttext", *(f"{n}\t{text}" for n, text in enumerate(TEXTS)))
    done = cli("run", path, "-o", "run", *ASKED, "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    rows = published(cli.folder / "run").select(["id", "text"]).to_pylist()
    assert rows == [{"id": str(n), "text": text} for n, text in enumerate(TEXTS)]
    assert "quote" not in done.err
    cli.verified("run")
    assert cli("verify", "run", "--against", path).code == 0


@pytest.mark.parametrize(
    ("name", "quoting"), [("rows.tsv", "csv"), ("rows.csv", "csv"), ("rows.csv", "none")]
)
def test_the_flag_and_the_key_decide(cli, quoted, name, quoting):
    """--quoting and input.quoting say whether quotes enclose fields, in CSV and TSV alike."""
    path = quoted(name, "text", '"a', 'c"')
    flag = cli("validate", path, *ASKED[:4], "--quoting", quoting, "--json")
    (cli.folder / "c.toml").write_text(f'[input]\nquoting = "{quoting}"\n')
    key = cli("validate", path, *ASKED[:4], "-c", "c.toml", "--json")
    rows = 1 if quoting == "csv" else 2
    assert key.json["rows"] == rows, key.err
    assert flag.json["rows"] == rows, flag.err


def test_quoting_of_what_has_no_quotes_is_refused(cli, jsonl):
    """The setting is for CSV and TSV: elsewhere it would do nothing."""
    done = cli("validate", jsonl(2), "--model", "m", "--quoting", "csv")
    assert done.code == 2
    assert "input.quoting is csv, and the input is jsonl" in done.err


def test_a_run_goes_on_by_what_it_was_begun_with(cli, simulator, quoted):
    """The quoting is recorded: the same command goes on, and another quoting is refused."""
    path = quoted("rows.tsv", "id\ttext", '0\t"one', '1\ttwo"', "2\tthree")
    command = ("run", path, "-o", "run", *ASKED, "--base-url", simulator().base_url)
    assert cli(*command, "--quoting", "csv", "--limit", "1").code == 0
    refused = cli(*command, "--quoting", "none")
    assert refused.code == 2
    assert 'input.quoting: was "csv", is "none"' in refused.err
    assert "1 row is done" in refused.err and "--keep-done keeps" not in refused.err
    done = cli(*command, "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["input"] == 2
    assert done.json["settings"]["input.quoting"] == "csv"
    cli.verified("run")
    again = cli(*command, "--restart", "--json")
    assert (again.json["rows"]["ok"], again.json["settings"]["input.quoting"]) == (3, "none")


@pytest.mark.usefixtures("old")
def test_an_older_directory_is_read_as_it_was_begun(cli, simulator):
    """TSV of a version that read its quotes goes on with them: no row is sent again or moved."""
    endpoint = simulator()
    command = ("run", "rows.tsv", *STARTED, "--base-url", endpoint.base_url)
    assert cli("verify", "finished", "--against", "rows.tsv").code == 0
    done = cli(*command, "-o", "interrupted")
    assert done.code == 1, done.err
    assert "begun by a version that read quotes in TSV" in done.err
    assert endpoint.stats()["requests_total"] == 2
    assert cli("verify", "interrupted", "--against", "rows.tsv").code == 0
    assert cli(*command, "-o", "finished").code == 1
    assert cli(*command, "-o", "finished", "--retry-failed").code == 1
    assert endpoint.stats()["requests_total"] == 2
    cli.verified("finished")


@pytest.mark.usefixtures("old")
def test_an_older_directory_refuses_other_rules(cli, simulator):
    """Whoever asks for another quoting is told, and nothing is sent; --restart reads it anew."""
    endpoint = simulator()
    command = ("run", "rows.tsv", *STARTED, "--base-url", endpoint.base_url, "-o", "interrupted")
    refused = cli(*command, "--quoting", "none", "--keep-done")
    assert refused.code == 2
    assert 'input.quoting: was "csv", is "none"' in refused.err
    assert endpoint.stats()["requests_total"] == 0
    anew = cli(*command, "--restart", "--json")
    assert anew.json["rows"]["input"] == 13
    assert anew.json["settings"]["input.quoting"] == "none"


def test_an_older_directory_is_repaired_by_its_rules(cli, old, simulator):
    """Without its journal a directory is rebuilt as its summary says that it was read."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (old / "finished" / "checkpoint" / name).unlink(missing_ok=True)
    endpoint = simulator()
    command = ("run", "rows.tsv", *STARTED, "--base-url", endpoint.base_url, "-o", "finished")
    done = cli(*command, "--repair")
    assert done.code == 1, done.err
    assert endpoint.stats()["requests_total"] == 0
    assert cli("verify", "finished", "--against", "rows.tsv").code == 0


@pytest.mark.parametrize("changes", [(), ("--retry-failed",), ("--repair",)])
def test_an_older_csv_is_read_with_commas(cli, simulator, changes):
    """A directory that knew no dialects and no folders of columns goes on without them, whatever
    its files look like: no row is sent again or made otherwise. --restart looks at them.
    """
    shutil.copytree(GOLDEN.parent / "csv-0.2", cli.folder, dirs_exist_ok=True)
    endpoint = simulator()
    asked = ("--prompt", "{{ question_answer }}", *STARTED[2:], "--base-url", endpoint.base_url)
    assert cli("verify", "finished", "--against", "rows").code == 0
    done = cli("run", "rows", "-o", "interrupted", *asked, *changes)
    assert done.code == 1, done.err
    assert "delimiter" not in done.err
    assert endpoint.stats()["requests_total"] == 11 - _answered(cli.folder)
    assert cli("verify", "interrupted", "--against", "rows").code == 0
    assert cli("run", "rows", "-o", "finished", *asked, *changes).code == 1
    cli.verified("finished")
    refused = cli("run", "rows", "-o", "finished", *asked, "--delimiter", ";")
    assert refused.code == 2 and "was ',', is ';'" in refused.err
    anew = cli(
        *("run", "rows", "-o", "finished", "--restart", "--prompt", "{{ question }} {{ lang }}"),
        *(*STARTED[2:], "--base-url", endpoint.base_url),
    )
    assert anew.code == 1 and "delimiter ';'" in anew.err, anew.err


def _answered(folder):
    before = json.loads((GOLDEN.parent / "csv-0.2/interrupted/summary.json").read_text("utf-8"))
    assert (folder / "interrupted").is_dir()
    return before["rows"]["ok"]


def test_rules_that_came_later_are_refused(cli, simulator, quoted):
    """A directory of a newer version is left alone."""
    import sqlite3

    path = quoted("rows.csv", "text", "a")
    command = ("run", path, "-o", "run", *ASKED, "--base-url", simulator().base_url)
    assert cli(*command).code == 0
    with sqlite3.connect(cli.folder / "run" / "checkpoint" / "journal.db") as db:
        value = json.dumps({"input.reading_rules": 99, "input.quoting": "csv"})
        db.execute("UPDATE meta SET value = ? WHERE key = 'reading'", (value,))
    done = cli(*command)
    assert done.code == 2 and "version 99 of the reading rules" in done.err


FOLDED = {
    "an address": (["id,text", '0,"a', "street", 'town"', "1,b"], "1 quoted record holds", False),
    "two of them": (["text", '"a', 'b"', '"c', 'd"'], "2 quoted records hold line breaks", False),
    "stray quotes": (["id,text", '0,"He said', '1,nothing"', "2,c"], "look like rows", True),
    "swallowed rows": (
        ["text,id", '"Begin,0', "middle,1", "another,2", 'end",3', "last,4"],
        "look like rows",
        True,
    ),
    "a long record": (["text", '"a', *["line"] * 200, 'z"'], "100 and more", True),
}


@pytest.mark.parametrize("case", FOLDED)
def test_records_of_several_lines_are_told(cli, simulator, quoted, case):
    """Validate and run say once how many records take how many lines, and where the first is; what
    looks like an accident is a warning.
    """
    lines, words, loud = FOLDED[case]
    path = quoted("rows.csv", *lines)
    looked = cli("validate", path, *ASKED[:4])
    assert looked.code == 0
    assert words in looked.out and f"{path} line" in looked.out
    done = cli("run", path, "-o", "run", *ASKED, "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if "quoted record" in line]
    assert len(told) == 1 and words in told[0]
    assert (told[0].startswith("warning: "), "--quoting none" in told[0]) == (loud, loud)
    assert "lines" in told[0]


def test_records_of_several_lines_of_a_pipe_are_told(cli, simulator, quoted):
    """What can be read once is told of at its end."""
    path = quoted("rows.csv", "text", '"a', 'b"')
    flags = ("--format", "csv", "-o", "run", *ASKED, "--base-url", simulator().base_url)
    with path.open() as rows:
        done = cli("run", "/dev/stdin", *flags, stdin=rows)
    assert done.code == 0, done.err
    assert done.err.count("1 quoted record holds line breaks and takes 2 lines") == 1


def test_a_quote_that_is_never_closed_takes_one_row(cli, quoted):
    """The line that opens it is the bad row, and every line behind it is a row of its own."""
    path = quoted("rows.csv", "id,text", "0,a", '1,"b', "2,c", "3,d")
    found = cli("validate", path, *ASKED[:4], "--json").json
    assert (found["rows"], found["bad"]) == (4, 1)
    assert "a quote that opens here is not closed" in found["problems"][0]["reason"]
    assert found["problems"][0]["line"] == 3


def test_quotes_around_names_are_told(cli, quoted):
    """TSV as a spreadsheet writes it, read without quoting, says what to do."""
    path = quoted("rows.tsv", '"id"\t"text"', '0\t"a"')
    told = cli("validate", path, "--model", "m", "--prompt", "{{ id }}")
    assert told.code == 2 and "did you mean {{ _id_ }}?" in told.err
    plain = quoted("more.tsv", 'text\t"id"', "a\t0")
    assert "--quoting csv" in cli("validate", plain, *ASKED[:4]).out
