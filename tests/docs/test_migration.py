"""The examples of docs/migration.md run as they stand, and its tables name what is there."""

import re
from pathlib import Path

import pytest

from batchrun.core.starter import openai_evals

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+) ([^\n]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_runs(cli):
    """An eval of OpenAI becomes a run; the grader that does not map is named."""
    for _, info, body in BLOCKS:
        if info.startswith("file="):
            (cli.folder / info.removeprefix("file=")).write_text(body, "utf-8")
    script = "".join(body for _, info, body in BLOCKS if info == "run")
    done = cli.shell(script)
    assert done.returncode == 0, done.stderr
    assert "grader 'Tone' (label_model): not taken over" in done.stderr
    assert "close_passed: " in done.stderr


def test_the_graders_of_the_table_are_those_that_map():
    """Every operation and metric that is taken over is in the table, and no other."""
    table = PAGE.partition("| there | here |")[2].partition("\n\n")[0]
    checks = re.search(r"`string_check` ((?:`\w+`(?:, )?)+)", table)[1]
    assert re.findall(r"`(\w+)`", checks) == list(openai_evals._CHECKS)
    mapped = re.findall(r"`text_similarity` `(\w+)` \|", table)
    assert set(mapped) == set(openai_evals._SIMILARITY)
