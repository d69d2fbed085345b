"""The places of input: local disks, object stores through Arrow, everything else through fsspec.

A place is a path as the user wrote it: a local path, ``file://...``, ``SCHEME://...`` or ``-`` for
standard input. See ``core.settings.addresses``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from batchrun.adapters.storage import filesystems
from batchrun.core.input.folders import Folders
from batchrun.core.settings.addresses import is_remote, local_path, split_query
from batchrun.core.text.legible import legible
from batchrun.errors import InputError

STDIN = "-"
REMOTE_READ_BYTES = 4 * 2**20
"""One request to a store costs tens of milliseconds, so it fetches more than a read of a disk."""

STAT_THREADS = 16
CODECS = {".gz": "gzip", ".zst": "zstd"}
MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies a file without reading it. Only the bytes present at the start are input: anything
    appended during a run belongs to the next one.

    ``size`` is that of the stored file, compressed or not; -1 for input that can be read only once,
    such as standard input. ``etag`` is the store's own version mark, None on a local disk.
    """

    path: str
    size: int
    mtime_ns: int
    etag: str | None = None
    folders: Folders = ()
    """Columns that its folders name."""
    sheet: str | None = None
    """The sheet of a workbook, if not the first."""

    @property
    def name(self) -> str:
        """The path as it may be shown: a query can hold a signature, and bytes may be no text."""
        if self.path == STDIN:
            return "stdin"
        return split_query(self.path)[0] if is_remote(self.path) else legible(self.path)

    @property
    def passes(self) -> bool:
        """Whether it can be read only once."""
        return self.size < 0

    @property
    def codec(self) -> str | None:
        """How the file is compressed, by its name."""
        return CODECS.get(suffix_of(self.name))

    def same_as(self, other: Stamp) -> bool:
        """Whether this is certainly the file that ``other`` describes."""
        known = self.mtime_ns != 0 or self.etag is not None
        mine = (self.size, self.mtime_ns, self.etag, self.folders, self.sheet)
        return known and mine == (
            other.size, other.mtime_ns, other.etag, other.folders, other.sheet
        )  # fmt: skip

    def public(self) -> dict[str, Any]:
        """The stamp as it is recorded."""
        return {
            "path": self.path if self.path == STDIN else self.name,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "etag": self.etag,
            **({"folders": [list(pair) for pair in self.folders]} if self.folders else {}),
            **({"sheet": self.sheet} if self.sheet is not None else {}),
        }

    @classmethod
    def recorded(cls, found: Mapping[str, Any]) -> Stamp:
        """The stamp that ``public`` gave."""
        folders = tuple((name, value) for name, value in found.get("folders", ()))
        return cls(**{**found, "folders": folders})


def suffix_of(path: str) -> str:
    """The last suffix of a path in lower case, with its dot."""
    return os.path.splitext(path.rpartition("/")[2])[1].lower()  # noqa: PTH122 - also for addresses


def place(address: str) -> filesystems.Place:
    """The file system and the path of an address. Raises ``InputError``."""
    try:
        return filesystems.place(address)
    except filesystems.AddressError as error:
        message = f"input {error}"
        raise InputError(message) from None


def stamp(paths: list[str]) -> list[Stamp]:
    """The stamps of input files. Raises ``InputError`` for a file that cannot be read."""
    if not any(is_remote(path) for path in paths):
        return [_stamp(path) for path in paths]
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        return list(threads.map(_stamp, paths))


def _stamp(path: str) -> Stamp:
    shown = Stamp(path, 0, 0).name
    try:
        local = local_path(path)
        if local is None:
            return _remote_stamp(path)
        found = Path(local).stat()
        if Path(local).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with Path(local).open("rb"):
            pass
    except OSError as error:
        message = f"input {shown}: {error.strerror or error}"
        raise InputError(message) from None
    return Stamp(local, found.st_size, found.st_mtime_ns)


def _remote_stamp(address: str) -> Stamp:
    size, mtime_ns, etag = filesystems.version(place(address))
    return Stamp(address, size, mtime_ns, etag)


def open_file(stamp: Stamp) -> BinaryIO:
    """Open a file for reading: ``read``, ``seek`` and ``close``.

    Refuses an object in a store that differs from the stamp. Raises ``OSError``.
    """
    local = local_path(stamp.path)
    if local is not None:
        return Path(local).open("rb", buffering=0)
    there = place(stamp.path)
    here = replace(_remote_stamp(stamp.path), folders=stamp.folders, sheet=stamp.sheet)
    if not here.same_as(stamp) and (stamp.etag or stamp.mtime_ns):
        raise OSError(errno.ESTALE, "it was replaced while the run read it")
    return cast("BinaryIO", there.system.open_input_file(there.path))


def read_size(stamp: Stamp, local_bytes: int) -> int:
    """How many bytes to read at once."""
    return REMOTE_READ_BYTES if is_remote(stamp.path) else local_bytes
