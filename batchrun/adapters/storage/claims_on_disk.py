"""The records of a fleet on a disk that all its processes see: a local one, NFS, Lustre.

``link`` names a file only if the name is free, on the server too. Its answer can get lost and the
call be repeated, which then finds its own link: so if a name is taken, the record is read, and may
be this caller's own. Times are the file system's: ``utime`` without a time uses its server's. Files
are opened again before they are checked, since that makes a network file system ask its server.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from batchrun.adapters.storage import disk, files
from batchrun.errors import StorageError


class DiskClaims:
    """``ports.ClaimStore`` over a folder."""

    def __init__(self, folder: Path, owner: str) -> None:
        """``owner`` is a name unique to this process."""
        self.folder = folder
        self._owner = owner
        self._drafts = itertools.count()
        self._content: dict[str, bytes] = {}

    def prepare(self, *folders: str) -> None:
        """Make these folders, the only ones for records."""
        with self._asked():
            for name in folders:
                files.make_folder(self.folder / name, private=True)

    def create(self, name: str, content: bytes) -> bool:
        """See ``ports.ClaimStore``. False, too, once the folder was moved away: the fleet ended."""
        path = self.folder / name
        with self._asked():
            try:
                draft = files.Draft(path, owner=f"{self._owner}-{next(self._drafts)}")
            except FileNotFoundError:
                return False
            with draft:
                draft.write(content)
                draft.sync()
                try:
                    draft.link()
                except FileExistsError:
                    return self.read(name) == content
                except FileNotFoundError:
                    return False
                with contextlib.suppress(FileNotFoundError):
                    # The folder was just moved away: the process that ends the fleet has the
                    # record.
                    files.sync_folder(path.parent)
        return True

    def put(self, name: str, content: bytes) -> float:
        """See ``ports.ClaimStore``."""
        path = self.folder / name
        with self._asked():
            if self._content.get(name) != content:
                with files.Draft(path, owner=self._owner) as draft:
                    draft.write(content)
                    draft.finish()
                    draft.rename()
                self._content[name] = content
            os.utime(path)
            return path.stat().st_mtime

    def read(self, name: str) -> bytes | None:
        """See ``ports.ClaimStore``."""
        with self._asked():
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def written_s(self, name: str) -> float | None:
        """See ``ports.ClaimStore``."""
        with self._asked():
            try:
                with (self.folder / name).open("rb") as file:
                    return os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        """See ``ports.ClaimStore``."""
        with self._asked(), contextlib.suppress(FileNotFoundError):
            disk.unlink(self.folder / name)

    def names(self, folder: str) -> list[str]:
        """See ``ports.ClaimStore``."""
        with self._asked():
            try:
                found = [path.name for path in (self.folder / folder).iterdir()]
            except FileNotFoundError:
                return []
        return sorted(name for name in found if not name.startswith("."))

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn the disk's failures into a ``StorageError``."""
        try:
            yield
        except OSError as error:
            message = f"cannot use {self.folder}, which this fleet shares: {error.strerror}"
            raise StorageError(message) from error
