"""The blocks of docs/chains.md run as they stand, and do what the page says."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrun.core.request.chained_rows import FIELDS, IDENTITY, MESSAGES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "chains.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(lang, body) for lang, info, body in FENCE.findall(PAGE) if "run" in info.split()]


@pytest.mark.slow
def test_the_page_runs(cli):
    """Only the Chinese questions are sent again, in both steps of the chain."""
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    python = shlex.quote(sys.executable)
    for language, body in BLOCKS:
        script = body if language == "sh" else f"{python} - <<'END'\n{body}END\n"
        done = cli.shell(script)
        assert done.returncode == 0, f"{body}\n{done.stdout}{done.stderr}"
    rows = pq.read_table(cli.folder / "checked" / "results").to_pylist()
    chinese = {row["row"] for row in rows if row["lang"] == "zh"}
    assert 0 < len(chinese) < len(rows)
    for name in ("french", "checked"):
        lines = pq.read_table(cli.folder / name / "attempts").to_pylist()
        assert {line["row"] for line in lines if line["attempt"] == 2} == chinese, name
        cli.verified(name)
    assert json.loads((cli.folder / "short/summary.json").read_text("utf-8"))["rows"]["ok"] == 2


def test_the_page_names_everything_that_templates_see():
    """Every field of ``row``, and both columns that identify a row."""
    for name in (*FIELDS, MESSAGES):
        assert f"`row.{name}`" in PAGE, name
    for name in IDENTITY:
        assert f"| `{name}` |" in PAGE, name
