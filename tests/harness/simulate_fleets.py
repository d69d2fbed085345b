"""``python -m tests.harness.simulate_fleets``: many whole fleets on virtual time, on several cores.

Prints a line for every seed whose world does not add up, and at the end how many there were. Ends
with 1 if there was any such seed. One seed alone is told event by event.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.harness.fleet_worlds import simulate, world
from tests.harness.seeds import command, say


def many(first: int, count: int, jobs: int) -> int:
    """Simulate seeds ``first`` to ``first + count - 1``. Returns the exit code."""
    began_s = time.monotonic()
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failed = rows = sent = kills = 0
    hours = 0.0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for story in pool.imap_unordered(simulate, range(first, first + count)):
            if story.why:
                failed += 1
                say(f"seed {story.seed} ({story.kind}): {story.why}")
                continue
            ends.update(story.ends)
            kinds[story.kind] += 1
            rows += story.rows
            sent += story.sent
            kills += story.kills
            hours += story.virtual_s / 3600
    took_s = time.monotonic() - began_s
    say(
        f"{count:,} fleets from seed {first} in {took_s:,.0f} s ("
        + ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
        + ")",
        f"{sum(ends.values()):,} processes ("
        + ", ".join(f"{number:,} {how}" for how, number in ends.most_common())
        + ")",
        f"{rows:,} rows, {sent:,} requests, {kills:,} kills, {hours:,.0f} virtual hours",
        f"{failed} of them do not add up" if failed else "everything adds up",
    )
    return 1 if failed else 0


def tell(seed: int) -> int:
    """Simulate one seed and print what happened. Returns the exit code."""
    say(repr(world(seed)))
    story = simulate(seed, say)
    say(repr(story))
    return 1 if story.why else 0


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit code."""
    program = "python -m tests.harness.simulate_fleets"
    return command(arguments, program=program, description=__doc__, tell=tell, many=many)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
