"""The progress of a fleet as its launcher shows it, from the status files of its workers."""

from __future__ import annotations

from batchrun.adapters.storage import files
from batchrun.engine.observe.monitor import Snapshot
from batchrun.rundir.fleet.launches import WORKERS, Launch, Launches
from batchrun.rundir.open_run import STATUS
from batchrun.views.fleet.together import together


class FleetProgress:
    """Reads the progress of a run directory's fleet from time to time."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches
        self._launch: Launch | None = None
        self._before = 0, 0

    def look(self, elapsed_s: float) -> Snapshot | None:
        """One snapshot of all workers; None while there is no fleet."""
        launch = self._launches.current()
        if launch is None:
            return None
        if launch != self._launch:
            self._launch, self._before = launch, self._launches.plan(launch).before
        paths = sorted((launch.folder / WORKERS).glob(f"*/{STATUS}"))
        found = {path.parent.name: files.read_json(path) for path in paths}
        statuses = {name: status for name, status in found.items() if isinstance(status, dict)}
        return together(statuses, self._before, elapsed_s)
