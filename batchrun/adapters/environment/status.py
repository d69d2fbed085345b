"""The status file: how far a live run is, for whoever asks from outside."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from pathlib import Path

from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.storage import files
from batchrun.core.run import summary
from batchrun.engine.observe.monitor import Snapshot


class StatusFile:
    """``ports.Observer`` that replaces ``checkpoint/status.json``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        assert isinstance(event, Snapshot)
        status = asdict(event) | {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated_at": summary.moment(LoopClock.onward_us()),
        }
        files.write_json(self._path, status, durable=False)
