"""The real command against `batchrun simulate`, each in a process of its own, and what came of it.

Tests and benchmarks use it where a figure is about both ends: how much of a server's capacity is
used, how often it refuses, which concurrency is found.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as ds

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["started_at", "latency_s", "http_status", "completion_tokens"]
POLL_S = 0.2
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_BOUND = re.compile(r"^held back most by (.*)$", re.MULTILINE)
WAIT_S = 120.0
"""Seconds that a run may take beyond its deadline."""


class Exchange(NamedTuple):
    """One request of a run; times are in seconds since the first one went out."""

    sent_s: float
    back_s: float
    status: int | None
    tokens: int


class Course(NamedTuple):
    """What became of a run: its exchanges, what it thought of the server at which time, and what
    it said.
    """

    exchanges: list[Exchange]
    windows: list[tuple[float, dict[str, Any]]]
    summary: dict[str, Any]
    said: str
    began_s: float
    """When the first request went out, as ``time.time`` has it."""
    peak_kb: int
    """Most memory that the command had, resident; 0 where the system does not say."""
    bound_by: str | None
    """What held it back most, in words."""

    def answers(self, from_s: float, to_s: float) -> float:
        """Answers in a second."""
        return sum(e.status == 200 and from_s <= e.back_s < to_s for e in self.exchanges) / (
            to_s - from_s
        )

    def tokens(self, from_s: float, to_s: float) -> float:
        """Tokens of answers in a second."""
        part = (e.tokens for e in self.exchanges if from_s <= e.back_s < to_s)
        return sum(part) / (to_s - from_s)

    def waste(self, from_s: float, to_s: float) -> float:
        """Refusals for each answer."""
        part = [e.status for e in self.exchanges if from_s <= e.back_s < to_s]
        return part.count(429) / max(1, part.count(200))

    def concurrency(self, from_s: float, to_s: float) -> list[int]:
        """The windows that there were, one for each look at them."""
        return [found["concurrency"] for at_s, found in self.windows if from_s <= at_s < to_s]

    def mean_concurrency(self, from_s: float, to_s: float) -> float:
        """Their mean."""
        found = self.concurrency(from_s, to_s)
        return sum(found) / len(found)


def environment() -> dict[str, str]:
    """That of this process, without a proxy."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT)}


@contextmanager
def serving(*flags: object) -> Iterator[str]:
    """`batchrun simulate` with these flags; gives its base URL."""
    command = [sys.executable, "-m", "batchrun", "simulate", "--json", "--no-detail"]
    process = subprocess.Popen(
        [*command, *map(str, flags)], stdout=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def stats(base_url: str) -> dict[str, Any]:
    """What the server counted so far."""
    with urllib.request.urlopen(f"{base_url.removesuffix('/v1')}/stats") as reply:  # noqa: S310
        found: dict[str, Any] = json.load(reply)
    return found


def rows(path: Path, count: int, max_tokens: Callable[[random.Random], int] | None = None) -> Path:
    """Short rows; ``max_tokens`` draws how long each answer may be."""
    dice = random.Random(count)
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            # As many tokens each: a digit more would cost a server more.
            text = f"Question {number:06}"
            row: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
            if max_tokens is not None:
                row["max_tokens"] = max_tokens(dice)
            lines.write(json.dumps(row) + "\n")
    return path


def run(
    source: Path,
    base_url: str,
    folder: Path,
    flags: Sequence[object],
    for_s: float,
    enough: Callable[[dict[str, Any]], bool] = lambda _: False,
) -> Course:
    """Run for so many seconds, to the end of the input, or until a window is ``enough``."""
    command = [sys.executable, "-m", "batchrun", "run", source, "-o", folder, "--model", "m"]
    command += ["--base-url", base_url, "--deadline", for_s, "--grace", 1, "--no-progress", *flags]
    log = folder.with_suffix(".err")
    with log.open("wb") as err:
        process = subprocess.Popen(list(map(str, command)), stderr=err, env=environment())
    try:
        peak = [0]
        windows: list[tuple[float, dict[str, Any]]] = []
        asked_to_end = False
        for at_s, found in _watched(process, folder, time.monotonic() + for_s + WAIT_S, peak):
            windows.append((at_s, found))
            if not asked_to_end and enough(found):
                asked_to_end = True
                process.send_signal(signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    said = log.read_text("utf-8")
    assert process.returncode in {0, 3, 128 + signal.SIGTERM}, (process.returncode, said)
    table = ds.dataset(folder / "attempts").to_table(columns=COLUMNS).to_pylist()
    began_s = min(one["started_at"].timestamp() for one in table)
    exchanges = [
        Exchange(
            sent_s := one["started_at"].timestamp() - began_s,
            sent_s + (one["latency_s"] or 0.0),
            one["http_status"],
            one["completion_tokens"] or 0,
        )
        for one in table
    ]
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    seen = [(at_s - began_s, one) for at_s, one in windows]
    bound = next(iter(_BOUND.findall(said)), None)
    return Course(exchanges, seen, summary, said, began_s, peak[0], bound)


def _watched(
    process: subprocess.Popen[bytes], folder: Path, until_s: float, peak: list[int]
) -> Iterator[tuple[float, dict[str, Any]]]:
    """What the status says of the first endpoint's window, until the run has ended."""
    while process.poll() is None:
        assert time.monotonic() < until_s, "the run does not end"
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{process.pid}/status").read_text("ascii", errors="replace")
            peak[0] = max(peak[0], *map(int, _PEAK.findall(status)), 0)
        with suppress(OSError, ValueError):
            live = json.loads((folder / "checkpoint" / "status.json").read_bytes())
            window = live["endpoints"][0]["window"]
            if window is not None:
                yield time.time(), window | {"in_flight": live["endpoints"][0]["in_flight"]}
        time.sleep(POLL_S)
