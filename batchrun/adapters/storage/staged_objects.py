"""A run directory in an object store that several processes publish into.

A store cannot rename. So a part is put under a unique name, with the epoch and the worker of its
claim, in the folder of the launch. It counts once its claim's record says so, and ``reveal`` then
copies it, within the store, to its final name. The holder of the directory does that while it folds
the fleet, and then removes the staged objects: a process that returns late puts objects that are
never read, or fails to copy removed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from batchrun.adapters.storage.object_store import THREADS, ObjectStore
from batchrun.adapters.storage.store import PART_KINDS, REQUESTS, FileMark, part_name
from batchrun.errors import StorageError

STAGED = "staged"
TRIES = 6
"""A worker retries an unreachable store for longer than a single run does: about a minute, since
only the fleet can use what it has published.
"""


class StagedPart(NamedTuple):
    """A part that counts, with the worker and the epoch that staged it."""

    kind: str
    shard: int
    epoch: int
    worker: str

    @property
    def final(self) -> str:
        """The name that readers know."""
        return f"{self.kind}/{part_name(self.shard)}"

    def staged(self, folder: str) -> str:
        """The staged name, in the folder of a launch."""
        return staged_name(folder, self.final, self.epoch, self.worker)


def staged_name(folder: str, name: str, epoch: int, worker: str) -> str:
    """The name of a part until it counts."""
    return f"{folder}/{STAGED}/{name}.{epoch:06d}.{worker}"


class StagedObjects(ObjectStore):
    """``store.Store`` that stages parts. ``folder`` is that of the launch, ``epoch_of`` returns the
    epoch of a shard's claim by the file name of its part, ``worker`` is a name unique to this
    process.
    """

    def __init__(
        self, address: str, drafts: Path, folder: str, worker: str, epoch_of: Callable[[str], int]
    ) -> None:
        super().__init__(address, drafts)
        self.tries = TRIES
        self._folder = folder
        self._worker = worker
        self._epoch_of = epoch_of

    def _staged(self, name: str) -> str:
        kind, _, file = name.partition("/")
        if kind not in PART_KINDS:
            return name
        return staged_name(self._folder, name, self._epoch_of(file), self._worker)

    def _put(self, source: Path, name: str) -> None:
        super()._put(source, self._staged(name))

    def marks(self, names: Sequence[str]) -> dict[str, FileMark]:
        """See ``store.StoreReader``: of the staged parts, if any."""
        staged = {self._staged(name): name for name in names}
        found = super().marks(list(staged))
        rest = [name for name in names if name not in {staged[path] for path in found}]
        final = super().marks(rest) if rest else {}
        return final | {staged[path]: mark for path, mark in found.items()}


def reveal(store: ObjectStore, folder: str, parts: Sequence[StagedPart]) -> dict[str, FileMark]:
    """Copy staged parts to their final names, attempts before results; returns the marks of the
    final ones. It may be repeated after a kill. Raises ``StorageError``.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        for kind in (REQUESTS, "attempts", "results"):
            group = [part for part in parts if part.kind == kind]
            list(threads.map(lambda part: store.copy(part.staged(folder), part.final), group))
    found = store.marks([part.final for part in parts])
    missing = next((part.final for part in parts if part.final not in found), None)
    if missing is not None:
        message = f"{store.where(missing)} was copied to its name, and is not there"
        raise StorageError(message)
    return found
