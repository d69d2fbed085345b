"""The exam of ``ports.ClaimStore``: in memory, on a disk, in a real S3 server."""

import threading
import time

import pytest

from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.claims_on_disk import DiskClaims
from batchrun.core.fleet.board import Board, Place
from batchrun.core.fleet.claimant import Claimant
from batchrun.errors import StorageError
from batchrun.testing.claims import FakeClaims

FOLDERS = ("claims", "leases")


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def race(stores, name):
    """All stores create one record at the same time; returns the contents of those that did."""
    won, start = [], threading.Barrier(len(stores))

    def create(number, store):
        start.wait()
        if store.create(name, str(number).encode()):
            won.append(str(number))

    threads = [threading.Thread(target=create, args=each) for each in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


class ClaimStoreExam:
    """What every store of claims promises. ``open_store(owner)`` opens one and the same store, as
    another process would.
    """

    def test_a_record_is_made_once(self, open_store):
        """The first caller makes it; what is there stays, whoever comes later."""
        one, two = open_store("one"), open_store("two")
        assert one.create("claims/1", b"one")
        assert not two.create("claims/1", b"two")
        assert two.read("claims/1") == b"one"

    def test_of_many_racing_callers_one_makes_it(self, open_store):
        """Sixteen at once, ten times: always exactly one, and its content is there."""
        stores = [open_store(str(number)) for number in range(16)]
        for round_ in range(10):
            name = f"claims/{round_}"
            won = race(stores, name)
            assert len(won) == 1
            assert stores[0].read(name) == won[0].encode()

    def test_a_call_that_is_made_again_finds_its_own_record(self, open_store):
        """The answer to the first may have been lost on its way."""
        store = open_store("one")
        assert store.create("claims/1", b"mine")
        assert store.create("claims/1", b"mine")

    def test_what_is_not_there_is_said(self, open_store):
        """No content, no time, no names: not an error."""
        store = open_store("one")
        assert store.read("claims/1") is None
        assert store.written_s("claims/1") is None
        assert store.names("claims") == []

    def test_a_record_that_was_removed_is_not_there(self, open_store):
        """Removing it twice is no mistake, and its name may be taken again."""
        store = open_store("a")
        assert store.create("claims/1", b"one")
        for _ in range(2):
            store.remove("claims/1")
        assert store.read("claims/1") is None
        assert store.names("claims") == []
        assert store.create("claims/1", b"two")

    def test_names_come_in_order_and_by_folder(self, open_store):
        """Every record that was made, by any process, and nothing else."""
        one, two = open_store("one"), open_store("two")
        for store, name in ((one, "claims/b"), (two, "claims/a"), (one, "leases/c")):
            store.create(name, b"")
        assert two.names("claims") == ["a", "b"]
        assert one.names("leases") == ["c"]

    def test_a_record_of_ones_own_is_replaced_and_ages_by_the_stores_clock(self, open_store):
        """Its time moves on with every write, and others see the same time."""
        one, two = open_store("one"), open_store("two")
        first_s = one.put("leases/one", b"first")
        assert two.written_s("leases/one") == first_s
        time.sleep(1.1)  # S3 tells seconds
        again_s = one.put("leases/one", b"first")
        assert again_s > first_s
        assert two.written_s("leases/one") == again_s
        assert one.put("leases/one", b"second") >= again_s
        assert two.read("leases/one") == b"second"

    def test_a_zombie_cannot_publish(self, open_store):
        """The whole protocol over this store: taken over while suspended, it is refused."""
        now = [0.0]
        one, two = (
            Claimant(
                open_store(name),
                Board(1),
                Place(0, 2),
                name,
                monotonic_s=lambda: now[0],
                lease_s=100.0,
                is_dead=lambda lease: lease.worker == "one",
            )
            for name in ("one", "two")
        )
        one.beat()
        assert one.claim().epoch == 1
        assert two.claim().epoch == 2
        assert not one.publish(0, {"by": "one"})
        assert two.publish(0, {"by": "two"})
        one.look()
        assert one.all_published
        assert one.claim() is None


class TestFakeClaims(ClaimStoreExam):
    """In memory."""

    @pytest.fixture
    def open_store(self):
        """One for all callers."""
        store = FakeClaims(time.time)
        return lambda _: store


class TestBucketClaims(ClaimStoreExam):
    """In an S3 server, through conditional puts."""

    @pytest.fixture
    def open_store(self, store):
        """Over one bucket."""
        pytest.importorskip("obstore")
        from batchrun.adapters.storage.bucket import bucket_store
        from batchrun.adapters.storage.claims_in_bucket import BucketClaims

        address = f"s3://{store.bucket}/runs/one"
        return lambda _: BucketClaims(bucket_store(address), address)

    def test_of_many_racing_callers_one_makes_it(self, open_store):
        """This server looks for the object and puts it in two steps, so callers that really race
        would test nothing of ours. Those that come at the same time after one all find its record.
        """
        stores = [open_store(str(number)) for number in range(16)]
        assert stores[0].create("claims/1", b"first")
        assert race(stores, "claims/1") == []
        assert stores[1].read("claims/1") == b"first"

    def test_a_put_that_meets_another_is_made_again(self, open_store, monkeypatch):
        """S3 answers 409 while a conditional put is under way, and may then have no object."""
        import obstore

        from batchrun.adapters.storage import bucket

        real, met = obstore.put, []

        def busy(*arguments, **options):
            if not met:
                met.append(1)
                raise obstore.exceptions.AlreadyExistsError("409")
            return real(*arguments, **options)

        monkeypatch.setattr(obstore, "put", busy)
        monkeypatch.setattr(bucket, "PAUSE_S", 0)
        assert open_store("one").create("claims/1", b"one")
        assert open_store("one").read("claims/1") == b"one"

    def test_a_store_that_cannot_be_reached_is_no_answer(self, open_store, monkeypatch):
        """It is an error that names the place, never taken for a record that is another's."""
        import obstore

        def broken(*_, **__):
            raise obstore.exceptions.GenericError("no route")

        from batchrun.adapters.storage import bucket

        monkeypatch.setattr(obstore, "put", broken)
        monkeypatch.setattr(bucket, "PAUSES_S", ())
        with pytest.raises(StorageError, match=r"runs/one.*no route"):
            open_store("one").create("claims/1", b"x")


class TestDiskClaims(ClaimStoreExam):
    """On a disk."""

    @pytest.fixture
    def open_store(self, tmp_path):
        """Over one folder."""

        def opened(owner):
            store = DiskClaims(tmp_path, owner)
            store.prepare(*FOLDERS)
            return store

        return opened

    def test_a_record_would_survive_a_power_cut(self, open_store, monkeypatch):
        """Its content is flushed before it has its name, and the name before ``create`` returns."""
        done = []
        monkeypatch.setattr(files, "step", lambda name, path: done.append((name, path.name)))
        open_store("one").create("claims/1", b"x")
        assert [name for name, _ in done][-4:] == [
            *("draft.written", "draft.synced", "draft.linked", "folder.synced")
        ]
        assert done[-1] == ("folder.synced", "claims")

    def test_nothing_is_left_behind(self, open_store, tmp_path):
        """Neither who made a record nor who came too late leaves a draft."""
        open_store("one").create("claims/1", b"1")
        open_store("two").create("claims/1", b"2")
        open_store("two").put("leases/two", b"2")
        assert names(tmp_path / "claims") == ["1"]
        assert names(tmp_path / "leases") == ["two"]

    def test_a_lost_answer_of_the_server_is_no_lost_claim(self, open_store, monkeypatch):
        """NFS may make the link, lose the answer, and refuse the repeated call: the record is this
        caller's own.
        """
        real = disk.link

        def twice(source, target):
            real(source, target)
            real(source, target)

        monkeypatch.setattr(disk, "link", twice)
        assert open_store("one").create("claims/1", b"mine")

    def test_no_record_is_made_once_the_folder_was_moved_away(self, open_store, tmp_path):
        """That is how a fleet is ended: whoever was suspended finds nothing to write into."""
        store = open_store("one")
        (tmp_path / "claims").rename(tmp_path / "gone")
        assert not store.create("claims/1", b"late")
        assert store.names("claims") == []
        assert names(tmp_path / "gone") == []

    def test_a_record_that_was_moved_away_with_its_folder_is_made(
        self, open_store, tmp_path, monkeypatch
    ):
        """The fleet was ended right after it got its name: whoever ended it has the record."""
        store, link = open_store("one"), disk.link

        def moved(source, target):
            link(source, target)
            target.parent.rename(tmp_path / "gone")

        monkeypatch.setattr(disk, "link", moved)
        assert store.create("claims/1", b"mine")
        assert (tmp_path / "gone" / "1").read_bytes() == b"mine"

    def test_a_disk_that_fails_is_no_answer(self, open_store, monkeypatch):
        """It is an error, never taken for a record that is another's."""

        def broken(*_):
            raise OSError(5, "Input/output error")

        store = open_store("one")
        monkeypatch.setattr(disk, "link", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            store.create("claims/1", b"x")
