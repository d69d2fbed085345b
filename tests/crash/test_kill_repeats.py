"""Processes with `--repeat`, killed at durable steps: every repeat is answered once, as itself."""

from collections import Counter

import pytest

from tests.harness.crashpoints import points

ROWS, K = 7, 3


@pytest.fixture
def job(new_job):
    """A run of 7 rows, each three times, in parts of 6."""
    made = new_job(ROWS)
    made.flags = [f"--repeat={K}", '--param=seed="{{ repeat }}"']
    return made


def _whole(job):
    """The answers that can be read by now, by row; each row says which repeat it is."""
    if not list(job.folder.glob("results/part-*.parquet")):
        return {}
    rows = job.table().to_pylist()
    for row in rows:
        assert (row["repeat_of"], row["repeat"]) == divmod(row["row"], K)
        assert row["note"] == row["repeat_of"]
        assert row["content"].endswith(f" to {row['note']}")
    numbers = [row["row"] for row in rows]
    assert numbers == sorted(set(numbers))
    return {row["row"]: row["content"] for row in rows}


def _accounted(job):
    """Every repeat is there, and the ledger has as many requests of a row as the server counted,
    and what a kill cut off besides.
    """
    job.verified()
    assert len(_whole(job)) == ROWS * K
    ledger = job.table("attempts").to_pylist()
    lines = Counter(line["row"] // K for line in ledger)
    cut = Counter(line["row"] // K for line in ledger if line["error_code"] == "interrupted")
    for number in range(ROWS):
        asked = job.asked[number]
        assert K <= asked <= lines[number] <= asked + cut[number]


@pytest.mark.parametrize("point", ["log.synced:2", "seal.committed:1"])
def test_killed_between_repeats(job, point):
    """The next start sends what is left of each row, and keeps every answer."""
    job.killed_at(point)
    before = _whole(job)
    done = job.run()
    assert done.code == 0, done.err
    assert before.items() <= _whole(job).items()
    _accounted(job)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_step(job):
    """One kill after the other, at each durable step of a run; then the run ends."""
    before = {}
    for point in points("group"):
        job.killed_at(point)
        after = _whole(job)
        assert before.items() <= after.items()
        before = after
    done = job.run()
    assert done.code == 0, done.err
    assert before.items() <= _whole(job).items()
    _accounted(job)
