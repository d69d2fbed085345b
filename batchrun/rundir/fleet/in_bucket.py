"""The launches of a run directory in an object store.

What all processes need is in ``DIR/fleet/``, as on a disk (``launches.py``). Each has its
checkpoint on a local disk, below its own ``--checkpoint``. So a worker finds the logs of workers
with the same ``--checkpoint``; of the others, it finds what they uploaded when they left.

```text
DIR/fleet/launch.json             as on a disk; further states: "ending" while it is folded,
                                  "withdrawn" where none came of it
DIR/fleet/ID/run.json, shards     the plan
DIR/fleet/ID/claims/, leases/, quota/, quota-times/
DIR/fleet/ID/staged/KIND/...      parts, until they are copied to their final names
DIR/fleet/ID/left/WORKER/...      what a worker left: logs of its shards, and what it learned
CHECKPOINT/fleet/ID/workers/NAME/ the checkpoint of a worker
```

A store has no folder that could be moved away. Instead, the process that folds first writes
``ending``, checks once more which workers are alive, and then closes the chain of every open claim
with a record of its own. After every record that a worker makes, and every renewal of its lease, it
reads ``launch.json``: a record that came too late is taken back, and the worker learns that the
fleet ended.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from batchrun.adapters.environment import series_file
from batchrun.adapters.journal.flight_log import FLIGHTS
from batchrun.adapters.journal.journal import log_names
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.storage import files, filesystems
from batchrun.adapters.storage.bucket import Bucket, bucket_at, bucket_store
from batchrun.adapters.storage.claims_in_bucket import BucketClaims
from batchrun.adapters.storage.object_store import ObjectStore
from batchrun.adapters.storage.staged_objects import StagedObjects, StagedPart, reveal
from batchrun.adapters.storage.store import REQUESTS, SUMMARY, Store
from batchrun.core.fleet import claims, leases
from batchrun.core.fleet.claimant import read_claim
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.sealed import sealed
from batchrun.core.settings import addresses
from batchrun.core.settings.resolve import Settings
from batchrun.errors import StorageError, UsageError
from batchrun.rundir import state_reader
from batchrun.rundir.claim import FLEET, LAUNCH, UPLOADS, parse_launch
from batchrun.rundir.fleet import handing_on, launches
from batchrun.rundir.fleet.handing_on import HANDED_ON, LOCK, SharedLock, fetch, machine_of
from batchrun.rundir.fleet.launches import (
    CLOCK,
    FIGURES,
    FOLDED,
    LAUNCHING,
    LIVE,
    RUN,
    SHARDS,
    WORKERS,
    Launch,
    Plan,
    Purpose,
)
from batchrun.rundir.lock import Held
from batchrun.rundir.open_run import STATUS, RunDirectory

ENDING, WITHDRAWN = "ending", "withdrawn"
LEFT, LEARNED = "left", "learned.json"
_ANNOUNCED = f"{FLEET}/{LAUNCH}"
SETTLES_S = 60.0
"""How long a record waits for the process that wrote ``ending`` to fold, or to find that others are
at work.
"""
LOOK_S = 0.5


class EndableClaims(BucketClaims):
    """``ports.ClaimStore`` for a worker: what it writes counts only while its launch is live."""

    def __init__(self, launch: BucketLaunch) -> None:
        place = addresses.below(launch.address, f"{FLEET}/{launch.id}")
        super().__init__(bucket_store(place), addresses.format_address(place))
        self._launch = launch

    def create(self, name: str, content: bytes) -> bool:
        """See ``ports.ClaimStore``. False, too, if the fleet ended before. A record that was made
        while a process was about to fold counts if the folding was called off.
        """
        if not self.make(name, content):
            return False
        if not name.startswith(claims.FOLDER):
            # Budgets: what was granted too late is not spent, whether or not it was charged.
            return self._launch.state() in (LIVE, LAUNCHING)
        until_s = time.monotonic() + SETTLES_S
        while (state := self._launch.state()) == ENDING and time.monotonic() < until_s:
            time.sleep(LOOK_S)
        if state in (LIVE, LAUNCHING):
            return True
        if state != ENDING:
            self.remove(name)
        return False

    def put(self, name: str, content: bytes) -> float:
        """See ``ports.ClaimStore``. Raises ``StorageError`` once the fleet ended."""
        written_s = super().put(name, content)
        if name.startswith(leases.FOLDER) and self._launch.is_over():
            self.remove(name)
            message = f"the processes that worked on {self._launch.shown} have ended"
            raise StorageError(message)
        return written_s


@dataclass(frozen=True, slots=True)
class BucketLaunch(Launch):
    """A launch in an object store. Its ``folder`` is on this machine's disk."""

    address: str = ""
    """Of the run directory."""

    @property
    def shown(self) -> str:
        """The run directory as it may be shown to people."""
        return addresses.format_address(self.address)

    @property
    def _bucket(self) -> Bucket:
        return bucket_at(self.address)

    @property
    def _place(self) -> str:
        return f"{FLEET}/{self.id}"

    @property
    def machine(self) -> str:
        """See ``Launch``."""
        checkpoint = self.folder.parent.parent
        return machine_of(checkpoint) if checkpoint.is_dir() else ""

    def state(self) -> str | None:
        """The content of ``launch.json`` about this launch; None if it is about another one."""
        found = _read(self._bucket)
        return found.get("state") if found is not None and found.get("id") == self.id else None

    def is_over(self) -> bool:
        """See ``Launch``."""
        return self.state() not in (LIVE, LAUNCHING)

    def claims(self, _owner: str) -> BucketClaims:
        """See ``Launch``."""
        return EndableClaims(self)

    def records(self, _owner: str = "") -> BucketClaims:
        """See ``Launch``."""
        place = addresses.below(self.address, self._place)
        return BucketClaims(bucket_store(place), addresses.format_address(place))

    def parts(self, checkpoint: Path, worker: str, epoch_of: Callable[[str], int]) -> Store:
        """See ``Launch``."""
        return StagedObjects(self.address, checkpoint / UPLOADS, self._place, worker, epoch_of)

    def committed(self, claim: Claim) -> None:
        """See ``Launch``. They get their final names when the fleet is folded: a late copy would
        replace what another process wrote since.
        """

    def file_of(self, worker: str, name: str) -> Path:
        """See ``Launch``. For a worker with another checkpoint, what it uploaded when it left."""
        here = self._place_of(worker)
        if here.is_dir():
            return here / name
        path = self.folder / LEFT / worker / name
        if not path.exists():
            for folder in (path.parent.parent, path.parent):
                files.make_folder(folder, private=True)
            fetch(self._bucket, f"{self._place}/{LEFT}/{worker}/{name}", path)
        return path

    def _place_of(self, worker: str) -> Path:
        return self.folder / WORKERS / worker

    def status_to_show(self, worker: str) -> Mapping[str, Any] | None:
        """See ``Launch``."""
        found = files.read_json(self._place_of(worker) / STATUS)
        return found if isinstance(found, dict) else None

    def figures_of(self, worker: str) -> dict[str, Any]:
        """See ``Launch``."""
        if self._place_of(worker).is_dir():
            return state_reader.values(self._place_of(worker), *FIGURES)
        found = self._bucket.read(f"{self._place}/{LEFT}/{worker}/{LEARNED}")
        return {} if found is None else dict(json.loads(found))

    def workers(self) -> list[str]:
        """See ``Launch``."""
        here = {path.name for path in (self.folder / WORKERS).glob("*")}
        left = set(self._bucket.folders(f"{self._place}/{LEFT}"))
        leased = {name.rpartition("/")[2] for name in self.records().names(leases.FOLDER)}
        return sorted(here | left | leased)

    def leave_behind(self, worker: str, shards: Iterable[int], figures: Mapping[str, Any]) -> None:
        """See ``Launch``."""
        left, checkpoint = f"{self._place}/{LEFT}/{worker}", self._place_of(worker)
        logs = [path for shard in shards for path in checkpoint.glob(log_names(shard))]
        for path in (*logs, checkpoint / FLIGHTS, checkpoint / series_file.NAME):
            if path.exists():
                self._bucket.write(f"{left}/{path.name}", path)
        if figures:
            self._bucket.write(f"{left}/{LEARNED}", json.dumps(figures).encode())


def _read(bucket: Bucket) -> dict[str, Any] | None:
    """The content of ``launch.json``; None if there is none. Raises ``DamagedError``."""
    content = bucket.read(_ANNOUNCED)
    return None if content is None else _parsed(bucket, content)


def _parsed(bucket: Bucket, content: bytes) -> dict[str, Any]:
    return parse_launch(content, bucket.where(_ANNOUNCED), bucket.where(FLEET))


@dataclass(slots=True)
class BucketLaunches:
    """``launches.Launches`` of a run directory in an object store. ``lock`` is set while this
    process has the directory open.
    """

    address: str
    checkpoint: Path
    lock: SharedLock | None = None

    @property
    def shown(self) -> str:
        """See ``Launches``."""
        return addresses.format_address(self.address)

    @property
    def _bucket(self) -> Bucket:
        return bucket_at(self.address)

    def prepare(self) -> None:
        """See ``Launches``."""
        try:
            store = ObjectStore(self.address, self.checkpoint / UPLOADS)
            handing_on.prepare(store, self.address, self.checkpoint)
        except (filesystems.AddressError, StorageError) as error:
            raise UsageError(str(error)) from None

    def opened_by(self, lock: Held) -> None:
        """See ``Launches``."""
        assert isinstance(lock, SharedLock)
        self.lock = lock

    def _announced(self, *states: str) -> BucketLaunch | None:
        found = _read(self._bucket)
        if found is None or found.get("state") not in states or "id" not in found:
            return None
        launches.require_format(found, self._bucket.where(FLEET))
        name = str(found["id"])
        folder = self.checkpoint / FLEET / name
        values = launches.announced_values(found)
        return BucketLaunch(name, folder, **values, address=self.address)

    def current(self) -> BucketLaunch | None:
        """See ``Launches``."""
        return self._announced(LIVE)

    def unfolded(self) -> BucketLaunch | None:
        """See ``Launches``."""
        return self._announced(LIVE, ENDING)

    def is_busy(self) -> bool:
        """See ``Launches``."""
        bucket = self._bucket
        found = _read(bucket) or {}
        if found.get("state") != FOLDED:
            return found.get("state") in (LAUNCHING, ENDING)
        folded_s, summed_s = bucket.written_s(_ANNOUNCED), bucket.written_s(SUMMARY)
        return folded_s is not None and (summed_s is None or summed_s < folded_s)

    def is_locked(self) -> bool:
        """See ``Launches``. By this machine's clock, which is good enough for a view."""
        found = self._bucket.look(LOCK)
        if found is None or abs(time.time() - found.written_s) > leases.LEASE_S:
            return False
        try:
            return not json.loads(found.content)["released"]
        except (ValueError, KeyError, TypeError):
            return False

    def plan(self, launch: Launch) -> Plan:
        """See ``Launches``."""
        self._make_folders(launch.folder)
        for name in (RUN, SHARDS):
            if not (launch.folder / name).exists():
                fetch(self._bucket, f"{FLEET}/{launch.id}/{name}", launch.folder / name)
        return launches.read_plan(launch)

    def _make_folders(self, folder: Path) -> None:
        try:
            for each in (folder.parent, folder, folder / WORKERS):
                files.make_folder(each, private=True)
        except OSError as error:
            message = f"cannot write into {folder}: {error.strerror}"
            raise StorageError(message) from error

    def begin_launching(self) -> None:
        """See ``Launches``."""
        note = sealed({"format": launches.FORMAT, "state": LAUNCHING})
        self._announce(note, after=(None, FOLDED, LAUNCHING, WITHDRAWN))

    def withdraw(self) -> None:
        """See ``Launches``. What another process announced meanwhile stays."""
        found = _read(self._bucket)
        if found is not None and found.get("state") == LAUNCHING:
            note = sealed({"format": launches.FORMAT, "state": WITHDRAWN})
            with contextlib.suppress(StorageError):
                self._announce(note, after=(LAUNCHING,))

    def begin(self, opened: RunDirectory, settings: Settings, purpose: Purpose) -> Launch:
        """See ``Launches``. The checkpoint is handed on, so that any process can fold the fleet."""
        bucket, name = self._bucket, secrets.token_hex(8)
        assert self.lock is not None
        self._remove_others(None)
        folder = self.checkpoint / FLEET / name
        self._make_folders(folder)
        try:
            launches.write_plan(opened, folder, settings, purpose)
        except OSError as error:
            message = f"cannot write into {folder}: {error.strerror}"
            raise StorageError(message) from error
        for each in (RUN, SHARDS):
            bucket.write(f"{FLEET}/{name}/{each}", folder / each)
        known = launches.launch_of(name, folder, 0.0, opened, purpose)
        values = {each.name: getattr(known, each.name) for each in fields(Launch)}
        launch = BucketLaunch(**values, address=self.address)
        launch = replace(launch, begun_s=launch.records().put(CLOCK, b""))
        self._announce(launches.announced(launch, LAUNCHING), after=(None, LAUNCHING))
        self.lock.hand_on(opened.journal.states)
        return launch

    def _remove_others(self, kept: str | None) -> None:
        """Remove what earlier launches left, in the store and on this disk."""
        bucket = self._bucket
        for name in bucket.folders(FLEET):
            if name not in (kept, HANDED_ON.rpartition("/")[2]):
                bucket.remove_all(bucket.below(f"{FLEET}/{name}"))
        here = self.checkpoint / FLEET
        for folder in here.iterdir() if here.exists() else ():
            if folder.name != kept:
                shutil.rmtree(folder, ignore_errors=True)

    def announce(self, launch: Launch, state: str) -> None:
        """See ``Launches``. Raises ``StorageError`` if another launch was announced."""
        self._announce(launches.announced(launch, state), after=(LAUNCHING, LIVE, ENDING))

    def _announce(self, value: Mapping[str, Any], *, after: tuple[str | None, ...]) -> None:
        """Replace ``launch.json`` if it belongs to this launch and is in one of these states: a
        process that lost the directory while it was suspended changes nothing.
        """
        if self.lock is not None:
            self.lock.require()
        bucket, content = self._bucket, json.dumps(value, indent=2).encode()
        found = bucket.look(_ANNOUNCED)
        now = {} if found is None else _parsed(bucket, found.content)
        another = "id" in value and now.get("id", value["id"]) != value["id"]
        if now.get("state") not in after or another:
            raise self._lost()
        if found is None:
            done = bucket.make(_ANNOUNCED, content)
        else:
            done = bucket.replace(_ANNOUNCED, content, found)
        if not done:
            raise self._lost()

    def _lost(self) -> StorageError:
        message = (
            f"{self._bucket.where(_ANNOUNCED)} was changed by another process, which took the "
            "directory over. Nothing more was written there"
        )
        return StorageError(message)

    # Folding

    def end(self, launch: Launch, refuse: Callable[[], None]) -> Launch:
        """See ``Launches``."""
        self.announce(launch, ENDING)
        try:
            refuse()
        except BaseException:
            self.announce(launch, LIVE)
            raise
        files.reached("fleet.ended", launch.folder)
        return launch

    def close(self, launch: Launch, found: Sequence[Claim]) -> list[Claim]:
        """See ``Launches``. Every open claim gets a record; if one cannot be made, its worker
        published at the last moment.
        """
        closed, owner = [], f"fold-{secrets.token_hex(4)}"
        store = launch.records(owner)
        for claim in found:
            latest = claim
            while latest.published is None:
                record = latest.taken_over(owner)
                if store.create(record.name, record.as_bytes()):
                    break
                newer = read_claim(store, latest.shard, latest.epoch + 1)
                if newer is None:
                    raise self._lost()
                latest = newer
            closed.append(latest)
        return closed

    def take_in(
        self, launch: Launch, found: Sequence[Claim], records: Sequence[Published]
    ) -> list[Published]:
        """See ``Launches``."""
        assert self.lock is not None
        parts = []
        for claim, record in zip(found, records, strict=True):
            kinds = ("attempts", "results", *([REQUESTS] if record.requests is not None else ()))
            parts += [StagedPart(k, claim.shard, claim.epoch - 1, claim.worker) for k in kinds]
        marks = reveal(self._patient(self.lock.store), f"{FLEET}/{launch.id}", parts)
        by_part = {(part.kind, part.shard): marks[part.final] for part in parts}
        return [_marked(record, by_part) for record in records]

    def _patient(self, store: ObjectStore) -> ObjectStore:
        again = ObjectStore(self.address, store.drafts)
        again.tries = max(store.tries, 4)
        return again

    def finish(self, launch: Launch) -> None:
        """See ``Launches``. What was staged is removed before any other process may write."""
        assert self.lock is not None
        self.lock.hand_on()
        self.announce(launch, FOLDED)
        files.reached("fleet.folded", launch.folder)
        self.clear()

    def clear(self) -> None:
        """Remove what is left of launches that were folded."""
        launch = self.unfolded()
        self._remove_others(None if launch is None else launch.id)


def _marked(record: Published, marks: Mapping[tuple[str, int], Any]) -> Published:
    shard, kept = record.state.shard, record.requests
    if kept is not None:
        size, word = marks[REQUESTS, shard]
        kept = kept._replace(size_bytes=size, word=word)
    return replace(
        record,
        results_mark=marks["results", shard],
        attempts_mark=marks["attempts", shard],
        requests=kept,
    )
