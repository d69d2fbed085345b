"""The examples of docs/estimate.md run as they stand, and its table is the program's."""

import json
import re
import shutil
from pathlib import Path

import pytest

from batchrun.core.estimate.token_table import ERRORS, RATES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "estimate.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+) ([^\n]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_runs(cli):
    """The commands end well, and the pilot's answers are a run that verifies."""
    shutil.copytree(ROOT / "samples", cli.folder / "samples")
    (config,) = [body for _, info, body in BLOCKS if info == "file=estimate.toml"]
    (cli.folder / "estimate.toml").write_text(config, "utf-8")
    (script,) = [body for _, info, body in BLOCKS if info == "run"]
    done = cli.shell(script)
    assert done.returncode == 0, done.stderr
    assert "pilot    12 rows sent" in done.stdout and "with 90% confidence" in done.stdout
    found = json.loads((cli.folder / "estimate.json").read_text("utf-8"))
    assert found["cost_usd"]["estimate"] > 0 and found["at_most"]["cost_usd"] > 0
    cli.verified("pilot")


def test_the_table_is_the_programs():
    """Bytes per token and errors as the page has them are those that are used."""
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", PAGE, re.MULTILINE)
    used = [
        (f"{1 / rate:.1f}", f"{low:.2f}", f"{high:.2f}")
        for rate, (low, high) in zip(RATES["o200k_base"], ERRORS["o200k_base"], strict=True)
    ]
    assert rows == used
