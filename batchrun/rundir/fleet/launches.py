"""The launch of a fleet: what every process of it needs to know, written once by the first one.

``DIR/fleet/launch.json`` names the present launch; everything else is in a separate folder, which
is moved away when the fleet is folded. So a process that was suspended meanwhile can no longer
claim or commit anything.

```text
DIR/fleet/launch.json        format, id, state (live, folded), the store's time of the launch
DIR/fleet/ID/run.json        values of the state file; parts of shards that are not complete
DIR/fleet/ID/shards          where each shard begins in the input, and whether it is done
DIR/fleet/ID/claims/         a record for each step of a shard (core/fleet/claims.py)
DIR/fleet/ID/leases/         a file for each process (core/fleet/leases.py)
DIR/fleet/ID/controls/       a record for each change by batchrun ctl (core/fleet/controls.py)
DIR/fleet/ID/workers/NAME/   its checkpoint
```
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.parts.part_check import COLUMNS
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.claims_on_disk import DiskClaims
from batchrun.adapters.storage.staged_store import StagedStore, drop_staged, reveal
from batchrun.adapters.storage.store import SUMMARY, Store
from batchrun.core.cost.charged import Charge
from batchrun.core.fleet import claims, controls, leases, quota
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.operations import Done, done_of
from batchrun.core.fleet.sealed import sealed, unsealed
from batchrun.core.request.chained_rows import SOURCE
from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings
from batchrun.errors import DamagedError, InputError, InputLostError, StorageError, UsageError
from batchrun.ports import ClaimStore
from batchrun.records import Position
from batchrun.rundir import resend, restarts, state_reader
from batchrun.rundir.budget_account import charges_before, ledger_sums
from batchrun.rundir.claim import FLEET, LAUNCH, launch_record
from batchrun.rundir.lock import Held, is_locked, this_kernel
from batchrun.rundir.open_run import RunDirectory
from batchrun.rundir.recorded_reading import READING
from batchrun.rundir.spent import spent

FORMAT = 2
LAUNCHING, LIVE, FOLDED = "launching", "live", "folded"
RUN, SHARDS, WORKERS = "run.json", "shards", "workers"
TOLD = "notices"
"""The key in a worker's state file for the notices of its earlier passes."""
FIGURES = ("row_costs", "examples", "endpoints", TOLD)
"""The values in a worker's state file that are added up at the end."""
OPERATIONS = "operations"
"""The key in the state file for the operations that fleets have done."""
CLOCK = ".clock"
"""A file that is touched to learn the store's time."""
_KEPT = (
    *("settings", "input", "input_format", READING, "wording", COLUMNS, "run", "sample"),
    *("input_rows", "carry_schema", "carry_names", "sent", "started_at_us"),
    *(SOURCE, restarts.KEY),
)
"""The values of the run's state file that are copied to every worker's."""
_HEAD = struct.Struct("<16sIIq")  # magic, format, checksum of the records, rows of the input
_SHARD = struct.Struct("<qqq?")  # start: file, offset, line; whether it is done
_MAGIC = b"batchrun shards\n"


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch that is live, or that has ended and is not folded yet."""

    id: str
    folder: Path
    """The folder that its processes share."""
    begun_s: float
    """The time of the launch, in seconds by the store's clock."""
    shard_rows: int
    operation: str | None = None
    """The id of the operation that it was launched for (``core/fleet/operations.py``)."""
    done: tuple[Done, ...] = ()
    """Operations that were done before."""

    @property
    def machine(self) -> str:
        """An id shared only by processes that can see each other's locks."""
        return this_kernel()

    def is_over(self) -> bool:
        """Whether it was folded, or is being folded. Raises ``StorageError``."""
        return not self.folder.is_dir()

    def claims(self, owner: str, /) -> ClaimStore:
        """Its records, for a worker of this name."""
        return DiskClaims(self.folder, owner)

    def records(self, owner: str, /) -> ClaimStore:
        """Its records, for a process that views or folds the launch."""
        return DiskClaims(self.folder, owner)

    def parts(self, _checkpoint: Path, worker: str, epoch_of: Callable[[str], int], /) -> Store:
        """The run directory for a worker with this checkpoint, which stages its parts there."""
        return StagedStore(self.folder.parent.parent, worker, epoch_of)

    def committed(self, claim: Claim) -> None:
        """Give parts their final names after their record was made, if that is possible at this
        point. Raises ``OSError``.
        """
        # They were staged in the epoch of the claim, the previous one.
        reveal(self.folder.parent.parent, claim.shard, claim.epoch - 1, claim.worker)

    def file_of(self, worker: str, name: str) -> Path:
        """A file in the checkpoint of a worker; it may not exist."""
        return self.folder / WORKERS / worker / name

    def status_to_show(self, _worker: str) -> Mapping[str, Any] | None:
        """What a worker's lease has to say of its progress: nothing where others see its files."""
        return None

    def figures_of(self, worker: str) -> dict[str, Any]:
        """The figures that a worker recorded, and the names of its endpoints."""
        return state_reader.values(self.folder / WORKERS / worker, *FIGURES)

    def workers(self) -> list[str]:
        """The names of workers that may have recorded figures."""
        return sorted(path.name for path in (self.folder / WORKERS).iterdir())

    def leave_behind(self, worker: str, shards: Iterable[int], figures: Mapping[str, Any]) -> None:
        """Called when a worker leaves or pauses: gives others what it has of these shards, and its
        figures. Raises ``StorageError``.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a launch: the shards of the input, and what is known of those begun before."""

    values: Mapping[str, Any]
    """Values of the run's state file."""
    rows: int
    starts: tuple[Position, ...]
    """Where each shard begins in the input."""
    done: frozenset[int]
    begun: Mapping[int, Published] = field(default_factory=dict)
    """The parts of shards that are not complete."""
    before: tuple[int, int] = (0, 0)
    """Rows that were done when the fleet was launched: ok, and failed."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """The budgets that the fleet shares, by name (``LedgerSums``)."""
    charged: Mapping[str, Charge] = field(default_factory=dict)
    """What was charged to each of them before."""
    changes: Changes = field(default_factory=Changes)
    """What happens to done rows."""
    again: frozenset[int] = frozenset()
    """The shards with rows that are sent again."""
    limit: int | None = None
    """The first row of the input that is not run."""
    judged_pd: int = 0
    """The judges' share of the charge to the budget (picodollars)."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a fleet is launched for."""

    changes: Changes = field(default_factory=Changes)
    """What happens to done rows."""
    operation: str | None = None
    """See ``Launch``."""
    judged_pd: int = 0
    """See ``Plan``."""


NO_PURPOSE = Purpose()
"""To continue the run."""


class Launches(Protocol):
    """The launches of one run directory, on a disk or in an object store."""

    @property
    def shown(self) -> str:
        """The run directory as it may be shown to people."""
        ...

    def prepare(self) -> None:
        """Make the directory one that several processes share, before it is opened. Raises
        ``UsageError`` if that is impossible, or ``StorageError``.
        """
        ...

    def opened_by(self, lock: Held) -> None:
        """Called when this process has opened the run directory, with its lock."""
        ...

    def current(self) -> Launch | None:
        """The launch that can be joined; None if there is none. Raises ``UsageError`` for one of
        another format.
        """
        ...

    def unfolded(self) -> Launch | None:
        """The launch to join, or one whose folding was begun."""
        ...

    def is_busy(self) -> bool:
        """Whether the process that holds the directory prepares a launch, folds one, or writes the
        summary.
        """
        ...

    def is_locked(self) -> bool:
        """Whether a process has the directory to itself, as far as this machine can tell."""
        ...

    def plan(self, launch: Launch) -> Plan:
        """The plan of a launch. Raises ``DamagedError`` if it cannot be read."""
        ...

    def begin_launching(self) -> None:
        """Announce that a launch is being prepared, which takes a while for a large input."""
        ...

    def withdraw(self) -> None:
        """Withdraw the announcement of a launch."""
        ...

    def begin(self, opened: RunDirectory, settings: Settings, purpose: Purpose, /) -> Launch:
        """Launch a fleet on an opened run directory, whose logs are published."""
        ...

    def announce(self, launch: Launch, state: str) -> None:
        """Record the state of a launch; durable on return."""
        ...

    def end(self, launch: Launch, refuse: Callable[[], None], /) -> Launch:
        """Prevent any further joining, claiming or committing; durable on return. If a process
        joined at the last moment, ``refuse`` raises, and the launch stays as it was.
        """
        ...

    def close(self, launch: Launch, found: Sequence[Claim], /) -> list[Claim]:
        """The latest records of all shards, once no process can add another."""
        ...

    def take_in(
        self, launch: Launch, found: Sequence[Claim], records: Sequence[Published]
    ) -> list[Published]:
        """Give parts that count their final names; returns their records under these names."""
        ...

    def finish(self, launch: Launch) -> None:
        """Record that the launch is folded, and remove the rest."""
        ...


@dataclass(frozen=True, slots=True)
class DiskLaunches:
    """``Launches`` of a run directory on a disk that all of its processes see."""

    folder: Path

    @property
    def shown(self) -> str:
        """See ``Launches``."""
        return str(self.folder)

    def prepare(self) -> None:
        """See ``Launches``."""

    def opened_by(self, lock: Held) -> None:
        """See ``Launches``."""

    def current(self) -> Launch | None:
        """See ``Launches``."""
        return current(self.folder)

    def unfolded(self) -> Launch | None:
        """See ``Launches``."""
        return unfolded(self.folder)

    def is_busy(self) -> bool:
        """See ``Launches``."""
        return is_busy(self.folder)

    def is_locked(self) -> bool:
        """See ``Launches``."""
        return is_locked(self.folder)

    def plan(self, launch: Launch) -> Plan:
        """See ``Launches``."""
        return read_plan(launch)

    def begin_launching(self) -> None:
        """See ``Launches``."""
        begin_launching(self.folder)

    def withdraw(self) -> None:
        """See ``Launches``."""
        withdraw(self.folder)

    def begin(self, opened: RunDirectory, settings: Settings, purpose: Purpose) -> Launch:
        """See ``Launches``."""
        return begin(opened, self.folder, settings, purpose)

    def announce(self, launch: Launch, state: str) -> None:
        """See ``Launches``."""
        announce(launch, state)

    def end(self, launch: Launch, _refuse: Callable[[], None]) -> Launch:
        """See ``Launches``. A process that joins makes a file in the folder, which has another name
        by then.
        """
        return end(launch)

    def close(self, _launch: Launch, found: Sequence[Claim]) -> list[Claim]:
        """See ``Launches``. Records cannot be made once the folder has another name."""
        return list(found)

    def take_in(
        self, launch: Launch, found: Sequence[Claim], records: Sequence[Published]
    ) -> list[Published]:
        """See ``Launches``."""
        for claim in found:
            launch.committed(claim)
        return list(records)

    def finish(self, launch: Launch) -> None:
        """See ``Launches``."""
        drop_staged(self.folder)
        announce(launch, FOLDED)
        files.reached("fleet.folded", self.folder)
        shutil.rmtree(launch.folder, ignore_errors=True)


def current(folder: Path) -> Launch | None:
    """The launch of a run directory that can be joined; None if there is none. Raises
    ``UsageError`` for one of another format.
    """
    launch = unfolded(folder)
    return None if launch is None or launch.folder.name != launch.id else launch


def unfolded(folder: Path) -> Launch | None:
    """The launch to join, or one whose folding was begun, in the folder that it was moved to."""
    found = launch_record(folder)
    if found is None or found.get("state") != LIVE:
        return None
    require_format(found, folder / FLEET)
    name = str(found["id"])
    place = next((p for p in (folder / FLEET / name, _aside(folder, name)) if p.is_dir()), None)
    if place is None:
        return None  # it is folded, and only the record of that is missing
    return Launch(name, place, **announced_values(found))


def require_format(found: Mapping[str, Any], where: object) -> None:
    """Raise ``UsageError`` for a launch by an incompatible version."""
    if found.get("format") != FORMAT:
        message = (
            f"{where} has format {found.get('format')}, this version reads format "
            f"{FORMAT}: every process of a fleet needs the same version of batchrun"
        )
        raise UsageError(message)


def end(launch: Launch) -> Launch:
    """Move a launch away, so that no process can join, claim or commit; durable on return. Raises
    ``OSError``.
    """
    aside = _aside(launch.folder.parent.parent, launch.id)
    if launch.folder != aside:
        disk.rename(launch.folder, aside)
        files.sync_folder(aside.parent)
        files.reached("fleet.ended", launch.folder)
    return replace(launch, folder=aside)


def _aside(folder: Path, name: str) -> Path:
    return folder / FLEET / f".{name}.ended"


def caps_of(settings: Settings) -> dict[str, int]:
    """The budgets in these settings, by name."""
    caps = {"cost": settings.max_cost_pd, "tokens": settings.max_total_tokens}
    return {name: cap for name, cap in caps.items() if cap is not None}


def begin(
    opened: RunDirectory, folder: Path, settings: Settings, purpose: Purpose = NO_PURPOSE
) -> Launch:
    """Launch a fleet on an opened run directory, whose logs are published. The input is indexed:
    text is read once from start to end, without being parsed. Raises ``InputError`` if it cannot be
    read, and ``StorageError``.
    """
    name = secrets.token_hex(8)
    place = folder / FLEET / name
    store = DiskClaims(place, "launch")
    for old in (folder / FLEET).iterdir():  # of a launch that was folded, or never announced
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    try:
        shared = (claims.FOLDER, leases.FOLDER, quota.FOLDER, quota.TIMES, controls.FOLDER)
        for part in ("", *shared, WORKERS):
            files.make_folder(place / part, private=True)
        write_plan(opened, place, settings, purpose)
        return launch_of(name, place, store.put(CLOCK, b""), opened, purpose)
    except OSError as error:
        message = f"cannot write into {place}: {error.strerror}"
        raise StorageError(message) from error


def launch_of(
    name: str, place: Path, begun_s: float, opened: RunDirectory, purpose: Purpose
) -> Launch:
    """The launch of a directory that was opened for it."""
    done = tuple(done_of(opened.journal.states.get(OPERATIONS)))
    return Launch(name, place, begun_s, opened.journal.shard_rows, purpose.operation, done)


def write_plan(opened: RunDirectory, place: Path, settings: Settings, purpose: Purpose) -> None:
    """Index the input, and write the plan into a folder. Raises ``OSError``, and ``InputError`` if
    the input cannot be read.
    """
    assert opened.given is not None
    plan = _planned(opened, opened.given, settings, purpose.changes)
    if "cost" in plan.caps:
        judged = Charge(purpose.judged_pd)
        charged = {**plan.charged, "cost": plan.charged["cost"].plus(judged)}
        plan = replace(plan, charged=charged, judged_pd=purpose.judged_pd)
    files.write_json(place / RUN, sealed(_run_json(plan)))
    files.write_whole(place / SHARDS, _shards(plan))
    if settings.limit is None or plan.rows < settings.limit:
        opened.journal.states.put(input_rows=plan.rows)


def begin_launching(folder: Path) -> None:
    """Announce that a launch is being prepared, which takes a while for a large input."""
    try:
        files.make_folder(folder / FLEET, private=True)
        note = sealed({"format": FORMAT, "state": LAUNCHING})
        files.write_json(folder / FLEET / LAUNCH, note)
    except OSError as error:
        message = f"cannot write into {folder / FLEET}: {error.strerror}"
        raise StorageError(message) from error


def withdraw(folder: Path) -> None:
    """Withdraw the announcement of a launch."""
    found = launch_record(folder)
    if found is not None and found.get("state") == LAUNCHING:
        with contextlib.suppress(OSError):
            disk.unlink(folder / FLEET / LAUNCH)


def is_busy(folder: Path) -> bool:
    """Whether the process that holds the lock of a run directory prepares a launch, folds one, or
    writes its summary.
    """
    path = folder / FLEET / LAUNCH
    found = launch_record(folder)
    state = None if found is None else found.get("state")
    if state == LIVE:
        return current(folder) is None
    if state != FOLDED:
        return state == LAUNCHING
    try:
        return (folder / SUMMARY).stat().st_mtime_ns < path.stat().st_mtime_ns
    except OSError:
        return True


def announce(launch: Launch, state: str) -> None:
    """Record the state of a launch: live, so that others join it, or folded. Durable on return."""
    try:
        files.write_json(launch.folder.parent / LAUNCH, announced(launch, state))
    except OSError as error:
        message = f"cannot write into {launch.folder.parent}: {error.strerror}"
        raise StorageError(message) from error


def announced(launch: Launch, state: str) -> dict[str, Any]:
    """The content of ``LAUNCH``."""
    return sealed(
        {
            "format": FORMAT,
            "id": launch.id,
            "state": state,
            "begun_s": launch.begun_s,
            "shard_rows": launch.shard_rows,
            "operation": launch.operation,
            "done": launch.done,
        }
    )


def announced_values(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``Launch`` that are in ``LAUNCH``, except its id."""
    return {
        "begun_s": found["begun_s"],
        "shard_rows": found["shard_rows"],
        "operation": found["operation"],
        "done": tuple(done_of(found["done"])),
    }


def _planned(opened: RunDirectory, given: Input, settings: Settings, changes: Changes) -> Plan:
    states, carry, size = opened.journal.states, opened.carry, opened.journal.shard_rows
    starts, rows = _starts(given, carry, size, settings.limit)
    caps = caps_of(settings)
    done, begun, again = set(), {}, frozenset(opened.again.shards)
    for published in states.published():
        shard, state = published.state.shard, published.state
        whole = min(size, rows - shard * size)
        is_done = state.complete and state.rows_read >= whole
        # A shard that the limit cuts through is never complete.
        cut = settings.limit is not None and shard == len(starts) - 1
        if shard not in again and (is_done or (cut and _has(opened, shard, whole))):
            done.add(shard)
        else:
            begun[shard] = published
    values = {key: states.get(key) for key in _KEPT} | {"input_rows": rows}
    charged = charges_before(states, ledger_sums(spent(opened.journal)), caps) if caps else {}
    before = opened.done[0] - opened.again.ok, opened.done[1] - opened.again.errors.total()
    return Plan(
        values,
        rows,
        starts,
        frozenset(done),
        begun,
        before,
        caps,
        charged,
        changes,
        again,
        settings.limit,
    )


def _has(opened: RunDirectory, shard: int, rows: int) -> bool:
    """Whether the first ``rows`` rows of a shard have an outcome."""
    first = shard * opened.journal.shard_rows
    done = resend.known(opened.parts, opened.journal, shard).done
    return sum(row < first + rows for row in done) == rows


def _starts(
    given: Input, carry: Carry, size: int, limit: int | None
) -> tuple[tuple[Position, ...], int]:
    ends, rows = [Position()], 0
    try:
        for rows, end in given.shard_starts(carry, size):
            ends.append(end)
            if limit is not None and rows >= limit:
                return tuple(ends[:-1]), limit
    except InputLostError as error:
        raise InputError(str(error)) from None
    return tuple(ends[:-1]), rows


def _run_json(plan: Plan) -> dict[str, Any]:
    values = {
        key: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for key, value in plan.values.items()
        if value is not None
    }
    begun = [published_json.to_json(published) for published in plan.begun.values()]
    return {
        "values": values,
        "begun": begun,
        "before": list(plan.before),
        "caps": dict(plan.caps),
        "charged": {name: list(charge) for name, charge in plan.charged.items()},
        "changes": asdict(plan.changes),
        "again": sorted(plan.again),
        "limit": plan.limit,
        "judged_pd": plan.judged_pd,
    }


def _shards(plan: Plan) -> bytes:
    records = b"".join(
        _SHARD.pack(*start, shard in plan.done) for shard, start in enumerate(plan.starts)
    )
    return _HEAD.pack(_MAGIC, FORMAT, zlib.crc32(records), plan.rows) + records


def read_plan(launch: Launch) -> Plan:
    """The plan of a launch. Raises ``DamagedError`` if it cannot be read."""
    path = launch.folder / RUN
    try:
        run = unsealed(path.read_bytes())
        path = launch.folder / SHARDS
        data = path.read_bytes()
        magic, version, crc, rows = _HEAD.unpack_from(data)
        records = data[_HEAD.size :]
        if (magic, version, crc) != (_MAGIC, FORMAT, zlib.crc32(records)):
            raise _damaged(path, "its checksum is wrong")
        shards = list(_SHARD.iter_unpack(records))
        values = {
            key: base64.b64decode(value["base64"]) if _is_binary(value) else value
            for key, value in run["values"].items()
        }
        begun = {each["shard"]: published_json.from_json(each) for each in run["begun"]}
        ok, error = run["before"]
        caps = {str(name): int(cap) for name, cap in run["caps"].items()}
        charged = {name: Charge(*charge) for name, charge in run["charged"].items()}
        classes = tuple(run["changes"]["retry_classes"])
        changes = Changes(**{**run["changes"], "retry_classes": classes})
        again = frozenset(run["again"])
        limit, judged_pd = run["limit"], run["judged_pd"]
    except OSError as error:
        message = f"cannot read {launch.folder}: {error.strerror}"
        raise StorageError(message) from error
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(path, str(error)) from None
    starts = tuple(Position(*start) for *start, _ in shards)
    done = frozenset(shard for shard, (*_, is_done) in enumerate(shards) if is_done)
    return Plan(
        values,
        rows,
        starts,
        done,
        begun,
        (ok, error),
        caps,
        charged,
        changes,
        again,
        limit,
        judged_pd,
    )


@contextlib.contextmanager
def naming_records(launch: Launch) -> Iterator[None]:
    """Make the error for a damaged record name its file too."""
    try:
        yield
    except DamagedError as error:
        if Path(error.path).is_absolute() or not (launch.folder / error.path).exists():
            raise
        path = launch.folder / error.path
        message = str(error).replace(error.path, str(path), 1)
        raise DamagedError(message, path=str(path)) from None


def _is_binary(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"base64"}


def _damaged(path: Path, why: str) -> DamagedError:
    message = (
        f"{path} is damaged: {why}. Restore it from a backup. Without a backup, stop "
        f"all processes of the run, move {path.parent.parent} away, and start the run again with "
        "--repair: published parts are kept, and rows found only in that folder are sent again"
    )
    return DamagedError(message, path=str(path))
