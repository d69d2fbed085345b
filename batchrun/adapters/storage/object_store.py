"""A run directory in an object store: drafts are on a local disk and are uploaded.

An upload becomes an object when the store confirms it, not before: a kill or a cut connection
leaves nothing that could be read. To be read, an object is first fetched into an unnamed file, so
that a store that does not answer is never mistaken for a damaged part.

Failed requests are retried for a while (``TRIES``), longer than a store takes to recover from
throttling. After that a failure is a ``StorageError``; the answers are safe in the checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import pyarrow as pa
from pyarrow import fs as arrow_fs

from batchrun.adapters.storage import disk, files, filesystems
from batchrun.adapters.storage.store import PART_KINDS, RESPONSES, SCORES, FileMark
from batchrun.core.settings import addresses
from batchrun.errors import StorageError

TRIES = 4
WAIT_S = 1.0
"""The pause before the second try; it doubles for each further one. If Arrow's own S3 client does
not reach the server, each try is several, over six seconds.
"""
PIECE_BYTES = 8 * 2**20
THREADS = 16
OWNER = "owner.json"
"""The object that names the run whose files these are."""

_Done = TypeVar("_Done")


class ObjectStore:
    """``store.Store`` over a prefix. ``drafts`` is a folder on the local disk."""

    def __init__(self, address: str, drafts: Path) -> None:
        """Raises ``filesystems.AddressError`` for what cannot be opened here."""
        self.drafts = drafts
        self._place = filesystems.place(address)
        self._system = self._place.system
        self._shown = addresses.format_address(address)
        self._root = self._place.path.rstrip("/")
        # File systems of fsspec have errors of their own.
        fsspec = self._place.fsspec is not None
        self._faults = (Exception,) if fsspec else (OSError, pa.ArrowException)
        self.tries = 1
        """A wrong address fails immediately; a store that worked once gets ``TRIES``."""
        self.owner: bytes | None = None
        """The content of ``OWNER`` that publishing requires; None: no requirement."""

    def where(self, name: str = "") -> str:
        """See ``store.StoreReader``."""
        return f"{self._shown}/{name}" if name else self._shown

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    # Reading

    def names(self, folder: str) -> list[str]:
        """See ``store.StoreReader``."""
        infos = self._tried("look into", folder, functools.partial(self._listed, folder))
        return sorted(info.base_name for info in infos if info.type == arrow_fs.FileType.File)

    def folders(self, folder: str) -> list[str]:
        """See ``store.StoreReader``."""
        infos = self._tried("look into", folder, functools.partial(self._listed, folder))
        return sorted(i.base_name for i in infos if i.type == arrow_fs.FileType.Directory)

    def top(self) -> list[str]:
        """The names of files and folders in the directory itself."""
        infos = self._tried("look into", "", functools.partial(self._listed, ""))
        return sorted(info.base_name for info in infos)

    def _listed(self, folder: str) -> list[arrow_fs.FileInfo]:
        path = self._path(folder) if folder else self._root
        selector = arrow_fs.FileSelector(path, allow_not_found=True)
        infos: list[arrow_fs.FileInfo] = self._system.get_file_info(selector)
        return infos

    def size(self, name: str) -> int | None:
        """See ``store.StoreReader``."""
        path = self._path(name)
        info = self._tried("look at", name, lambda: self._system.get_file_info(path))
        return info.size if info.type == arrow_fs.FileType.File else None

    def marks(self, names: Sequence[str]) -> dict[str, FileMark]:
        """See ``store.StoreReader``."""
        with ThreadPoolExecutor(THREADS) as threads:
            found = zip(names, threads.map(self._mark, names), strict=True)
            return {name: mark for name, mark in found if mark is not None}

    def _mark(self, name: str) -> FileMark | None:
        place = self._place._replace(path=self._path(name))

        def ask() -> FileMark | None:
            try:
                version = filesystems.version(place)
            except FileNotFoundError:
                return None
            etag = (version.etag or "").strip('"')
            return FileMark(version.size, f"etag:{etag}" if etag else "")

        return self._tried("look at", name, ask)

    def open(self, name: str) -> io.BufferedIOBase:
        """See ``store.StoreReader``."""
        return self._tried("read", name, functools.partial(self._fetch, name))

    def peek(self, name: str) -> pa.NativeFile:
        """See ``store.StoreReader``."""
        path = self._path(name)
        return self._tried("read", name, lambda: self._system.open_input_file(path))

    def _fetch(self, name: str) -> io.BufferedIOBase:
        path = self._path(name)
        descriptor, target = tempfile.mkstemp(files.TEMPORARY, dir=self.drafts)
        try:
            with (
                os.fdopen(descriptor, "wb") as fetched,
                self._system.open_input_file(path) as source,
            ):
                version = self._version(source, path)
                while piece := source.read(PIECE_BYTES):
                    fetched.write(piece)
                size = fetched.tell()
            # It was read with several requests, and may have been replaced between them.
            with self._system.open_input_file(path) as source:
                if self._version(source, path) == version and size == source.size():
                    return cast("io.BufferedIOBase", pa.OSFile(os.fsencode(target)))
        finally:
            os.unlink(target)  # noqa: PTH108 - an open file can still be read
        raise OSError(errno.ESTALE, "it was replaced while it was read")

    def _version(self, file: pa.NativeFile, path: str) -> object:
        """The present version of an opened object, if its store reports it."""
        if self._place.fsspec is not None:
            return filesystems.version(self._place._replace(path=path))
        return file.size(), file.metadata()

    # Writing

    def prepare(self) -> None:
        """See ``store.Store``."""
        for folder in (self.drafts, *(self.drafts / kind for kind in (*PART_KINDS, RESPONSES))):
            files.make_folder(folder, private=True)
        kept = (*PART_KINDS, RESPONSES, SCORES)
        for folder in (self.drafts, *(self.drafts / kind for kind in kept)):
            for draft in folder.glob(f"*{files.TEMPORARY}"):
                disk.unlink(draft)

    def draft(self, name: str) -> files.Draft:
        """See ``store.Store``."""
        path = self.drafts / name
        if path.parent.name == SCORES:
            files.make_folder(path.parent, private=True)
        return files.Draft(path)

    def publish(self, drafts: Sequence[files.Draft]) -> None:
        """See ``store.Store``."""
        if self.owner is not None:
            self._require_owner()
        for draft in drafts:
            name = draft.path.relative_to(self.drafts).as_posix()
            path = draft.finish()
            files.reached("object.putting", draft.path)
            self._tried("write", name, functools.partial(self._put, path, name))
            draft.discard()
            files.reached("object.put", draft.path)

    def _put(self, source: Path, name: str) -> None:
        path = self._path(name)
        if self._place.fsspec is not None:
            self._place.fsspec.put_file(str(source), path)
            return
        # Write everything at once: if it were read in pieces and a read failed, leaving the stream
        # would complete a truncated upload.
        with (
            pa.memory_map(os.fsencode(source)) as mapped,
            self._system.open_output_stream(path) as out,
        ):
            out.write(mapped.read_buffer())

    def set_aside(self, name: str, folder: Path) -> Path:
        """See ``store.Store``."""
        target = files.free_name(folder, name.replace("/", "-"))
        with self.open(name) as source:
            files.copy_whole(source, target)
        self._tried("delete", name, lambda: self._delete(self._path(name)))
        files.reached("aside.moved", Path(name))
        return target

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # an earlier try succeeded without an answer
            self._system.delete_file(path)

    # Ownership

    def _require_owner(self) -> None:
        """Raises ``StorageError`` if another run took the prefix."""
        try:
            with self.open(OWNER) as file:
                found = file.read()
        except FileNotFoundError:
            found = b""
        if found != self.owner:
            message = (
                f"{self.where(OWNER)} is not this run's any more: another run took the directory "
                "while this one worked. Nothing more was written there; what was answered is safe "
                "in the checkpoint"
            )
            raise StorageError(message)

    # Moving all of it

    def everything(self) -> list[str]:
        """The names of all objects under the prefix."""
        selector = arrow_fs.FileSelector(self._root, allow_not_found=True, recursive=True)
        infos = self._tried("look into", "", lambda: self._system.get_file_info(selector))
        start = len(self._root) + 1
        return sorted(i.path[start:] for i in infos if i.type == arrow_fs.FileType.File)

    def copy_to(self, other: ObjectStore) -> list[str]:
        """Copy all objects into another prefix of the same store; returns their names. When it
        returns, every copy exists and has the length of its original.
        """
        names = self.everything()

        def copy(name: str) -> None:
            source, target = self._path(name), other._path(name)
            self._tried("copy", name, lambda: self._system.copy_file(source, target))
            if self.size(name) != other.size(name):
                message = f"{other.where(name)} is not as long as {self.where(name)}; stopped"
                raise StorageError(message)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(copy, names))
        return names

    def copy(self, source: str, target: str) -> None:
        """Copy an object to another name, within the store."""
        paths = self._path(source), self._path(target)
        self._tried("copy", source, lambda: self._system.copy_file(*paths))

    def remove(self, names: Sequence[str]) -> None:
        """Delete objects; the owner's mark comes last, so that the rest of a directory is never
        mistaken for a new one.
        """

        def delete(name: str) -> None:
            self._tried("delete", name, lambda: self._delete(self._path(name)))

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(delete, (name for name in names if name != OWNER)))
        if OWNER in names:
            delete(OWNER)

    def _tried(self, what: str, name: str, action: Callable[[], _Done]) -> _Done:
        """Do something that may fail for a while. A missing object in ``open`` is an answer."""
        wait_s = WAIT_S
        for tries_left in reversed(range(self.tries)):
            try:
                return action()
            except self._faults as error:
                if isinstance(error, FileNotFoundError) and what == "read":
                    raise
                if not tries_left:
                    message = (
                        f"cannot {what} {self.where(name)}: {error}. What was answered is safe in "
                        "the checkpoint; when the store can be reached again, run the same command "
                        "again"
                    )
                    raise StorageError(message) from error
            time.sleep(wait_s)
            wait_s *= 2
        raise AssertionError
