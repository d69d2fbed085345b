"""Suspending a process so that it has really stopped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

PATIENCE_S = 60.0


def suspend(pid: int) -> None:
    """Send SIGSTOP, and wait until every thread has stopped: one that is in a system call, such as
    a write, comes to its end first.
    """
    os.kill(pid, signal.SIGSTOP)
    until_s = time.monotonic() + PATIENCE_S
    while _at_work(pid):
        if time.monotonic() > until_s:
            message = f"process {pid} did not stop within {PATIENCE_S:g} s"
            raise TimeoutError(message)
        time.sleep(0.005)


def _at_work(pid: int) -> bool:
    """Whether a thread of a process goes on; False where the system has no ``/proc``."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return any(path.read_text().rpartition(")")[2].split()[0] != "T" for path in stats)
