"""The protocol between a run directory and its storage: a disk, or an object store.

Files are told apart by name: ``summary.json``, ``results/part-00000000.parquet``. Everything else
(journal, logs, lock) is always on a local disk and bypasses this protocol.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from batchrun.adapters.storage.files import Draft
from batchrun.core.text.legible import json_of

KINDS = ("results", "attempts")
REQUESTS = "requests"
"""The parts of requests, if a run keeps them."""
PART_KINDS = (*KINDS, REQUESTS)
"""All kinds of parts that a run may have."""
RESPONSES = "responses"
"""The folder for values too large for their column."""
SCORES = "scores"
"""The folder of scores, a part for each part of the results."""
SUMMARY, USAGE = "summary.json", "usage.parquet"


class FileMark(NamedTuple):
    """Identifies a published file without reading it: its size, and a word for its content that
    begins with its origin (``footer:`` or ``etag:``); empty if the store has none.
    """

    size_bytes: int
    word: str

    def fits(self, other: FileMark) -> bool:
        """Whether both may have the same content. Words of different origin are not compared."""
        if self.size_bytes != other.size_bytes:
            return False
        make, _, _ = self.word.partition(":")
        return self.word == other.word or make != other.word.partition(":")[0]


class StoreReader(Protocol):
    """Reads the files of a run directory. ``StorageError`` means that the store cannot be reached,
    not that a file is missing.
    """

    def where(self, name: str = "") -> str:
        """The directory, or a file in it, as it may be shown."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, in order; empty if there is no such folder."""
        ...

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, in order; empty if there is no such folder."""
        ...

    def size(self, name: str) -> int | None:
        """The bytes of a file; None if it does not exist."""
        ...

    def marks(self, names: Sequence[str]) -> dict[str, FileMark]:
        """The marks of those of these Parquet files that exist."""
        ...

    def open(self, name: str) -> io.BufferedIOBase:
        """The present version of a file, for random access, even if it is replaced meanwhile. It is
        an Arrow file, which Arrow's threads read without the interpreter, even at interpreter exit.

        Raises ``FileNotFoundError``.
        """
        ...

    def peek(self, name: str) -> pa.NativeFile:
        """Like ``open``, for reading a few bytes: nothing is fetched in advance."""
        ...


class Store(StoreReader, Protocol):
    """Reads and writes them. A file appears whole or not at all, and replaces an older one."""

    drafts: Path
    """The folder for drafts, on a local disk."""

    def prepare(self) -> None:
        """Make the folders, if the store has folders, and remove drafts that a kill left behind."""
        ...

    def draft(self, name: str) -> Draft:
        """A draft of a file's new content, invisible until it is published."""
        ...

    def publish(self, drafts: Sequence[Draft]) -> None:
        """Give drafts their final names; durable when this returns.

        They appear one after the other in this order. An error, or a kill, leaves the first of
        them published and the others as they were. Raises ``OSError`` or ``StorageError``.
        """
        ...

    def set_aside(self, name: str, folder: Path) -> Path:
        """Move a file into a local folder; never replaces one there. Returns where it is."""
        ...


def part_name(shard: int) -> str:
    """The file name of a shard's parts; in name order they are in input order."""
    return f"part-{shard:08d}.parquet"


def part_number(name: str) -> int | None:
    """The shard of a part, by its name."""
    digits = name.rpartition("/")[2].removeprefix("part-").removesuffix(".parquet")
    return int(digits) if digits.isdecimal() else None


def part_names(store: StoreReader, kind: str) -> list[str]:
    """The file names of the parts of a kind, in the order of the input."""
    names = store.names(kind)
    return [name for name in names if name.startswith("part-") and name.endswith(".parquet")]


def read_json(store: StoreReader, name: str) -> Any | None:
    """A JSON file's value, or None if there is no such file or it is not JSON."""
    try:
        with store.open(name) as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return None


def write_json(store: Store, name: str, value: object) -> None:
    """Replace a JSON file."""
    with store.draft(name) as draft:
        draft.write((json_of(value, indent=2) + "\n").encode())
        store.publish([draft])
