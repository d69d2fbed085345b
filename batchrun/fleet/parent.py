"""The command that started this process with ``--workers``: if it dies, this process stops too.

Its end of this process's standard input closes then, for every cause of death and on every system.
This process stops as if it had received SIGTERM: requests in flight may finish, and their answers
are kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

VARIABLE = "_BATCHRUN_PARENT"
"""The environment variable that requests this. It is removed for programs that the process starts.
"""


def stop_without_it() -> None:
    """Watch the parent from here on, if it requested that."""
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_watch, name="parent", daemon=True).start()


def _watch() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
