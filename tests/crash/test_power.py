"""Power cuts at any point of a run's writes, and what the next session makes of what is left."""

import asyncio
import os
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun import api
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.shard_log import MAGIC, ShardLog
from batchrun.adapters.storage import disk
from batchrun.engine.outbox import Outbox
from batchrun.errors import BatchrunError
from batchrun.views.verify import verify
from tests.harness import power
from tests.harness.recording import Kept, Named, Recording, Told, Truncated, Written
from tests.harness.slow import rest_slow

ROWS = 17
FAILING = {3, 4, 9, 16}
REFUSED = 8
CUTS = int(os.environ.get("BATCHRUN_POWER_CUTS", "16"))
SEED = int(os.environ.get("BATCHRUN_CRASH_SEED", "1"))
TRIES = 200
SESSIONS = ({}, {}, {"retry_failed": True})
"""What the sessions of one life are called with: the first is stopped by a refused key and leaves
provisional parts, the second goes on, the third sends failed rows again."""


class Violated(AssertionError):
    """Something that was promised does not hold after a power cut."""


class Telling(Outbox):
    """Notes every outcome that a program is told of, at the moment when it is."""

    def __init__(self, recording):
        super().__init__()
        self._recording = recording

    def put(self, outcome):
        """See ``Outbox``."""
        self._recording.told((outcome.row, outcome.attempt.request_id, outcome.ok))


class Life:
    """One run directory over three sessions, recorded, and its endpoint."""

    def __init__(self, tmp_path, scripted, answer, rows):
        self.tmp_path = tmp_path
        self.rows = rows
        self.answer = answer
        self.session = 0
        self.base_url = scripted(self.reply).base_url
        self.root = tmp_path / "disk"
        self.root.mkdir()
        self.recording = Recording(self.root)

    def reply(self, body, _headers, nth):
        """Answers of the session that is on."""
        number = int(body["messages"][0]["content"].split()[1])
        headers = {"x-request-id": f"r{nth}"}
        if self.session == 0 and number == REFUSED:
            return 401, headers, {"error": {"message": "no such key"}}
        if self.session < 2 and number in FAILING:
            return 413, headers, {"error": {"message": "no"}}
        return 200, headers, self.answer(f"answer {nth} to {number} " + "x" * 40 * number)

    def run(self, folder, session, outbox=None):
        """A session of the run in a folder."""
        self.session = session
        job = api._Job(
            self.rows,
            {
                "output": folder,
                "base_url": self.base_url,
                "model": "m",
                "shard_rows": 6,
                "concurrency": 4,
                "max_attempts": 2,
            }
            | SESSIONS[min(session, 2)],
        )
        return asyncio.run(job.go(outbox))

    def record(self, broken=None):
        """Live it; ``broken`` may replace parts of the seam meanwhile, by ``patch``."""
        told = self.recording.told
        with self.recording.running(), pytest.MonkeyPatch.context() as patch:
            self.patch = patch.setattr
            if broken is not None:
                broken(self)
            for session in range(len(SESSIONS)):
                told(("begun", session))
                stopped = self.run(self.root / "run", session, Telling(self.recording)).stop
                assert (stopped is not None) == (session == 0)
                told(("ended", session))
        return self

    def cut(self, after, seed):
        """Cut the power after so many events; raises ``Violated`` where a promise is broken."""
        dice = random.Random(seed)
        place = self.tmp_path / f"cut-{after}-{seed}"
        told = power.state(self.recording, after, place, dice)
        folder = place / "run"
        if (note := folder / "checkpoint" / "lock").exists():
            os.utime(note, (0, 0))  # what a cut left of it is old: a machine starts slowly
        begun = sum(what[0] == "begun" for what in told)
        session = max(0, begun - 1)
        try:
            if told and told[-1] == ("ended", session) and session > 0:
                _verified(folder)  # as it is: nothing needs to be brought to its end
            done = self.run(folder, min(session, 2) if session else 1)
            assert done.stop is None
            _verified(folder)
        except (BatchrunError, OSError, pa.ArrowException, AssertionError) as error:
            message = f"after {after} events (seed {seed}): {error}"
            raise Violated(message) from error
        _kept(folder, {what[0]: what[1:] for what in told if isinstance(what[0], int)}, after, seed)

    def behind(self, wanted):
        """The points right behind the events that are wanted."""
        return [n + 1 for n, one in enumerate(self.recording.events) if wanted(one)]

    def moments(self):
        """Points at which there is much to lose: a session has ended, somebody was just told, the
        state file is about to know of something, a name was just given or taken.
        """
        return (
            self.behind(lambda one: isinstance(one, Told) and one.what[0] == "ended"),
            self.behind(lambda one: isinstance(one, Told)),
            [n - 1 for n in self.behind(lambda one: isinstance(one, Kept))],
            self.behind(lambda one: isinstance(one, Named)),
        )


def _verified(folder):
    assert verify.check(str(folder)).problems == []


def _kept(folder, told, after, seed):
    """Every row once and in order, and what a program was told of is what the results say."""
    parts = sorted((folder / "results").glob("part-*.parquet"))
    found = pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])
    rows = found.to_pylist()
    if [row["row"] for row in rows] != list(range(ROWS)):
        message = f"after {after} events (seed {seed}): rows are {[row['row'] for row in rows]}"
        raise Violated(message)
    for row in rows:
        request_id, ok = told.get(row["row"], ("", False))
        if ok and row["request_id"] != request_id:
            message = f"after {after} events (seed {seed}): row {row['row']} was lost"
            raise Violated(message)
        assert f" to {row['row']} " in (row["content"] or f" to {row['row']} ")


def keep_power(monkeypatch):
    """The disk keeps its power, so nothing is flushed, and nobody waits for long."""
    for name in ("fsync", "fdatasync", "sync_folder"):
        monkeypatch.setattr(disk, name, lambda _: None)
    monkeypatch.setattr("batchrun.adapters.journal.journal.GROUP_S", 0.003)
    # The note of a lock that was torn may be another machine's: nobody beats here.
    monkeypatch.setattr("batchrun.rundir.lock.WATCH_S", 0.02)
    monkeypatch.setattr("batchrun.rundir.lock.BEAT_S", 0.02)


@pytest.fixture
def life(memory, scripted, answer, jsonl, chat, monkeypatch):
    """A life that is not lived yet. The disk below it keeps its power, so nothing is flushed."""
    keep_power(monkeypatch)
    return Life(memory, scripted, answer, jsonl([chat(n, note=n) for n in range(ROWS)]))


@pytest.mark.timeout(600 + CUTS)
def test_nothing_that_was_told_is_lost_in_a_power_cut(life):
    """Wherever the power is cut, and whatever the disk did not take until then: the next session
    goes on, every row is there once, and an answer that was told of is never asked for again.
    """
    life.record()
    count = len(life.recording.events)
    dice = random.Random(SEED)
    for n in range(CUTS):
        # Spread over the whole life, and each of them somewhere in its own stretch.
        after = int((n + dice.random()) * (count + 1) / CUTS)
        life.cut(after, dice.randrange(10**6))
    life.cut(count, SEED)


def _without(name, pattern):
    """A flush of the seam that leaves out the files or folders whose paths match."""

    def broken(life):
        whole = getattr(disk, name)

        def flush(what):
            path = what if isinstance(what, Path) else Path(f"/proc/self/fd/{what}").readlink()
            if re.search(pattern, str(path)) is None:
                whole(what)

        life.patch(disk, name, flush)

    return broken


def _in_place(life):
    """A part is written over the old one, and flushed, rather than renamed."""
    rename = disk.rename

    def write_over(source, target):
        if target.suffix != ".parquet":
            rename(source, target)
            return
        descriptor = disk.open_file(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        disk.pwrite(descriptor, source.read_bytes(), 0)
        disk.fsync(descriptor)
        os.close(descriptor)
        disk.unlink(source)

    life.patch(disk, "rename", write_over)


def _log_goes_first(life):
    """A shard's log is removed before the state file knows of its parts."""

    def seal(journal, published, _turns=()):
        log = journal.logs.pop(published.state.shard, None)
        if log is not None:
            log.remove()
        disk.sync_folder(journal.folder)
        journal.states.seal(published)
        journal.adopt(published.state)

    life.patch(Journal, "seal", seal)


BROKEN = {
    "a group of a log": _without("fdatasync", r"/shard-\d+\.\d+\.log$"),
    "a part of results": _without("fsync", r"/results/.*\.tmp$"),
    "a part of attempts": _without("fsync", r"/attempts/.*\.tmp$"),
    "the summary": _without("fsync", r"/\.summary\.json\.tmp$"),
    "the usage": _without("fsync", r"/\.usage\.parquet\.tmp$"),
    "the folder of the results": _without("sync_folder", r"/results$"),
    "the folder of the attempts": _without("sync_folder", r"/attempts$"),
    "the folder of the logs": _without("sync_folder", r"/checkpoint$"),
    "the folder of the folders": _without("sync_folder", r"/run$"),
    "the folder of the run": _without("sync_folder", r"/disk$"),
    "a file written in place": _in_place,
    "a log that goes first": _log_goes_first,
}
"""What this package does for a power cut, each thing left out."""


@pytest.mark.linux
@pytest.mark.parametrize("broken", rest_slow(BROKEN.values(), 2), ids=[*BROKEN])
def test_the_model_sees_what_is_left_out(life, broken):
    """Without any one of the flushes, with a file written in place, or with the log removed too
    early, some power cut breaks a promise.
    """
    life.record(broken)
    ended, told, committing, named = life.moments()
    moments = [ended, told, committing, named]
    if broken is _in_place:
        moments = [life.behind(lambda one: isinstance(one, Truncated) and one.size == 0)]
    elif broken is _log_goes_first:
        moments = [committing]
    with pytest.raises(Violated):
        _search(life, moments)


def _search(life, moments):
    """Cut the power there, at several kinds of moments in turn."""
    dice = random.Random(SEED)
    for n in range(TRIES):
        life.cut(dice.choice(moments[n % len(moments)]), dice.randrange(10**6))


READERS = {
    "lost sectors": ("_is_torn", lambda *_: False, b"\xf5grp"),
    "a head of zeros": ("_is_begun", lambda log: log.size >= 44, MAGIC),
}
"""What reading a log must know of what a power cut leaves, each taken away, and what that was."""


@pytest.mark.parametrize(
    ("name", "function", "mark"), rest_slow(READERS.values(), several=True), ids=[*READERS]
)
def test_the_model_sees_a_reader_that_knows_less(life, monkeypatch, name, function, mark):
    """A log that a power cut left is taken for a damaged one: the run does not go on."""
    life.record()
    monkeypatch.setattr(ShardLog, name, function)
    written = life.behind(lambda one: isinstance(one, Written) and one.data.startswith(mark))
    with pytest.raises(Violated, match="is damaged"):
        _search(life, [written])
