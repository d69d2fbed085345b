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


NOTEBOOK = """
import sys, types
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
sys.modules["ipywidgets"] = None
"""


def test_a_notebook_that_can_draw_none_is_no_error():
    """Without ipywidgets DuckDB refuses to change the setting of its progress bar."""
    program = NOTEBOOK + PROGRAM.replace(
        "SELECT current_setting('enable_progress_bar')", "SELECT 1"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"[(1,)]"), done.stderr
