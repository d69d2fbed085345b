"""The examples of docs/report.md and docs/monitoring.md run as they stand."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from batchrun.adapters.environment import exposition, metrics_file, notify
from batchrun.core.settings.resolve import from_toml
from batchrun.views import progress
from batchrun.views.report import gathering, report, sections
from batchrun.views.report.limits import PAGE_BYTES_MAX, Limits
from tests.harness import door

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REPORT, MONITORING = (
    (ROOT / "docs" / f"{n}.md").read_text("utf-8") for n in ("report", "monitoring")
)


def blocks(page, *infos):
    """The blocks of a page that are marked so, in their order."""
    return [body for _, info, body in FENCE.findall(page) if info in infos]


@pytest.fixture
def shell(cli):
    """Runs text in a shell, in a folder with the samples and the command."""
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    programs = cli.folder / "bin"
    programs.mkdir()
    program = programs / "batchrun"
    environment = cli._environment(None)
    environment["PATH"] = f"{programs}:{os.environ['PATH']}"

    def run(text):
        return subprocess.run(
            ["bash", "-euc", text], cwd=cli.folder, env=environment, capture_output=True,
            encoding="utf-8", timeout=240, check=False,
        )  # fmt: skip

    with door.opened() as command:
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        yield run


@pytest.mark.slow
def test_the_page_about_reports_runs(cli, shell):
    """Two nights, a report of each, one against the other."""
    done = shell("".join(blocks(REPORT, "run")))
    assert done.returncode == 0, done.stderr
    assert (cli.folder / "monday" / "report.html").exists()
    page = (cli.folder / "tuesday.html").read_text("utf-8")
    assert "a is monday, b is this run. Differs in: params." in page


def test_what_the_page_says_of_the_report_holds():
    """Its sections, its numbers and its size."""
    made = re.findall(
        r"^    return _section\(\n?\s*\"([^\"]+)\"",
        Path(sections.__file__).read_text(),
        re.MULTILINE,
    )
    told = re.findall(r"^\| ([A-Z][^|]+) \|", REPORT, re.MULTILINE)
    assert told == made
    assert f"at most {PAGE_BYTES_MAX:,} bytes" in REPORT
    assert f"| Sample | {gathering.SAMPLE_MAX} rows" in REPORT
    assert (gathering.TOP_MAX, gathering.EXAMPLES_MAX) == (10, 3)
    assert Limits().cards == gathering.SAMPLE_MAX and report.NAME in REPORT


@pytest.mark.slow
def test_the_page_about_monitoring_runs(cli, shell):
    """Status, metrics, a command at the end, and the recipe with a stand-in for Apprise."""
    done = shell("".join(blocks(MONITORING, "run")))
    assert done.returncode == 0, done.stderr
    assert 'batchrun_rows{status="ok"}' in done.stdout and "complete: " in done.stdout
    assert (cli.folder / "last.txt").read_text() == f"complete 0 {cli.folder / 'told'}\n"
    assert json.loads((cli.folder / "last.json").read_text())["status"] == "complete"
    (cli.folder / "tell.sh").write_text(*blocks(MONITORING, "file=tell.sh"))
    stand_in = cli.folder / "bin" / "apprise"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > apprised.txt\n')
    stand_in.chmod(0o755)
    done = shell(*blocks(MONITORING, "apprise"))
    assert done.returncode == 0 and "warning: --on-finish" not in done.stderr, done.stderr
    _, title, _, body, *_ = (cli.folder / "apprised.txt").read_text().splitlines()
    assert title == "batchrun: complete"
    assert body == f"exit code 0, {cli.folder / 'apprised'}"


def test_what_the_page_says_of_monitoring_holds():
    """The metrics, the alert's metric, the intervals, and the keys of the config."""
    table = MONITORING.partition("<!-- metrics -->")[2]
    told = re.findall(r"^\| `(batchrun_\w+)` \| (.*) \|$", table, re.MULTILINE)
    assert dict(told) == dict(exposition.METRICS)
    (alert,) = blocks(MONITORING, "alert")
    assert re.search(r"batchrun_\w+", alert)[0] == exposition.SUCCESS
    (config,) = blocks(MONITORING, "webhook")
    assert from_toml(config, path="c.toml") == {
        "notify.webhook": tomllib.loads(config)["notify"]["webhook"]
    }
    assert f"every {metrics_file.EVERY_S:g} seconds" in MONITORING
    assert (progress.LINE_EVERY_S, progress.LINE_EVERY_MAX_S) == (5, 600)
    assert (notify.COMMAND_TIMEOUT_S, notify.WEBHOOK_TIMEOUT_S) == (300, 10)
    (serve,) = blocks(MONITORING, "serve")
    assert shlex.split(serve) == ["batchrun", "status", "night", "--serve", "8124"]
