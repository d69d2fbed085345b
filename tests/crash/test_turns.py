"""Conversations in real processes that are killed: between turns, and within them."""

import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.journal.journal import Journal
from batchrun.views.verify import verify
from tests.harness.crashpoints import points

KILLS = int(os.environ.get("BATCHRUN_CRASH_KILLS", "20"))
SEED = int(os.environ.get("BATCHRUN_CRASH_SEED", "1"))
SHARD_ROWS = 8
PATIENCE_S = 240


class Talks:
    """A run of conversations of three turns, its endpoint, and what that was asked."""

    def __init__(self, folder, sessions, scripted, answer, rows, count):
        self.count = count
        self.asked = Counter()
        """How often each turn of each row was asked."""
        self.given = defaultdict(set)
        """The answers that were given to it."""
        self.refused = set()
        """Turns whose key is refused, which stops the run."""
        self.pause_s = 0.0
        self.folder = folder / "run"
        self._cwd = folder
        self._sessions = sessions
        self._answer = answer
        self._lock = threading.Lock()
        self._durable = {}
        self._arguments = [
            *("run", rows, "-o", "run", "--model", "m", "--turns", "turns", "--no-progress"),
            *("--shard-rows", SHARD_ROWS, "--concurrency", "4"),
            *("--base-url", scripted(self._reply).base_url),
        ]

    def _reply(self, body, _headers, nth):
        time.sleep(self.pause_s)
        said = [message["content"] for message in body["messages"]]
        turn = said[-1]
        with self._lock:
            self.asked[turn] += 1
            for question, reply in itertools.pairwise(said[:-1]):
                if question in self.given:
                    assert reply in self.given[question], "an answer that nobody gave"
            if turn in self.refused:
                return 401, {}, {"error": {"message": "no such key"}}
            self.given[turn].add(f"answer {nth} to {turn}")
        return 200, {}, self._answer(f"answer {nth} to {turn}")

    def killed_at(self, point, *, surely=True):
        """The command, killed at a durable step; unless ``surely``, it may end before it."""
        session = self._sessions(self._arguments, self._cwd, point)
        ends = {-signal.SIGKILL} if surely else {-signal.SIGKILL, 0}
        assert session.wait() in ends, session.said()
        self.note()

    def ended_after(self, requests, number=signal.SIGKILL):
        """The command, sent a signal once so many more requests came."""
        before = self.asked.total()
        session = self._sessions(self._arguments, self._cwd)
        deadline_s = time.monotonic() + PATIENCE_S
        while self.asked.total() < before + requests and not session.ended:
            assert time.monotonic() < deadline_s, session.said()
            time.sleep(0.002)
        session.signal(number)
        assert session.wait() in (-number, 128 + number, 0), session.said()
        self.note()

    def run(self):
        """The command to its end, or to where it stops: its exit code."""
        code = self._sessions(self._arguments, self._cwd).wait()
        self.note()
        return code

    def note(self):
        """No turn that was durable is asked again; what is durable now."""
        for turn, asked in self._durable.items():
            assert self.asked[turn] == asked, f"{turn} was durable, and was asked again"
        for row in self._done():
            self._durable |= {turn: self.asked[turn] for turn in _turns(row)}
        checkpoint = self.folder / "checkpoint"
        if not (checkpoint / "journal.db").exists():
            return
        copy = self._cwd / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(checkpoint, copy, ignore=shutil.ignore_patterns("*.sock"))
        journal = Journal(copy, SHARD_ROWS)
        for shard in journal.logs:
            for outcome in journal.outcomes(shard):
                self._durable |= {turn: self.asked[turn] for turn in _turns(outcome.row)}
            for row, turns in journal.turns(shard).items():
                assert [turn.number for turn in turns] == list(range(1, len(turns) + 1))
                for turn, name in zip(turns, _turns(row), strict=False):
                    assert json.loads(turn.message)["content"] in self.given[name]
                    self._durable[name] = self.asked[name]
        journal.close()

    @property
    def between(self):
        """Conversations of which some turns are durable, and not all."""
        counts = Counter(turn.split()[1] for turn in self._durable)
        return sum(0 < count < 3 for count in counts.values())

    def _done(self):
        if not list(self.folder.glob("results/part-*.parquet")):
            return []
        return self.table("results").column("row").to_pylist()

    def table(self, kind):
        """The parts of a kind as one table."""
        parts = sorted((self.folder / kind).glob("part-*.parquet"))
        return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])

    def accounted(self):
        """Every row has its whole exchange; the ledger has what the server counted, and what a
        kill cut off besides.
        """
        assert verify.check(str(self.folder)).problems == []
        rows = self.table("results").to_pylist()
        assert [row["row"] for row in rows] == list(range(self.count))
        for row in rows:
            said = [message["content"] for message in json.loads(row["messages"])]
            assert said[::2] == _turns(row["row"])
            for turn, reply in zip(said[::2], said[1::2], strict=True):
                assert reply in self.given[turn]
        ledger = self.table("attempts").to_pylist()
        lines = Counter(line["row"] for line in ledger)
        cut = Counter(line["row"] for line in ledger if line["error_code"] == "interrupted")
        for row in range(self.count):
            least = sum(self.asked[turn] for turn in _turns(row))
            assert least <= lines[row] <= least + cut[row], row
            numbers = [line["attempt"] for line in ledger if line["row"] == row]
            assert numbers == list(range(1, len(numbers) + 1))
        assert not list((self.folder / "checkpoint").glob("shard-*.log"))
        return sum(cut.values())


def _turns(row):
    return [f"{turn} {row}" for turn in "abc"]


@pytest.fixture
def talks(tmp_path, sessions, scripted, answer, jsonl):
    """Makes a run that has not begun, of so many conversations."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def make(count):
        rows = jsonl([{"turns": _turns(n), "note": n} for n in range(count)])
        return Talks(folder, sessions, scripted, answer, rows, count)

    return make


@pytest.mark.slow
def test_a_stop_with_conversations_pending(talks):
    """Around the publication of a shard whose pending conversations have answered turns: those
    are in the next log before the one that had them goes, whatever step the process is killed at.
    """
    job = talks(12)
    job.refused = {"b 3", "c 9"}
    for point in points("turns"):
        job.killed_at(point)
    assert job.run() == 3
    assert job.between, "no conversation is in its middle"
    asked = job.asked.total()
    for _ in range(2):  # published again and again, the turns stay
        assert job.run() == 3
    assert all(job.asked[turn] == 1 for turn in ("a 3", "a 9")), "a durable turn was asked again"
    assert job.asked.total() > asked
    job.refused = set()
    assert job.run() == 0
    job.accounted()


@pytest.mark.slow
@pytest.mark.timeout(600 + 8 * KILLS)
def test_conversations_that_are_killed_again_and_again(talks, count):
    """After any number of kills and stops no turn that was durable was asked again, every row has
    its whole exchange, and the ledger has everything that was sent.
    """
    dice = random.Random(SEED)
    rows = 2 * KILLS + 8
    job = talks(rows)
    job.pause_s = 0.01
    steps = [*points("group"), *points("seal")]
    between = 0
    for kill in range(KILLS):
        if kill % 2 and kill % 8 != 3:
            step, _, times = dice.choice(steps).partition(":")
            more = dice.randint(0, 3) if step.startswith("log.") else 0
            job.killed_at(f"{step}:{int(times) + more}", surely=False)
        else:
            number = signal.SIGTERM if kill % 8 == 3 else signal.SIGKILL
            job.ended_after(dice.randint(1, 9), number)
        between += job.between
    assert between, "no kill came between two turns"
    assert job.run() == 0
    job.accounted()
    count(f"{KILLS} kills of conversations", KILLS, job.folder, rows)
