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
FILES = [
    (info.removeprefix("file="), body)
    for _, info, body in FENCE.findall(PAGE)
    if info.startswith("file=")
]


@pytest.mark.slow
def test_the_page_runs(cli):
    """Only the Chinese questions are sent again, in both steps of the chain."""
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    for name, body in FILES:
        (cli.folder / name).write_text(body, "utf-8")
    python = shlex.quote(sys.executable)
    for language, body in BLOCKS:
        if "batchrun judge" in body:
            break  # they have a test of their own
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


@pytest.mark.slow
def test_the_judges_of_the_page_are_proven(cli):
    """Every command about judges runs as it stands, and what it leaves is sound."""
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    for name, body in FILES:
        (cli.folder / name).write_text(body, "utf-8")
    python = shlex.quote(sys.executable)
    start = [body for _, body in BLOCKS].index(
        next(body for _, body in BLOCKS if "batchrun judge" in body)
    )
    for language, body in BLOCKS[start:]:
        script = body if language == "sh" else f"{python} - <<'END'\n{body}END\n"
        done = cli.shell(script)
        assert done.returncode == 0, f"{body}\n{done.stdout}{done.stderr}"
    summary = json.loads((cli.folder / "judged/summary.json").read_text("utf-8"))
    assert {"mark", "good", "mark.agreement", "mark.kappa"} == set(summary["metrics"])
    assert [gate["verdict"] for gate in summary["gates"].values()] == ["pass"] * 3
    summary = json.loads((cli.folder / "answers/summary.json").read_text("utf-8"))
    rows = summary["rows"]["ok"]
    assert summary["judges"]["score"]["rows"] == rows
    assert summary["judges"]["pair"]["rows"] == rows
    assert 0 < summary["judges"]["pair"]["flips"] <= rows
    best = pq.read_table(cli.folder / "best.parquet")
    assert best.column("repeat_of").to_pylist() == list(range(rows))
    scored = pq.read_table(cli.folder / "five/scores").column("score.score").to_pylist()
    highest = [max(scored[5 * n : 5 * n + 5]) for n in range(rows)]
    assert best.column("score.score").to_pylist() == highest
    proven = ("judged", "answers", "answers/judges/score", "answers/judges/pair/swapped", "five")
    for name in proven:
        cli.verified(name)
