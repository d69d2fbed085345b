"""The examples of docs/outputs.md run as they stand, against the server that the page starts."""

import json
import re
import shlex
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrun.core.schema.response_format import of_document

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "outputs.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE)


@pytest.fixture
def server(cli, until):
    """The server of the page, at a free port in place of the one named there."""
    (command,) = [body for _, info, body in BLOCKS if info == "server"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, *arguments = shlex.split(command.replace("8123", str(port)))
    assert program == "batchrun"
    live = cli.start(*arguments)

    def answers():
        assert live.process.poll() is None
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status
        except OSError:
            return False

    until(answers)
    return str(port)


@pytest.mark.slow
def test_the_page_runs(cli, server):
    """Every command does what the page says of it: what fits is kept, the rest is told apart."""
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    for language, info, body in BLOCKS:
        if info.startswith("file="):
            (cli.folder / info.removeprefix("file=")).write_text(body, "utf-8")
            assert language == "json" and json.loads(body)
    python = shlex.quote(sys.executable)
    script = "".join(
        body if language == "sh" else f"{python} - <<'END'\n{body}END\n"
        for language, info, body in BLOCKS
        if info == "run"
    )
    done = cli.shell(script.replace("8123", server))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^30 moods, (3[1-9]|[4-9]\d) attempts$", done.stdout, re.MULTILINE)
    assert done.stdout.count("exit code 1") == 3
    assert "invalid_output" in done.stderr and "truncated_output 20" in done.stderr
    assert "of the ok rows, 20 truncated" in done.stderr
    assert 'at type: "INT"' in done.stdout
    for folder in ("moods", "strict", "cut", "whole", "calls"):
        cli.verified(folder)
        table = pq.read_table(cli.folder / folder / "results")
        assert set(table["status"].to_pylist()) == {"ok"}, folder


def test_what_the_page_says_is_sent():
    """The shown response_format is the one that is made of the shown file."""
    (sent,) = [json.loads(body) for _, info, body in BLOCKS if info == "sent"]
    (schema,) = [json.loads(b) for _, info, b in BLOCKS if info == "file=review.schema.json"]
    made = of_document(schema, "review")
    made["json_schema"]["schema"] = {"type": "object", "...": "..."}
    assert sent == made
