"""The command line of simulations that play seed after seed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence


def command(
    arguments: Sequence[str],
    *,
    program: str,
    description: str | None,
    tell: Callable[[int], int],
    many: Callable[[int, int, int], int],
) -> int:
    """Run the command; returns its exit code. ``tell`` replays one seed, ``many`` plays so many
    from a first one on, on so many cores.
    """
    parser = argparse.ArgumentParser(program, description=description)
    parser.add_argument("--seed", type=int, help="replay this seed alone, and tell its events")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        return tell(asked.seed)
    return many(asked.first, asked.seeds, asked.jobs)


def say(*lines: str) -> None:
    """Print lines at once."""
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
