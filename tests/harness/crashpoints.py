"""Crash points: the real command, killed by itself at the N-th time it reaches a durable step.

``python tests/harness/crashpoints.py POINT -- run ARGS...`` runs ``batchrun run ARGS...`` in this
process, with ``batchrun.adapters.storage.files.step`` replaced: when POINT is reached, the
process sends itself SIGKILL, so nothing is cleaned up and nothing is flushed. A point is
``STEP:N``, or ``STEP@WHAT:N`` where a step comes with several files: ``draft.renamed@results:2``.

``POINTS`` is the table of all of them. The tests of a scenario take its points from there.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import PART_KINDS, RESPONSES, SCORES

FEW_SLOTS = 2
"""Slots of the flight log to begin with, so that it grows with any run."""


class Point(NamedTuple):
    """One moment to be killed at: a step, what file or folder it is about (anything if empty), and
    how often it is let pass.
    """

    scenario: str
    step: str
    what: str = ""
    passed: int = 0

    def __str__(self) -> str:
        return f"{self.step}{'@' if self.what else ''}{self.what}:{self.passed + 1}"


def _publishing(scenario: str) -> list[Point]:
    """The steps around the publication of one shard, in their order."""
    steps = (
        *("draft.written@attempts draft.synced@attempts draft.written@results").split(),
        *("draft.synced@results draft.renamed@attempts draft.renamed@results").split(),
        *("folder.synced@attempts folder.synced@results").split(),
        *("seal.written@ seal.committed@ log.removed@").split(),
    )
    return [Point(scenario, name, what) for name, what in (step.split("@") for step in steps)]


POINTS: tuple[Point, ...] = (
    # A run that begins: its state file, its first log, its flight log.
    Point("begin", "state.begun"),
    Point("begin", "state.put"),
    Point("begin", "flights.entered"),
    Point("begin", "flights.removed"),
    Point("begin", "flights.grown"),
    Point("begin", "flights.grown", passed=2),
    Point("begin", "log.begun"),
    Point("begin", "folder.synced", "checkpoint"),
    # A group of entries.
    Point("group", "log.writing", passed=1),
    Point("group", "log.written", passed=1),
    Point("group", "log.synced", passed=1),
    # What a power cut left of a group is cut off.
    Point("torn", "log.cut"),
    # Requests were out at a kill: from their notes into the ledger.
    Point("flights", "log.synced"),
    Point("flights", "flights.entered"),
    Point("flights", "flights.removed"),
    # A shard is published: whole, with rows pending at a stop, again after a retry of failed rows.
    *_publishing("seal"),
    *_publishing("stop"),
    *_publishing("retry"),
    # A stop with conversations pending: their answered turns go into the next log first.
    Point("turns", "turns.carried"),
    Point("turns", "seal.written"),
    Point("turns", "seal.committed"),
    Point("turns", "log.removed"),
    Point("turns", "draft.renamed", "results"),
    # The end of a session.
    *(
        Point("end", step, what)
        for what in ("usage", "summary")
        for step in ("draft.written", "draft.synced", "draft.renamed")
    ),
    Point("end", "folder.synced", "run"),
    Point("end", "folder.synced", "run", passed=1),
    Point("end", "state.put"),
    # The status file, which is not flushed.
    Point("status", "draft.finished", "status"),
    Point("status", "draft.renamed", "status"),
    # The input was touched: what is known of it is noted anew.
    Point("touched", "state.refreshed"),
    Point("touched", "state.put"),
    # Replies too large for their column get files of their own, before the part that names them.
    Point("large", "draft.written", "responses"),
    Point("large", "draft.synced", "responses"),
    Point("large", "draft.renamed", "responses"),
    Point("large", "folder.synced", "responses"),
    Point("large", "draft.renamed", "results"),
    Point("large", "seal.committed"),
    # Scores of a shard whose results are final.
    *(
        Point("scores", step, "scores")
        for step in (
            *("draft.written draft.synced draft.renamed folder.synced scores.published").split(),
        )
    ),
    # The same after a retry, which leaves scores of results that are no more.
    Point("scores-retry", "draft.written", "scores"),
    Point("scores-retry", "draft.renamed", "scores"),
    # With ``--requests``, the bodies have a part of their own, which appears first.
    Point("requests", "draft.written", "requests"),
    Point("requests", "draft.synced", "requests"),
    Point("requests", "draft.renamed", "requests"),
    Point("requests", "draft.renamed", "attempts"),
    Point("requests", "draft.renamed", "results"),
    Point("requests", "folder.synced", "requests"),
    Point("requests", "seal.written"),
    Point("requests", "seal.committed"),
    # A directory of an earlier version: its parts are written again, or only marked.
    Point("older", "draft.renamed", "attempts"),
    Point("older", "draft.renamed", "results"),
    Point("older", "seal.written"),
    Point("older", "seal.committed"),
    Point("older-whole", "state.marked"),
    # ``--restart``, with the checkpoint in a folder of its own.
    Point("restart", "restart.renamed"),
    Point("restart", "restart.synced"),
    Point("restart", "state.begun"),
    # ``--restart --reuse old``: the note of it, the move, the new run, the index of old answers.
    *(
        Point("reuse", step)
        for step in (
            *("restart.noted restart.renamed restart.synced state.begun state.put").split(),
            *("restart.ended reuse.answers reuse.indexed log.synced seal.written").split(),
            "seal.committed",
        )
    ),
    Point("reuse-moving", "restart.noted"),
    Point("reuse-moving", "restart.renamed"),
    # A source changed: all parts are written again aside, committed, published, and what is no part
    # any more is set aside.
    Point("moved", "draft.written", "results"),
    Point("moved", "draft.renamed", "results"),
    *(
        Point("moved", step)
        for step in (
            *("rebuild.written rebuild.committed seal.written rebuild.published").split(),
            *("aside.moved state.forgotten rebuild.removed rebuild.finished").split(),
        )
    ),
    # ``--repair`` of a part, and of a log.
    Point("repair", "aside.moved"),
    Point("repair", "seal.committed"),
    Point("repair", "draft.renamed"),
    Point("repair", "draft.renamed", passed=1),
    Point("salvage", "draft.synced", "shard"),
    Point("salvage", "aside.moved"),
    Point("salvage", "draft.renamed", "shard"),
    # A fleet of one: the launch; a claim, and its takeover by the next process with the log of the
    # last one; a book of the limits; the commit of a shard and the names of its parts; the end.
    Point("fleet", "draft.written", "launch"),
    Point("fleet", "draft.renamed", "launch"),
    Point("fleet", "draft.renamed", "run"),
    Point("fleet", "draft.renamed", "shards"),
    Point("fleet", "draft.renamed", "launch", passed=1),
    Point("fleet", "folder.synced", "workers"),
    Point("fleet", "folder.synced", "claims"),
    Point("fleet", "draft.linked", "00000000"),
    Point("fleet", "folder.synced", "quota"),
    Point("fleet", "log.synced", passed=1),
    Point("fleet", "log.copied"),
    Point("fleet", "draft.renamed", "attempts"),
    Point("fleet", "draft.linked", "00000000", passed=1),
    Point("fleet", "staged.revealed", "attempts"),
    Point("fleet", "staged.revealed", "results"),
    Point("fleet", "fleet.ended"),
    Point("fleet", "state.marked"),
    Point("fleet", "fleet.recorded"),
    Point("fleet", "fleet.folded"),
    # A run directory in an object store: uploads, and ``--restart``.
    Point("store", "object.putting", passed=2),
    Point("store", "object.put", passed=2),
    Point("store", "draft.finished", "results"),
    Point("store", "seal.written", passed=1),
    Point("store-restart", "restart.copied"),
    Point("store-restart", "restart.renamed"),
)
"""Every moment that is tried one by one. Each step that the package names is among them."""

STEPS = frozenset(point.step for point in POINTS)


def points(scenario: str, *, rounds: int = 1) -> list[str]:
    """The points of a scenario, as the command line has them; in a second round each of them is
    let pass once more often, and so on. Raises ``KeyError``.
    """
    found = [point for point in POINTS if point.scenario == scenario]
    if not found:
        raise KeyError(scenario)
    return [
        str(point._replace(passed=point.passed + more)) for more in range(rounds) for point in found
    ]


def subject(path: Path) -> str:
    """What a file or folder is: the kind of part, or the first word of its name."""
    if path.parent.name in (*PART_KINDS, RESPONSES, SCORES):
        return path.parent.name
    return path.name.partition(".")[0].partition("-")[0]


def killer(point: str) -> Callable[[str, Path], None]:
    """A ``files.step`` that kills this process when it reaches a point.

    Raises ``ValueError`` for a point that there cannot be.
    """
    where, _, times = point.partition(":")
    name, _, what = where.partition("@")
    if name not in STEPS:
        message = f"no step is called {name!r}; there are {', '.join(sorted(STEPS))}"
        raise ValueError(message)
    if not times.isdecimal() or int(times) < 1:
        message = f"{where} is reached once or more often, not {times!r} times"
        raise ValueError(message)
    left = int(times)
    lock = threading.Lock()  # steps are reached in several threads

    def step(reached: str, path: Path) -> None:
        nonlocal left
        if reached == name and what in ("", subject(path)):
            with lock:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return step


def arm(point: str) -> None:
    """Have this process kill itself at a crash point; its flight log grows with any run."""
    from batchrun import assemble
    from batchrun.machinery import REAL

    files.step = killer(point)
    few = dataclasses.replace(REAL, flight_slots=FEW_SLOTS)
    assemble.run = functools.partial(assemble.run, machinery=few)


def main(arguments: Sequence[str]) -> None:
    """Run the command line behind ``--`` with a crash point armed."""
    point, separator, command = arguments[:1], arguments[1:2], arguments[2:]
    if separator != ["--"]:
        sys.exit("usage: python tests/harness/crashpoints.py STEP[@WHAT]:N -- run ARGS...")
    files.step = killer("".join(point))
    sys.argv = ["batchrun", *command]
    from batchrun.cli.main import main as batchrun

    batchrun()


if __name__ == "__main__":
    main(sys.argv[1:])
