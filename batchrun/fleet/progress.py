"""The progress of a fleet as its launcher shows it: by the status files of its workers."""

from __future__ import annotations

from pathlib import Path

from batchrun.adapters.storage import files
from batchrun.engine.observe.monitor import Snapshot
from batchrun.rundir.fleet import launches
from batchrun.rundir.fleet.launches import WORKERS
from batchrun.rundir.open_run import STATUS
from batchrun.views.fleet.together import together


class FleetProgress:
    """Looks at the fleet of a run directory, now and then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._launch: launches.Launch | None = None
        self._before = 0, 0

    def look(self, elapsed_s: float) -> Snapshot | None:
        """One snapshot of all workers; None while there is no fleet."""
        launch = launches.current(self._folder)
        if launch is None:
            return None
        if launch != self._launch:
            self._launch, self._before = launch, launches.read_plan(launch).before
        paths = sorted((launch.folder / WORKERS).glob(f"*/{STATUS}"))
        found = {path.parent.name: files.read_json(path) for path in paths}
        statuses = {name: status for name, status in found.items() if isinstance(status, dict)}
        return together(statuses, self._before, elapsed_s)
