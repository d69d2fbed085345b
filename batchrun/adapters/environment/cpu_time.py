"""How busy a process is: the CPU time that it had, and the time for which it wanted some."""

from __future__ import annotations

import time

from batchrun.adapters.system import platform


def busy_s() -> float:
    """Seconds of CPU time of this process, and those for which the calling thread was ready to run
    and had to wait for a core. On a busy machine a run that is slow for want of CPU has little CPU
    time. Only Linux has the second figure.
    """
    return time.process_time() + platform.waited_s()
