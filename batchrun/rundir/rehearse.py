"""Finds out what a command would do to a run directory, on a copy of its checkpoint.

A rehearsal compares settings and input as the run does (``comparing``), and knows which rows are
done. The directory is neither locked nor written: notes go to the copy.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from batchrun.adapters.columns.schema import results_schema
from batchrun.adapters.journal.flight_log import FLIGHTS
from batchrun.adapters.journal.journal import STATES, Journal
from batchrun.adapters.parts.part_check import look_at_parts
from batchrun.adapters.parts.sealer import Ending, Parts
from batchrun.adapters.sources import opening
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry, Reader
from batchrun.adapters.sources.splitting import Splitter
from batchrun.core.request import prompt as prompts
from batchrun.core.request.body import as_begun
from batchrun.core.settings.resolve import Settings
from batchrun.errors import RunLockedError, UsageError
from batchrun.records import Row
from batchrun.rundir import inspect, resend
from batchrun.rundir.compare import Changes
from batchrun.rundir.open_run import go_on, refuse_unknown_parts, sampled
from batchrun.rundir.recorded_reading import reading_of
from batchrun.rundir.resend import Build, Selection

if TYPE_CHECKING:
    from batchrun.adapters.storage.store import Store


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A run as it would begin or continue: its input and reader, the carried columns, how its
    requests are made, and whether a row is done and would not be sent. ``resumed`` is whether the
    directory has a run.
    """

    given: Input
    reader: Reader
    carry: Carry
    build: Build
    is_done: Callable[[Row], bool]
    resumed: bool


@contextlib.contextmanager
def rehearsed(
    settings: Settings,
    changes: Changes,
    build: Build,
    say: Callable[[str], None],
    splitting: Callable[[Splitter], Splitter] = lambda splitter: splitter,
    require: Callable[[pa.Schema], None] = lambda _: None,
    given: Input | None = None,
) -> Iterator[Rehearsal]:
    """Rehearse the run of these settings; the temporary copy is removed when the block is left.

    ``splitting`` may wrap how rows are split; ``require`` gets the schema of the results; ``given``
    is the input, if it is not the files of the settings. Raises what ``require`` and opening the
    run directory raise: ``RunLockedError``, ``RunChangedError``, ``DamagedError``, ``InputError``
    or ``UsageError``.
    """
    if changes.repair:
        message = "--dry-run changes nothing, and --repair does: leave one of them out"
        raise UsageError(message)
    reading = reading_of(settings, changes)
    if given is None:
        given = opening.find(settings.files, settings.format, prompts.plan(settings), reading)
    look = inspect.look_at(settings.dir, settings.checkpoint)
    if look.live:
        message = f"{look.store.where()} is in use by a run; `batchrun status` shows it"
        raise RunLockedError(message, holder="")
    checkpoint = Path(settings.checkpoint)
    begun = (checkpoint / STATES).exists() and not changes.restart
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(_copied(checkpoint, settings)) if begun else None
        store = cast("Store", look.store)  # nothing here writes to it
        compared = None
        if journal is not None and journal.states.get("settings") is not None:
            given, compared = go_on(store, journal, settings, given, changes, build, say)
        else:
            if not changes.restart:
                refuse_unknown_parts(look.store, checkpoint)
            given = sampled(given, settings)
        if journal is None or compared is None:
            given = replace(given, splitter=splitting(given.splitter))
            given.require_model(settings)
            carry = given.carry(settings.carry, settings.shard_rows)
            require(results_schema(carry.schema, turns=settings.turns is not None))
            reader = given.reader(carry, settings.shard_rows)
            _release(given)
            yield Rehearsal(given, reader, carry, build, lambda _: False, resumed=False)
            return
        build = as_begun(build, journal.states.get("wording"))
        parts = Parts(store, journal, compared.carry.schema)
        require(parts.schemas()[0])
        look_at_parts(parts, journal)
        given = replace(given, splitter=splitting(given.splitter))
        reader = given.reader(compared.carry, settings.shard_rows)
        _release(given)
        done: Callable[[Row], bool] = _Done(parts, journal, changes, build, settings.shard_rows)
        if compared.moved:
            done = _DoneInSource(parts, journal, build, given.repeat)
        yield Rehearsal(given, reader, compared.carry, build, done, resumed=True)


def _release(given: Input) -> None:
    if given.pipe is not None:
        given.pipe.release()


@contextlib.contextmanager
def _copied(checkpoint: Path, settings: Settings) -> Iterator[Journal]:
    """The journal of a checkpoint, in a copy, since opening one may repair what a kill left."""
    with tempfile.TemporaryDirectory(prefix="batchrun-rehearsal-") as name:
        for pattern in (f"{STATES}*", "shard-*.log", FLIGHTS):
            for path in checkpoint.glob(pattern):
                shutil.copyfile(path, Path(name, path.name))
        journal = Journal(Path(name), settings.shard_rows)
        try:
            yield journal
        finally:
            journal.close()


class _Done:
    """Whether a row is done and stays so. Rows come in order, so one shard is loaded at a time."""

    def __init__(
        self, parts: Parts, journal: Journal, changes: Changes, build: Build, shard_rows: int
    ) -> None:
        self._parts = parts
        self._journal = journal
        self._flaws = bool(changes.retried_flaws)
        self._selection = Selection(changes, build if changes.resend_changed else None)
        self._shard_rows = shard_rows
        self._shard = -1
        self._endings: dict[int, Ending] = {}
        self._published = {state.shard for state in journal.shards()}

    def __call__(self, row: Row) -> bool:
        shard = row.number // self._shard_rows
        if shard != self._shard:
            self._shard, self._endings = shard, {}
            if shard in self._published:
                self._endings = resend.endings(self._parts, self._journal, shard, flaws=self._flaws)
        ending = self._endings.get(row.number)
        return ending is not None and not self._selection.picks(ending, row)


class _DoneInSource:
    """Whether a row is done, looked up by its row in a source that has changed since, and by its
    number among that row's ``repeats``. Rows come in order.
    """

    def __init__(self, parts: Parts, journal: Journal, build: Build, repeats: int) -> None:
        from batchrun.adapters.parts import renumbering

        self._build = build
        self._key_of = partial(renumbering.key_of, repeats=repeats)
        self._old = renumbering.endings(parts, journal, repeats)
        self._ahead = next(self._old, None)

    def __call__(self, row: Row) -> bool:
        key = self._key_of(row)
        while self._ahead is not None and self._ahead[0] < key:
            self._ahead = next(self._old, None)
        if self._ahead is None or self._ahead[0] != key:
            return False
        return resend.hash_of(self._build, row) == self._ahead[1]
