"""How busy a process is: the CPU time that it had, and the time for which it wanted some."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULED = Path("/proc/thread-self/schedstat")


def busy_s() -> float:
    """Seconds of CPU time of this process, and those for which the calling thread was ready to run
    and had to wait for a core. On a busy machine a run that is slow for want of CPU has little CPU
    time. The second figure is Linux's (proc(5), ``schedstat``); elsewhere it is 0.
    """
    try:
        waited_ns = int(_SCHEDULED.read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        waited_ns = 0
    return time.process_time() + waited_ns / 1e9
