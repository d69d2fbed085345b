"""A real llama.cpp server with four slots: the concurrency that it can use is found."""

import os
import statistics
import threading
import time
from bisect import bisect_left
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import courses

SLOTS = 4
FIXED = (2, 4, 8)
ROW_TOKENS = 3
BUSY = 0.5
"""A server that got less of a core than this had no chance to show what it can do."""
SAMPLE_S = 0.1


class Cpu:
    """CPU time that a process had, sample by sample: what the machine's other work takes from the
    server shortens this, and says nothing about the window.
    """

    def __init__(self, pid):
        self._stat = Path(f"/proc/{pid}/stat")
        self._samples = []
        self.over = False

    def watch(self):
        """Take samples until it is over."""
        while not self.over:
            fields = self._stat.read_text().rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])
            self._samples.append((time.time(), ticks / os.sysconf("SC_CLK_TCK")))
            time.sleep(SAMPLE_S)

    def between(self, from_s, to_s):
        """Seconds of CPU time in a part of the time."""
        last = len(self._samples) - 1
        first, second = (min(last, bisect_left(self._samples, (at,))) for at in (from_s, to_s))
        return self._samples[second][1] - self._samples[first][1]


@contextmanager
def _watched(pid):
    cpu = Cpu(pid)
    thread = threading.Thread(target=cpu.watch)
    thread.start()
    try:
        yield cpu
    finally:
        cpu.over = True
        thread.join()


def _pace(course, cpu, from_s, to_s):
    """Answers for each second of CPU time that the server had."""
    answers = course.answers(from_s, to_s) * (to_s - from_s)
    return answers / cpu.between(course.began_s + from_s, course.began_s + to_s)


@pytest.mark.quiet
@pytest.mark.parametrize("metrics", [True, False], ids=["with its metrics", "by replies alone"])
def test_as_much_comes_out_as_with_the_best_fixed_concurrency(tmp_path, llama, metrics):
    """At least 0.95 of the best of three fixed ones in the second half, by the CPU time that the
    server had, with all slots in use but one at most; and the summary says what was found.
    """
    url = llama(slots=SLOTS, metrics=metrics)
    source = courses.rows(tmp_path / "rows.jsonl", 9000, lambda _: ROW_TOKENS)
    fixed = {}
    with _watched(llama.pids[url]) as cpu:
        for number in FIXED:
            folder = tmp_path / f"fixed-{number}"
            course = courses.run(source, url, folder, ["--concurrency", number], 20)
            fixed[number] = _pace(course, cpu, 4, 18)
        course = courses.run(source, url, tmp_path / "run", [], 150)
        last_s = max(exchange.back_s for exchange in course.exchanges) - 1
        found = _pace(course, cpu, last_s / 2, last_s)
        had = cpu.between(course.began_s, course.began_s + last_s) / last_s
    if had < BUSY:
        pytest.skip(f"other work on this machine left the server {had:.2f} of a core")
    window = course.summary["endpoints"]["default"]["window"]
    settled = statistics.median(course.concurrency(last_s / 2, last_s))
    print(f"fixed {fixed}, auto {found} at {settled}, {window}")  # noqa: T201 - pytest -s shows it
    assert found >= 0.95 * max(fixed.values()), fixed
    assert SLOTS - 1 <= settled <= 4 * SLOTS
    assert (window["server_running"] is not None) is metrics
