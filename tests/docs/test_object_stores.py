"""The commands of docs/object-stores.md run as they stand, against a real S3 server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "object-stores.md").read_text("utf-8")


@pytest.mark.slow
def test_the_page_runs(store, cli, chat):
    """From rows in a bucket to a data frame of answers."""
    lines = "".join(json.dumps(chat(n)) + "\n" for n in range(12))
    store.put("rows/one.jsonl", lines.encode())
    page = PAGE.replace("my-bucket", store.bucket)
    blocks = re.findall(r"^```(sh|python) run\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = [block for kind, block in blocks if kind == "sh"]
    (program,) = [block for kind, block in blocks if kind == "python"]
    assert len(commands) == 3
    script = f'set -e\nbatchrun() {{ "{sys.executable}" -m batchrun "$@"; }}\n' + "".join(commands)
    for command in (
        ["bash", "-c", script],
        [sys.executable, "-c", f"{program}print(len(answers))"],
    ):
        done = subprocess.run(
            command,
            cwd=cli.folder,
            env=cli._environment(store.env),
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == "12\n"
    assert len((cli.folder / "answers.jsonl").read_text("utf-8").splitlines()) == 12
