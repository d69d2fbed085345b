"""Folders named ``key=value``: columns of every format, in directories, globs and stores."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from batchrun.core.input.folders import columns_of
from tests.harness.slow import rest_slow

TREE = {
    "lang=de/day=2024-05-01": ["a"],
    "lang=de/day=2024-05-02": ["b", "c"],
    "lang=f%20r%2Fx/day=__HIVE_DEFAULT_PARTITION__": ["d"],
}
PROMPT = "{{ text }}|{{ lang }}|{{ day }}"
EXPECTED = ["a|de|2024-05-01", "b|de|2024-05-02", "c|de|2024-05-02", "d|f r/x|"]


def _csv(path, rows):
    path.with_suffix(".csv").write_text("text,note\n" + "".join(f"{row},1\n" for row in rows))


def _jsonl(path, rows):
    lines = (json.dumps({"text": row, "note": 1}) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text("".join(lines))


def _json(path, rows):
    path.with_suffix(".json").write_text(json.dumps([{"text": row, "note": 1} for row in rows]))


def _parquet(path, rows):
    pq.write_table(pa.table({"text": rows, "note": [1] * len(rows)}), path.with_suffix(".parquet"))


def _xlsx(path, rows):
    with xlsxwriter.Workbook(path.with_suffix(".xlsx")) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate([["text", "note"], *([row, 1] for row in rows)]):
            sheet.write_row(number, 0, row)


WRITERS = [_csv, _jsonl, _json, _parquet, _xlsx]


@pytest.fixture
def tree(cli):
    """Writes the tree in a format, below ``above=x/rows``."""

    def write(writer):
        for folder, rows in TREE.items():
            (cli.folder / "above=x" / "rows" / folder).mkdir(parents=True)
            writer(cli.folder / "above=x" / "rows" / folder / "part", rows)

    return write


@pytest.mark.parametrize("writer", rest_slow(WRITERS, 2))
@pytest.mark.parametrize(
    "given", rest_slow(["above=x/rows", "above=x/rows/", "above=x/rows/*/*/part.*"], 2)
)
def test_folders_are_columns(cli, scripted, answer, published, tree, writer, given):
    """Text behind the file's own columns, in templates and in the results, whatever the format;
    percent signs are undone, and folders above what was named are none.
    """
    tree(writer)
    endpoint = scripted(lambda *_: (200, {}, answer()))
    command = (given, "-o", "run", "--prompt", PROMPT, "--base-url", endpoint.base_url)
    assert cli.run(*command, "--limit", "2").code == 0
    done = cli.run(*command)
    assert done.code == 0, done.err
    sent = sorted(body["messages"][0]["content"] for _, _, body in endpoint.requests)
    assert sent == EXPECTED
    table = published(cli.folder / "run")
    assert "above" not in table.column_names
    assert (table["lang"].type, table["day"].type) == (pa.string(), pa.string())
    assert table["lang"].to_pylist() == ["de", "de", "de", "f r/x"]
    assert table["day"].to_pylist() == ["2024-05-01", "2024-05-02", "2024-05-02", None]
    assert table.column_names.index("note") < table.column_names.index("lang")
    cli.verified("run")
    assert cli("verify", "run", "--against", given).code == 0


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_is_named_has_none(cli, tree, writer):
    """Only what a directory or a glob finds has columns of its folders."""
    tree(writer)
    path = next((cli.folder / "above=x" / "rows" / "lang=de" / "day=2024-05-01").iterdir())
    done = cli("validate", path, "--model", "m", "--prompt", PROMPT)
    assert done.code == 2 and "which the input does not have" in done.err
    below = cli("validate", "above=x/rows/lang=de/*/*", "--model", "m", "--prompt", PROMPT)
    assert below.code == 2 and "'lang'" in below.err


@pytest.mark.parametrize("writer", WRITERS)
def test_a_column_of_the_file_wins(cli, simulator, published, writer):
    """Writers leave the columns of the folders out of the files; one that is there keeps its
    values and its type.
    """
    folder = cli.folder / "rows" / "note=7" / "text=other"
    folder.mkdir(parents=True)
    writer(folder / "part", ["a"])
    done = cli.run("rows", "-o", "run", "--prompt", "{{ text }}{{ note }}", "--base-url",
                   simulator().base_url)  # fmt: skip
    assert done.code == 0, done.err
    [row] = published(cli.folder / "run").select(["text", "note"]).to_pylist()
    assert (row["text"], str(row["note"])) == ("a", "1")


@pytest.mark.parametrize("writer", WRITERS)
def test_another_folder_is_another_input(cli, simulator, tree, writer):
    """A folder that is called otherwise changes its rows, though no file in it changed."""
    tree(writer)
    endpoint = simulator()
    command = ("above=x/rows", "-o", "run", "--prompt", PROMPT, "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 0
    assert cli.run(*command).code == 0
    assert endpoint.stats()["requests_total"] == 4
    (cli.folder / "above=x/rows/lang=de").rename(cli.folder / "above=x/rows/lang=e")
    assert cli.run(*command).code == 2
    assert cli.run(*command, "--resend-changed").code == 0
    assert endpoint.stats()["requests_total"] == 7


def test_a_folder_may_name_a_parameter(cli, scripted, answer, chat):
    """As a column of that name would where rows bring their messages: its text is the value."""
    rows = [chat(0)]
    lines = json.dumps(rows[0]) + "\n"
    messages = json.dumps(rows[0]["messages"]).replace('"', '""')
    for value, name, data in (
        ("0.25", "rows.jsonl", lines),
        ("0.5", "rows.json", json.dumps(rows)),
        ("0.75", "rows.csv", f'messages\n"{messages}"\n'),
        ("1", "rows.parquet", None),
    ):
        folder = cli.folder / name / f"temperature={value}"
        folder.mkdir(parents=True)
        if data is None:
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        else:
            (folder / name).write_text(data)
        endpoint = scripted(lambda *_: (200, {}, answer()))
        done = cli.run(name, "-o", f"run-{value}", "--base-url", endpoint.base_url)
        assert done.code == 0, done.err
        [(_, _, body)] = endpoint.requests
        assert body["temperature"] == float(value)


def test_a_folder_that_comes_later_with_another_key(cli, simulator, published):
    """Files may have different folders: a column that a file has not is null."""
    for folder in ("a=1", "b=2"):
        (cli.folder / "rows" / folder).mkdir(parents=True)
        _jsonl(cli.folder / "rows" / folder / "part", ["x"])
    url = simulator().base_url
    assert cli.run("rows", "-o", "run", "--prompt", "{{ text }}", "--base-url", url).code == 0
    found = published(cli.folder / "run").select(["a", "b"]).to_pylist()
    assert found == [{"a": "1", "b": None}, {"a": None, "b": "2"}]


@pytest.mark.parametrize(
    ("folders", "columns"),
    [
        ([], ()),
        (["plain", "x"], ()),
        (["a=1", "plain", "b="], (("a", "1"), ("b", ""))),
        (["a=1=2"], (("a", "1=2"),)),
        (["=1"], ()),
        (["a%3D=%C3%BC"], (("a=", "ü"),)),
        (["a=1", "a=2"], (("a", "2"),)),
        (["a=__HIVE_DEFAULT_PARTITION__"], (("a", None),)),
    ],
)
def test_names_of_folders(folders, columns):
    """A key, and whatever stands behind the first equals sign."""
    assert columns_of(folders) == columns
