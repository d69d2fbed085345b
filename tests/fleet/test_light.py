"""A run of one process pays nothing for fleets."""

import os
import subprocess
import sys

from tests.conftest import ROOT

PROBE = """
import sys
from batchrun.cli.main import main
try:
    main(prog_name="batchrun")
finally:
    found = [name for name in sys.modules if "fleet" in name or name in ("obstore", "ray")]
    print("LOADED", found, file=sys.stderr)
"""


def test_a_plain_run_loads_nothing_of_it(tmp_path, jsonl):
    """No module of it is imported, no folder made, no thread started."""
    flags = ("-o", "run", "--provider", "simulator", "--model", "m", "--no-progress")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "run", str(jsonl(3)), *flags],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stderr
    assert not (tmp_path / "run" / "fleet").exists()
