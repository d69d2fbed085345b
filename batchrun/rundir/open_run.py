"""Opens a run directory, and finds out what an earlier session left there.

Opening decides, before anything is sent, whether this run may continue here: it needs the lock, the
settings and the input that the run was begun with (the fingerprints), and sound files.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.flight_log import FLIGHTS, FlightLog, read_notes
from batchrun.adapters.journal.journal import STATES, Journal
from batchrun.adapters.journal.shard_log import BLOCK, TURN
from batchrun.adapters.parts.part_check import COLUMNS, CURRENT, Looked, look_at_parts
from batchrun.adapters.parts.sealer import Parts, PartsOf, publish
from batchrun.adapters.sources import columns_notice, opening
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.reader import Carry, Reader
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.store import (
    PART_KINDS,
    SUMMARY,
    Store,
    StoreReader,
    part_names,
    part_number,
    read_json,
    write_json,
)
from batchrun.core.request.body import WORDING, as_begun
from batchrun.core.request.chained_rows import SOURCE
from batchrun.core.run.shards import REBUILT, plan_reading
from batchrun.core.run.totals import Totals
from batchrun.core.settings.addresses import local_path
from batchrun.core.settings.reading import NOW, Reading
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.table import LABELS
from batchrun.core.text.wording import counted, verb
from batchrun.errors import DamagedError, RunChangedError, StorageError, UsageError
from batchrun.records import Known, Position, Span, Turn
from batchrun.rundir import claim, compare, resend, restarts
from batchrun.rundir.compare import Changes, Compared
from batchrun.rundir.lock import Held
from batchrun.rundir.recorded_reading import READING, reading_of
from batchrun.rundir.recover_flights import recover_flights
from batchrun.rundir.resend import Build, Found
from batchrun.rundir.restarts import Intent, Named

if TYPE_CHECKING:
    from batchrun.rundir.repair import Repair

_LOG = logging.getLogger("batchrun.run")
STATUS = "status.json"
Taken = Callable[[Held], Callable[[], None]]
_OF_THE_RUN_BEFORE = (compare.RESENDING, LABELS, SOURCE, "controls")
"""Keys of a run that sent nothing, which are removed when another run takes its place. The charge
to its budgets stays: a power cut may have removed the notes of its requests.
"""
NOTICES = "fleet_notices"
"""The key in the state file for the notices of a fleet's processes. It is kept until something is
sent again.
"""


@dataclass(slots=True)
class RunDirectory:
    """An opened run directory, locked until ``close``."""

    store: Store
    checkpoint: Path
    lock: Held
    journal: Journal
    parts: Parts
    reader: Reader
    carry: Carry
    spans: Iterable[Span]
    """The spans of input to read; empty if there are none."""
    build: Build
    """Makes the request of a row, in the wording version that the directory was begun with."""
    known: dict[int, Known] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    done: tuple[int, int] = (0, 0)
    """Rows with a completion and failed rows, when the directory was opened."""
    errors: Counter[str] = field(default_factory=Counter)
    """The failed ones of them by error class."""
    beyond: int = 0
    """Those of them beyond the limit of this session."""
    again: Found = field(default_factory=Found)
    """Those of them that are sent again."""
    proved: bool = False
    """Whether rows had a completion before that ``done`` does not count."""
    started_at_us: int = 0
    wall_s_before: float = 0.0
    set_aside: tuple[Named, ...] = ()
    """The directories that restarts set aside, the latest first."""
    looked_over: bool = False
    """Whether the input need not, or cannot, be checked before anything is sent: the cost bound of
    its rows is known already, or is computed as they arrive.
    """
    reading: Reading = NOW
    """The rules by which the input is read."""
    given: Input | None = None
    """The input itself."""
    answered: dict[int, Sequence[Turn]] = field(default_factory=dict)
    """The answered turns of conversations that have no outcome so far, by row."""

    def totals(self) -> Totals:
        """The sums over everything published."""
        totals = Totals()
        for published in self.journal.states.published():
            totals.add(published.totals)
        return totals

    def results_sha256(self, name: str) -> str:
        """The digest of a published part of the results, by its file name. Raises ``StopIteration``
        if none is recorded.
        """
        number = part_number(name)
        assert number is not None
        return next(self.journal.states.published(number)).results_sha256

    @property
    def is_finished(self) -> bool:
        """Whether every row has an outcome, and every outcome is in a part."""
        return not self.spans and not self.touched

    @property
    def is_complete(self) -> bool:
        """Whether every row of the input is in a part."""
        return bool(sum(self.totals().rows()) == self.journal.states.get("input_rows"))

    def turns(self) -> dict[int, Sequence[Turn]]:
        """The answered turns of the conversations in the logs: ``answered``."""
        for shard in self.journal.logs:
            self.answered.update(self.journal.turns(shard))
        return self.answered

    def flights(self, slots: int) -> FlightLog:
        """A fresh flight log; the notes of the previous one are in the journal by now."""
        try:
            return FlightLog(self.checkpoint / FLIGHTS, slots)
        except OSError as error:
            message = f"cannot write into {self.checkpoint}: {error.strerror}; make room"
            raise StorageError(message) from error

    def write_summary(self, totals: Totals, built: Mapping[str, Any]) -> None:
        """Replace ``usage.parquet`` and ``summary.json``. Raises ``StorageError``."""
        try:
            # Otherwise a power cut after the end could bring back logs of published shards.
            files.sync_folder(self.checkpoint)
            self.parts.write_usage(totals)
            write_json(self.store, SUMMARY, built)
        except OSError as error:
            message = f"cannot write the summary into {self.store.where()}: {error.strerror}"
            raise StorageError(message) from error

    def forget_examples(self) -> None:
        """Rows that are sent again may no longer be examples of their error class."""
        examples = self.journal.states.get("examples") or {}
        kept = {name: row for name, row in examples.items() if name not in self.again.errors}
        if kept != examples:
            self.journal.states.put(examples=kept or None)

    def all_resent(self) -> None:
        """Every done row whose request changed has a new outcome."""
        self.journal.states.put(**{compare.RESENDING: None})

    def close(self) -> None:
        """Close the journal and release the lock."""
        self.journal.close()
        self.lock.release()


def open_run(
    settings: Settings,
    changes: Changes,
    build: Build,
    given: Input | None = None,
    *,
    parts_of: PartsOf = Parts,
    require: Callable[[pa.Schema], None] = lambda _: None,
    settle: claim.Settle = claim.refuse_fleet,
    take_shared: claim.TakeShared = claim.refuse_shared,
    taken: Taken | None = None,
    say: Callable[[str], None],
) -> RunDirectory:
    """Open or create the run directory of these settings.

    ``build`` makes a row's request as the engine will; ``given`` is the input, if it is not the
    files of the settings; ``parts_of`` makes the reader and writer of parts; ``require`` raises
    ``UsageError`` for an unsuitable schema of results; ``settle`` and ``take_shared`` deal with a
    fleet (``claim``); ``taken`` is called once this process has the directory, before anything that
    takes long, and the function that it returns is called if the directory cannot be opened after
    all; ``say`` gets a line about what takes time, is sent again or was repaired. Raises
    ``RunLockedError``, ``RunChangedError``, ``DamagedError``, ``InputError`` or ``UsageError``;
    then nothing was sent and nothing was touched.
    """
    given = given or input_of(settings, changes)
    given.require_model(settings)
    for notice in given.notices:
        say(notice)
    checkpoint = Path(settings.checkpoint)
    store, lock = claim.take(
        settings.dir, checkpoint, changes, say, _intent(settings, given), settle, take_shared
    )
    with contextlib.ExitStack() as undo:
        undo.callback(lock.release)
        undo.push(partial(_refuse_lost, lock))
        if taken is not None:
            undo.callback(taken(lock))
        repair = _repair(store, checkpoint, say) if changes.repair else None
        _sound_checkpoint(store, checkpoint, settings, repair)
        journal = Journal(checkpoint, settings.shard_rows)
        undo.callback(journal.close)
        journal.fence = lock.check
        _finish_renumbering(store, journal, say)
        begun = journal.states.get("settings") is not None
        if begun:
            given, again = go_on(store, journal, settings, given, changes, build, say, parts_of)
            found = again or _begin_again(journal, settings, given, require)
        elif repair is not None and _is_begun(store, checkpoint):
            from batchrun.rundir.repair_state import Rebuilding

            given = sampled(given, settings)
            found = Rebuilding(store, journal, settings, given, changes, build, repair, say).run()
        else:
            refuse_unknown_parts(store, checkpoint)
            given = sampled(given, settings)
            found = Compared(_begin(journal, settings, given, require), grown=False)
        build = as_begun(build, journal.states.get("wording"))
        reader = _reader(given, found.carry, journal, changes)
        parts = parts_of(store, journal, found.carry.schema)
        require(parts.schemas()[0])
        looked = _sound_parts(parts, journal, reader, repair)
        opened = RunDirectory(
            store, checkpoint, lock, journal, parts, reader, found.carry, [], build
        )
        opened.looked_over = given.pipe is not None
        opened.reading, opened.given = given.reading, given
        sent = journal.states.get("sent") or ()
        columns_notice.report_columns(say, settings, given, store.where(), sent, found.carry.names)
        _recover(opened, settings, say)
        if found.moved:
            _renumber(opened, settings, given, say)
        _count(opened, settings)
        if changes.retries or changes.resend_changed:
            _send_again(opened, settings, changes, build, found, say)
        _plan(opened, settings, grown=found.grown)
        _bring_up(opened, looked, say)
        _log_opened(opened, begun=begun)
        undo.pop_all()
    return opened


def _refuse_lost(lock: Held, _: object, error: BaseException | None, __: object) -> None:
    """Raises ``StorageError`` if the lock was lost while the directory was opened: apparent damage
    is then the work of the process that took the directory over.
    """
    if isinstance(error, DamagedError):
        lock.check()


def _finish_renumbering(store: Store, journal: Journal, say: Callable[[str], None]) -> None:
    """Publish the staged parts that a kill left; see ``adapters.parts.staged_parts``."""
    if not (journal.folder / REBUILT).exists():
        return
    from batchrun.adapters.parts import staged_parts

    if staged_parts.finish(store, journal):
        say("the parts that an interrupted --resend-changed had written are published now")


def _count(opened: RunDirectory, settings: Settings) -> None:
    """Count the rows that have an outcome."""
    parts, journal = opened.parts, opened.journal
    ok, opened.errors = resend.count_done(parts, journal)
    opened.done = ok, opened.errors.total()
    if settings.limit is not None:
        opened.beyond = resend.count_beyond(parts, journal, settings.limit)


def _log_opened(opened: RunDirectory, *, begun: bool) -> None:
    _LOG.info(
        "%s: %s; rows done before: %d ok, %d failed",
        opened.store.where(),
        "goes on" if begun else "begun",
        *opened.done,
    )


def _sound_checkpoint(
    store: Store, checkpoint: Path, settings: Settings, repair: Repair | None
) -> None:
    """Raises ``DamagedError`` if the state file is missing; with ``repair``, repairs the checkpoint
    instead.
    """
    if repair is None:
        _refuse_lost_checkpoint(store, checkpoint)
    else:
        repair.state_file()
        repair.logs(settings.shard_rows)
        repair.generations()


def _sound_parts(parts: Parts, journal: Journal, reader: Reader, repair: Repair | None) -> Looked:
    """Raises ``DamagedError`` if a part is not the published one; with ``repair``, repairs it
    instead.
    """
    if repair is not None:
        parts.prepare()
        repair.blocks(journal, reader)
        repair.parts(parts, journal)
    return look_at_parts(parts, journal)


def _bring_up(opened: RunDirectory, looked: Looked, say: Callable[[str], None]) -> None:
    """Record what identifies the parts. If rows are about to be added, parts of an earlier version
    get the columns of the new ones, so that all parts can be read as one table.
    """
    journal, parts = opened.journal, opened.parts
    idle = not opened.touched and not opened.again.shards and not opened.spans
    outdated = [] if idle else [n for n in looked.outdated if n not in journal.logs]
    kept = [one for one in looked.unmarked if one.state.shard not in {*outdated, *journal.logs}]
    if kept:
        journal.states.mark(kept)
    if outdated:
        say(
            f"{counted(len(outdated), 'part')} of an earlier version will be written again, with "
            "the columns that it lacked; no row of them is sent"
        )
        parts.require_room(outdated)
        for shard in outdated:
            publish(parts, journal, journal.next_state(shard, complete=False))
    if not idle and journal.states.get(COLUMNS) != CURRENT:
        journal.states.put(**{COLUMNS: CURRENT})


def _plan(opened: RunDirectory, settings: Settings, *, grown: bool) -> None:
    """Find out what is known of shards in progress, and which spans to read."""
    journal = opened.journal
    # Logs with input only are published too: nothing may be left when the run has ended.
    opened.touched = {number for number, log in journal.logs.items() if log.places}
    states = journal.shards()
    begun = {state.shard for state in states if not state.complete} | opened.touched
    opened.known |= {n: resend.known(opened.parts, journal, n) for n in begun}
    restart = restarts.noted(journal.states.get(restarts.KEY))
    opened.set_aside = () if restart is None else restart.old
    opened.spans = plan_reading(states, settings.shard_rows, grown=grown, again=opened.again.shards)
    whole = sum(opened.done) == journal.states.get("input_rows") and not grown
    if whole and not (opened.touched or opened.again.shards):
        opened.spans = []  # a last shard that is full does not show that it is the last one
    opened.started_at_us = journal.states.get("started_at_us")
    opened.wall_s_before = journal.states.get("wall_s") or 0.0


def input_of(settings: Settings, changes: Changes) -> Input:
    """The input of the settings. Raises ``InputError`` or ``UsageError``."""
    reading = reading_of(settings, changes)
    plan = None
    if settings.is_planned:
        from batchrun.core.request import prompt

        plan = prompt.plan(settings)
    given = opening.find(settings.files, settings.format, plan, reading)
    once = given.pipe is not None and settings.sample is None  # a sample of a pipe is stored
    if once and (changes.repair or changes.resend_changed):
        message = (
            "--repair and --resend-changed read the input several times, and "
            f"{given.stamps[0].name} can be read once. Write it to a file, and name that"
        )
        raise UsageError(message)
    return given


def go_on(
    store: Store,
    journal: Journal,
    settings: Settings,
    asked: Input,
    changes: Changes,
    build: Build,
    say: Callable[[str], None],
    parts_of: PartsOf = Parts,
) -> tuple[Input, Compared | None]:
    """Compare a run that was begun before with the settings and the input of the present one.
    Differences are accepted if no row is done yet. Returns the input, which for a sample has the
    rows that the run was begun with, and how the run continues. The latter is None if it begins
    again because nothing was ever sent; its input is then that of the present run. Raises
    ``RunChangedError``.
    """
    drawn = journal.states.get("sample")
    given = asked.with_sample(drawn) if isinstance(drawn, bytes) else asked
    worded = as_begun(build, journal.states.get("wording"))

    def compared(allowed: Changes) -> Compared:
        return compare.Comparison(
            store, journal, settings, given, allowed, worded, say, parts_of
        ).go_on()

    try:
        return given, compared(changes)
    except RunChangedError:
        if not _is_unsent(store, journal):
            if changes != Changes() or _has_answers(parts_of, store, journal):
                raise
            found = compared(Changes(keep_done=True))
            say(f"no row of {store.where()} is done, so all are sent with these settings")
            return given, found
        if given.spool is not None and settings.sample is None:
            raise  # a pipe was read for a sample: its other rows are gone
    what = "other settings or another input"
    say(f"{store.where()} was started with {what}, but nothing was sent: starting over")
    return (asked if settings.sample is None else sampled(given, settings)), None


def _begin_again(
    journal: Journal, settings: Settings, given: Input, require: Callable[[pa.Schema], None]
) -> Compared:
    """Begin a run in place of one that sent nothing."""
    journal.drop_idle()
    return Compared(_begin(journal, settings, given, require), grown=False)


def sampled(given: Input, settings: Settings) -> Input:
    """The sample of the input that a run begins with, if it has one."""
    if settings.sample is None:
        return given
    return given.sampled(settings.sample, settings.sample_seed)


def _is_unsent(store: Store, journal: Journal) -> bool:
    """Whether no request of this run was ever sent, and no row has an outcome."""
    entries = (place.kind for log in journal.logs.values() for place in log.places)
    return (
        next(journal.states.published(), None) is None
        and all(kind == BLOCK for kind in entries)
        and not read_notes(journal.folder / FLIGHTS)
        and not any(part_names(store, kind) for kind in PART_KINDS)
    )


def _has_answers(parts_of: PartsOf, store: Store, journal: Journal) -> bool:
    """Whether a row has an outcome, or a conversation an answered turn."""
    if any(place.kind == TURN for log in journal.logs.values() for place in log.places):
        return True
    parts = parts_of(store, journal, compare.recorded_carry(journal).schema)
    ok, errors = resend.count_done(parts, journal)
    return bool(ok or errors)


def _repair(store: Store, checkpoint: Path, say: Callable[[str], None]) -> Repair:
    from batchrun.rundir.repair import Repair

    return Repair(store, checkpoint, say)


def _reader(given: Input, carry: Carry, journal: Journal, changes: Changes) -> Reader:
    reader = given.reader(carry, journal.shard_rows)
    if given.pipe is None:
        return reader
    from batchrun.adapters.sources.onepass import OnePassReader, recorded_marks

    marks = {} if changes.keep_done else recorded_marks(journal)
    return OnePassReader(reader, given.pipe, marks, journal.shard_rows)


def _refuse_lost_checkpoint(store: Store, checkpoint: Path) -> None:
    path = checkpoint / STATES
    if not path.exists() or path.stat().st_size == 0:
        refuse_unknown_parts(store, checkpoint)


def _is_begun(store: StoreReader, checkpoint: Path) -> bool:
    """Whether there are files that a state file must know of."""
    return any(part_names(store, kind) for kind in PART_KINDS) or any(
        checkpoint.glob("shard-*.log")
    )


def refuse_unknown_parts(store: StoreReader, checkpoint: Path) -> None:
    """Raises ``DamagedError`` if there are parts or logs that no state file mentions."""
    if not _is_begun(store, checkpoint):
        return
    path = checkpoint / STATES
    count = len(part_names(store, "results"))
    message = (
        f"{store.where('results')} has {counted(count, 'part')}, but the journal {path} is missing "
        "or empty, so it is unknown which rows are done. --repair finds it out from parts "
        "and input; or restore it, or start over with --restart (the old contents are kept aside)"
    )
    raise DamagedError(message, path=str(path))


def _begin(
    journal: Journal, settings: Settings, given: Input, require: Callable[[pa.Schema], None]
) -> Carry:
    carry = given.carry(settings.carry, settings.shard_rows)
    require(part_schema.results_schema(carry.schema, turns=settings.turns is not None))
    # A restart that was noted next to the run directory is in the state file from now on.
    local = local_path(settings.dir)
    beside = Path(settings.checkpoint if local is None else local)
    restart = restarts.pending(beside)
    states = journal.states
    forgotten = {key: None for key in _OF_THE_RUN_BEFORE if states.get(key) is not None}
    states.put(
        settings=settings.shaping(),
        input=[stamp.public() for stamp in given.stamps],
        input_format=given.kind,
        **{READING: given.reading.public()},
        wording=WORDING,
        **{COLUMNS: CURRENT},
        run=secrets.token_hex(8),
        sample=given.sample_recorded(),
        **{**forgotten, **given.recorded()},
        input_rows=None if given.picked is None else len(given.picked) * given.repeat,
        carry_schema=part_schema.schema_to_bytes(carry.schema),
        carry_names=[list(carry.names), carry.everything],
        sent=list(carry.sent),
        started_at_us=time.time_ns() // 1000,
        **({} if restart is None else {restarts.KEY: restart._asdict()}),
    )
    if restart is not None:
        restarts.end(beside)
    return carry


def _intent(settings: Settings, given: Input) -> Intent | None:
    """The intent of a restart of this run; None if it reuses no answers."""
    if not settings.reuse:
        return None
    stamps = [stamp.public() for stamp in given.stamps]
    return Intent(list(settings.reuse), settings.shaping(), stamps)


def _recover(opened: RunDirectory, settings: Settings, say: Callable[[str], None]) -> None:
    """Finish what a kill interrupted; see the crash table in docs/architecture.md."""
    journal = opened.journal
    try:
        opened.parts.prepare()
        for draft in opened.checkpoint.glob(f"*{files.TEMPORARY}"):
            disk.unlink(draft)
    except OSError as error:
        message = f"cannot write into {opened.store.where()}: {error.strerror}"
        raise StorageError(message) from error

    @functools.cache
    def numbers(shard: int) -> Mapping[int, int]:
        return resend.last_attempts(opened.parts, journal, shard)

    def last_attempt(row: int) -> int:
        return numbers(row // settings.shard_rows).get(row, 0)

    ours = [endpoint.name for endpoint in settings.endpoints]
    # The notes number the endpoints of the session that was killed.
    names = journal.states.get("endpoints") or ours
    lost = recover_flights(journal, opened.checkpoint / FLIGHTS, last_attempt, names)
    if lost:
        say(f"in flight when the last run ended: {counted(lost, 'request')}")
    flights = opened.checkpoint / FLIGHTS
    files.reached("flights.entered", flights)
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(flights)
    files.reached("flights.removed", flights)
    if names != ours or journal.states.get("endpoints") is None:
        providers = journal.states.get("providers") or {}
        providers |= {endpoint.name: endpoint.provider for endpoint in settings.endpoints}
        journal.states.put(endpoints=ours, providers=providers)
    journal.drop_idle()


def _renumber(
    opened: RunDirectory, settings: Settings, given: Input, say: Callable[[str], None]
) -> None:
    """Write the parts again for a source whose rows have new numbers, and note the present settings
    and input with them. Logs that a kill left are published first.
    """
    from batchrun.adapters.parts.renumbering import Renumbering

    journal, parts = opened.journal, opened.parts
    say("the source changed: finding the place of every done row, and writing the parts again")
    for shard in sorted(journal.touched()):
        publish(parts, journal, journal.next_state(shard, complete=False))
    blocks = opened.reader.blocks([Span(0, None, Position())], limit=None)
    hash_of = functools.partial(resend.hash_of, opened.build)
    work = Renumbering(parts, journal, blocks, hash_of, opened.carry.schema, given.repeat)
    work.run(
        {
            "settings": settings.shaping(),
            "input": [stamp.public() for stamp in given.stamps],
            "input_rows": None,
            "examples": None,
            compare.RESENDING: [],
            **given.recorded(),
        }
    )
    say(f"of the source: {work.shift}")


def _send_again(
    opened: RunDirectory,
    settings: Settings,
    changes: Changes,
    build: Build,
    compared: Compared,
    say: Callable[[str], None],
) -> None:
    """Find the done rows that are sent again, and make the reader report them. Logs that a kill
    left are published first, so that a log never has two outcomes of one row, and the recorded
    totals cover everything.
    """
    journal, parts = opened.journal, opened.parts
    for shard in sorted(journal.touched()):
        publish(parts, journal, journal.next_state(shard, complete=False))
    reader, limit = opened.reader, settings.limit
    selection = resend.Selection(changes, build if changes.resend_changed else None)
    if changes.resend_changed:
        say("comparing the requests of done rows with what the settings and the input give now")
        survey = resend.Survey(parts, journal, reader, selection, amends=compared.edited)
        found = survey.run(limit)
    else:
        found = resend.find_failed(parts, journal, changes, limit)
    parts.require_room(found.shards)
    opened.again = found
    opened.reader = resend.SelectingReader(
        reader, parts, journal, selection, found.shards, opened.known
    )
    what = " or ".join(["changed"] * changes.resend_changed + [changes.retried] * changes.retries)
    sent = f"{counted(found.rows, f'{what} row')} {verb(found.rows, 'is', 'are')} sent again"
    say(sent if found.rows else f"there are no {what} rows to send again")


def summary_of(store: Store) -> Mapping[str, Any] | None:
    """The summary in a run directory, or None."""
    found = read_json(store, SUMMARY)
    return found if isinstance(found, dict) else None
