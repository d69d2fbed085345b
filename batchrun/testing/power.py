"""Power cuts: what a run did to the disk is recorded, and cut at any point of it.

``Recording`` stands between this process and the disk (``batchrun.adapters.disk``) and notes, in
order, every write, flush, rename and removal below one folder. ``state`` builds the files that a
power cut after so many of these events may leave:

- what was written to a file and not flushed is there, not there, there up to any byte, there up to
  the border of a sector with zeros behind it, or there but for some sectors, which are as they were
  before, or zeros;
- what was done to the names in a folder that was not flushed is done, not done, done up to some
  point, or done in part. Renaming is one act, but nothing orders it with the content of the file.

SQLite is trusted: its file is what it was after the last transaction. The flight log, which nobody
flushes, is any mixture of pages that it ever had.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from batchrun.adapters import disk, files
from batchrun.adapters.journal import STATES
from batchrun.adapters.log import SECTOR_BYTES
from batchrun.adapters.rundir import FLIGHTS

PAGE_BYTES = 4096
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
            if place is not None:
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


class _File:
    """A file as the disk has it, and what it was not made to take yet."""

    def __init__(self) -> None:
        self.sure = bytearray()
        self.pending: list[Written | Truncated] = []
        self.kept: list[Kept] = []

    def flush(self) -> None:
        """All of it is on the disk."""
        self.sure = self._with(None)
        self.pending.clear()

    def _with(self, limit: int | None) -> bytearray:
        """Its content with the first bytes of what is pending, or with all of it."""
        content = bytearray(self.sure)
        left = limit
        for event in self.pending:
            if isinstance(event, Truncated):
                del content[event.size :]
                content.extend(bytes(event.size - len(content)))
                continue
            data = event.data if left is None else event.data[:left]
            content.extend(bytes(max(0, event.offset - len(content))))
            content[event.offset : event.offset + len(data)] = data
            if left is not None:
                left -= len(data)
                if not left:
                    break
        return content

    def cut(self, dice: random.Random) -> bytes:
        """What a power cut leaves of it."""
        if self.kept:
            return self._pages(dice)
        how = dice.choice(("none", "all", "torn", "zeros", "sectors"))
        if not self.pending or how == "none":
            return bytes(self.sure)
        whole = self._with(None)
        if how == "all":
            return bytes(whole)
        if how == "sectors":
            return bytes(self._some_sectors(whole, dice))
        size = sum(len(event.data) for event in self.pending if isinstance(event, Written))
        torn = self._with(dice.randint(0, size)) if size else bytearray(self.sure)
        if how == "zeros":  # a sector is there or not; the length is another matter
            border = len(torn) - len(torn) % SECTOR_BYTES
            torn[border:] = self.sure[border : len(torn)]
            torn.extend(bytes(max(0, len(whole) - len(torn))))
        return bytes(torn)

    def _some_sectors(self, whole: bytearray, dice: random.Random) -> bytearray:
        for at in range(0, len(whole), SECTOR_BYTES):
            if dice.random() < 0.5:
                size = min(SECTOR_BYTES, len(whole) - at)
                whole[at : at + size] = self.sure[at : at + size].ljust(size, b"\0")
        return whole

    def _pages(self, dice: random.Random) -> bytes:
        """Pages of a mapped file, each as it was at some time or never was."""
        versions = [kept.data for kept in self.kept]
        size = len(dice.choice(versions))
        pages = []
        for at in range(0, size, PAGE_BYTES):
            page = dice.choice((b"", *versions))[at : at + PAGE_BYTES]
            pages.append(page.ljust(min(PAGE_BYTES, size - at), b"\0"))
        return b"".join(pages)


@dataclass(slots=True)
class _Disk:
    """What the disk has after some events."""

    folders: set[int]
    names: dict[tuple[int, str], int] = field(default_factory=dict)
    pending: list[Named] = field(default_factory=list)
    nodes: dict[int, _File] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """One more thing happened."""
        match event:
            case Told():
                pass
            case Named():
                self.pending.append(event)
            case Flushed(node) if node in self.folders:
                for change in [one for one in self.pending if node in one.folders]:
                    self._settle(change)
            case Flushed(node):
                self._file(node).flush()
            case Kept():
                self._file(event.node).kept.append(event)
            case Written() | Truncated():
                self._file(event.node).pending.append(event)

    def _file(self, node: int) -> _File:
        return self.nodes.setdefault(node, _File())

    def _settle(self, change: Named) -> None:
        """A change of names is on the disk; what gave a name that it took is history with it."""
        at = self.pending.index(change)
        gone = {one for one in self.pending[:at] if one.given and one.given[:2] in change.taken}
        self.pending = [one for one in self.pending if one is not change and one not in gone]
        _apply(self.names, change)

    def cut(self, target: Path, dice: random.Random) -> None:
        """Write what a power cut leaves of it."""
        names = dict(self.names)
        for change in self._some_changes(dice):
            _apply(names, change)
        self._write(ROOT, target, names, dice)

    def _some_changes(self, dice: random.Random) -> list[Named]:
        how: Literal["none", "all", "first", "some"] = dice.choice(("none", "all", "first", "some"))
        if how == "some":
            return [change for change in self.pending if dice.random() < 0.5]
        count = {"none": 0, "all": len(self.pending), "first": dice.randint(0, len(self.pending))}
        return self.pending[: count[how]]

    def _write(
        self, folder: int, path: Path, names: dict[tuple[int, str], int], dice: random.Random
    ) -> None:
        path.mkdir()
        for (parent, name), node in sorted(names.items()):
            if parent != folder:
                continue
            if node in self.folders:
                self._write(node, path / name, names, dice)
            elif name == STATES:
                self._write_states(node, path / name)
            else:
                (path / name).write_bytes(self._file(node).cut(dice))

    def _write_states(self, node: int, path: Path) -> None:
        kept = self._file(node).kept
        path.write_bytes(kept[-1].data if kept else b"")
        if kept and kept[-1].wal:
            path.with_name(path.name + "-wal").write_bytes(kept[-1].wal)


def _apply(names: dict[tuple[int, str], int], change: Named) -> None:
    for place in change.taken:
        names.pop(place, None)
    if change.given is not None:
        folder, name, node = change.given
        names[folder, name] = node


def state(recording: Recording, after: int, target: Path, dice: random.Random) -> list[Any]:
    """Write into ``target``, which is not there yet, what a power cut after so many events may
    leave, one of the many possible states. Returns what had been told by then.
    """
    found = _Disk(recording.folders)
    for event in recording.events[:after]:
        found.take(event)
    found.cut(target, dice)
    return [event.what for event in recording.events[:after] if isinstance(event, Told)]
