"""The threat note names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_defence_names_a_test_that_exists():
    """Each row of the table of defences ends with files of tests, or with parts of their names."""
    text = (ROOT / "docs/security.md").read_text("utf-8")
    table = text.partition("## What is defended")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 15
    files = list((ROOT / "tests").rglob("test_*.py"))
    names = {path.name for path in files}
    tests = [n for path in files for n in re.findall(r"def (test_\w+)", path.read_text("utf-8"))]
    for row in rows:
        named = re.findall(r"`(\w+(?:\.py)?)`", row[3])
        assert named, row
        for word in named:
            assert word in names or any(word in test for test in tests), word
