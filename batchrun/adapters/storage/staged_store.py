"""A run directory on a disk that several processes publish into.

Parts are first published under unique names with the epoch and the worker of the claim. ``reveal``
gives them their final names once the claim's record says that they count (docs/adr/0055). A staged
part has one name, which only one rename can move: so a process that returns late finds nothing, and
any process may finish what a kill interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.store import KINDS, PART_KINDS, REQUESTS, FileMark, part_name

STAGED = ".staged"
_ORDER = (REQUESTS, "attempts", "results")
"""The order in which parts of a shard get their final names: results last, as in a single process.
"""


def staged_name(file: str, epoch: int, worker: str) -> str:
    """The name of a part until it counts; readers of a data set skip a leading dot. The name is
    unique to a process, also among earlier fleets.
    """
    return f".{file}.{epoch:06d}.{worker}{STAGED}"


class StagedStore(DiskStore):
    """``store.Store`` that stages parts. ``epoch_of`` returns the epoch of a shard's claim by the
    file name of its part; ``worker`` is a name unique to this process.
    """

    def __init__(self, folder: Path, worker: str, epoch_of: Callable[[str], int]) -> None:
        super().__init__(folder)
        self._worker = worker
        self._epoch_of = epoch_of

    def _staged(self, name: str) -> Path:
        kind, _, file = name.partition("/")
        return self.folder / kind / staged_name(file, self._epoch_of(file), self._worker)

    def prepare(self) -> None:
        """Make the folders. Existing drafts may belong to another process."""
        for kind in KINDS:
            files.make_folder(self.folder / kind, private=True)

    def draft(self, name: str) -> files.Draft:
        """See ``store.Store``: parts are published under their staged names."""
        path = self.folder / name
        if path.parent.name not in KINDS:
            files.make_folder(path.parent, private=True)
        staged = path.parent.name in PART_KINDS
        return files.Draft(self._staged(name) if staged else path, owner=self._worker)

    def marks(self, names: Sequence[str]) -> dict[str, FileMark]:
        """See ``store.StoreReader``: of the staged parts, if any."""
        staged = {str(self._staged(name).relative_to(self.folder)): name for name in names}
        found = super().marks(list(staged))
        return super().marks(names) | {staged[path]: mark for path, mark in found.items()}


def reveal(folder: Path, shard: int, epoch: int, worker: str) -> None:
    """Give the parts of a shard that a worker staged in an epoch their final names, unless they
    have them already.
    """
    file = part_name(shard)
    for kind in _ORDER:
        path = folder / kind / file
        with contextlib.suppress(FileNotFoundError):
            disk.rename(path.with_name(staged_name(file, epoch, worker)), path)
            files.reached("staged.revealed", path)
            files.sync_folder(path.parent)


def drop_staged(folder: Path) -> None:
    """Remove what was staged and never counted."""
    for kind in PART_KINDS:
        for path in (folder / kind).glob(f".part-*{STAGED}"):
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(path)
