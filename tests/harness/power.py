"""Power cuts: what a run did to the disk is recorded, and cut at any point of it.

``Recording`` (``tests.harness.recording``) stands between this process and the disk and notes,
in order, what changes below one folder. ``state`` builds the files that a power cut after so many
of these events may leave:

- what was written to a file and not flushed is there, not there, there up to any byte, there up to
  the border of a sector with zeros behind it, or there but for some sectors, which are as they were
  before, or zeros;
- what was done to the names in a folder that was not flushed is done, not done, done up to some
  point, or done in part. Renaming is one act, but nothing orders it with the content of the file.

SQLite is trusted: its file is what it was after the last transaction. The flight log, which nobody
flushes, is any mixture of pages that it ever had.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from batchrun.adapters.journal.journal import STATES
from batchrun.adapters.journal.shard_log import SECTOR_BYTES
from tests.harness.recording import (
    ROOT,
    Event,
    Flushed,
    Kept,
    Named,
    Recording,
    Told,
    Truncated,
    Written,
)

PAGE_BYTES = 4096


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
