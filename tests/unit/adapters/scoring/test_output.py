"""DuckDB writes nothing that nobody asked it for."""

import subprocess
import sys

PROGRAM = """
from batchrun.adapters.scoring.database import Database
with Database() as found:
    print(found._connection.execute("SELECT current_setting('enable_progress_bar')").fetchall())
"""


def test_no_progress_bar_is_drawn():
    """Not even where DuckDB takes the interpreter for an interactive one, as without a script."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert done.stdout.strip() == b"[(False,)]"
