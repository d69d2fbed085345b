"""A run directory that another process moves aside is not taken under its old name."""

import pytest

from batchrun.errors import RunLockedError
from batchrun.rundir import claim, lock
from batchrun.rundir.lock import NAME, Lock


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """The next lock is taken on a directory that is moved between its opening and that moment."""
    take, moves = lock._take, []

    def take_late(descriptor):
        if not moves:
            moves.append((tmp_path / "run").rename(tmp_path / "run.old"))
        take(descriptor)

    monkeypatch.setattr(lock, "_take", take_late)
    return moves


def test_a_lock_on_a_directory_that_moved_is_none(tmp_path, moved):
    """It is the lock of the old contents; whoever moved them may have the new ones."""
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(FileNotFoundError):
        Lock(run, run / NAME).acquire()
    aside = Lock(moved[0], moved[0] / NAME)
    aside.acquire()
    aside.release()


def test_the_directory_is_made_again_and_taken(tmp_path, moved):
    """By a process that comes while another one restarts the run."""
    run = tmp_path / "run"
    _, mine = claim.take(str(run), run / "checkpoint", claim.Changes(), lambda _: None)
    assert moved
    with pytest.raises(RunLockedError):
        Lock(run, run / "checkpoint" / NAME).acquire()
    mine.check()
    mine.release()


def test_a_fleet_that_was_launched_while_the_old_contents_moved_is_not_opened(
    tmp_path, monkeypatch
):
    """A restart gives the lock of the old directory back, and another process takes the new one
    first and launches a fleet there.
    """
    run, taken, settled = tmp_path / "run", [], []
    (run / "results").mkdir(parents=True)
    locked = claim._locked

    def lock_late(folder, *given):
        taken.append(folder)
        if len(taken) == 2:
            assert not run.exists()
            (run / claim.FLEET).mkdir(parents=True)
        return locked(folder, *given)

    def settle(*given):
        settled.append(given)
        message = "in use by two processes"
        raise RunLockedError(message, holder="them")

    monkeypatch.setattr(claim, "_locked", lock_late)
    restart = claim.Changes(restart=True)
    with pytest.raises(RunLockedError, match="two processes"):
        claim.take(str(run), run / "checkpoint", restart, lambda _: None, None, settle)
    assert len(settled) == 1
    Lock(run, run / "checkpoint" / NAME).acquire()
