"""Run directories that earlier versions wrote: this version reads them, or refuses with a reason.

They stand in tests/golden/, one folder for each version that changed a format; make.py there made
them. None is ever made again.
"""

import json
import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = sorted(
    path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name[0].isdigit()
)
STARTED = ("--shard-rows", "4", "--model", "m", "--no-progress")


@pytest.fixture(params=VERSIONS)
def golden(request, cli):
    """Copies of the run directories of a version, beside their input."""
    shutil.copytree(GOLDEN / request.param, cli.folder, dirs_exist_ok=True)
    return cli.folder


def test_there_are_golden_directories():
    """The tests below have something to read."""
    assert VERSIONS


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_views_read_them(cli, golden, name):
    """verify, status and export read what was written, rows and texts unchanged."""
    done = cli("verify", name, "--against", "rows.jsonl", "--json")
    assert done.code == 0, done.out + done.err
    summary = json.loads((golden / name / "summary.json").read_text("utf-8"))
    rows = summary["rows"]
    assert done.json["compared"] == done.json["rows"] == rows["ok"] + rows["error"] > 0
    seen = cli("status", name, "--json").json
    assert seen["state"] == summary["status"] and seen["summary"]["rows"] == rows
    assert cli("export", name, "-o", "out.jsonl").code == 0
    lines = [json.loads(line) for line in (golden / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == rows["ok"] + rows["error"]
    said = [line["response"]["body"] for line in lines if line["error"] is None]
    assert len(said) == rows["ok"]
    assert all(body["choices"][0]["message"]["content"] for body in said)


def test_an_interrupted_one_goes_on(cli, golden, simulator):
    """The same command sends the pending rows, and those alone."""
    before = json.loads((golden / "interrupted" / "summary.json").read_text("utf-8"))["rows"]
    endpoint = simulator()
    done = cli("run", "rows.jsonl", "-o", "interrupted", *STARTED, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    assert endpoint.stats()["requests_total"] == before["pending"] > 0
    report = cli.verified("interrupted")
    assert report["rows"] == before["input"]


@pytest.mark.usefixtures("golden")
def test_a_finished_one_sends_nothing(cli, simulator):
    """The same command finds nothing to do, and --retry-failed sends the failed rows alone."""
    endpoint = simulator()
    command = ("run", "rows.jsonl", "-o", "finished", *STARTED, "--base-url", endpoint.base_url)
    assert cli(*command).code == 1
    assert endpoint.stats()["requests_total"] == 0
    assert cli(*command, "--retry-failed").code == 1  # one row is no request
    cli.verified("finished")
