"""Parts that several processes publish into one directory."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.staged_store import StagedStore, drop_staged, reveal

RESULTS, ATTEMPTS = "results/part-00000003.parquet", "attempts/part-00000003.parquet"


def parquet(rows):
    """A part with these rows."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"row": list(rows)}), sink)
    return sink.getvalue()


def stage(store, *names, rows=3):
    """Publish parts as a worker does: attempts first."""
    drafts = []
    for name in names:
        drafts.append(store.draft(name))
        drafts[-1].write(parquet(range(rows)))
    store.publish(drafts)


@pytest.fixture
def opened(tmp_path):
    """Opens the store as a worker, with the epoch of its claims."""

    def of(worker, epoch):
        store = StagedStore(tmp_path, worker, lambda _: epoch)
        store.prepare()
        return store

    return of


def test_a_staged_part_is_nobodys_until_it_is_revealed(opened, tmp_path):
    """Readers see no part, and the mark is already that of the part to be."""
    store, reader = opened("one", 1), DiskStore(tmp_path)
    stage(store, ATTEMPTS, RESULTS)
    assert not [n for n in reader.names("results") if n.startswith("part-")]
    marks = store.marks((RESULTS, ATTEMPTS))
    reveal(tmp_path, 3, 1, "one")
    assert reader.marks((RESULTS, ATTEMPTS)) == marks
    assert reader.names("results") == ["part-00000003.parquet"]


def test_revealing_again_changes_nothing(opened, tmp_path):
    """A kill may come between two of the names; whoever comes by finishes it."""
    stage(opened("one", 1), ATTEMPTS, RESULTS)
    reveal(tmp_path, 3, 1, "one")
    before = (tmp_path / RESULTS).read_bytes()
    reveal(tmp_path, 3, 1, "one")
    reveal(tmp_path, 3, 2, "one")
    assert (tmp_path / RESULTS).read_bytes() == before


def test_workers_never_meet_in_one_file(opened, tmp_path):
    """Two that work on the same shard, in the same epoch of different fleets, stage apart; so do
    their drafts.
    """
    one, two = opened("one", 1), opened("two", 1)
    drafts = [store.draft(RESULTS) for store in (one, two)]
    for number, draft in enumerate(drafts, 1):
        draft.write(parquet(range(number)))
    for store, draft in zip((one, two), drafts, strict=True):
        store.publish([draft])
    reveal(tmp_path, 3, 1, "two")
    assert pq.read_metadata(tmp_path / RESULTS).num_rows == 2
    assert one.marks([RESULTS])[RESULTS] != two.marks([RESULTS])[RESULTS]


def test_drafts_of_one_large_answer_do_not_meet_either(opened):
    """Files that are named by their content are made by any worker, at the same time."""
    one, two = (opened(worker, 1).draft("responses/ab") for worker in ("one", "two"))
    one.write(b"same")
    two.write(b"same")
    for draft in (one, two):
        draft.sync()
        draft.rename()
        draft.discard()
    assert one.path.read_bytes() == b"same"


def test_what_never_counted_is_dropped(opened, tmp_path):
    """Staged parts of workers that were taken over; published ones stay."""
    stage(opened("one", 1), ATTEMPTS, RESULTS)
    stage(opened("two", 2), ATTEMPTS, RESULTS)
    reveal(tmp_path, 3, 2, "two")
    drop_staged(tmp_path)
    for kind in ("results", "attempts"):
        assert [path.name for path in (tmp_path / kind).iterdir()] == ["part-00000003.parquet"]


def test_preparing_leaves_the_drafts_of_others(opened):
    """Another process may be writing one."""
    draft = opened("one", 1).draft(RESULTS)
    draft.write(parquet([1]))
    opened("two", 1).prepare()
    draft.sync()
    draft.rename()
    assert draft.path.exists()
