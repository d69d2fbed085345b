"""Crash points: the real command, killed by itself at the N-th time it reaches a durable step.

``python -m batchrun.testing.crashpoints STEP:N -- run ARGS...`` runs ``batchrun run ARGS...`` in
this process, with ``batchrun.adapters.files.step`` replaced: when STEP is reached for the N-th
time (from 1), the process sends itself SIGKILL, so nothing is cleaned up and nothing is flushed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from batchrun.adapters import files

STEPS = (
    "log.writing",
    "log.written",
    "log.synced",
    "log.removed",
    "draft.written",
    "draft.synced",
    "draft.renamed",
    "folder.synced",
    "seal.written",
    "seal.committed",
)
"""The steps of every run: around a group in a shard's log (written, flushed, the log taken
away), a file that is published (flushed, renamed, its folder flushed) and the transaction that
records a shard's parts."""

REPAIR_STEPS = ("aside.moved",)
"""Those that only ``--repair`` reaches: a damaged file was set aside."""

STORE_STEPS = ("object.putting", "object.put", "restart.copied", "restart.renamed")
"""Those of a run directory in an object store: around an upload, and inside ``--restart``."""


def killer(name: str, times: int) -> Callable[[str], None]:
    """A ``files.step`` that kills this process when it hears ``name`` for the ``times``-th time.

    Raises ``ValueError`` for a step that there is not.
    """
    steps = (*STEPS, *REPAIR_STEPS, *STORE_STEPS)
    if name not in steps:
        message = f"no step is called {name!r}; there are {', '.join(steps)}"
        raise ValueError(message)
    if times < 1:
        message = f"{name} is reached once or more often, not {times} times"
        raise ValueError(message)
    left = times
    lock = threading.Lock()  # steps are reached in several threads

    def step(reached: str) -> None:
        nonlocal left
        if reached == name:
            with lock:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return step


def main(arguments: Sequence[str]) -> None:
    """Run the command line behind ``--`` with a crash point armed."""
    point, separator, command = arguments[:1], arguments[1:2], arguments[2:]
    name, _, times = "".join(point).partition(":")
    if separator != ["--"] or not times.isdecimal():
        sys.exit("usage: python -m batchrun.testing.crashpoints STEP:N -- run ARGS...")
    files.step = killer(name, int(times))
    sys.argv = ["batchrun", *command]
    from batchrun.cli.main import main as batchrun

    batchrun()


if __name__ == "__main__":
    main(sys.argv[1:])
