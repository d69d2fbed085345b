"""Replaces all parts of a run together: they are staged first, then published shard by shard.

If rows get other numbers, no shard can be replaced alone: a row that moves would be in two parts or
in none. So the new parts are written into ``checkpoint/rebuilt/``. One transaction of the state
file records that they are complete: a kill before it leaves the run as it was, and the new files
are deleted; after it, every start copies them to their final names until all are there. Old parts
without a replacement are moved into ``checkpoint/former/``, and so are rows that are no longer in
any part.

Attempts of rows that are no longer in the input were paid for and stay in the ledger. They get
separate parts after all others, with empty parts of results (``core.run.shards``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from batchrun.adapters.columns import large_answers
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.published_json import state_from_json, state_to_json
from batchrun.adapters.journal.state_db import KeptRequests, Published
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.parts.part_writer import ATTEMPT_BYTES, Shape, count_piece
from batchrun.adapters.parts.row_groups import Groups
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.store import PART_KINDS, REQUESTS, SCORES, Store, part_name
from batchrun.core.run.shards import REBUILT
from batchrun.core.run.totals import Totals
from batchrun.errors import StorageError
from batchrun.records import ShardState

FORMER, GONE = "former", "results.parquet"


@dataclass(slots=True)
class StagedShard:
    """The new parts of one shard: their digests by kind, and their record."""

    state: ShardState
    totals: Mapping[str, Any]
    digests: dict[str, str]
    requests: int | None = None
    """Rows of the part of requests; None if the shard has none."""

    def public(self) -> dict[str, Any]:
        """As it is recorded."""
        return {
            **state_to_json(self.state),
            "totals": dict(self.totals),
            "digests": self.digests,
            "requests": self.requests,
        }

    @classmethod
    def recorded(cls, found: Mapping[str, Any]) -> Self:
        """What ``public`` gave."""
        return cls(
            state_from_json(found), found["totals"], dict(found["digests"]), found["requests"]
        )


@dataclass(slots=True)
class StagedParts:
    """The folder of new parts, and the shards that are in it so far."""

    folder: Path
    shape: Shape
    shards: list[StagedShard] = field(default_factory=list)
    _opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _gone: tuple[files.Draft, Groups] | None = None

    @classmethod
    def begun(cls, checkpoint: Path, shape: Shape) -> Self:
        """An empty folder; what an interrupted rebuild left in it is deleted."""
        discard(checkpoint)
        folder = checkpoint / REBUILT
        files.make_folder(folder, private=True)
        return cls(folder, shape)

    @contextlib.contextmanager
    def shard(self, number: int) -> Iterator[ShardDrafts]:
        """Drafts of a shard's parts, which are discarded without ``end``."""
        with contextlib.ExitStack() as stack:
            yield ShardDrafts(self, number, stack)

    def add_gone(self, results: pa.Table) -> None:
        """Keep rows that are no longer in any part."""
        if not results.num_rows:
            return
        if self._gone is None:
            draft = self._opened.enter_context(files.Draft(self.folder / GONE))
            self._gone = draft, self._opened.enter_context(Groups(draft, self.shape.results))
        self._gone[1].add(results, results.nbytes)

    def synced(self) -> None:
        """Make everything that was written survive a power cut."""
        if self._gone is not None:
            draft, groups = self._gone
            groups.end()
            draft.sync()
            draft.rename()
            self._gone = None
        files.sync_folder(self.folder)
        files.reached("rebuild.written", self.folder)

    def close(self) -> None:
        """Discard unfinished files."""
        self._opened.close()


class ShardDrafts:
    """The new parts of one shard while they are written, in row order."""

    def __init__(self, staged: StagedParts, number: int, stack: contextlib.ExitStack) -> None:
        self._staged = staged
        self._number = number
        self._stack = stack
        self._drafts: dict[str, files.Draft] = {}
        self._groups: dict[str, Groups] = {}
        self._totals = Totals()
        self._requests = 0
        self.rows = 0
        """Rows of results taken."""
        self.lines = 0
        """Lines of the ledger taken."""

    def add(
        self, results: pa.Table, attempts: pa.Table, requests: pa.Table, *, names_files: bool
    ) -> None:
        """Take rows, the attempts of these and of pending ones between them, and their requests.
        ``names_files`` is whether rows may name files of ``responses/``.
        """
        groups = self._of("results", self._staged.shape.results)
        if names_files:
            groups.references += sum(1 for _ in large_answers.references(results))
        groups.add(results, results.nbytes)
        self._of("attempts", self._staged.shape.attempts).add(
            attempts, attempts.num_rows * ATTEMPT_BYTES
        )
        if requests.num_rows:
            self._of(REQUESTS, self._staged.shape.requests).add(requests, requests.nbytes)
            self._requests += requests.num_rows
        count_piece(self._totals, [], [], attempts, results)
        self.rows += results.num_rows
        self.lines += attempts.num_rows

    def _of(self, kind: str, schema: pa.Schema) -> Groups:
        found = self._groups.get(kind)
        if found is None:
            path = self._staged.folder / staged_name(kind, self._number)
            draft = self._drafts[kind] = self._stack.enter_context(files.Draft(path))
            found = self._groups[kind] = self._stack.enter_context(Groups(draft, schema))
        return found

    def end(self, state: ShardState) -> None:
        """Keep the parts. ``state`` is the shard's state once they are published."""
        shape = self._staged.shape
        self._of("results", shape.results)
        self._of("attempts", shape.attempts)
        digests = {}
        for kind, groups in self._groups.items():
            groups.end()
            draft = self._drafts[kind]
            draft.sync()
            draft.rename()
            digests[kind] = draft.digest
        kept = self._requests if REQUESTS in digests else None
        self._staged.shards.append(StagedShard(state, self._totals.recorded(), digests, kept))


def staged_name(kind: str, shard: int) -> str:
    """The file of a staged part."""
    return f"{kind}-{part_name(shard)}"


def discard(checkpoint: Path) -> None:
    """Delete the staged files of a rebuild."""
    folder = checkpoint / REBUILT
    if folder.is_dir() and not folder.is_symlink():
        for path in sorted(folder.iterdir()):
            disk.unlink(path)


def commit(
    journal: Journal, shards: Sequence[StagedShard], removed: Sequence[int], **values: Any
) -> None:
    """Record in one transaction that the staged parts are complete, together with ``values`` for
    the state file. ``removed`` are shards that they do not replace.
    """
    staged = {"shards": [each.public() for each in shards], "removed": list(removed)}
    journal.states.put(**{REBUILT: staged}, **values)
    files.reached("rebuild.committed", journal.folder)


def finish(store: Store, journal: Journal) -> bool:
    """Publish committed parts; returns whether there were any. Files of an uncommitted rebuild are
    deleted.

    Raises ``StorageError`` if a part cannot be written, ``DamagedError`` if a staged part has
    changed.
    """
    staged = journal.states.get(REBUILT)
    if staged is None:
        discard(journal.folder)
        return False
    journal.fence()
    try:
        store.prepare()
        for found in staged["shards"]:
            _publish(store, journal, StagedShard.recorded(found))
        _remove(store, journal, staged["removed"])
        gone = journal.folder / REBUILT / GONE
        if gone.exists():
            files.set_aside(gone, journal.folder / FORMER, GONE)
        journal.states.put(**{REBUILT: None})
        files.reached("rebuild.finished", journal.folder)
        discard(journal.folder)
    except OSError as error:
        message = (
            f"cannot write the parts of {store.where()} again: {error}. All of them are safe in "
            f"{journal.folder / REBUILT}; make room or fix the disk, then run the same command "
            "again"
        )
        raise StorageError(message) from error
    return True


def _publish(store: Store, journal: Journal, shard: StagedShard) -> None:
    state = shard.state
    before = next(journal.states.published(state.shard), None)
    if before is not None and before.state.generation >= state.generation:
        return  # an earlier start did it
    name = part_name(state.shard)
    kinds = [kind for kind in reversed(PART_KINDS) if kind in shard.digests]
    kinds.sort(key=lambda kind: kind == "results")  # results come last, as in any publication
    with contextlib.ExitStack() as stack:
        drafts = []
        for kind in kinds:
            draft = stack.enter_context(store.draft(f"{kind}/{name}"))
            path = journal.folder / REBUILT / staged_name(kind, state.shard)
            with path.open("rb") as file:
                while piece := file.read(2**20):
                    draft.write(piece)
            if draft.digest != shard.digests[kind]:
                raise damaged(str(path), "it is not what was written")
            drafts.append(draft)
        store.publish(drafts)
    marks = store.marks([f"{kind}/{name}" for kind in kinds])
    kept = None
    if shard.requests is not None:
        mark = marks.get(f"{REQUESTS}/{name}", ())
        kept = KeptRequests(shard.digests[REQUESTS], shard.requests, *mark)
    elif store.size(f"{REQUESTS}/{name}") is not None:
        store.set_aside(f"{REQUESTS}/{name}", journal.folder / FORMER)
    journal.seal(
        Published(
            state,
            shard.digests["results"],
            shard.digests["attempts"],
            dict(shard.totals),
            marks.get(f"results/{name}"),
            marks.get(f"attempts/{name}"),
            kept,
        )
    )
    files.reached("rebuild.published", journal.folder)


def _remove(store: Store, journal: Journal, shards: Sequence[int]) -> None:
    """Move away the parts of shards that no longer exist."""
    for shard in shards:
        for kind in (*PART_KINDS, SCORES):
            name = f"{kind}/{part_name(shard)}"
            if store.size(name) is not None:
                store.set_aside(name, journal.folder / FORMER)
    journal.forget(shards)
    files.reached("rebuild.removed", journal.folder)
