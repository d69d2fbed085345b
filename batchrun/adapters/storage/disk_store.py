"""A run directory on a disk: drafts are next to their targets and are renamed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from zlib import crc32

import pyarrow as pa

from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.store import (
    KINDS,
    PART_KINDS,
    REQUESTS,
    RESPONSES,
    SCORES,
    FileMark,
)

_PARQUET = b"PAR1"
_TRAILER_BYTES = 8
"""Length of the footer and ``_PARQUET``: what every Parquet file ends with."""
FOOTER_BYTES_MAX = 16 * 2**20
"""A longer footer is not from this tool."""


def _mark(file: io.BufferedReader) -> FileMark:
    """The mark of an open Parquet file: a checksum of its footer, which has the place and the
    length of every column of every row group.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _TRAILER_BYTES))
    trailer = file.read(_TRAILER_BYTES)
    length = int.from_bytes(trailer[:4], "little")
    if trailer[4:] != _PARQUET or length > min(size, FOOTER_BYTES_MAX):
        return FileMark(size, "footer:none")
    file.seek(max(0, size - _TRAILER_BYTES - length))
    return FileMark(size, f"footer:{crc32(file.read(length)):08x}")


class DiskStore:
    """``store.Store`` over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drafts = folder / KINDS[0]

    def where(self, name: str = "") -> str:
        """See ``store.StoreReader``."""
        return str(self.folder / name)

    def names(self, folder: str) -> list[str]:
        """See ``store.StoreReader``."""
        try:
            return sorted(p.name for p in (self.folder / folder).iterdir() if not p.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, folder: str) -> list[str]:
        """See ``StoreReader``."""
        try:
            return sorted(p.name for p in (self.folder / folder).iterdir() if p.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, name: str) -> int | None:
        """See ``store.StoreReader``."""
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def marks(self, names: Sequence[str]) -> dict[str, FileMark]:
        """See ``store.StoreReader``."""
        found = {}
        for name in names:
            try:
                with (self.folder / name).open("rb") as file:
                    found[name] = _mark(file)
            except FileNotFoundError:
                pass
        return found

    def open(self, name: str) -> io.BufferedIOBase:
        """See ``store.StoreReader``."""
        return cast("io.BufferedIOBase", pa.OSFile(os.fsencode(self.folder / name)))

    def peek(self, name: str) -> pa.NativeFile:
        """See ``store.StoreReader``."""
        return pa.OSFile(os.fsencode(self.folder / name))  # a name need not be UTF-8

    def prepare(self) -> None:
        """See ``store.Store``."""
        for kind in KINDS:
            files.make_folder(self.folder / kind, private=True)
        folders = (*PART_KINDS, RESPONSES, SCORES)
        for folder in (self.folder, *(self.folder / kind for kind in folders)):
            for draft in folder.glob(f"*{files.TEMPORARY}"):
                disk.unlink(draft)

    def draft(self, name: str) -> files.Draft:
        """See ``store.Store``."""
        path = self.folder / name
        if path.parent.name in (REQUESTS, RESPONSES, SCORES):
            files.make_folder(path.parent, private=True)
        return files.Draft(path)

    def publish(self, drafts: Sequence[files.Draft]) -> None:
        """See ``store.Store``."""
        for draft in drafts:
            draft.sync()
        for draft in drafts:
            draft.rename()
        for folder in dict.fromkeys(draft.path.parent for draft in drafts):
            files.sync_folder(folder)

    def set_aside(self, name: str, folder: Path) -> Path:
        """See ``store.Store``."""
        return files.set_aside(self.folder / name, folder, name.replace("/", "-"))
