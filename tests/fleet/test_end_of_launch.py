"""The end of a launch in an object store, where no folder can be moved away: what comes too late
changes nothing.
"""

import json
import threading
from pathlib import Path

import pytest

from batchrun.adapters.storage.bucket import bucket_at
from batchrun.adapters.storage.object_store import ObjectStore
from batchrun.adapters.storage.staged_objects import StagedPart, reveal
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.leases import lease_name
from batchrun.errors import RunLockedError, StorageError
from batchrun.rundir.fleet import in_bucket
from batchrun.rundir.fleet.in_bucket import ENDING, BucketLaunch, BucketLaunches
from batchrun.rundir.fleet.launches import FOLDED, LAUNCHING, LIVE, announced


@pytest.fixture
def launches(shared_store, tmp_path, monkeypatch):
    """Those of a directory in a bucket."""
    monkeypatch.setattr(in_bucket, "LOOK_S", 0.05)
    (tmp_path / "cp").mkdir()
    return BucketLaunches(shared_store.address, tmp_path / "cp")


@pytest.fixture
def launch(launches):
    """One that is live."""
    found = BucketLaunch(
        "one", launches.checkpoint / "fleet" / "one", 0.0, 10, address=launches.address
    )
    bucket_at(launches.address).write("fleet/launch.json", _content(found, LIVE))
    return found


def _content(launch, state):
    return json.dumps(announced(launch, state)).encode()


def test_a_record_that_comes_after_the_end_is_taken_back(launches, launch, shared_store):
    """A claim is not made, and a lease is not renewed."""
    worker = launch.claims("zombie")
    first = Claim(1, 1, "zombie")
    assert worker.create(first.name, first.as_bytes())
    worker.put(lease_name("zombie"), b"{}")
    launches.announce(launch, ENDING)
    launches.announce(launch, FOLDED)
    late = first.committed({"by": "zombie"})
    assert not worker.create(late.name, late.as_bytes())
    with pytest.raises(StorageError, match="have ended"):
        worker.put(lease_name("zombie"), b"{}")
    assert shared_store.get(f"fleet/one/{late.name}") is None
    assert shared_store.get(f"fleet/one/{lease_name('zombie')}") is None
    assert launch.is_over()
    assert launches.current() is None


def test_a_record_waits_while_somebody_looks_whether_to_fold(launches, launch):
    """Who was about to fold saw that others live: the record counts."""
    launches.announce(launch, ENDING)
    worker, claim, made = launch.claims("one"), Claim(1, 1, "one"), []
    thread = threading.Thread(
        target=lambda: made.append(worker.create(claim.name, claim.as_bytes()))
    )
    thread.start()
    while launch.records().read(claim.name) is None:
        thread.join(0.05)
    assert not made
    launches.announce(launch, LIVE)
    thread.join(60)
    assert made == [True]


def test_somebody_who_joins_at_the_last_moment_keeps_it_open(launches, launch):
    """It is said that the launch ends before it is looked once more who lives."""

    def refuse():
        assert launch.state() == ENDING
        raise RunLockedError("somebody lives", holder="one")

    with pytest.raises(RunLockedError):
        launches.end(launch, refuse)
    assert launches.current() == launch


def test_every_open_chain_is_closed(launches, launch):
    """A worker that publishes between the listing and that keeps what it published; one that comes
    after it is refused.
    """
    worker, fold = launch.claims("w"), launch.records()
    chains = [Claim(shard, 1, "w") for shard in range(3)]
    for claim in chains:
        assert worker.create(claim.name, claim.as_bytes())
    quick = chains[1].committed({"by": "w"})
    assert worker.create(quick.name, quick.as_bytes())
    closed = launches.close(launch, chains)
    assert [claim.published for claim in closed] == [None, {"by": "w"}, None]
    late = chains[0].committed({"by": "w"})
    assert not worker.create(late.name, late.as_bytes())
    # After a kill it is done again: what closed the chains is in them now.
    again = launches.close(launch, [Claim(0, 2, "fold-x"), closed[1], Claim(2, 2, "fold-x")])
    assert [claim.published for claim in again] == [None, {"by": "w"}, None]
    assert fold.read(chains[1].taken_over("x").name) == quick.as_bytes()


def test_who_lost_the_directory_announces_nothing(launches, launch):
    """It was suspended before it said how its launch ended, and another one is live by now."""
    other = BucketLaunch("two", launch.folder.with_name("two"), 0.0, 10, address=launches.address)
    bucket_at(launches.address).write("fleet/launch.json", _content(other, LIVE))
    for state in (ENDING, FOLDED, LIVE):
        with pytest.raises(StorageError, match="changed by another process"):
            launches.announce(launch, state)
    with pytest.raises(StorageError, match="changed by another process"):
        launches.begin_launching()
    assert launches.current() == other
    assert launch.is_over()


def test_a_launch_that_was_begun_by_a_process_that_died_is_begun_again(launches, launch):
    """Its name is forgotten with it."""
    bucket = bucket_at(launches.address)
    bucket.write("fleet/launch.json", _content(launch, LAUNCHING))
    assert launches.current() is None
    assert launches.is_busy()
    launches.begin_launching()
    assert "id" not in json.loads(bucket.read("fleet/launch.json"))


def test_a_copy_that_comes_late_finds_no_source(launches, launch, shared_store, tmp_path):
    """What was staged is gone when others may write: the part that is there stays."""
    store, bucket = ObjectStore(launches.address, Path(tmp_path)), bucket_at(launches.address)
    parts = [StagedPart(kind, 0, 1, "w") for kind in ("attempts", "results")]
    for part in parts:
        bucket.write(part.staged("fleet/one"), b"staged")
    assert set(reveal(store, "fleet/one", parts)) == {part.final for part in parts}
    assert shared_store.get("results/part-00000000.parquet") == b"staged"
    launches.announce(launch, ENDING)
    launches.announce(launch, FOLDED)
    launches.clear()
    bucket.write(parts[1].final, b"newer")
    with pytest.raises(StorageError, match="cannot copy"):
        reveal(store, "fleet/one", parts)
    assert shared_store.get("results/part-00000000.parquet") == b"newer"
