"""A ``.json`` file: an array of rows, or a row on each line."""

import gzip
import json
import subprocess
import sys

import pytest

from tests.harness.slow import rest_slow

ASKED = ("--model", "m", "--prompt", "{{ q }}")
ROWS = [{"q": f"question {n} ]}}", "deep": {"a": [1, {"b": '\\"'}]}} for n in range(30)]


def _file(cli, data, name="rows.json"):
    path = cli.folder / name
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


@pytest.mark.parametrize("indent", rest_slow([1, None]))
@pytest.mark.parametrize("packed", [False, True])
def test_a_resume_goes_on_in_the_middle(cli, simulator, published, indent, packed):
    """Every element is a row once, whichever shards were done before."""
    data = json.dumps(ROWS, indent=indent).encode()
    name = "rows.json.gz" if packed else "rows.json"
    path = _file(cli, gzip.compress(data) if packed else data, name)
    command = ("run", path, "-o", "run", *ASKED, "--shard-rows", "4", "--no-progress")
    url = simulator().base_url
    for limit in (1, 4, 10, 16, 30):
        done = cli(*command, "--base-url", url, "--limit", str(limit))
        assert done.code == 0, done.err
    assert published(cli.folder / "run")["q"].to_pylist() == [row["q"] for row in ROWS]
    cli.verified("run")
    assert cli("verify", "run", "--against", path).code == 0


def test_an_edit_and_an_append_are_noticed(cli, simulator):
    """As in any other file: an edited element is told of, and appended ones are sent."""
    url = simulator().base_url
    command = ("run", "rows.json", "-o", "run", *ASKED, "--no-progress", "--base-url", url)
    _file(cli, ROWS[:5])
    assert cli(*command).code == 0
    _file(cli, ROWS[:7])
    assert cli(*command).code == 0
    assert cli.verified("run")["rows"] == 7
    _file(cli, [{"q": "other"}, *ROWS[1:7]])
    assert cli(*command).code == 2
    assert cli(*command, "--resend-changed").code == 0


@pytest.mark.parametrize(
    ("data", "words"),
    rest_slow(
        [
            (b'[{"q": "a"}, 5, {"q": "b"}]', "element 2 (row 1): the element is not a JSON object"),
            (b'[{"q": "a"}, {"q": }, {"q": "b"}]', "element 2 (row 1): not valid JSON"),
            (b'[{"q": "a"} {"q": "b"}]', "element 2 (row 1): there is no comma before the element"),
            (
                b'[{"q": "a"},, {"q": "b"}]',
                "element 2 (row 1): an element is missing before a comma",
            ),
            (b'[{"q": "a"}] [{"q": "b"}]', "element 2 (row 1): there is text behind the end"),
            (b'[{"q": "a"}, {"q": "b', "element 2 (row 1): the file ends inside of this element"),
            (b'[{"q": "a"}, {"q": "b"}', "element 2 (row 1): the file ends behind this element"),
            (b'[{"q": "a"},', "element 2 (row 1): the file ends before its array does"),
            (b'[{"q": "a"}, {"q": "\xff"}]', "element 2 (row 1): the element is not valid UTF-8"),
            (b'[{"q": "a"}, ' + b"[" * 600 + b"]" * 600 + b"]", "element 2 (row 1): "),
            (
                lambda: b'[{"q": "a"}, {"q": "' + b"x" * 70_000_000 + b'"}]',
                "element 2 (row 1): the element is",
            ),
        ],
        4,
        several=True,
    ),
)
def test_a_bad_element_is_a_bad_row(cli, data, words):
    """It is named by its number, and the others are rows all the same."""
    _file(cli, data() if callable(data) else data)
    done = cli("validate", "rows.json", *ASKED)
    assert done.code == 1 and f"rows.json {words}" in done.out, done.out + done.err
    assert "1 of " in done.out


@pytest.mark.parametrize("data", [b"[]", b" [ ]\n", b"", b"\n"])
def test_an_array_without_rows(cli, data):
    """Exit 2: not a single row."""
    _file(cli, data)
    done = cli("validate", "rows.json", *ASKED)
    assert done.code == 2 and "not a single row" in done.err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (json.dumps({"data": ROWS}).encode(), "a list of objects under 'data' in it"),
        (json.dumps({"v": 1, "data": ROWS}, indent=1).encode(), "under 'data' in it"),
        (json.dumps(ROWS[0], indent=1).encode(), "an object over several lines"),
        (json.dumps({"q": 1}).encode("utf-16"), "is UTF-16"),
    ],
)
def test_an_object_around_the_rows_is_named(cli, data, words):
    """Exit 2, with the command that takes the rows out of it."""
    _file(cli, data)
    done = cli("validate", "rows.json", *ASKED)
    assert done.code == 2 and words in done.err, done.err
    assert "jq" in done.err or "iconv" in done.err


def test_objects_that_are_rows(cli):
    """One object on one line is a row, also where its messages are a list of objects."""
    _file(cli, {"q": "hi", "messages": [{"role": "user", "content": "hi"}]})
    assert cli("validate", "rows.json", "--model", "m").code == 0
    _file(cli, {"q": "hi", "tags": ["a"]})
    assert cli("validate", "rows.json", *ASKED).code == 0


def test_beside_data_of_other_formats_json_is_no_data(cli):
    """In a directory it describes them; alone it is data."""
    folder = cli.folder / "rows"
    folder.mkdir()
    _file(cli, {"features": {}}, "rows/dataset_info.json")
    _file(cli, b'{"q": "hi"}\n', "rows/a.jsonl")
    done = cli("validate", "rows", *ASKED, "--json")
    assert done.json["rows"] == 1, done.err
    (folder / "a.jsonl").unlink()
    _file(cli, ROWS, "rows/dataset_info.json")
    assert cli("validate", "rows", *ASKED, "--json").json["rows"] == 30


MEASURE = """
import resource, sys
from batchrun.adapters.sources import opening
from batchrun.records import Position, Span
given = opening.find([sys.argv[1]], "auto")
reader = given.reader(given.carry("all", 10000), 10000)
rows, before = 0, 0
for block in reader.blocks([Span(0, None, Position())], limit=None):
    rows += len(block.rows)
    before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert reader.count(lambda: False) == rows
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path):
    """An array of 100 MB on one line is read in the memory of a few blocks."""
    path = tmp_path / "rows.json"
    row = json.dumps({"messages": [{"role": "user", "content": "x" * 5000}]}).encode()
    with path.open("wb") as file:
        file.write(b"[" + b",".join([row] * 200))
        for _ in range(99):
            file.write(b"," + b",".join([row] * 200))
        file.write(b"]")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path], check=True, capture_output=True, text=True
    )
    rows, grown = map(int, done.stdout.split())
    assert rows == 20_000 and grown < 30_000
