"""``--lengths-from``: how long the answers of an earlier run were, by request or by `custom_id`.

They go into the sorted file that ``--reuse`` looks hashes up in (``hash_index.py``), with the
length instead of a place. A `custom_id` has its own hash there. The file is made once for each
directory, in bounded memory, and made again if the directory has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrun.adapters.parts import old_part
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.store import StoreReader, part_names
from batchrun.core.settings.addresses import format_address
from batchrun.errors import StorageError, UsageError
from batchrun.records import Request
from batchrun.rundir import inspect
from batchrun.rundir.reuse.hash_index import HASH_BYTES, Builder, Index

FOLDER = "lengths"
FLAG = "--lengths-from"
BYTES_PER_TOKEN = 4
"""If no usage was reported, an answer's tokens are estimated from its content."""
_COLUMNS = ("custom_id", "status", "completion_tokens", "content", "request_hash")


class LengthsFrom:
    """``engine.row_order.Lengths`` of one run directory."""

    def __init__(self, directory: str, folder: Path) -> None:
        """Open the lengths of a run directory; ``folder`` is for their index.

        Raises ``UsageError`` if it is not a run directory, ``DamagedError`` if a part of it cannot
        be read, ``StorageError`` if the index cannot be written.
        """
        self._name = format_address(directory)
        try:
            store = inspect.look_at(directory, None).store
            names = [f"results/{name}" for name in part_names(store, "results")]
            marks = {name: list(mark) for name, mark in sorted(store.marks(names).items())}
        except (OSError, StorageError) as error:
            message = f"{FLAG} {self._name}: it cannot be read: {error}"
            raise UsageError(message) from None
        if not names:
            message = (
                f"{FLAG} {self._name} has no results/. Name the directory that an earlier run was "
                "given with -o, and that finished rows"
            )
            raise UsageError(message)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lengths")
        identity = hashlib.sha256(json.dumps([store.where(), marks]).encode()).digest()
        found = Index.opened(folder / "index", identity, 0)
        if found is None:
            try:
                files.make_folder(folder, private=True)
                for draft in folder.glob(f".*{files.TEMPORARY}"):
                    disk.unlink(draft)
                _build(store, names, folder, identity)
            except OSError as error:
                message = f"cannot write into {folder}: {error.strerror}; make room"
                raise StorageError(message) from error
            found = Index.opened(folder / "index", identity, 0)
        assert found is not None
        self._index = found

    @property
    def count(self) -> int:
        """How many requests and ids have a length."""
        return self._index.count

    async def known(self, requests: Sequence[Request]) -> Mapping[int, float]:
        """See ``Lengths``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self.look_up, requests)

    def look_up(self, requests: Sequence[Request]) -> dict[int, float]:
        """Look the lengths up in this thread."""
        found = {}
        for request in requests:
            lengths = self._index.find(bytes.fromhex(request.hash))
            if not lengths and request.custom_id is not None:
                lengths = self._index.find(_id_hash(request.custom_id))
            if lengths:
                found[request.row] = float(lengths[0])
        return found

    def close(self) -> None:
        """End the thread and close the file."""
        self._thread.shutdown()
        self._index.close()


@contextlib.contextmanager
def taken(directory: str, folder: Path, say: Callable[[str], None]) -> Iterator[LengthsFrom]:
    """The lengths that a run uses, until the block is left; ``folder`` is for their index."""
    lengths = LengthsFrom(directory, folder)
    try:
        if not lengths.count:
            say(f"{FLAG} {format_address(directory)}: no row there has an answer to learn from")
        yield lengths
    finally:
        lengths.close()


def _build(store: StoreReader, names: Sequence[str], folder: Path, identity: bytes) -> None:
    with Builder(2 * _rows(store, names), folder) as builder:
        for name in names:
            for table in _tables(store, name):
                _enter(table, builder)
        builder.write(folder / "index", identity, 0)


def _rows(store: StoreReader, names: Sequence[str]) -> int:
    """About how many rows there are."""
    with _opened(store, names[0]) as part:
        return int(part.metadata.num_rows) * len(names)


@contextlib.contextmanager
def _opened(store: StoreReader, name: str) -> Iterator[pq.ParquetFile]:
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as part:
            yield part
    except (OSError, pa.ArrowException) as error:
        raise old_part.damaged(store.where(name), error) from error


def _tables(store: StoreReader, name: str) -> Iterator[pa.Table]:
    """The rows of a part that have an answer, a row group at a time."""
    with _opened(store, name) as part:
        there = set(part.schema_arrow.names)
        missing = [column for column in _COLUMNS if column not in there]
        if missing:
            why = f"it lacks the column {missing[0]!r}"
            raise old_part.damaged(store.where(name), why)
        for group in range(part.num_row_groups):
            table = part.read_row_group(group, columns=list(_COLUMNS[:3]), use_threads=False)
            tokens = table.column("completion_tokens")
            if tokens.null_count:
                content = part.read_row_group(group, columns=["content"], use_threads=False)
                size = pc.binary_length(content.column(0))
                tokens = pc.coalesce(
                    pc.cast(tokens, pa.int64()),
                    pc.cast(pc.divide(size, BYTES_PER_TOKEN), pa.int64()),
                )
            hashes = part.read_row_group(group, columns=["request_hash"], use_threads=False)
            table = pa.table(
                {
                    "id": table.column("custom_id"),
                    "hash": hashes.column(0),
                    "tokens": pc.cast(tokens, pa.int64()),
                    "ok": pc.equal(table.column("status"), "ok"),
                }
            )
            yield table.filter(pc.and_(table.column("ok"), pc.is_valid(table.column("tokens"))))


def _enter(table: pa.Table, builder: Builder) -> None:
    """Enter the lengths of some rows, by request and by `custom_id`."""
    hashes, places = bytearray(), []
    columns = (table.column(name).to_pylist() for name in ("id", "hash", "tokens"))
    for identity, digest, tokens in zip(*columns, strict=True):
        place = max(0, tokens).to_bytes(8, "big")
        if digest is not None and len(digest) == 2 * HASH_BYTES:
            hashes += bytes.fromhex(digest)
            places.append(place)
        if identity is not None:
            hashes += _id_hash(identity)
            places.append(place)
    builder.add(bytes(hashes), places)


def _id_hash(custom_id: str) -> bytes:
    return hashlib.sha256(b"custom_id\0" + custom_id.encode("utf-8", "surrogatepass")).digest()
