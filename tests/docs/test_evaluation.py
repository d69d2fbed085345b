"""The examples of docs/evaluation.md run as they stand, and its tables are complete."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from batchrun.adapters.scoring import functions

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE)


def test_the_page_runs(cli):
    """A run with scores, metrics and gates, scored again and queried."""
    for _, info, body in BLOCKS:
        if info.startswith("file="):
            (cli.folder / info.removeprefix("file=")).write_text(body, "utf-8")
    python = shlex.quote(sys.executable)
    script = "".join(
        body if language == "sh" else f"{python} - <<'END'\n{body}END\n"
        for language, info, body in BLOCKS
        if info == "run"
    )
    # The quiz is one of guessing: its gate may fail.
    script = script.replace("-c quiz.toml\n", "-c quiz.toml || [ $? = 4 ]\n", 1)
    script = script.replace("score quiz-run\n", "score quiz-run || [ $? = 4 ]\n", 1)
    done = subprocess.run(
        ["bash", "-c", f'set -eu\nbatchrun() {{ {python} -m batchrun "$@"; }}\n{script}'],
        cwd=cli.folder,
        env=cli._environment({}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "custom_id  topic" in done.stdout
    assert "verified: every row is accounted for" in done.stdout
    assert (cli.folder / "shouted.csv").read_text() == '"status","rows","shouted"\n"ok",3,0\n'
    summary = json.loads((cli.folder / "quiz-run" / "summary.json").read_text())
    assert list(summary["metrics"]) == ["long"]


def test_every_function_is_in_the_table():
    """The table names the functions that SQL has, and no others."""
    table = PAGE.partition("| function | gives |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)) == set(functions.PUBLIC)
