"""Files whose names are no UTF-8: read, written, and shown with escapes."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun

NAME = os.fsdecode(b"donn\xe9es \xff")
SHOWN = "donn\\xe9es \\xff"
LOCALES = {
    "UTF-8": {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
    "C": {"LANG": "C", "LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture
def named(tmp_path):
    """A folder of such a name."""
    folder = tmp_path / NAME
    folder.mkdir()
    return folder


def _rows(chat):
    return [chat(0), {"messages": []}, chat(2)]


def _jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(path, rows):
    pq.write_table(pa.table({"messages": [json.dumps(row["messages"]) for row in rows]}), "tmp")
    os.rename("tmp", path)  # noqa: PTH104 - the name is the point


def _csv(path, rows):
    cells = [json.dumps(row["messages"]).replace('"', '""') for row in rows]
    path.write_text("messages\n" + "".join(f'"{cell}"\n' for cell in cells))


WRITERS = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("locale", LOCALES)
def test_a_whole_life(cli, simulator, named, chat, tmp_path, monkeypatch, suffix, locale):
    """Input, schema, config and run directory of such names go through every command, and no
    answer is lost to a name.
    """
    monkeypatch.chdir(tmp_path)
    source = named / f"{NAME}{suffix}"
    WRITERS[suffix](source, _rows(chat))
    schema, config, run = named / f"{NAME}.json", named / f"{NAME}.toml", named / "out"
    schema.write_text('{"type": ["object", "string"]}')
    config.write_text('[request]\nmodel = "m"\n[output]\ndir = "out"\n')
    endpoint = simulator()
    flags = ("-c", config, "--schema", schema, "--no-check-schema", "--no-progress")
    command = ("run", source, *flags, "--base-url", endpoint.base_url)
    done = cli(*command, "--json", env=LOCALES[locale])
    assert done.code == 1, done.err
    assert "bug in batchrun" not in done.err and f"{SHOWN}{suffix}" in done.err
    assert done.json["settings"]["output.dir"].endswith(f"{SHOWN}/out")
    assert json.loads((run / "summary.json").read_bytes()) == done.json
    rows = pa.concat_tables(
        pq.read_table(pa.OSFile(os.fsencode(part))) for part in (run / "results").iterdir()
    )
    assert f"{SHOWN}{suffix}" in rows["error_message"].to_pylist()[1]
    assert cli(*command, "--retry-failed", env=LOCALES[locale]).code == 1
    assert endpoint.stats()["requests_total"] == 2
    for arguments, code in (
        (("verify", run, "--against", source), 0),
        (("status", run), 0),
        (("validate", source, "--model", "m"), 1),
        (("export", run, "-o", named / f"out {NAME}.csv"), 0),
        (("estimate", source, "--model", "m"), 0),
        (("run", named / "gone.jsonl", *flags), 2),
    ):
        plain = cli(*arguments, env=LOCALES[locale])
        assert plain.code == code, plain.err
        assert "bug in batchrun" not in plain.err
        asked = cli(*arguments, "--json", *(("--force",) * (arguments[0] == "export")),
                    env=LOCALES[locale])  # fmt: skip
        assert asked.code == code and isinstance(asked.json, dict), asked.err
    assert cli(*command, "--restart", env=LOCALES[locale]).code == 1


def test_a_lost_journal_beside_such_a_name(cli, simulator, named, chat):
    """Repair and resumption find their files under it."""
    source = named / "rows.jsonl"
    _jsonl(source, _rows(chat))
    endpoint = simulator()
    command = ("run", source, "-o", named / "run", "--model", "m", "--base-url", endpoint.base_url)
    assert cli(*command, "--limit", "1").code == 0
    assert cli(*command).code == 1
    (named / "run" / "checkpoint" / "journal.db").unlink()
    refused = cli(*command)
    assert refused.code == 2 and SHOWN in refused.err
    assert cli(*command, "--repair").code == 1
    assert endpoint.stats()["requests_total"] == 2


@pytest.mark.parametrize("name", ["100%41?#.d", "a&mode=rw"])
def test_a_name_that_means_something_in_an_address(cli, simulator, jsonl, name):
    """The state file is found under any name, also where it is opened by an address."""
    assert cli.run(jsonl(2), "-o", name, "--base-url", simulator().base_url).code == 0
    done = cli("verify", name, "--json")
    assert done.code == 0 and done.json["rows"] == 2, done.out


def test_from_a_program(simulator, named, chat, monkeypatch):
    """The Python functions take such paths too."""
    monkeypatch.chdir(named)
    _jsonl(named / f"{NAME}.jsonl", _rows(chat))
    url = simulator().base_url
    done = batchrun.run(named / f"{NAME}.jsonl", output=named / NAME, model="m", base_url=url)
    assert done.status == "complete_with_errors"
    repr(done).encode()
