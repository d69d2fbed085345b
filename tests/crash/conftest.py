"""Sessions in processes of their own, forked from one that has loaded everything."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.harness import forked, kill_table

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240
MEMORY = Path("/dev/shm")  # noqa: S108 - of names that nobody else has


@dataclass
class Session:
    """One session of ``batchrun``, in a process that is about to end one way or another."""

    process: multiprocessing.Process
    output: Path

    def signal(self, number):
        """Send a signal."""
        os.kill(self.process.pid, number)

    @property
    def ended(self):
        """Whether it has ended."""
        return self.process.exitcode is not None

    def wait(self, timeout_s=PATIENCE_S):
        """Its exit code; a signal's number, negative, if that ended it."""
        self.process.join(timeout_s)
        code = self.process.exitcode
        assert code is not None, f"it does not end: {self.said()}"
        return code

    def killed(self):
        """Assert that it came to its crash point."""
        assert self.wait() == -signal.SIGKILL, self.said()

    def said(self):
        """The end of what it wrote, and those before it in the same folder."""
        return self.output.read_text("utf-8", errors="replace")[-3000:]


@pytest.fixture
def sessions():
    """Starts sessions; none is left running."""
    begun = []

    def start(arguments, folder, point=None):
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment = kept | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "sk-simulated"}
        output = Path(folder) / "session.log"
        process = forked.start(
            list(map(str, arguments)), environment, folder, output, output, point
        )
        begun.append(process)
        return Session(process, output)

    yield start
    for process in begun:
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()


@dataclass(frozen=True)
class Done:
    """A session that came to its end: exit code, and what it said."""

    code: int
    err: str


class Job:
    """A run of a few rows in parts of 8, its endpoint, and what that was asked."""

    def __init__(self, folder, sessions, scripted, answer, rows):
        self.rows = rows
        self.broken = set()
        """Rows that fail with 413."""
        self.refused = set()
        """Rows whose key is refused, which stops the run."""
        self.large = set()
        """Rows whose reply is too large for its column."""
        self.held = set()
        """Rows whose answer waits for ``released``."""
        self.released = threading.Event()
        self.asked = Counter()
        self.cwd = folder
        self.folder = folder / "run"
        self._sessions = sessions
        self._answer = answer
        self.flags = []
        self.kills = 0
        self._arguments = [
            *("run", rows, "-o", "run", "--model", "m", "--shard-rows", "8", "--no-progress"),
            *("--concurrency", "4", "--base-url", scripted(self._reply).base_url),
        ]
        self.count = len(Path(rows).read_text("utf-8").splitlines())

    def _reply(self, body, _headers, nth):
        number = int(body["messages"][0]["content"].split()[1])
        self.asked[number] += 1
        if number in self.held:
            self.released.wait(PATIENCE_S)
        if number in self.refused:
            return 401, {}, {"error": {"message": "no such key"}}
        if number in self.broken:
            return 413, {}, {"error": {"message": "no"}}
        more = {"prompt_logprobs": "x" * 2**21} if number in self.large else {}
        return 200, {}, self._answer(f"answer {nth} to {number}", **more)

    def killed_at(self, point, *flags):
        """The command with these flags, killed at a durable step."""
        self.kills += 1
        self._sessions([*self._arguments, *self.flags, *flags], self.cwd, point).killed()

    def start(self, *flags):
        """The command, going on."""
        return self._sessions([*self._arguments, *self.flags, *flags], self.cwd)

    def run(self, *flags):
        """The command to its end."""
        session = self._sessions([*self._arguments, *self.flags, *flags], self.cwd)
        before = session.output.stat().st_size if session.output.exists() else 0
        code = session.wait()
        return Done(code, session.output.read_text("utf-8")[before:])

    def table(self, kind="results"):
        """The parts of a kind as one table."""
        parts = sorted((self.folder / kind).glob("part-*.parquet"))
        return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])

    def published(self):
        """The answers that can be read by now, by row; each stands in its own row, and once."""
        if not list(self.folder.glob("results/part-*.parquet")):
            return {}
        rows = self.table().to_pylist()
        numbers = [row["row"] for row in rows]
        assert numbers == [row["note"] for row in rows] == sorted(set(numbers))
        answers = {row["row"]: row["content"] for row in rows if row["status"] == "ok"}
        assert all(text.endswith(f" to {number}") for number, text in answers.items())
        return answers

    def whole(self):
        """The same, for every row."""
        answers = self.published()
        assert self.table().num_rows == self.count
        return answers

    def verified(self):
        """The accounting of the run directory holds."""
        from batchrun.views.verify import verify

        checkpoint = next((flag for flag in self.flags if flag.startswith("--checkpoint=")), None)
        place = checkpoint and str(self.cwd / checkpoint.partition("=")[2])
        assert verify.check(str(self.folder), place).problems == []

    def accounted(self):
        """The ledger has what the server counted, and what a kill cut off besides; returns how
        many attempts that were.
        """
        self.verified()
        ledger = self.table("attempts").to_pylist()
        lines = Counter(line["row"] for line in ledger)
        cut = Counter(line["row"] for line in ledger if line["error_code"] == "interrupted")
        for number in range(self.count):
            least = self.asked[number]
            assert least <= lines[number] <= least + cut[number], number
            numbers = [line["attempt"] for line in ledger if line["row"] == number]
            assert numbers == list(range(1, len(numbers) + 1))
        return sum(cut.values())


@pytest.fixture
def new_job(request, tmp_path, sessions, scripted, answer, jsonl, chat):
    """Makes a job that has not begun, of so many rows."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    made = []

    def make(count):
        rows = jsonl([chat(n, note=n) for n in range(count)])
        made.append(Job(folder, sessions, scripted, answer, rows))
        return made[-1]

    yield make
    for job in made:
        if job.kills:
            _count(request.node.name, job.kills, job.folder, job.count)


@pytest.fixture
def count():
    """Notes what became of a run that was killed so often."""
    return _count


def _count(name, kills, folder, rows):
    codes = _column(folder / "attempts", "error_code")
    kill_table.note(
        name, kills, _column(folder / "results", "row"), rows, codes.count("interrupted")
    )


def _column(folder, name):
    parts = sorted(folder.glob("part-*.parquet"))
    tables = [pq.read_table(part, columns=[name], partitioning=None) for part in parts]
    return [value for table in tables for value in table.column(name).to_pylist()]


def pytest_terminal_summary(terminalreporter):
    """The figures as a table, where this is one process (``make crash``)."""
    kill_table.show(terminalreporter)


@pytest.fixture
def memory(tmp_path):
    """A folder in memory where there is such a thing: SQLite flushes its file by itself."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="power-", dir=MEMORY) as folder:
        yield Path(folder)
