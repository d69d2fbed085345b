"""How long a process of a fleet waits for whoever holds the run directory."""

from types import SimpleNamespace

import pytest

from batchrun.core.fleet.operations import Done, Operation
from batchrun.core.run.changes import Changes
from batchrun.errors import RunLockedError, StorageError
from batchrun.fleet import worker
from batchrun.session import Result

RESULT = Result({}, None, None, 0, sent_nothing=True)


@pytest.fixture
def enlisted(monkeypatch):
    """Has a process look at a directory that is locked, busy as given at each look, and free after
    that; returns what it comes to. The looks are 40 s apart.
    """

    def look(busy):
        clock = iter(range(0, 10_000, 40))
        monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(worker.time, "sleep", lambda _: None)
        left = list(busy)
        is_busy = None

        def launched():
            nonlocal is_busy
            if not left:
                return RESULT
            is_busy = left.pop(0)
            message = "in use"
            raise RunLockedError(message, holder="somebody")

        process = object.__new__(worker._Process)
        process._launches = SimpleNamespace(current=lambda: None, is_busy=lambda: is_busy)
        process._shown, process._say, process._launched = "run", lambda _: None, launched
        return process._enlisted()

    return look


def test_it_waits_while_a_launch_is_prepared_and_for_a_while_after_that(enlisted):
    """However long that takes: an input of a billion rows is indexed first."""
    assert enlisted([True] * 10 + [False]) is RESULT


def test_a_directory_that_somebody_else_uses_is_refused(enlisted):
    """It launches no fleet."""
    with pytest.raises(RunLockedError, match="in use"):
        enlisted([False] * 10)


def test_who_tried_to_join_does_not_do_it_all_again(monkeypatch):
    """Folding may have counted it among those who took part, by the folder that it made."""

    def refuse(*_):
        message = "cannot join"
        raise StorageError(message)

    monkeypatch.setattr(worker, "Worker", refuse)
    process = object.__new__(worker._Process)
    process._launches = SimpleNamespace(current=lambda: None, plan=lambda _: None)
    process._place, process._took_part = SimpleNamespace(index=3), False
    process._operation = Operation("restart", Changes(restart=True), is_named=False)
    launch = SimpleNamespace(operation="another", done=(Done("restart", (1, 2, 3)),))
    assert not process._may_join(launch), "by hand, it would mean another restart"
    assert process._joined(launch) is None
    assert process._may_join(launch)
