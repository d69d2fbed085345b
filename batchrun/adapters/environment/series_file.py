"""``checkpoint/series.json``: what a run did over time, for its report."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.storage import files
from batchrun.core.run.series import Reading, Series
from batchrun.core.text.legible import json_of
from batchrun.engine.observe.monitor import Snapshot

NAME = "series.json"
WRITE_EVERY_S = 5.0
"""Seconds between writes, and so the most that a kill may lose; it is written more often at the
start of a session.
"""


class SeriesFile:
    """``ports.Observer`` that continues the series of earlier sessions. The file is replaced every
    few seconds and not flushed: it survives a kill, but a power cut may bring an older one back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._series = Series.of(files.read_json(path))
        self._began_s = self._next_s = time.monotonic()

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        assert isinstance(event, Snapshot)
        self._series.add(LoopClock.onward_us() / 1e6, reading_of(event))
        if event.last or time.monotonic() >= self._next_s:
            self.write()

    def take_in(self, others: Iterable[Path]) -> None:
        """Add what other processes did at the same time, by their files. Raises ``OSError``."""
        found = [Series.of(files.read_json(path)) for path in others]
        self._series = Series.together([self._series, *found])
        self.write()

    def write(self) -> None:
        """Write the series so far. Raises ``OSError``."""
        now_s = time.monotonic()
        self._next_s = now_s + min(WRITE_EVERY_S, now_s - self._began_s)
        text = json_of(self._series.recorded()) + "\n"
        files.write_whole(self._path, text.encode(), durable=False)


def reading_of(snapshot: Snapshot) -> Reading:
    """The values of a snapshot that go into a series."""
    endpoints = snapshot.endpoints
    windows = [e.window["concurrency"] for e in endpoints if e.window is not None]
    return Reading(
        requests=snapshot.requests,
        answers=sum(e.answers for e in endpoints),
        refusals=sum(e.refusals for e in endpoints),
        failures=sum(e.failures for e in endpoints),
        prompt_tokens=snapshot.prompt_tokens,
        completion_tokens=snapshot.completion_tokens,
        cost_usd=snapshot.cost_usd or 0.0,
        in_flight=snapshot.in_flight,
        window=sum(windows) if windows else None,
        bound_by=snapshot.bound_by,
    )
