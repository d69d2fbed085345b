"""``python -m tests.harness.simulate``: many whole runs on virtual time, on several cores.

Prints a line for every seed whose world does not add up, and at the end how many runs there were
a minute. Ends with 1 if there was any such seed. One seed alone is told event by event.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.harness.seeds import command, say
from tests.harness.stage import Hanging
from tests.harness.whole_runs import Story, simulate

MEMORY = Path("/dev/shm")  # noqa: S108 - a disk in memory, used through tempfile
SHOWN = 20


class Failed(NamedTuple):
    """A seed whose run did not add up, and why."""

    seed: int
    why: str


def one(seed: int) -> Story | Failed:
    """Simulate a seed in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        try:
            return simulate(seed, Path(folder) / "world")
        except (Exception, Hanging) as error:  # noqa: BLE001 - every seed is told
            notes = "; ".join(getattr(error, "__notes__", ()))
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            return Failed(seed, f"{type(error).__name__}: {error} ({place}; {notes})")


def tell(seed: int) -> int:
    """Simulate one seed and print what happened. Returns the exit code."""
    events: list[str] = []
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        try:
            story = simulate(seed, Path(folder) / "world", events)
        except (Exception, Hanging):  # noqa: BLE001 - it is told
            say("\n".join(events), traceback.format_exc())
            return 1
    say("\n".join(events), repr(story))
    return 0


def many(first: int, count: int, jobs: int) -> int:
    """Simulate seeds ``first`` to ``first + count - 1``. Returns the exit code."""
    began_s = time.monotonic()
    sessions: Counter[str] = Counter()
    failed = exchanges = rows = 0
    virtual_s = 0.0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for told in pool.imap_unordered(one, range(first, first + count), chunksize=8):
            if isinstance(told, Failed):
                failed += 1
                if failed <= SHOWN:
                    say(f"seed {told.seed}: {told.why}")
                continue
            sessions.update(told.sessions)
            exchanges += told.exchanges
            rows += told.rows
            virtual_s += told.virtual_s
    took_s = time.monotonic() - began_s
    ends = ", ".join(f"{number:,} {how}" for how, number in sessions.most_common())
    say(
        f"{count:,} runs from seed {first} in {took_s:,.0f} s: {count / took_s * 60:,.0f} a minute",
        f"{sum(sessions.values()):,} sessions ({ends})",
        f"{rows:,} rows, {exchanges:,} exchanges, {virtual_s / 86_400:,.0f} virtual days",
        f"{failed} of them do not add up" if failed else "everything adds up",
    )
    return 1 if failed else 0


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit code."""
    program = "python -m tests.harness.simulate"
    return command(arguments, program=program, description=__doc__, tell=tell, many=many)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
