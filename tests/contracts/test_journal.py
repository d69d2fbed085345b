"""The exam of the journal, and what the real one promises beyond it to the next session."""

import asyncio
import errno
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchrun.adapters.journal import journal
from batchrun.adapters.journal.flight_log import FlightLog, read_notes
from batchrun.adapters.journal.journal import Journal, JournalWriter, log_name
from batchrun.adapters.journal.log_reader import ShardReader
from batchrun.adapters.journal.state_db import Published
from batchrun.adapters.storage import files
from batchrun.errors import DamagedError, StorageError
from batchrun.records import Attempt, Block, Outcome, Position, Turn, Usage
from batchrun.rundir.recover_flights import recover_flights
from batchrun.testing.fakes import FakeJournal
from batchrun.testing.samples import answered, attempt, chat_row, failed

SHARD_ROWS = 10


def _block(first, count=5):
    shard = first // SHARD_ROWS
    return Block(
        shard=shard,
        first_row=first,
        rows=tuple(chat_row(first + n) for n in range(count)),
        carried=b"carried of %d" % first,
        rows_read=first + count - shard * SHARD_ROWS,
        digest=b"digest of %d" % (first + count),
        end=Position(0, 100 * (first + count), first + count),
    )


def _name(entry):
    """What tells an entry from others: its kind, its row and its attempt."""
    match entry:
        case Outcome(row=row, attempts=attempts):
            return "outcome", row, attempts
        case Attempt(row=row, number=number):
            return "attempt", row, number
        case Block(first_row=row):
            return "block", row, 0


def _mixture(rows):
    """Blocks, attempts and outcomes of so many rows, as a run would post them."""
    entries = [_block(first) for first in range(0, rows, 5)]
    for row in range(rows):
        tries = row % 3
        entries += [attempt(row, n + 1) for n in range(tries)]
        entries.append(failed(row, tries + 1) if row % 7 == 0 else answered(row, tries + 1))
    return entries


async def _append(journal, entry):
    """Return once an entry would survive a power cut, or raise what refused it."""
    journal.post(entry)
    await journal.flush()


class FakeBench:
    """A fake journal, and what a kill at this moment would leave of it."""

    def __init__(self):
        self.journal = FakeJournal(commit_s=0.01)

    def kept(self):
        """Names of the entries that are durable by now, by shard, in order."""
        found = {}
        for entry in self.journal.durable:
            name = _name(entry)
            found.setdefault(name[1] // SHARD_ROWS, []).append(name)
        return found

    def break_disk(self):
        """From now on nothing can be written."""
        self.journal.fails_after = 0

    async def close(self):
        """Nothing to close."""


class RealBench:
    """A journal in a directory; what a kill would leave is read from a copy of it."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self._monkeypatch = monkeypatch
        self.opened = Journal(folder, SHARD_ROWS)
        self.journal = JournalWriter(self.opened, FlightLog(folder / "inflight", 4))

    def kept(self):
        """The same, told by a journal that opens a copy of the directory as it is now."""
        copy = Path(tempfile.mkdtemp(dir=self.folder.parent))
        shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        journal = Journal(copy, SHARD_ROWS)
        found = {shard: list(_names(journal, shard)) for shard in sorted(journal.logs)}
        journal.close()
        return found

    def break_disk(self):
        """From now on nothing can be written."""

        def full(step, _path):
            if step == "log.writing":
                raise OSError(errno.ENOSPC, "No space left on device")

        self._monkeypatch.setattr(files, "step", full)

    async def close(self):
        """As the end of a session does."""
        await self.journal.close()
        self.opened.close()


def _names(journal, shard):
    """Names of the entries in a shard's log, in the order written."""
    reader = ShardReader(journal, shard)
    outcomes = {outcome.row: outcome for outcome in reader.outcomes(rows_max=999, bytes_max=2**30)}
    attempts = Counter()
    numbers = {}
    for found in reader.attempts_below(10**9):
        numbers.setdefault(found.row, []).append(found.number)
    for place in journal.logs[shard].places:
        match place.kind:
            case 1:
                yield "outcome", place.row, outcomes[place.row].attempts
            case 2:
                yield "attempt", place.row, numbers[place.row][attempts[place.row]]
                attempts[place.row] += 1
            case 3:
                yield "block", place.row, 0


def _by_shard(entries):
    found = {}
    for name in map(_name, entries):
        found.setdefault(name[1] // SHARD_ROWS, []).append(name)
    return found


class JournalContract:
    """What any journal promises. ``bench`` is a fixture that makes one on a running loop."""

    def test_durable_when_append_returns(self, bench):
        """An entry is there for the next session as soon as ``append`` has returned."""

        async def play():
            async with bench() as mine:
                for entry in (_block(0), attempt(1), answered(1, 2), failed(2)):
                    await _append(mine.journal, entry)
                    assert _name(entry) in mine.kept()[0]

        asyncio.run(play())

    def test_durable_when_it_is_told(self, bench):
        """The callback of ``post`` comes when the entry is there for the next session."""

        async def play():
            async with bench() as mine:
                told = []

                def then(entry, error):
                    assert error is None
                    assert _name(entry) in mine.kept()[0]
                    told.append(entry)

                mine.journal.post(_block(0), then)
                mine.journal.post(answered(3), then)
                assert told == [], "nothing is durable within the call"
                await mine.journal.flush()
                assert told == [_block(0), answered(3)]

        asyncio.run(play())

    def test_entries_keep_their_order(self, bench):
        """Entries are told of, and kept in each shard, in the order they were posted."""

        async def play():
            async with bench() as mine:
                entries, told = _mixture(60), []
                for n, entry in enumerate(entries):
                    mine.journal.post(entry, lambda entry, _: told.append(_name(entry)))
                    if n % 20 == 0:
                        await asyncio.sleep(0.005)
                await mine.journal.flush()
                assert told == [_name(entry) for entry in entries]
                assert mine.kept() == _by_shard(entries)

        asyncio.run(play())

    def test_flush_covers_what_was_posted_before_it(self, bench):
        """``flush`` returns when everything posted so far is durable, and at once with nothing."""

        async def play():
            async with bench() as mine:
                await mine.journal.flush()
                entries = _mixture(40)
                for entry in entries:
                    mine.journal.post(entry)
                await asyncio.gather(mine.journal.flush(), mine.journal.flush())
                assert mine.kept() == _by_shard(entries)

        asyncio.run(play())

    def test_a_cancelled_append_harms_nobody(self, bench):
        """Who stops waiting neither undoes its entry nor lets a flush return early."""

        async def play():
            async with bench() as mine:
                waiting = asyncio.create_task(_append(mine.journal, answered(1)))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await mine.journal.flush()
                assert mine.kept() == {0: [("outcome", 1, 1)]}
                await _append(mine.journal, answered(2))

        asyncio.run(play())

    def test_a_failed_write_refuses_this_and_everything_after_it(self, bench):
        """What could not be written, and all that comes later, is refused; what was durable
        before stays.
        """

        async def play():
            async with bench() as mine:
                told = []

                def then(entry, error):
                    told.append((_name(entry), type(error)))

                await _append(mine.journal, answered(1))
                mine.break_disk()
                mine.journal.post(answered(2), then)
                with pytest.raises(StorageError):
                    await _append(mine.journal, answered(3))
                mine.journal.post(answered(4), then)
                with pytest.raises(StorageError):
                    await mine.journal.flush()
                with pytest.raises(StorageError):
                    await _append(mine.journal, answered(5))
                await asyncio.sleep(0)
                assert told == [
                    (("outcome", 2, 1), StorageError),
                    (("outcome", 4, 1), StorageError),
                ]
                assert mine.kept() == {0: [("outcome", 1, 1)]}

        asyncio.run(play())

    def test_a_note_is_taken_at_once(self, bench):
        """An exchange may be noted whatever state the journal is in."""

        async def play():
            async with bench() as mine:
                mine.journal.sending(7, 1, 0, 1)
                mine.break_disk()
                mine.journal.sending(8, 1, 0, 1)
                assert mine.journal.backlog_bytes >= 0

        asyncio.run(play())


class TestFakeJournal(JournalContract):
    @pytest.fixture
    def bench(self):
        """Makes a fake one."""

        @asynccontextmanager
        async def make():
            yield FakeBench()

        return make


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Makes a real one in a directory that stays the same within a test."""

    @asynccontextmanager
    async def make():
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        bench = RealBench(folder, monkeypatch)
        try:
            yield bench
        finally:
            await bench.close()

    return make


class TestJournalWriter(JournalContract):
    @pytest.fixture
    def bench(self, real):
        """Makes a real one."""
        return real


class TestEnding:
    def test_what_comes_while_the_last_group_is_written(self, real, monkeypatch):
        """It is written too, before the writer ends, and whoever waits for it is told."""

        async def play():
            async with real() as mine:
                writing, told = threading.Event(), []
                write = mine.opened.write

                def slowly(entries):
                    writing.set()
                    time.sleep(0.2)
                    write(entries)

                monkeypatch.setattr(mine.opened, "write", slowly)
                mine.journal.post(attempt(1))
                ending = asyncio.create_task(mine.journal.close())
                await asyncio.to_thread(writing.wait)
                mine.journal.post(attempt(2), lambda entry, error: told.append((entry, error)))
                await ending
                await asyncio.sleep(0)
                assert told == [(attempt(2), None)]
                assert len(list(mine.opened.exchanges(0))) == 2

        asyncio.run(play())

    def test_the_end_comes_while_a_group_gathers(self, real, monkeypatch):
        """A writer that is told to end within a group's time writes what it has and ends."""
        gathering, told = threading.Event(), threading.Event()

        def sleep(_):
            gathering.set()
            told.wait(10)

        monkeypatch.setattr(journal, "time", SimpleNamespace(sleep=sleep))

        async def play():
            async with real() as mine:
                mine.journal.post(_mixture(1)[0])
                await asyncio.to_thread(gathering.wait, 10)
                closing = asyncio.create_task(mine.journal.close())
                await asyncio.sleep(0)
                told.set()
                try:
                    await asyncio.wait_for(asyncio.shield(closing), 10)
                finally:
                    mine.journal._wake.set()  # so that a failure ends, too
                return mine.kept()

        assert asyncio.run(play()) == _by_shard(_mixture(1)[:1])


class TestSessions:
    def test_the_next_session_goes_on_where_this_one_ended(self, real):
        """What later sessions append stands behind what earlier ones did, in one log."""
        entries = _mixture(20)

        async def session(part):
            async with real() as mine:
                for entry in part:
                    mine.journal.post(entry)
                await mine.journal.flush()
                return mine.kept()

        for start in range(0, len(entries), 7):
            kept = asyncio.run(session(entries[start : start + 7]))
            assert kept == _by_shard(entries[: start + 7])

    def test_a_session_that_is_killed_leaves_what_was_durable(self, real, tmp_path):
        """A log whose last group was cut short by a kill is gone on with behind the whole ones."""

        async def session(entry, kept):
            async with real() as mine:
                await _append(mine.journal, entry)
                assert mine.kept() == {0: kept}

        names = []
        for row in range(5):
            names.append(("outcome", row, 1))
            asyncio.run(session(answered(row), names))
            with (tmp_path / "checkpoint" / log_name(0, 1)).open("ab") as log:
                log.write(b"\xf5grp" + bytes(row))

    def test_entries_that_come_together_share_a_flush(self, real, monkeypatch):
        """A thousand entries at once cost a few flushes of the disk, not a thousand."""
        synced = []

        async def play():
            async with real() as mine:
                monkeypatch.setattr(files, "step", lambda name, _: synced.append(name))
                for row in range(1000):
                    mine.journal.post(answered(row % SHARD_ROWS))
                await mine.journal.flush()

        asyncio.run(play())
        assert 1 <= synced.count("log.synced") <= 3

    def test_closing_while_a_group_gathers(self, real, monkeypatch):
        """Whenever it is closed, what was posted becomes durable and the thread ends."""
        monkeypatch.setattr("batchrun.adapters.journal.journal.GROUP_S", 0.2)

        async def play():
            async with real() as mine:
                mine.journal.post(answered(1))
                await asyncio.sleep(0.05)  # the thread waits for more now
                async with asyncio.timeout(5):
                    await mine.journal.close()
                assert mine.kept() == {0: [("outcome", 1, 1)]}

        asyncio.run(play())

    def test_the_backlog_is_the_size_of_the_logs(self, real):
        """The backlog grows with what is appended and goes when the shard is sealed."""

        async def play():
            async with real() as mine:
                for row in range(2 * SHARD_ROWS):
                    mine.journal.post(answered(row, text="x" * 1000))
                await mine.journal.flush()
                full = mine.journal.backlog_bytes
                assert full > 2 * SHARD_ROWS * 1000
                state = mine.opened.next_state(0, complete=True)
                mine.opened.seal(Published(state, "", "", {}))
                assert full / 3 < mine.journal.backlog_bytes < full * 2 / 3
                assert list(mine.kept()) == [1]

        asyncio.run(play())

    def test_a_log_whose_part_is_published_is_removed(self, real, tmp_path):
        """A kill between the transaction and the removal leaves a log that the next start takes
        away; the shard's next log is of the next generation.
        """

        async def play():
            async with real() as mine:
                await _append(mine.journal, _block(0))
                await _append(mine.journal, answered(1))
                log = tmp_path / "checkpoint" / log_name(0, 1)
                data = log.read_bytes()
                mine.opened.seal(Published(mine.opened.next_state(0, complete=False), "", "", {}))
                assert not log.exists()
                log.write_bytes(data)
            async with real() as mine:
                assert mine.kept() == {} and not log.exists()
                state = mine.opened.state(0)
                assert (state.generation, state.rows_read, state.complete) == (1, 5, False)
                await _append(mine.journal, answered(2))
                assert (tmp_path / "checkpoint" / log_name(0, 2)).exists()
                assert mine.kept() == {0: [("outcome", 2, 1)]}

        asyncio.run(play())

    def test_a_log_from_the_future_is_damage(self, real, tmp_path):
        """A log beyond the next generation means that the state file is an old one."""

        async def play():
            async with real() as mine:
                await _append(mine.journal, answered(1))

        asyncio.run(play())
        folder = tmp_path / "checkpoint"
        (folder / log_name(0, 1)).rename(folder / log_name(0, 3))
        with pytest.raises(DamagedError, match="generation"):
            Journal(folder, SHARD_ROWS)

    def test_what_a_log_tells_of_its_shard(self, real):
        """Rows done, rows that are ok, the last attempt of every row, and how far the input was
        read.
        """

        async def play():
            async with real() as mine:
                for entry in [_block(0), attempt(1), attempt(1, 2), answered(2), failed(3, 4)]:
                    await _append(mine.journal, entry)
                opened = mine.opened.open_shard(0)
                assert opened.done == {2, 3} and opened.ok == {2}
                assert opened.attempts == {1: 2, 2: 1, 3: 4}
                assert mine.opened.touched() == {0}
                [state] = mine.opened.shards()
                assert state.end == _block(0).end and state.digest == _block(0).digest

        asyncio.run(play())

    def test_an_outcome_is_one_thing_or_the_other(self, real):
        """An outcome with neither completion nor failure, or both, is refused."""

        async def play(outcome):
            async with real() as mine:
                with pytest.raises(ValueError, match="a completion or a failure"):
                    await _append(mine.journal, outcome)

        asyncio.run(play(answered(1)._replace(completion=None)))
        asyncio.run(play(answered(1)._replace(failure=failed(1).failure)))

    def test_an_edited_input_is_believed_over_older_blocks(self, real):
        """What a comparison found of a shard's input holds against the blocks in its log, now and
        in the next session; blocks read after it count again.
        """

        async def play():
            async with real() as mine:
                await _append(mine.journal, _block(0, 10))
                state = replace(mine.opened.next_state(0, complete=True), generation=1)
                mine.opened.seal(Published(state, "", "", {}))
                await _append(mine.journal, _block(0, 10))
                await _append(mine.journal, answered(1))
                fresh = replace(state, digest=b"edited", end=Position(0, 1234, 10), rows_read=9)
                mine.opened.refresh([fresh])
                assert mine.opened.state(0) == fresh
            async with real() as mine:
                assert mine.opened.state(0) == fresh
                assert list(ShardReader(mine.opened, 0).blocks(0, 10)) == [
                    (0, 10, _block(0, 10).carried)
                ]
                await _append(mine.journal, _block(0, 10))
                assert mine.opened.state(0).digest == _block(0, 10).digest

        asyncio.run(play())

    def test_a_log_of_input_alone_is_taken_away(self, real, tmp_path):
        """Blocks of rows that nothing was sent of need not wait for a part; others stay."""

        async def play():
            async with real() as mine:
                for entry in (_block(0), _block(10), answered(12)):
                    await _append(mine.journal, entry)
                mine.opened.drop_idle()
                assert set(mine.opened.logs) == {1}

        asyncio.run(play())
        assert [path.name for path in (tmp_path / "checkpoint").glob("*.log")] == [log_name(1, 1)]

    def test_a_full_disk_is_told_as_such(self, real, monkeypatch):
        """A write outside of the writer's thread, as at the start of a session, raises a
        ``StorageError`` that names the folder.
        """

        def full(*_):
            raise OSError(errno.ENOSPC, "no space left, on purpose")

        async def play():
            async with real() as mine:
                await _append(mine.journal, answered(1))
                with monkeypatch.context() as patch:
                    patch.setattr(files, "step", full)
                    with pytest.raises(StorageError, match="checkpoint: no space left"):
                        mine.opened.write([attempt(2)])
                mine.opened.write([attempt(2)])

        asyncio.run(play())


class TestFlights:
    def test_a_note_stays_until_its_attempt_is_durable(self, real, tmp_path):
        """The note of an exchange is wiped by its own record, not by an earlier attempt's."""
        inflight = tmp_path / "checkpoint" / "inflight"

        def noted():
            return [(note.row, note.attempt) for note in read_notes(inflight)]

        async def play():
            async with real() as mine:
                mine.journal.sending(3, 1, 0, 10)
                assert noted() == [(3, 1)]
                mine.journal.post(attempt(3, 1))
                mine.journal.sending(3, 2, 0, 20)
                await mine.journal.flush()
                assert noted() == [(3, 2)]
                await _append(mine.journal, answered(3, 2))
                assert noted() == []

        asyncio.run(play())

    def test_exchanges_that_were_out_enter_the_ledger(self, tmp_path):
        """Each attempt since the last one known is entered as unanswered, and none before;
        recovering twice enters nothing twice.
        """
        path = tmp_path / "inflight"
        flight = FlightLog(path, 4)
        for row, number in ((1, 1), (2, 3), (13, 1), (4, 2)):
            flight.note(row, number, 0, 1_000_000 + row)
        flight.close()
        journal = Journal(tmp_path, SHARD_ROWS)
        known = {1: 0, 2: 1, 13: 0, 4: 2}
        assert recover_flights(journal, path, known.__getitem__, ["main"]) == 4
        found = [a for shard in (0, 1) for a in ShardReader(journal, shard).attempts_below(99)]
        assert [(a.row, a.number) for a in found] == [(1, 1), (2, 2), (2, 3), (13, 1)]
        for line in found:
            assert line.unanswered and line.error_code == "interrupted"
            assert line.endpoint == "main" and line.started_at_us == 1_000_000 + line.row
        known |= journal.open_shard(0).attempts | journal.open_shard(1).attempts
        assert recover_flights(journal, path, known.__getitem__, ["main"]) == 0
        journal.close()


def _turn(row, number, tries=1):
    said = b'{"role":"assistant","content":"%d"}' % number
    exchange = attempt(row, tries, error_class=None, turn=number)
    return Turn(row, number, "0" * 64, said, Usage(1, 2, 3), 7, exchange)


def _kinds(journal, shard):
    return [(place.row, place.kind) for place in journal.logs[shard].places]


def test_a_turn_and_its_attempt_are_one(tmp_path):
    """Both are durable, or neither: cut off anywhere, the log has no turn whose exchange is not in
    the ledger, and none the other way round.
    """
    journal = Journal(tmp_path, SHARD_ROWS)
    journal.write([_turn(1, 1)])
    path = journal.logs[0].path
    whole = path.read_bytes()
    begun = len(whole) - sum(place.size + 17 for place in journal.logs[0].places) - 16
    assert _kinds(journal, 0) == [(1, 2), (1, 6)]
    journal.close()
    for size in range(begun, len(whole), 7):
        path.write_bytes(whole[:size])
        again = Journal(tmp_path, SHARD_ROWS)
        assert _kinds(again, 0) == [] and again.turns(0) == {}
        again.close()


def test_turns_of_conversations_that_go_on(tmp_path):
    """They are those since the row's last outcome, in their order, without the exchange; a
    conversation that begins again replaces the turns that it had.
    """
    journal = Journal(tmp_path, SHARD_ROWS)
    journal.write([_turn(1, 1), _turn(2, 1), _turn(1, 2, 2), _turn(3, 1), answered(3, 2)])
    journal.write([_turn(2, 2, 2), _turn(2, 1, 3), _turn(4, 1), failed(4, 2), _turn(4, 1, 3)])
    found = journal.turns(0)
    assert {row: [turn.number for turn in turns] for row, turns in found.items()} == {
        1: [1, 2],
        2: [1],
        4: [1],
    }
    assert all(turn.attempt is None for turns in found.values() for turn in turns)
    assert journal.open_shard(0).attempts == {1: 2, 2: 3, 3: 2, 4: 3}
    journal.close()


def test_published_shards_hand_turns_on(tmp_path):
    """They are in the next log when the state file knows of the parts, without their attempts,
    which the parts have; until then the next log counts for nothing.
    """
    journal = Journal(tmp_path, SHARD_ROWS)
    journal.write([_block(0), _turn(1, 1), answered(2)])
    state = journal.next_state(0, complete=False)
    kept = journal.turns(0)[1]
    before = {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}
    journal.seal(Published(state, "", "", {}), kept)
    assert _kinds(journal, 0) == [(1, 6)]
    assert [path.name for path in tmp_path.glob("shard-*")] == [log_name(0, 2)]
    following = (tmp_path / log_name(0, 2)).read_bytes()
    journal.drop_idle()
    journal.close()
    again = Journal(tmp_path, SHARD_ROWS)
    assert again.turns(0) == {1: kept} and again.touched() == set()
    again.close()

    other = tmp_path / "killed"
    other.mkdir()
    for name, data in before.items():
        (other / name).write_bytes(data)
    (other / log_name(0, 2)).write_bytes(following)
    killed = Journal(other, SHARD_ROWS)
    assert [path.name for path in other.glob("shard-*")] == [log_name(0, 1)]
    assert len(killed.turns(0)[1]) == 1 and killed.open_shard(0).done == {2}
    killed.close()
