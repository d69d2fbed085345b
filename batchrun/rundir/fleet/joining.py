"""Joining a fleet: a run directory as one of its workers sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.parts.sealer import Parts, PartsOf
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.storage.store import part_number
from batchrun.core.request.body import as_begun
from batchrun.core.request.chained_rows import SOURCE as SOURCE_KEY
from batchrun.core.run.changes import Changes
from batchrun.core.run.totals import Totals
from batchrun.core.settings.differences import SOURCE, differences
from batchrun.core.settings.resolve import Settings
from batchrun.errors import StorageError
from batchrun.rundir import restarts
from batchrun.rundir.compare import changed
from batchrun.rundir.fleet.claimed_shards import ClaimedShards
from batchrun.rundir.fleet.launches import Plan, caps_of
from batchrun.rundir.fleet.workers import Worker
from batchrun.rundir.lock import NAME, Lock
from batchrun.rundir.open_run import RunDirectory, input_of
from batchrun.rundir.resend import Build, SelectingReader, Selection


@dataclass(slots=True)
class WorkerDirectory(RunDirectory):
    """A run directory opened by one of several processes, each with its own checkpoint."""

    def write_summary(self, totals: Totals, built: Mapping[str, Any]) -> None:
        """Does nothing: the summary of the run is written once the fleet is folded."""

    def close(self) -> None:
        """Close the journal. The worker keeps its lock until it leaves."""
        self.journal.close()


def join(
    worker: Worker,
    shown: str,
    settings: Settings,
    build: Build,
    *,
    parts_of: PartsOf = Parts,
    say: Callable[[str], None],
) -> WorkerDirectory:
    """Open a run directory as a worker. Its spans are the shards that it claims as they are read.

    ``build`` makes a row's request, ``shown`` is the directory as shown to people. Raises
    ``RunChangedError`` if settings or input differ from those of the launch, ``InputError``,
    ``UsageError`` or ``StorageError``.
    """
    values = worker.plan.values
    given = _chained(settings) if settings.source else input_of(settings, Changes())
    given.require_model(settings)
    if isinstance(values.get("sample"), bytes):
        given = given.with_sample(values["sample"])
    _require_same(settings, given, worker.plan, shown)
    for notice in given.notices:
        say(notice)
    claimant, restart = worker.claimant, restarts.noted(values.get(restarts.KEY))
    journal = Journal(worker.checkpoint, settings.shard_rows)
    try:
        endpoints = [endpoint.name for endpoint in settings.endpoints]
        journal.states.put(**values, endpoints=endpoints)
        journal.fence = worker.check
        names, everything = values["carry_names"]
        schema = part_schema.schema_from_bytes(values["carry_schema"])
        carry = Carry(schema, tuple(names), everything)

        def epoch_of(file: str) -> int:
            shard = part_number(file)
            claim = None if shard is None else claimant.held.get(shard)
            return 0 if claim is None else claim.epoch

        store = worker.launch.parts(worker.checkpoint, worker.name, epoch_of)
        opened = WorkerDirectory(
            store=store,
            checkpoint=worker.checkpoint,
            lock=Lock(worker.checkpoint, worker.checkpoint / NAME),
            journal=journal,
            parts=parts_of(store, journal, schema),
            reader=given.reader(carry, settings.shard_rows),
            carry=carry,
            spans=(),
            build=as_begun(build, values.get("wording")),
            reading=given.reading,
            given=given,
            started_at_us=values["started_at_us"],
            looked_over=True,  # by the process that launched the fleet
            proved=worker.plan.before[0] > 0,
            set_aside=() if restart is None else restart.old,
        )
        if worker.plan.again:
            changes = worker.plan.changes
            selection = Selection(changes, opened.build if changes.resend_changed else None)
            opened.reader = SelectingReader(
                opened.reader, opened.parts, journal, selection, worker.plan.again, opened.known
            )
        opened.spans = ClaimedShards(worker, opened, endpoints)
    except BaseException:
        journal.close()
        raise
    return opened


def _chained(settings: Settings) -> Input:
    """The results of the run that the settings name as input."""
    from batchrun.rundir.chain import inputs

    return inputs.find_chained(settings)


def _require_same(settings: Settings, given: Input, plan: Plan, shown: str) -> None:
    """Raises ``RunChangedError`` if settings or input differ from the fleet's."""
    values = plan.values
    found = [
        str(each)
        for each in differences(values["settings"], settings.shaping())
        if each.name != SOURCE or not given.is_of(values.get(SOURCE_KEY))
    ]
    recorded = [Stamp.recorded(stamp) for stamp in values["input"]]
    for now, then in zip(given.stamps, recorded, strict=False):
        if not now.same_as(then):
            found.append(
                f"input {now.name}: {now.size:,} bytes here, {then.size:,} there, or changed since"
            )
    if len(given.stamps) != len(recorded):
        found.append(f"input: {len(given.stamps):,} files here, {len(recorded):,} there")
    if given.kind != values["input_format"]:
        found.append(f"input: {given.kind} here, {values['input_format']} there")
    if settings.limit != plan.limit:
        found.append(f"--limit: {settings.limit} here, {plan.limit} there")
    if caps_of(settings) != plan.caps:
        found.append("--max-cost, --max-total-tokens: not the same as in the other processes")
    if found:
        choices = [
            "start every process with the same command and the same files",
            "wait until the others are done, then run this command again",
        ]
        raise changed(
            f"the processes working on {shown} have other settings or input", found, choices
        )


def commit(worker: Worker, published: Published) -> None:
    """Make the staged parts of a shard count, and give them their final names. Raises
    ``StorageError`` if the shard was taken over.
    """
    shard = published.state.shard
    claim = worker.claimant.held.get(shard)
    if claim is None or not worker.claimant.publish(shard, published_json.to_json(published)):
        raise worker.taken_over()
    try:
        worker.launch.committed(claim.committed({}))
    except OSError as error:
        message = f"cannot rename the parts of shard {shard}: {error.strerror}; they are safe"
        raise StorageError(message) from error
