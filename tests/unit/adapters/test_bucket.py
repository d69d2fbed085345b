"""Conditional writes to an object store, and the lock that is made of them."""

import pytest

from batchrun.adapters.storage import bucket as bucket_module
from batchrun.adapters.storage.bucket import Bucket, bucket_store
from batchrun.adapters.storage.bucket_lock import BucketLock
from batchrun.core.fleet import leases
from batchrun.errors import RunLockedError, StorageError, UsageError

obstore = pytest.importorskip("obstore")
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store  # noqa: E402


@pytest.fixture
def bucket(monkeypatch):
    """A store in memory, asked again without pauses."""
    monkeypatch.setattr(bucket_module, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(bucket_module, "PAUSE_S", 0.0)
    return Bucket(MemoryStore(), "s3://bucket/run")


@pytest.fixture
def failing(monkeypatch):
    """Makes a call to the store fail with each of these errors, before it is let through;
    ``done`` says that the store had done it all the same.
    """

    def fail(name, *errors, done=False):
        real, left = getattr(obstore, name), list(errors)

        def call(*arguments, **options):
            if not left:
                return real(*arguments, **options)
            if done:
                real(*arguments, **options)
            raise left.pop(0)

        monkeypatch.setattr(obstore, name, call)

    return fail


class TestBucket:
    """What is made only if it is absent, and replaced only if it is unchanged."""

    def test_an_object_is_replaced_only_if_it_is_unchanged(self, bucket):
        """Of two that saw the same version one replaces it."""
        assert bucket.make("lock", b"1")
        seen = bucket.look("lock")
        assert bucket.replace("lock", b"2", seen)
        assert not bucket.replace("lock", b"3", seen)
        assert bucket.read("lock") == b"2"

    def test_one_that_is_gone_is_not_replaced(self, bucket):
        """Whoever removed it had a reason."""
        bucket.make("lock", b"1")
        seen = bucket.look("lock")
        bucket.remove("lock")
        assert not bucket.replace("lock", b"2", seen)
        assert bucket.read("lock") is None

    @pytest.mark.parametrize("mode", ["make", "replace"])
    def test_a_write_whose_answer_was_lost_is_known_again(self, bucket, failing, mode):
        """It is made again, refused, and found to be the caller's own."""
        if mode == "replace":
            bucket.make("x", b"old")
        seen = bucket.look("x")
        failing("put", obstore.exceptions.GenericError("timed out"), done=True)
        assert bucket.make("x", b"mine") if seen is None else bucket.replace("x", b"mine", seen)
        assert bucket.read("x") == b"mine"

    @pytest.mark.parametrize("mode", ["make", "replace"])
    def test_a_write_that_meets_another_is_made_again(self, bucket, failing, mode):
        """409 decides nothing: what is there afterwards does."""
        if mode == "replace":
            bucket.make("x", b"old")
        seen, refused = bucket.look("x"), obstore.exceptions
        error = refused.AlreadyExistsError if seen is None else refused.PreconditionError
        failing("put", error("409"), error("409"))
        assert bucket.make("x", b"mine") if seen is None else bucket.replace("x", b"mine", seen)
        assert bucket.read("x") == b"mine"

    def test_a_store_that_does_not_answer_is_asked_again_and_then_is_an_error(
        self, bucket, failing
    ):
        """For a while; the error is one line and names the place."""
        bucket.make("x", b"1")
        failing("get", *[obstore.exceptions.GenericError("no route\n\nDebug")] * 2)
        assert bucket.read("x") == b"1"
        failing("get", *[obstore.exceptions.GenericError("no route\n\nDebug")] * 3)
        with pytest.raises(StorageError, match=r"s3://bucket/run.*no route$"):
            bucket.read("x")

    def test_what_does_not_pass_by_itself_is_not_tried_again(self, bucket, failing):
        """A key without the permission to write."""
        failing("put", obstore.exceptions.PermissionDeniedError("403"))
        with pytest.raises(UsageError, match="403"):
            bucket.make("x", b"1")

    @pytest.mark.parametrize(
        ("address", "kind"),
        [
            (
                "s3://bucket/run?region=eu-central-1&endpoint_override=127.0.0.1:9&scheme=http",
                S3Store,
            ),
            ("gs://bucket/run", GCSStore),
            ("gcs://bucket/run", GCSStore),
            ("az://container/run", AzureStore),
        ],
    )
    def test_stores_with_conditional_writes_are_opened(self, address, kind, monkeypatch):
        """By their address; nothing is asked yet."""
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        assert isinstance(bucket_store(address), kind)

    def test_others_cannot_be_shared(self):
        """The message says which can."""
        with pytest.raises(UsageError, match=r"hf://.*s3://"):
            bucket_store("hf://datasets/run")


class TestBucketLock:
    """One process at a time, by the store's clock."""

    @pytest.fixture
    def now(self, monkeypatch):
        """The store's clock; what a process measures itself goes its own way."""
        clock = {"store": 1000.0, "own": 5.0, "written": {}}
        real_look = Bucket.look

        def write_time(name):
            return clock["written"].get(name, clock["store"])

        def look(self, name):
            found = real_look(self, name)
            return None if found is None else found._replace(written_s=write_time(name))

        def noting(real):
            def write(self, name, *arguments):
                done = real(self, name, *arguments)
                if done is not False:
                    clock["written"][name] = clock["store"]
                return done

            return write

        monkeypatch.setattr(Bucket, "look", look)
        monkeypatch.setattr(Bucket, "written_s", lambda _self, name: write_time(name))
        for name in ("make", "replace", "write"):
            monkeypatch.setattr(Bucket, name, noting(getattr(Bucket, name)))
        monkeypatch.setattr(leases, "BEAT_S", 3600.0)
        return clock

    @pytest.fixture
    def open_lock(self, bucket, now):
        """One process's lock, at a place of its own."""

        def make(holder, machine=None):
            return BucketLock(
                bucket,
                "fleet/lock",
                holder=holder,
                machine=machine or holder,
                monotonic_s=lambda: now["own"],
            )

        return make

    def test_it_is_one_processs(self, open_lock):
        """The other is told who has it, and gets it once it was given back."""
        one, two = open_lock("one"), open_lock("two")
        one.acquire()
        with pytest.raises(RunLockedError, match="one"):
            two.acquire()
        one.release()
        two.acquire()
        two.check()

    def test_one_that_is_silent_loses_it_by_the_stores_clock(self, open_lock, now):
        """However far apart the machines' clocks are; awake again, the first one is told."""
        one, two = open_lock("one"), open_lock("two")
        one.acquire()
        now["store"] += leases.LEASE_S
        with pytest.raises(RunLockedError):
            two.acquire()
        now["store"] += 1
        two.acquire()
        now["own"] += leases.LEASE_S
        with pytest.raises(StorageError, match="taken over"):
            one.check()
        one.release()
        two.check()

    def test_one_that_cannot_tell_renews_it_before_it_goes_on(self, open_lock, now):
        """It was suspended, and nobody took it meanwhile: the lock is its own again."""
        one, two = open_lock("one"), open_lock("two")
        one.acquire()
        now["own"] += leases.LEASE_S
        now["store"] += leases.LEASE_S + 1
        one.check()
        with pytest.raises(RunLockedError):
            two.acquire()

    def test_a_process_with_the_same_disk_knows_of_a_death(self, open_lock):
        """It has the lock of the checkpoint, so the one before is dead: no lease is waited for."""
        open_lock("one", machine="here").acquire()
        again = open_lock("two", machine="here")
        again.acquire()
        again.check()
