"""A process killed while failed rows are withheld: they are pending, and their attempts known."""

import signal

import pytest

from batchrun.views.verify import verify

BROKEN = range(10, 30)


@pytest.fixture
def job(new_job):
    """Forty rows, sent one after the other, of which twenty in a row fail, while all that follow
    wait for their answers.
    """
    job = new_job(40)
    job.flags = ["--concurrency", "1"]
    job.broken = set(BROKEN)
    job.held = set(range(30, 40))
    return job


def _killed_while_withheld(job, until):
    session = job.start()
    until(lambda: all(job.asked[row] for row in BROKEN) and job.asked[30])
    session.signal(signal.SIGKILL)
    session.killed()
    job.kills += 1


def test_a_kill_leaves_withheld_rows_pending(job, until):
    """None has an outcome; the next session sends them again, numbers their attempts on, and the
    ledger has each attempt once.
    """
    _killed_while_withheld(job, until)
    assert not set(job.published()) & set(BROKEN)
    job.broken = set()
    job.released.set()
    done = job.run()
    assert done.code == 0, done.err
    assert len(job.whole()) == 40
    assert all(job.asked[row] == 2 for row in BROKEN)
    job.accounted()
    attempts = {row["row"]: row["attempts"] for row in job.table().to_pylist()}
    assert all(attempts[row] == 2 for row in BROKEN)


def test_rows_that_fail_again_after_a_kill_are_error_rows(job, until):
    """They were to blame: the answers that come at last show it."""
    _killed_while_withheld(job, until)
    job.released.set()
    done = job.run()
    assert done.code == 1, done.err
    errors = {row["row"] for row in job.table().to_pylist() if row["status"] == "error"}
    assert errors == set(BROKEN)
    job.accounted()
    assert verify.check(str(job.folder), None).problems == []
