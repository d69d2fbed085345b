"""Real processes, killed while they send done rows again, or repair what is damaged."""

from collections import Counter

import pytest

from tests.harness.crashpoints import points

ROWS = 22


@pytest.fixture
def job(new_job):
    """A finished run of 22 rows in parts of 8, every third of which failed with 413."""
    made = new_job(ROWS)
    made.broken = set(range(0, ROWS, 3))
    assert made.run().code == 1
    return made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_failed_rows_are_sent_again(job):
    """At every step each row has its old outcome or its new one, an answer once there stays, and
    the ledger misses nothing.
    """
    before = job.whole()
    for point in ["log.synced:2", *points("retry")]:
        job.killed_at(point, "--retry-failed")
        if len(job.broken) > 1:
            job.broken.remove(max(job.broken))
        after = job.whole()
        assert before.items() <= after.items()
        before = after
    plain = job.run()
    assert plain.code == 1, plain.err
    job.accounted()
    job.broken.clear()
    done = job.run("--retry-failed")
    assert done.code == 0, done.err
    assert before.items() <= job.whole().items()
    job.accounted()


def test_killed_between_the_last_part_and_the_summary(job):
    """A summary that is older than the parts is written again by the next start."""
    job.broken = {21}
    assert job.run("--retry-failed").code == 1
    job.broken.clear()
    job.killed_at("seal.committed:1", "--retry-failed")
    assert job.run().code == 0
    job.accounted()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_changed_rows_are_sent_again(job):
    """A resend that was killed is not forgotten: a plain start refuses, the same command goes on,
    and no row is sent twice for it but those that were out.
    """
    job.broken.clear()
    assert job.run("--retry-failed").code == 0
    answers, asked = job.whole(), Counter(job.asked)
    change = ("--param", "seed=1", "--resend-changed")
    for point in ("log.synced:2", "draft.renamed:2", "seal.committed:1"):
        job.killed_at(point, *change)
        job.whole()
        refused = job.run("--param", "seed=1")
        assert refused.code == 2 and "--resend-changed" in refused.err
    assert job.run(*change).code == 0
    now = job.whole()
    assert all(now[number] != answers[number] for number in range(ROWS))
    assert all(1 <= job.asked[number] - asked[number] <= 2 for number in range(ROWS))
    job.accounted()
    assert job.run("--param", "seed=1").code == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["results", "attempts"])
def test_killed_while_a_part_is_repaired(job, kind):
    """Whatever a killed repair left is refused without --repair, and mended with it: other parts
    stay as they are, and so does the part that was sound.
    """
    before = job.whole()
    part = job.folder / kind / "part-00000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    others = {
        path: path.read_bytes()
        for path in job.folder.glob(f"{kind}/part-*.parquet")
        if path != part
    }
    for point in points("repair"):
        job.killed_at(point, "--repair")
        refused = job.run()
        assert refused.code == 2 and "--repair" in refused.err, (point, refused.err)
    asked = job.asked.total()
    done = job.run("--repair")
    assert done.code == 1, done.err
    after = job.whole()
    assert job.asked.total() - asked == (8 if kind == "results" else 0)
    assert {n for n, text in before.items() if after[n] != text} == (
        {n for n in range(8, 16) if n in before} if kind == "results" else set()
    )
    assert all(path.read_bytes() == data for path, data in others.items())
    assert len(list((job.folder / "checkpoint" / "damaged").iterdir())) == 1
    job.verified()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_the_state_file_is_made_again(job):
    """The settings are noted last: until then only --repair opens the directory, and no row is
    ever sent.
    """
    before, asked = job.whole(), job.asked.total()
    for path in (job.folder / "checkpoint").glob("journal.db*"):
        path.unlink()
    for point in ("seal.written:1", "draft.renamed:2", "seal.committed:4"):
        job.killed_at(point, "--repair")
        refused = job.run()
        assert refused.code == 2 and "--repair" in refused.err, (point, refused.err)
    assert job.run("--repair").code == 1
    assert job.whole() == before and job.asked.total() == asked
    job.accounted()
