"""The exam of ``adapters.storage.store.Store``: on a disk, in a real S3 server, through fsspec."""

import hashlib
import io
import os
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.storage import files, filesystems, object_store
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.object_store import OWNER, ObjectStore
from batchrun.adapters.storage.store import part_names, read_json, write_json
from batchrun.errors import StorageError

A, B = "results/part-00000000.parquet", "attempts/part-00000000.parquet"


def _put(store, name, data):
    with store.draft(name) as draft:
        draft.write(data)
        store.publish([draft])


def _parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.table({"row": list(rows)}), sink)
    return sink.getvalue()


def _get(store, name):
    with store.open(name) as file:
        return file.read()


class StoreExam:
    """What every store promises. ``store`` is a new and prepared one."""

    AFTER_EACH = "object.put"

    def test_a_file_is_there_whole_once_it_is_published(self, store):
        """Not before; then with its size, its name, its bytes at any place, and its digest."""
        data = os.urandom(17 * 2**20)  # more than one piece of an upload or of a download
        with store.draft(A) as draft:
            for start in range(0, len(data), 1_000_003):
                draft.write(data[start : start + 1_000_003])
            draft.flush()
            assert (part_names(store, "results"), store.size(A)) == ([], None)
            store.publish([draft])
            digest = draft.digest
        assert part_names(store, "results") == ["part-00000000.parquet"]
        assert store.size(A) == len(data)
        with store.open(A) as file:
            file.seek(10_000_000)
            assert file.read(7) == data[10_000_000:10_000_007]
            file.seek(0)
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest
        assert digest == hashlib.sha256(data).hexdigest()

    def test_what_is_not_there_is_said(self, store):
        """No names, no size, and an error that a caller can tell from others."""
        assert (store.names("results"), store.names("none"), store.size(A)) == ([], [], None)
        with pytest.raises(FileNotFoundError):
            store.open(A)
        assert read_json(store, "summary.json") is None

    def test_a_file_is_known_again_by_its_mark(self, store):
        """As long as it is what was published, and no longer; a file that is missing has none."""
        _put(store, A, _parquet(range(100)))
        _put(store, B, _parquet(range(50)))
        marks = store.marks([A, B, "results/part-00000007.parquet"])
        assert set(marks) == {A, B} and not marks[A].fits(marks[B])
        assert store.marks([A])[A].fits(marks[A])
        assert marks[A].size_bytes == store.size(A)
        _put(store, A, _parquet(range(100))[:-9])
        assert not store.marks([A])[A].fits(marks[A])
        _put(store, A, _parquet(range(1, 101)))
        assert not store.marks([A])[A].fits(marks[A])

    def test_a_look_into_a_file_reads_where_it_wants(self, store):
        """A footer needs no more than the end of it."""
        data = _parquet(range(100))
        _put(store, A, data)
        with store.peek(A) as file:
            file.seek(len(data) - 4)
            assert file.read(4) == b"PAR1" == data[-4:]
        with pytest.raises(FileNotFoundError):
            store.peek(B)

    def test_a_file_is_replaced_whole(self, store):
        """Whoever has it open reads the old content to its end."""
        _put(store, A, b"old" * 1000)
        with store.open(A) as file:
            assert file.read(3) == b"old"
            _put(store, A, b"new")
            assert file.read() == b"old" * 999
        assert (_get(store, A), store.size(A)) == (b"new", 3)

    def test_a_draft_that_is_not_published_leaves_nothing(self, store):
        """Whether its writer failed or the process was killed."""
        with store.draft(A) as draft:
            draft.write(b"half")
        killed = store.draft(B)
        killed.write(b"half")
        killed.finish()
        store.prepare()
        assert (store.names("results"), store.names("attempts")) == ([], [])
        assert [p for p in store.drafts.rglob("*") if p.is_file()] == []

    def test_files_are_published_in_order(self, store, monkeypatch):
        """What fails in the middle leaves the first new and the second as it was."""
        for name in (A, B):
            _put(store, name, b"old")

        def fail(step, _path):
            if step == self.AFTER_EACH:
                raise OSError("no more")

        monkeypatch.setattr(files, "step", fail)
        with store.draft(A) as one, store.draft(B) as other:
            one.write(b"new")
            other.write(b"new")
            with pytest.raises(OSError, match="no more"):
                store.publish([other, one])
        assert (_get(store, B), _get(store, A)) == (b"new", b"old")

    def test_a_file_is_set_aside_and_never_replaces_one(self, store, tmp_path):
        """It is gone from the store, and every one that was set aside is there."""
        aside = tmp_path / "checkpoint" / "damaged"
        for data in (b"one", b"two"):
            _put(store, A, data)
            store.set_aside(A, aside)
            assert store.size(A) is None
        assert {path.read_bytes() for path in aside.iterdir()} == {b"one", b"two"}
        assert all(
            path.name.startswith("results-part-00000000.parquet.") for path in aside.iterdir()
        )

    def test_json_is_written_and_read(self, store):
        """As text that any reader understands; what is not JSON is None."""
        write_json(store, "summary.json", {"größe": [1, None]})
        assert read_json(store, "summary.json") == {"größe": [1, None]}
        assert store.names("") == ["summary.json"]
        _put(store, "summary.json", b"{")
        assert read_json(store, "summary.json") is None


class TestDiskStore(StoreExam):
    """A folder."""

    AFTER_EACH = "draft.renamed"

    @pytest.fixture
    def store(self, tmp_path):
        """A folder that is not there yet."""
        made = DiskStore(tmp_path / "run")
        made.prepare()
        return made


class ObjectStoreExam(StoreExam):
    """What object stores promise beyond it."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        """Failures are tried again at once."""
        monkeypatch.setattr(object_store, "WAIT_S", 0.0)

    def test_what_fails_for_a_while_is_tried_again(self, store, monkeypatch):
        """A few times; then the error names the object and says what is safe."""
        store.tries = 3
        real, faults = ObjectStore._put, [OSError("busy"), OSError("busy")]

        def put(self, source, name):
            if faults:
                raise faults.pop()
            real(self, source, name)

        monkeypatch.setattr(ObjectStore, "_put", put)
        _put(store, A, b"there")
        assert _get(store, A) == b"there"
        faults += [OSError("busy")] * 3
        with pytest.raises(StorageError, match=r"cannot write .*run/attempts/part.*busy.*is safe"):
            _put(store, B, b"never")
        assert not faults and store.size(B) is None

    def test_another_owner_stops_what_is_published(self, store):
        """A mark that was replaced, or taken away, is found before anything is written."""
        _put(store, OWNER, b"mine")
        store.owner = b"mine"
        _put(store, A, b"one")
        store.owner = None
        _put(store, OWNER, b"theirs")
        store.owner = b"mine"
        with pytest.raises(StorageError, match="another run took"):
            _put(store, A, b"two")
        store.remove([OWNER])
        with pytest.raises(StorageError, match="another run took"):
            _put(store, A, b"two")
        assert _get(store, A) == b"one"

    def test_a_whole_directory_is_copied_and_removed(self, store, other):
        """And nothing beside it, such as a directory whose name begins alike."""
        for name in (A, B, "summary.json", OWNER):
            _put(store, name, name.encode())
        names = store.copy_to(other)
        store.remove(names)
        assert store.everything() == []
        assert other.everything() == sorted([A, B, "summary.json", OWNER])
        assert _get(other, A) == A.encode()


class TestS3Store(ObjectStoreExam):
    """A prefix of a bucket."""

    @pytest.fixture
    def store(self, store, tmp_path):
        """A prefix without any object."""
        self.bucket = store.bucket
        made = ObjectStore(f"s3://{store.bucket}/a b/run", tmp_path / "upload")
        made.prepare()
        return made

    @pytest.fixture
    def other(self, store):
        """One beside it."""
        return ObjectStore(f"s3://{self.bucket}/a b/run.old", store.drafts)

    def test_a_silent_store_is_no_damaged_one(self, tmp_path, impatient_s3):
        """Whatever is asked of it is a ``StorageError``, which nobody takes for a lost part."""
        impatient_s3("http://127.0.0.1:9")
        dead = ObjectStore("s3://bucket/run", tmp_path)
        for ask in (
            lambda: dead.open(A),
            lambda: dead.size(A),
            lambda: dead.names("results"),
            lambda: read_json(dead, "summary.json"),
            lambda: dead.set_aside(A, tmp_path / "aside"),
        ):
            with pytest.raises(StorageError, match="s3://bucket/run"):
                ask()


class TestFsspecStore(ObjectStoreExam):
    """A file system of fsspec, in this process's memory."""

    @pytest.fixture
    def store(self, tmp_path):
        """A folder of a name of its own."""
        pytest.importorskip("fsspec")
        self.address = f"memory://{uuid.uuid4().hex}/run"
        made = ObjectStore(self.address, tmp_path / "upload")
        made.prepare()
        return made

    @pytest.fixture
    def other(self, store):
        """One beside it."""
        return ObjectStore(f"{self.address}.old", store.drafts)


def test_an_address_that_cannot_be_opened_says_why(tmp_path):
    """The package to install, or where credentials belong."""
    for address, words in {
        "nosuch://a/b": "nosuch",
        "s3://key:secret@bucket/run": "credentials do not belong",
    }.items():
        with pytest.raises(filesystems.AddressError, match=words) as caught:
            ObjectStore(address, tmp_path)
        assert "secret@" not in str(caught.value)
