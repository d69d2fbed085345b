"""Asking for help must not cost what running costs."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = ["aiohttp", "asyncio", "msgspec", "pyarrow", "rich", "uvloop"]

# Runs one command after the other and prints, after what they print, which of some libraries were
# loaded.
PROBE = """
import json, sys
from batchrun.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, end.code
print(json.dumps(sorted(set(json.loads(sys.argv[2])) & set(sys.modules))))
"""


def loaded_by(*commands, libraries):
    """What one process printed that ran these commands, and which of the libraries it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(commands), json.dumps(libraries)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in ("run", "validate", "estimate", "export", "doctor")),
        ["run", "-h"],
    ],
    ids=" ".join,
)
def test_help_loads_no_heavy_library(arguments):
    """`--help` answers without loading Arrow, the HTTP client, an event loop or the display."""
    said, loaded = loaded_by(arguments, libraries=HEAVY)
    assert said.startswith("Usage:"), said
    assert not loaded, (
        "Imports cost CPU before the first word is printed (aiohttp 0.35 s, pyarrow 0.1 s and "
        f"49 MB): import {loaded} inside the function that needs it, not at the top of a module "
        "that the command line loads."
    )


def cpu_s(*arguments):
    """The least CPU seconds of ten runs of Python with these arguments."""
    spent = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, timeout=240, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.mark.slow
def test_help_costs_little_more_than_click():
    """`batchrun --help` takes at most 50 ms of CPU over 1.2 times `import click`, and the help of
    `run`, with all its flags, at most 150 ms.
    """
    click = cpu_s("-c", "import click")
    assert cpu_s("-m", "batchrun", "--help") <= 1.2 * click + 0.05
    assert cpu_s("-m", "batchrun", "run", "--help") <= 1.2 * click + 0.15


def test_neither_numpy_nor_pandas_is_loaded(tmp_path):
    """A run, and what looks at it, take Arrow without what Arrow would take along: together 0.5 s
    and 60 MB.
    """
    pytest.importorskip("numpy")
    pytest.importorskip("pandas")
    rows, run = tmp_path / "rows.jsonl", str(tmp_path / "run")
    rows.write_text('{"messages":[{"role":"user","content":"Hello?"}],"model":"m","n":1}\n')
    commands = [["run", str(rows), "-o", run, "--provider", "simulator"]]
    commands += [[name, run] for name in ("status", "verify", "show", "costs", "report")]
    commands += [["export", run, "-o", str(tmp_path / "rows.csv")], ["runs", str(tmp_path)]]
    _, loaded = loaded_by(*commands, libraries=["numpy", "pandas"])
    assert loaded == []


RARE = [
    "prometheus_client",
    "minijinja",
    "batchrun.adapters.environment.notify",
    "batchrun.views.report",
    "batchrun.views.pages",
    "batchrun.views.watch",
    "duckdb",
    "batchrun.adapters.sources.elements",
    "batchrun.core.request.template",
    "batchrun.core.stream.fold",
    "batchrun.rundir.repair",
    "tenacity",
]


def test_a_plain_run_loads_nothing_that_it_does_not_use(tmp_path):
    """What few runs need is loaded by those alone: retries, streams, templates, metrics, the report
    and the like.
    """
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages":[{"role":"user","content":"Hello?"}],"model":"m"}\n')
    arguments = ["run", str(rows), "-o", str(tmp_path / "run"), "--provider", "simulator"]
    _, loaded = loaded_by(arguments, libraries=RARE)
    assert loaded == []


IMPORT = """
import json, sys
import batchrun
assert {"run", "arun", "stream", "Summary"} <= set(dir(batchrun))
print(json.dumps(sorted(set(json.loads(sys.argv[1])) & set(sys.modules))))
assert callable(batchrun.run) and "pyarrow" in sys.modules and "pandas" not in sys.modules
"""


def test_importing_the_package_loads_no_heavy_library():
    """`import batchrun` costs next to nothing; its functions are loaded when they are asked for,
    and without the data frame libraries that they can take.
    """
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, json.dumps(HEAVY)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
