"""How busy a process is: its CPU time, and the time it waited for a core."""

from __future__ import annotations

import time

from batchrun.adapters.system import platform


def busy_s() -> float:
    """CPU seconds of this process, and the seconds that the calling thread was ready to run but
    waited for a core. On a busy machine, a run that is slow for lack of CPU has used little CPU
    time. Only Linux has the second figure.
    """
    return time.process_time() + platform.waited_s()
