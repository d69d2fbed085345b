"""What a process of a fleet begins with."""

import shutil

import pytest

from batchrun.adapters.storage import files
from batchrun.core.fleet import claims, leases
from batchrun.core.fleet.board import Place
from batchrun.errors import StorageError
from batchrun.rundir.fleet.launches import WORKERS, Launch, Plan
from batchrun.rundir.fleet.workers import Worker

PLAN = Plan({}, 0, (), frozenset())


@pytest.fixture
def launch(tmp_path):
    """One on a disk."""
    folder = tmp_path / "fleet" / "one"
    for name in (claims.FOLDER, leases.FOLDER, WORKERS):
        (folder / name).mkdir(parents=True)
    return Launch("one", folder, 0.0, 10)


def test_its_checkpoint_would_survive_a_power_cut(launch, monkeypatch):
    """The name of the folder is flushed before anything is written into it: else flushed logs could
    vanish with it.
    """
    done = []
    monkeypatch.setattr(files, "step", lambda name, path: done.append((name, path)))
    worker = Worker(launch, PLAN, Place(0, 1))
    worker.leave()
    assert done[0] == ("folder.synced", launch.folder / WORKERS)
    assert worker.checkpoint.parent == launch.folder / WORKERS


def test_a_launch_that_was_moved_away_cannot_be_joined(launch):
    """No folder is made for it, so nobody works where nothing will be folded."""
    shutil.move(launch.folder, launch.folder.with_name(".one.ended"))
    with pytest.raises(StorageError, match="cannot join"):
        Worker(launch, PLAN, Place(0, 1))
    assert not launch.folder.exists()
    assert launch.is_over()
