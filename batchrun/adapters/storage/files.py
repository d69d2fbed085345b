"""Durable files: everything this package leaves on disk goes through here.

A file appears whole or not at all: it is written under a temporary name, flushed to the disk,
renamed, and the rename itself is flushed by syncing the folder. ``step`` names each of these
moments, so that tests can stop the process, or the disk, right there. All changes to the disk go
through ``disk``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

from batchrun.adapters.storage import disk
from batchrun.core.text.legible import json_of

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
SHARED_FILE = 0o666
TEMPORARY = ".tmp"
_ANEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _nothing(name: str, path: Path) -> None:
    """Outside tests, steps have no effect."""


step: Callable[[str, Path], None] = _nothing
"""Called with the name of each durable step, and its file or folder, just before or after it
happens. Tests replace it.
"""


def reached(name: str, path: Path) -> None:
    """A durable step was reached."""
    step(name, path)


class Draft:
    """A file being written under a temporary name. It counts and digests its bytes.

    Usable as the sink of a Parquet writer. ``rename`` gives it its final name; without that, a
    ``.*.tmp`` file remains that the next start removes. ``foreign`` is for files outside a run
    directory: existing ``*.tmp`` files are not overwritten, and the file's mode follows the umask,
    or the file that it replaces.

    Without ``digests`` it has no ``digest``. An ``owner`` is part of its temporary name, if other
    processes may write a draft of the same file.

    An existing file of its temporary name is never written to: it may be a link to another place,
    or open in another process.
    """

    def __init__(
        self, path: Path, *, foreign: bool = False, digests: bool = True, owner: str = ""
    ) -> None:
        self.path = path
        self._digests = digests
        self._aside = aside(path, foreign=foreign, owner=owner)
        mode = SHARED_FILE if foreign else PRIVATE_FILE
        try:
            descriptor = disk.open_file(self._aside, _ANEW, mode)
        except FileExistsError:
            if foreign:
                raise
            disk.unlink(self._aside)
            descriptor = disk.open_file(self._aside, _ANEW, mode)
        if foreign:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, path.stat().st_mode & 0o777)
        self._inode = os.fstat(descriptor).st_ino
        self._file: IO[bytes] = disk.writer(descriptor, "wb", 2**18)
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Append bytes."""
        if self._digests:
            self._sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Write buffered data to the operating system."""
        self._file.flush()

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def close(self) -> None:
        """Writers close their sinks; this one is closed by ``sync``."""

    def readable(self) -> bool:
        """Drafts are only written."""
        return False

    def writable(self) -> bool:
        """Drafts are only written."""
        return True

    def seekable(self) -> bool:
        """Drafts grow at their end."""
        return False

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes so far, in hex."""
        return self._sha256.hexdigest()

    def sync(self) -> None:
        """Flush everything written to the disk."""
        self._file.flush()
        reached("draft.written", self.path)
        disk.fsync(self._file.fileno())
        self._file.close()
        self.closed = True
        reached("draft.synced", self.path)

    def finish(self) -> Path:
        """Make everything written readable by others, although a power cut may still lose it.
        Returns its path until it is renamed or discarded.
        """
        self._file.flush()
        self._file.close()
        self.closed = True
        reached("draft.finished", self.path)
        return self._aside

    def rename(self) -> None:
        """Give the file its final name, replacing an older one. Durable after ``sync_folder``."""
        disk.rename(self._aside, self.path)
        reached("draft.renamed", self.path)

    def link(self) -> None:
        """Give the file its final name if that is free. Raises ``FileExistsError``. Durable after
        ``sync_folder``; the temporary name is removed when the draft is discarded.
        """
        disk.link(self._aside, self.path)
        reached("draft.linked", self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def discard(self) -> None:
        """Remove the draft, unless it got its final name, or its temporary name now belongs to
        another run, which took the lock from this one.
        """
        with contextlib.suppress(OSError):
            if self._aside.stat().st_ino == self._inode:
                disk.unlink(self._aside)
        if not self.closed:
            with contextlib.suppress(OSError):
                self._file.close()
            self.closed = True


def aside(path: Path, *, foreign: bool = False, owner: str = "") -> Path:
    """The temporary path of a file: hidden next to it, since readers of a data set skip names that
    begin with a dot.
    """
    owner = str(os.getpid()) if foreign else owner
    return path.with_name(f".{path.name}{owner and '.'}{owner}{TEMPORARY}")


def open_private(path: Path) -> int:
    """Open or create a private file for reading and writing; returns its descriptor. A symbolic
    link in its place is not followed: anyone who may write into the folder could have made it.
    Raises ``OSError``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return disk.open_file(path, flags, PRIVATE_FILE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a symbolic link; remove it") from None
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in this folder survive a power cut."""
    disk.sync_folder(folder)
    reached("folder.synced", folder)


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a small file atomically. Unless ``durable``, a power cut may restore the old one."""
    draft = Draft(path)
    try:
        draft.write(data)
        if durable:
            draft.sync()
        else:
            draft.finish()
        draft.rename()
        if durable:
            sync_folder(path.parent)
    except BaseException:
        draft.discard()
        raise


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Replace a small JSON file atomically."""
    text = json_of(value, indent=2) + "\n"
    write_whole(path, text.encode(), durable=durable)


def read_json(path: Path) -> Any | None:
    """A JSON file's value, or None if there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def free_name(folder: Path, name: str) -> Path:
    """A free path in a folder for files that are set aside: the name followed by the time."""
    make_folder(folder, private=True)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    target, count = folder / f"{name}.{stamp}", 1
    while target.exists():
        count += 1
        target = folder / f"{name}.{stamp}-{count}"
    return target


def set_aside(path: Path, folder: Path, name: str) -> Path:
    """Move a file into another folder, which may be on another disk, under a name with the time.
    Never replaces a file; durable when this returns. Returns the new path.
    """
    target = free_name(folder, name)
    try:
        disk.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with path.open("rb") as file:
            copy_whole(file, target)
        disk.unlink(path)
    sync_folder(folder)
    sync_folder(path.parent)
    reached("aside.moved", path)
    return target


def copy_whole(source: IO[bytes] | io.BufferedIOBase, target: Path) -> None:
    """Copy the content of an open file into a new one; durable when this returns."""
    with Draft(target) as draft:
        shutil.copyfileobj(source, draft, 2**20)
        draft.sync()
        draft.rename()
    sync_folder(target.parent)


def make_folder(folder: Path, *, private: bool = False) -> None:
    """Make a folder and its parents, durably named. With ``private`` only its owner has access; an
    existing one keeps its mode.

    Raises ``OSError``, also for a symbolic link made by another user, who could redirect our files.
    """
    if folder.is_symlink() and folder.lstat().st_uid not in (0, os.geteuid()):
        raise OSError(errno.ELOOP, f"{folder.name} is a symbolic link of another user; remove it")
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for made in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            disk.make_folder(made, PRIVATE_FOLDER if private and made == folder else 0o777)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            break
        except FileExistsError:
            if os.path.lexists(folder):  # as a file
                raise
            # Another process just moved it away, as --restart does.
    for made in missing:
        sync_folder(made.parent)
