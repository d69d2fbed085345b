"""A run directory on a disk: drafts lie beside their targets and are renamed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from batchrun.adapters import disk, files
from batchrun.adapters.store import KINDS


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

    def size(self, name: str) -> int | None:
        """See ``store.StoreReader``."""
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, name: str) -> io.BufferedIOBase:
        """See ``store.StoreReader``."""
        return cast("io.BufferedIOBase", pa.OSFile(os.fsencode(self.folder / name)))

    def prepare(self) -> None:
        """See ``store.Store``."""
        for kind in KINDS:
            files.make_folder(self.folder / kind, private=True)
        for folder in (self.folder, *(self.folder / kind for kind in KINDS)):
            for draft in folder.glob(f"*{files.TEMPORARY}"):
                disk.unlink(draft)

    def draft(self, name: str) -> files.Draft:
        """See ``store.Store``."""
        return files.Draft(self.folder / name)

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
