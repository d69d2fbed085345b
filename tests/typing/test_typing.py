"""The public API is typed: what is right passes a strict checker, what is wrong does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from batchrun import api

ROOT = Path(__file__).resolve().parents[2]

WRONG = """
import batchrun
batchrun.run("rows.jsonl", output="run", concurency=3)
batchrun.run("rows.jsonl", output="run", limit="all")
batchrun.run("rows.jsonl", output="run").ok = 3
batchrun.run("rows.jsonl", output="run").okay
batchrun.run(42, output="run")
batchrun.unheard_of()
batchrun.run("rows.jsonl", output="run", progress="yes")
batchrun.run("rows.jsonl", output="run", frequency_penalty=1)
batchrun.run("rows.jsonl", "run")
batchrun.run("rows.jsonl", output="run", raw="some")
batchrun.run("rows.jsonl", output="run").to_arrow("row", True)
"""


def _checked(path):
    # As for a user, who has the package installed: what is inside it is not their business.
    flags = ["--strict", "--config-file=", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", *flags, str(path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=500, check=False
    )
    return done.stdout


@pytest.mark.slow
def test_the_api_is_typed(tmp_path):
    """The usage file passes mypy's strict checks; each wrong line of the other one is found."""
    seen = _checked(ROOT / "tests" / "typing" / "usage.py")
    assert seen.startswith("Success"), seen
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    seen = _checked(wrong)
    lines = {int(text.split(":")[1]) for text in seen.splitlines() if "wrong.py:" in text}
    assert lines == set(range(3, 14)), seen


def test_every_setting_is_a_keyword():
    """The typed keywords are the settings by their keys and the other flags, and no others; no
    two settings share a key.
    """
    others = set(api._OTHERS)
    assert set(api.Options.__annotations__) == {*api.KEYWORDS, *others}
    assert not others & set(api.KEYWORDS)
    names = [setting.name for setting in api.FLAGGED]
    assert {*api.KEYWORDS.values(), "input.files", "output.dir"} == set(names)
