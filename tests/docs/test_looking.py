"""The blocks of docs/looking.md run as they stand, and what it says of its commands holds."""

import csv
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batchrun.cli.looking.costs import command as costs
from batchrun.cli.looking.show import command as show
from batchrun.core.settings import resolve
from batchrun.views import layout
from batchrun.views.history.spending import KEYS
from tests.harness import door

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "looking.md").read_text("utf-8")


def _blocks(fence):
    return re.findall(rf"^```{re.escape(fence)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which every block of the page was run."""
    folder = tmp_path_factory.mktemp("looking")
    shutil.copytree(ROOT / "samples", folder / "samples")
    (folder / "bin").mkdir()
    command = folder / "bin" / "batchrun"
    (schema,) = _blocks("json file=mood.json")
    (folder / "mood.json").write_text(schema)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (server,) = _blocks("sh server")
    script = "".join(_blocks("sh run")).replace("8124", port)
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    words = [sys.executable, "-m", *shlex.split(server.replace("8124", port))]
    with (
        door.opened() as stand_in,
        subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as serving,
    ):
        command.write_text(f'#!/bin/sh\nexec {stand_in} "$@"\n')
        command.chmod(0o755)
        try:
            assert b"http://" in serving.stdout.readline()
            done = subprocess.run(
                ["/bin/sh", "-ec", script],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
        finally:
            serving.terminate()
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


@pytest.mark.slow
def test_every_block_runs_and_gives_what_the_page_says(ran):
    """A row reads as shown; JSON, CSV and exports have what is promised of them."""
    folder, out = ran
    heads = [line.split()[0] for line in _blocks("text")[0].splitlines() if line[:1].isupper()]
    place = 0
    for head in dict.fromkeys(heads):
        place = out.index(head, place)
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert not any("content" in row or "input" in row for row in rows)
    (row,) = json.loads((folder / "row.json").read_text())["rows"]
    assert row["content"] and row["request"]["source"] == "requests"
    runs = json.loads((folder / "runs.json").read_text())["runs"]
    assert [run["labels"] for run in runs] == [{"team": "a"}]
    assert len((folder / "runs.csv").read_text().splitlines()) == 3
    spent = json.loads((folder / "costs.json").read_text())
    assert spent["by"] == ["day", "endpoint"] and spent["total"]["cost_pd"] > 0
    lines = list(csv.DictReader((folder / "costs.csv").read_text().splitlines()))
    assert [line["label.team"] for line in lines] == ["a", "b"]
    assert sum(int(line["cost_pd"]) for line in lines) == spent["total"]["cost_pd"]
    with (folder / "moods.csv").open(newline="") as file:
        moods = list(csv.DictReader(file))
    assert list(moods[0]) == ["topic", "answer.mood", "answer.sure"]
    assert {row["answer.sure"] for row in moods} <= {"true", "false"}
    assert (folder / "night-excel.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert (folder / "so-far.parquet").exists()


def test_the_config_block_is_valid():
    """[labels] resolves to texts."""
    (block,) = _blocks("toml")
    found = resolve.from_toml(block, path="config.toml")
    assert set(found["labels"]) == set(tomllib.loads(block)["labels"])


def test_flags_and_numbers_of_the_page_are_those_of_the_program():
    """Every flag named on it exists, every key of costs is on it, and so is the length of a cut."""
    flags = {flag for c in (show, costs) for option in c.params for flag in option.opts}
    chapter = PAGE.partition("## Which rows")[2].partition("## Keep")[0]
    assert set(re.findall(r"(?<![\w-])--[a-z]+", chapter)) <= flags
    assert all(f"`{key}`" in PAGE for key in KEYS)
    assert f"{layout.CUT_CHARS:,} characters" in PAGE
