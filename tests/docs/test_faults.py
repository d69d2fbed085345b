"""docs/faults.md says what the program does, and every line of it is played by a test."""

import ast
import re
from pathlib import Path

import click
import pytest

from batchrun.adapters.environment.signals import SIGNALS
from batchrun.cli import standard_streams
from batchrun.cli.main import main
from batchrun.core.run import free_disk
from batchrun.core.settings.table import BY_NAME
from batchrun.engine import engine
from batchrun.errors import EXIT_CODES
from batchrun.rundir import free_space, lock

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text("utf-8")
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and "`test_" in line
]


@pytest.fixture(scope="module")
def tests():
    """Every test that the tables name, by its name, as source text."""
    wanted = {name for line in LINES for name in re.findall(r"`(test_\w+)`", line[-1])}
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text("utf-8")
        if wanted.isdisjoint(re.findall(r"^def (test_\w+)", text, re.MULTILINE)):
            continue
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name in wanted:
                start = min(part.lineno for part in (*node.decorator_list, node))
                found[node.name] = "\n".join(lines[start - 1 : node.end_lineno])
    return found


def test_there_are_lines():
    """The tables were found."""
    assert len(LINES) > 25


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_every_line_is_played(line, tests):
    """The tests it names are there, and one of them asks for its exit code."""
    names = re.findall(r"`(test_\w+)`", line[-1])
    source = "\n".join(tests[name] for name in names)
    for code in line[2].split(", "):
        asserted = rf"(?:code|wait\(\w*\)) == .*\b{code}\b|signal\.\w+, {code}\)"
        complete = r"|^    complete\(" if code == "0" else ""
        found = re.search(asserted + complete, source, re.MULTILINE)
        assert found, f"{names} do not ask for exit code {code}"


def test_exit_codes_are_those_of_the_reference():
    """Every exit code in the tables stands in the reference."""
    known = {*EXIT_CODES, *(128 + number for number in SIGNALS)}
    assert {int(code) for line in LINES for code in line[2].split(", ")} <= known


def test_flags_exist():
    """Every flag that the page names is one of `run`."""
    command = main.get_command(click.Context(main), "run")
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert named and named <= flags, named - flags


def test_figures_are_those_of_the_program():
    """Bounds and times, as the code has them."""
    text = " ".join(PAGE.split())
    assert f"default {BY_NAME['guards.min_free_disk'].default};" in text
    assert f"needs {free_disk.ROWS_MIN} finished rows" in text
    assert free_space.SAMPLE_S == 0.5 and "twice a second" in text
    assert f"every {lock.BEAT_S:.0f} s" in text and f"up to {lock.WATCH_S:.0f} s" in text
    assert f"after {lock.WATCH_S:.0f} s without a sign of life" in text
    assert f"at the end after {standard_streams.PATIENCE_S:.0f} s" in text
    assert f"{engine.BACKLOG_BYTES_MAX >> 30} GiB, wait in the journal" in text
    shards = f"{engine.WHOLE_SHARDS_MIN} to {engine.WHOLE_SHARDS_MAX} shards"
    assert f"while {engine.WHOLE_ROWS_MAX:,} rows of whole shards ({shards})" in text
