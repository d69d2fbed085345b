"""docs/fleet.md: its commands run, its tables are complete, its files exist."""

import re
import shlex
from pathlib import Path

import pytest

from batchrun.cli.run import command
from batchrun.core.fleet.places import SCHEDULERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "fleet.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(kind):
    """The commands of all blocks of one kind."""
    return "".join(text for name, text in BLOCKS if name == kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "pair"])
def test_the_commands_run(cli, jsonl, summary, kind):
    """As they stand, over the rows that they name: every row is answered, once."""
    jsonl(350, "cwd/rows.jsonl")
    done = cli.shell(blocks(kind))
    assert done.returncode == 0, done.stderr
    folder = "pair" if kind == "pair" else "run"
    assert summary(cli.folder / folder)["rows"] == {
        "input": 350,
        "ok": 350,
        "error": 0,
        "pending": 0,
    }
    assert summary(cli.folder / folder)["totals"]["attempts"] == 350
    cli.verified(folder)


def test_the_commands_for_a_cluster_are_read():
    """Their flags exist; tests/fleet/test_ray.py runs such commands."""
    start, run = blocks("ray").splitlines()
    assert start.startswith("ray start --head")
    given = command.make_context("run", shlex.split(run)[2:]).params
    assert (given["engine"], given["workers"]) == ("ray", 8)


def test_every_scheduler_is_in_the_table():
    """With its variables, and a job file that exists."""
    for each in SCHEDULERS:
        assert f"| {each.name} | `{each.index}` | `{each.count}` | [" in PAGE
    files = re.findall(r"\]\((\.\./contrib/[^)]+)\)", PAGE)
    assert len(files) >= len(SCHEDULERS)
    for file in files:
        assert (DOCS / file).is_file(), file


def test_every_block_is_of_a_kind_that_is_checked():
    """No command stands on the page that no test reads."""
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert {kind for kind, _ in BLOCKS} == {"run", "pair", "ray"}
