"""The examples of docs/cost.md run as they stand, and say the same as the run's own files."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+) ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall((ROOT / "docs" / "cost.md").read_text("utf-8"))


@pytest.mark.slow
def test_the_page_runs(cli):
    """The commands do what is said of them, and both sums by day and model are the summary's."""
    pytest.importorskip("duckdb")
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    (config,) = [body for _, info, body in BLOCKS if info == "file=cost.toml"]
    (cli.folder / "cost.toml").write_text(config, "utf-8")
    python = shlex.quote(sys.executable)
    script = "".join(
        body if language == "sh" else f"{python} - <<'END'\n{body}END\n"
        for language, info, body in BLOCKS
        if info.startswith("run")
    )
    done = cli.shell(script)
    assert done.returncode == 0, done.stderr
    assert "no price" not in done.stderr and "verified" in done.stdout
    assert "no room for the next request" in done.stderr and "pending rows: about $" in done.stdout
    capped = json.loads((cli.folder / "capped" / "summary.json").read_text("utf-8"))
    assert capped["status"] == "complete"
    assert capped["budget"]["charged_usd"] == capped["totals"]["cost_usd"] > 0.0008
    totals = json.loads((cli.folder / "priced" / "summary.json").read_text("utf-8"))["totals"]
    assert totals["cost_usd"] > 0 and totals["unpriced_attempts"] == 0
    exact = f"{totals['cost_usd']:.12f}".rstrip("0")
    told = [line.split() for line in done.stdout.splitlines() if "sim-large" in line]
    assert [*totals["by_day"]] == [told[-1][0]]
    assert told[-1] == [*totals["by_day"], "sim-large", exact]
    usage = pq.read_table(cli.folder / "priced" / "usage.parquet").to_pylist()
    assert sum(round(row["cost_usd"] * 1e12) for row in usage) == round(totals["cost_usd"] * 1e12)
    assert any(exact in line for line in done.stdout.splitlines() if "│" in line), done.stdout
