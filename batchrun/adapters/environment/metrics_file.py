"""``--metrics-file``: the figures of a run for the textfile collector of Prometheus' node exporter.

The file is replaced as a whole, so the collector never reads half of it. The umask decides who may
read it, since the collector is another user. It keeps the time of the last success of the file that
it replaces.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchrun.adapters.environment.exposition import exposed, last_success
from batchrun.adapters.storage import files
from batchrun.engine.observe.monitor import Snapshot
from batchrun.errors import UsageError

EVERY_S = 15.0
"""Seconds from one write to the next."""
BYTES_MAX = 2**20
"""A larger file is not a metrics file."""


class MetricsFile:
    """``ports.Observer`` that writes the file; ``end`` writes it for the last time."""

    def __init__(self, path: str) -> None:
        """Write it for the first time. Raises ``UsageError`` if it cannot be written."""
        self._path = Path(path)
        self._next_s = time.monotonic() + EVERY_S
        self._live: dict[str, Any] | None = None
        try:
            self._success_s = self._before()
            self._write({"state": "running"})
        except OSError as error:
            message = f"--metrics-file {path} cannot be written: {error.strerror}"
            raise UsageError(message) from None

    def _before(self) -> float | None:
        if not self._path.exists():
            return None
        with self._path.open("rb") as file:
            return last_success(file.read(BYTES_MAX).decode("utf-8", "replace"))

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        if not isinstance(event, Snapshot):
            return
        now_s = time.monotonic()
        if event.last or now_s >= self._next_s:
            self._next_s = now_s + EVERY_S
            self._live = asdict(event)
            self._write({"state": "running", "live": self._live})

    def end(self, summary: Mapping[str, Any] | None, exit_code: int) -> None:
        """Write how the run ended, from its summary, or else from the exit code and the last
        snapshot. Raises ``OSError``.
        """
        if exit_code == 0:  # also if an earlier session had done all rows
            self._success_s = time.time()
        if summary is not None:
            self._write({"state": summary["status"], "summary": summary})
            return
        ended = {"exit_code": exit_code, "ended_s": time.time()}
        self._write({"state": "failed", "live": self._live} | ended)

    def _write(self, found: Mapping[str, Any]) -> None:
        text = exposed(found, now_s=time.time(), last_success_s=self._success_s)
        with files.Draft(self._path, foreign=True, digests=False) as draft:
            draft.write(text)
            draft.finish()
            draft.rename()
