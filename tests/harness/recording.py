"""What a run does to the disk, noted in order: every write, flush, rename and removal."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from batchrun.adapters.journal.flight_log import FLIGHTS
from batchrun.adapters.storage import disk, files

COMMITS = ("state.begun", "state.put", "state.refreshed", "seal.committed")
"""The steps behind a transaction of the state file."""

ROOT = 0


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes came into a file."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """A file got another length."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """The content of a file, or the names in a folder, are on the disk."""

    node: int


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Names changed together: ``taken`` are gone, then ``given`` is there."""

    taken: tuple[tuple[int, str], ...]
    given: tuple[int, str, int] | None

    @property
    def folders(self) -> set[int]:
        """The folders whose names changed."""
        given = () if self.given is None else (self.given[0],)
        return {*(folder for folder, _ in self.taken), *given}


@dataclass(frozen=True, slots=True)
class Kept:
    """Files that look after themselves: the state file after a transaction, the flight log."""

    node: int
    data: bytes
    wal: bytes = b""


@dataclass(frozen=True, slots=True)
class Told:
    """Somebody was told something, which must be true from here on."""

    what: Any


Event = Written | Truncated | Flushed | Named | Kept | Told


class _Raw(io.FileIO):
    """A file that tells what is written to it."""

    def __init__(self, descriptor: int, tell: Callable[[int, bytes], None]) -> None:
        super().__init__(descriptor, "wb")
        self._tell = tell

    def write(self, data: Any, /) -> int:
        offset = self.tell()
        written = super().write(data)
        self._tell(offset, bytes(memoryview(data).cast("B")[:written]))
        return written


class Recording:
    """What happened on the disk below a folder, which is empty to begin with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self._lock = threading.RLock()
        self._names: dict[tuple[int, str], int] = {}
        self._open: dict[int, int] = {}
        self._nodes = ROOT
        self.folders = {ROOT}

    def told(self, what: Any) -> None:
        """Note that somebody was told something."""
        with self._lock:
            self.events.append(Told(what))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record what happens meanwhile, in any thread."""
        replaced: dict[tuple[Any, str], Any] = {
            (disk, "open_file"): self._open_file,
            (disk, "writer"): self._writer,
            (disk, "pwrite"): self._pwrite,
            (disk, "truncate"): self._truncate,
            (disk, "fsync"): self._flushing(disk.fsync),
            (disk, "fdatasync"): self._flushing(disk.fdatasync),
            (disk, "sync_folder"): self._folder_flushing(disk.sync_folder),
            (disk, "rename"): self._rename,
            (disk, "unlink"): self._unlink,
            (disk, "link"): self._link,
            (disk, "make_folder"): self._make_folder,
            (files, "step"): self._step,
        }
        before = {(where, name): getattr(where, name) for where, name in replaced}
        for (where, name), function in replaced.items():
            setattr(where, name, function)
        try:
            yield
        finally:
            for (where, name), function in before.items():
                setattr(where, name, function)

    # Names

    def _place(self, path: str | os.PathLike[str]) -> tuple[int, str] | None:
        """The folder and the name of a path below the root; None for all others."""
        path = Path(path).absolute()
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        *folders, name = path.relative_to(self.root).parts
        node = ROOT
        for folder in folders:
            node = self._names[node, folder]
        return node, name

    def _new(self, place: tuple[int, str]) -> int:
        self._nodes += 1
        self._names[place] = self._nodes
        self.events.append(Named((), (*place, self._nodes)))
        return self._nodes

    def _open_file(self, path: Path, flags: int, mode: int = 0o777) -> int:
        with self._lock:
            descriptor = os.open(path, flags, mode)
            place = self._place(path)
            if place is not None and flags & os.O_CREAT:
                node = self._names.get(place)
                if node is None:
                    node = self._new(place)
                elif flags & os.O_TRUNC:
                    self.events.append(Truncated(node, 0))
                self._open[descriptor] = node
            else:
                self._open.pop(descriptor, None)
            return descriptor

    def _make_folder(self, path: Path, mode: int = 0o777) -> None:
        with self._lock:
            os.mkdir(path, mode)  # noqa: PTH102 - what is replaced
            place = self._place(path)
            if place is not None:
                self.folders.add(self._new(place))

    def _rename(self, source: Path, target: Path) -> None:
        with self._lock:
            os.rename(source, target)  # noqa: PTH104 - what is replaced
            before, after = self._place(source), self._place(target)
            if before is not None and after is not None and before != after:
                node = self._names[after] = self._names.pop(before)
                self.events.append(Named((before,), (*after, node)))

    def _link(self, source: Path, target: Path) -> None:
        with self._lock:
            os.link(source, target)
            before, after = self._place(source), self._place(target)
            if before is not None and after is not None:
                node = self._names[after] = self._names[before]
                self.events.append(Named((), (*after, node)))

    def _unlink(self, path: Path) -> None:
        with self._lock:
            os.unlink(path)  # noqa: PTH108 - what is replaced
            place = self._place(path)
            if place in self._names:  # sockets, which hold nothing, are not followed
                del self._names[place]
                self.events.append(Named((place,), None))

    # Content

    def _writer(self, descriptor: int, _mode: str, buffer_bytes: int) -> IO[bytes]:
        def tell(offset: int, data: bytes) -> None:
            with self._lock:
                if descriptor in self._open:
                    self.events.append(Written(self._open[descriptor], offset, data))

        return io.BufferedWriter(_Raw(descriptor, tell), buffer_bytes)

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        with self._lock:
            written = os.pwrite(descriptor, data, offset)
            if descriptor in self._open:
                copy = bytes(memoryview(data)[:written])
                self.events.append(Written(self._open[descriptor], offset, copy))
            return written

    def _truncate(self, descriptor: int, size: int) -> None:
        with self._lock:
            os.ftruncate(descriptor, size)
            if descriptor in self._open:
                self.events.append(Truncated(self._open[descriptor], size))

    def _flushing(self, flush: Callable[[int], None]) -> Callable[[int], None]:
        """Nothing is really flushed: the disk of the test does not lose its power."""
        del flush

        def flushed(descriptor: int) -> None:
            with self._lock:
                if descriptor in self._open:
                    self.events.append(Flushed(self._open[descriptor]))

        return flushed

    def _folder_flushing(self, flush: Callable[[Path], None]) -> Callable[[Path], None]:
        del flush

        def flushed(folder: Path) -> None:
            with self._lock:
                if folder.absolute() == self.root:
                    self.events.append(Flushed(ROOT))
                elif (place := self._place(folder)) is not None:
                    self.events.append(Flushed(self._names[place]))

        return flushed

    def _step(self, name: str, path: Path) -> None:
        with self._lock:
            if name in COMMITS and (place := self._place(path)) in self._names:
                wal = path.with_name(path.name + "-wal")
                after = wal.read_bytes() if wal.exists() else b""
                self.events.append(Kept(self._names[place], path.read_bytes(), after))
            flights = path.with_name(FLIGHTS)
            if name == "log.writing" and (place := self._place(flights)) in self._names:
                self.events.append(Kept(self._names[place], flights.read_bytes()))
