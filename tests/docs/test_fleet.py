"""docs/fleet.md: its commands run, its tables are complete, its files exist."""

import re
import shlex
from pathlib import Path

import pytest

from batchrun.cli.run import command
from batchrun.core.fleet.places import SCHEDULERS
from batchrun.views import control, run_status

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "fleet.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(?:sh|text) (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(kind):
    """The commands of all blocks of one kind."""
    return "".join(text for name, text in BLOCKS if name == kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "pair"])
def test_the_commands_run(cli, summary, kind):
    """As they stand, over the rows that the page writes first: every row is answered, once."""
    done = cli.shell(blocks("rows") + blocks(kind))
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


def _limits(rpm, concurrency, name):
    both = (("concurrency", concurrency), ("rpm", rpm))
    return [{"endpoint": "default", "kind": kind, name: value} for kind, value in both]


def test_the_lines_of_status_are_the_programs():
    """Those about processes, shards and shared limits, from what `status` knows of a fleet."""
    alive = {
        "name": "0000-5f0c1a92",
        "host": "node-1",
        "pid": 4711,
        "state": "alive",
        "shards": 2,
        "claimed": 1,
        "rows": 17_400,
        "in_flight": 40,
        "requests_per_s": 68.0,
        "shares": _limits(4_000, 43, "share"),
    }
    gone = {
        "name": "0003-90be33d1",
        "host": "node-4",
        "pid": 977,
        "state": "dead",
        "silent_s": 41.0,
        "shards": 1,
        "claimed": 1,
        "rows": 12_010,
        "shares": [],
    }
    found = {
        "state": "running",
        "live": {"state": "running"},
        "fleet": {
            "shards": {"all": 20, "published": 5, "claimed": 4, "free": 11},
            "limits": _limits(12_000, 128, "total"),
            "workers": [alive, alive, alive | {"host": "node-2"}, gone],
        },
    }
    shown = blocks("status").splitlines()
    told = [run_status._processes(found), *run_status._workers(found)]
    assert [shown[0], *shown[3:]] == [*told[:4], told[-1]]


def test_the_lines_of_ctl_are_the_programs():
    """Its reply once all have followed."""
    held = {
        "state": "running",
        "endpoints": {"default": {"concurrency": 128, "rpm": 6000, "tpm": None}},
        "workers": {"alive": 4, "followed": 4, "missing": []},
    }
    assert blocks("ctl").splitlines()[1:] == control.lines(held)


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
    assert {kind for kind, _ in BLOCKS} == {"rows", "run", "pair", "ray", "status", "ctl"}
