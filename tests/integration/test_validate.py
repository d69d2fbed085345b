"""``batchrun validate``: what it says of an input is what the run does with it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GOOD = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def mixed(tmp_path):
    """Two files of good and bad lines with blank ones between: their paths, and the line of each
    bad row.
    """
    good = json.dumps(GOOD)
    one = ["", good, "", "", '{"messages": []}', "no JSON", good, "  ", '{"a": 1}']
    two = ["", '{"messages": [{"content": "hi"}]}', "\xff", good]
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path, lines in zip(paths, (one, two), strict=True):
        path.write_bytes("\n".join(lines).encode("latin-1"))
    places = [(1, 0, 5), (2, 0, 6), (4, 0, 9), (5, 1, 2), (6, 1, 3)]
    return paths, [(row, str(paths[file]), line) for row, file, line in places]


def test_places_are_right_over_blank_lines_and_files(cli, mixed):
    """Every bad row is told by its number over all files, and its file and line there."""
    paths, places = mixed
    done = cli("validate", *paths, "--model", "m", "--json")
    assert done.code == 1, done.err
    found = done.json
    assert (found["rows"], found["bad"]) == (8, 5)
    assert [(p["row"], p["file"], p["line"]) for p in found["problems"]] == places
    assert sum(found["reasons"].values()) == 5


def test_it_says_what_the_run_says(cli, simulator, mixed, published):
    """The bad rows and their sentences are those of the run's error rows."""
    paths, _ = mixed
    endpoint = simulator()
    assert cli.run(*paths, "-o", "run", "--base-url", endpoint.base_url).code == 1
    rows = published(cli.folder / "run").select(["row", "status", "error_message"]).to_pylist()
    refused = {r["row"]: r["error_message"] for r in rows if r["status"] == "error"}
    done = cli("validate", *paths, "--model", "m", "--json")
    told = {p["row"]: f"{p['file']} line {p['line']}: {p['reason']}" for p in done.json["problems"]}
    assert told == refused


def test_parquet_is_judged_by_value(cli, tmp_path):
    """Rows of a table are told by their number in their file, from 0."""
    path = tmp_path / "rows.parquet"
    texts = [json.dumps(GOOD["messages"]), "no JSON", None, "[]"]
    pq.write_table(pa.table({"messages": texts, "custom_id": ["a", "b", "a", None]}), path)
    done = cli("validate", path, "--model", "m", "--json")
    assert done.code == 1, done.err
    assert [(p["row"], p["line"]) for p in done.json["problems"]] == [(1, 1), (2, 2), (3, 3)]
    repeated = {"ids": 1, "rows": 2, "first": [{"custom_id": "a", "rows": [0, 2]}]}
    assert done.json["duplicate_ids"] == repeated


def test_a_good_input_exits_with_0(cli, jsonl):
    """Nothing is sent, nothing is written, and the last line says so."""
    source = jsonl(3, custom_id="same")
    done = cli("validate", source, "--model", "m")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "valid: all 3 rows can be sent"
    assert "1 custom_id occurs more than once, in 3 rows (first 'same', rows 0 and 1)" in done.out
    assert done.err == ""
    assert list(cli.folder.iterdir()) == []


def test_the_first_twenty_are_shown_and_all_are_counted(cli, jsonl):
    """A long list of bad rows does not flood the terminal."""
    source = jsonl([{"a": 1}] * 30 + [{"messages": []}] * 5)
    done = cli("validate", source, "--model", "m")
    assert done.code == 1
    lines = done.out.splitlines()
    assert sum(line.startswith(str(source)) for line in lines) == 20
    assert "... and 15 more" in lines
    assert "35 of 35 rows are bad:" in lines
    assert any(line.split()[0] == "30" and "neither" in line for line in lines)
    assert any(line.split()[0] == "5" and "at least one message" in line for line in lines)


def test_the_model_may_come_from_the_config(cli, jsonl, tmp_path):
    """The same configuration as for the run: defaults count, and so does a column to carry."""
    source = jsonl(2)
    (tmp_path / "c.toml").write_text('[request]\nmodel = "m"\n[input]\nfiles = ["rows.jsonl"]\n')
    assert cli("validate", "-c", tmp_path / "c.toml").code == 0
    assert cli("validate", source).code == 1
    done = cli("validate", "-c", tmp_path / "c.toml", "--carry", "gone")
    assert done.code == 2
    assert "gone" in done.err


def test_limit_and_body_size(cli, jsonl, chat):
    """Only the first rows are looked at, and a body over the given size is bad."""
    source = jsonl([chat(1), {"messages": [{"role": "user", "content": "x" * 500}]}])
    assert cli("validate", source, "--model", "m", "--max-body-bytes", 300).code == 1
    assert cli("validate", source, "--model", "m", "--max-body-bytes", 300, "--limit", 1).code == 0
    assert cli("validate", source, "--model", "m").code == 0


def test_rows_of_different_kinds_are_warned_of(cli, jsonl, chat):
    """Batch lines among chat bodies are a warning; they can be sent all the same."""
    source = jsonl([chat(1), {"body": chat(2)}, chat(3)])
    done = cli("validate", source, "--model", "m")
    assert done.code == 0
    assert "different kinds: chat body (2), batch line (1)" in done.out
    assert cli("validate", source, "--model", "m", "--quiet").out == ""


@pytest.mark.parametrize("name", ["missing.jsonl", "empty.jsonl", "rows.docx"])
def test_an_input_that_cannot_be_opened_exits_with_2(cli, name):
    """A missing or empty file, or one of an unknown format, is named; stdout has no report."""
    for made in ("empty.jsonl", "rows.docx"):
        (cli.folder / made).write_text("")
    done = cli("validate", name, "--model", "m")
    assert done.code == 2
    assert name in done.err
    assert done.out == ""


def test_what_a_row_holds_cannot_steer_the_terminal(cli, jsonl):
    """Control characters of a bad row are not printed."""
    source = jsonl([{"body": {}, "method": "\x1b[31mPUT"}])
    done = cli("validate", source, "--model", "m")
    assert done.code == 1
    assert "\x1b" not in done.out
