"""A start that is killed before anything is sent, or while the first request is out, and a next
one with other settings: the directory is never one that nobody can use.
"""

import pytest

from batchrun.adapters.journal.flight_log import read_notes


@pytest.mark.parametrize("point", ["state.begun:1", "state.put:1", "flights.removed:1"])
def test_a_next_start_has_settings_of_its_own_wherever_the_last_was_killed(new_job, point):
    """Begun with one setting, begun again with another and killed there too, then run with a third:
    every row is sent once, with the third.
    """
    job = new_job(10)
    job.killed_at(point, "--temperature", "0")
    again = point.replace("state.begun", "state.put")  # the file is there by then
    job.killed_at(again, "--temperature", "1", "--carry", "none")
    done = job.run("--temperature", "0.5")
    assert done.code == 0, done.err
    assert len(job.whole()) == 10
    assert set(job.asked.values()) == {1}
    job.accounted()


def test_a_request_that_was_out_is_kept_in_the_ledger(new_job, until):
    """It may have been paid for: the next start takes other settings, since no row is done, and
    notes it as unanswered.
    """
    job = new_job(10)
    job.held = set(range(10))
    session = job.start("--temperature", "0")
    until(lambda: len(job.asked) == 4)
    session.process.kill()
    session.killed()
    job.kills += 1
    assert len(read_notes(job.folder / "checkpoint/inflight")) == 4
    job.released.set()
    done = job.run("--temperature", "0.5")
    assert done.code == 0 and "no row of run is done" in done.err, done.err
    assert len(job.whole()) == 10
    assert job.accounted() == 4
