"""Real processes, killed while they work on runs that are made from other runs (``--from``)."""

import itertools
import json
import random
import signal
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest

from batchrun.views.verify import verify
from tests.harness.crashpoints import points

SEEDS = (1, 2, 3)
MOMENT_S = (0.05, 0.9)
"""When a session is killed: so long after its start, or after its first request."""


class Chain:
    """Runs made from each other, in parts of 4 rows, and what their endpoint was asked."""

    def __init__(self, folder, sessions, scripted, answer, rows):
        self.folder = folder
        self.refused = set()
        """Numbers of first questions that fail with 413."""
        self.asked = Counter()
        self.delay_s = 0.0
        self._sessions = sessions
        numbers = itertools.count()

        def reply(body, _headers, _nth):
            question = body["messages"][-1]["content"]
            self.asked[question] += 1
            time.sleep(self.delay_s)
            if question in {f"q{number}" for number in self.refused}:
                return 413, {}, {"error": {"message": "no"}}
            return 200, {}, answer(f"re {question}", id=f"c{next(numbers)}")

        self._url = scripted(reply).base_url
        told = [{"text": f"q{n}", "topic": f"t{n}"} for n in range(rows)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))

    def start(self, *arguments, point=None):
        """A session."""
        more = ("--model", "m", "--shard-rows", "4", "--no-progress", "--concurrency", "4")
        return self._sessions(
            ["run", *arguments, *more, "--base-url", self._url], self.folder, point
        )

    def run(self, *arguments, code=0):
        """A session that comes to its end; returns how often something was asked in it."""
        before = self.asked.total()
        session = self.start(*arguments)
        assert session.wait() == code, session.said()
        return self.asked.total() - before

    def rows(self, name, kind="results"):
        """The rows of a run."""
        return pq.read_table(self.folder / name / kind).to_pylist()

    def problems(self, name):
        """What ``verify`` says against a run."""
        return verify.check(str(self.folder / name)).problems


@pytest.fixture
def chain(tmp_path, sessions, scripted, answer):
    """Makes a chain whose first run has so many rows."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    return lambda rows: Chain(folder, sessions, scripted, answer, rows)


FIRST = ("rows.jsonl", "-o", "one", "--prompt", "{{ text }}")
FAILED = ("--from", "one", "--from-status", "error", "-o", "two", "--prompt", "Why {{ topic }}?")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_killed_while_parts_are_written_for_rows_that_moved(chain, times):
    """At every step the run is as it was, or on its way to what it will be: the same command goes
    on. No row is sent again that has its answer, none is lost, and the bill misses nothing; with
    ``--repeat`` that holds for each repeat.
    """
    made = chain(24)
    made.refused = set(range(10))
    made.run(*FIRST, code=1)
    next_ = (*FAILED, "--repeat", str(times))
    made.run(*next_)
    before = {
        (row["source_row"], row.get("repeat", 0)): row["response_id"] for row in made.rows("two")
    }
    made.refused = {3, 7, 15, 16}
    made.run(*FIRST, "--param", "seed=1", "--resend-changed", code=1)
    asked = made.asked.total()
    for point in points("moved"):
        session = made.start(*next_, "--resend-changed", point=point)
        session.killed()
        assert made.asked.total() == asked, point
    assert made.run(*next_, code=2) == 0, "the resend is not at its end"
    assert made.run(*next_, "--resend-changed") == 2 * times
    rows = made.rows("two")
    assert [row["row"] for row in rows] == list(range(4 * times))
    keys = [(row["source_row"], row.get("repeat", 0)) for row in rows]
    assert keys == [(source, n) for source in (3, 7, 15, 16) for n in range(times)]
    kept = [row for row, key in zip(rows, keys, strict=True) if key in before]
    assert [row["response_id"] for row in kept] == [before[key] for key in keys if key in before]
    assert len(made.rows("two", "attempts")) == 12 * times
    assert made.run(*next_) == 0
    assert made.problems("two") == []
    assert not list((made.folder / "two/checkpoint/rebuilt").iterdir())


def test_killed_before_the_new_parts_are_committed(chain):
    """A kill before the commit leaves the run as it was; one behind it leaves parts that every
    start publishes, also the plain command, and ``verify`` says that they wait.
    """
    made = chain(10)
    made.refused = {1, 4}
    made.run(*FIRST, code=1)
    made.run(*FAILED)
    made.refused = {4}
    made.run(*FIRST, "--retry-failed", code=1)
    made.start(*FAILED, "--resend-changed", point="rebuild.written:1").killed()
    assert [row["source_row"] for row in made.rows("two")] == [1, 4]
    made.start(*FAILED, "--resend-changed", point="rebuild.committed:1").killed()
    assert any("wait to be published" in text for text in made.problems("two"))
    assert made.run(*FAILED, code=2) == 0
    assert [row["source_row"] for row in made.rows("two")] == [4]
    assert made.run(*FAILED, "--resend-changed") == 0
    assert made.problems("two") == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_every_stage_of_a_chain_is_killed_and_resumed(chain, seed):
    """Each of three runs, the second with ``--repeat``, is killed at moments drawn from a seed, and
    resumed: every row is there once, each about the answer of its source, and all three are
    accounted for.
    """
    made = chain(40)
    made.delay_s = 0.02
    draw = random.Random(seed)
    stages = {
        "one": FIRST,
        "two": ("--from", "one", "-o", "two", "--prompt", "A {{ row.content }}", "--repeat", "2"),
        "three": ("--from", "two", "-o", "three", "--prompt", "B {{ row.content }}"),
    }
    rows_of = {"one": 40, "two": 80, "three": 80}
    for name, command in stages.items():
        for _ in range(3):
            session = made.start(*command)
            time.sleep(draw.uniform(*MOMENT_S))
            if not session.ended:
                session.signal(signal.SIGKILL)
            session.wait()
        made.run(*command)
        rows = made.rows(name)
        assert [row["row"] for row in rows] == list(range(rows_of[name])), f"seed {seed}"
        assert made.problems(name) == [], f"seed {seed}"
    told = [row["content"] for row in made.rows("three")]
    assert told == [f"re B re A re q{n // 2}" for n in range(80)]
