"""A real llama.cpp server with four slots: the concurrency that it can use is found."""

import statistics
import threading
import time
from bisect import bisect_left
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import courses

SLOTS = 4
FIXED = (1, 2, 4, 8, 16)
ROW_TOKENS = 8
SAMPLE_S = 0.1


class Waited:
    """For how long a process was ready to run and had no core: other work on the machine, which is
    not the server's pace. By Linux's accounting (proc(5), ``schedstat``).
    """

    def __init__(self, pid):
        self._tasks = Path(f"/proc/{pid}/task")
        self._samples = []
        self.over = False

    def watch(self):
        """Take samples until it is over."""
        while not self.over:
            waited_ns = 0
            with suppress(OSError):
                for task in self._tasks.iterdir():
                    waited_ns += int((task / "schedstat").read_bytes().split()[1])
            self._samples.append((time.time(), waited_ns / 1e9))
            time.sleep(SAMPLE_S)

    def between(self, from_s, to_s):
        """Seconds waited in a part of the time."""
        last = len(self._samples) - 1
        first, second = (min(last, bisect_left(self._samples, (at,))) for at in (from_s, to_s))
        return self._samples[second][1] - self._samples[first][1]


@contextmanager
def _waited(pid):
    waited = Waited(pid)
    thread = threading.Thread(target=waited.watch)
    thread.start()
    try:
        yield waited
    finally:
        waited.over = True
        thread.join()


def _pace(course, waited, from_s, to_s):
    """Answers in a second in which the server could run."""
    answers = course.answers(from_s, to_s) * (to_s - from_s)
    lost_s = waited.between(course.began_s + from_s, course.began_s + to_s)
    return answers / (to_s - from_s - lost_s)


@pytest.mark.parametrize("metrics", [True, False], ids=["with its metrics", "by replies alone"])
def test_as_much_comes_out_as_with_the_best_fixed_concurrency(tmp_path, llama, metrics):
    """At least 0.95 of the best of five fixed ones in the second half, and the summary says which
    concurrency was found.
    """
    url = llama(slots=SLOTS, metrics=metrics)
    source = courses.rows(tmp_path / "rows.jsonl", 9000, lambda _: ROW_TOKENS)
    fixed = {}
    with _waited(llama.pids[url]) as waited:
        for number in FIXED:
            folder = tmp_path / f"fixed-{number}"
            course = courses.run(source, url, folder, ["--concurrency", number], 20)
            fixed[number] = _pace(course, waited, 4, 18)
        course = courses.run(source, url, tmp_path / "run", [], 100)
        last_s = max(exchange.back_s for exchange in course.exchanges) - 1
        found = _pace(course, waited, last_s / 2, last_s)
    window = course.summary["endpoints"]["default"]["window"]
    settled = statistics.median(course.concurrency(last_s / 2, last_s))
    print(f"fixed {fixed}, auto {found} at {settled}, {window}")  # noqa: T201 - pytest -s shows it
    assert found >= 0.95 * max(fixed.values()), fixed
    assert settled <= 4 * SLOTS
    assert (window["server_running"] is not None) is metrics
