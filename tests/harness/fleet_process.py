"""The command as a process of a fleet whose leases are short, so that tests need not wait.

``python tests/harness/fleet_process.py LEASE_S ARGS...`` is ``batchrun ARGS...``.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

HELD_UP = "TEST_HELD_UP"
"""The environment variable for a seed: the process is held up at file operations that it draws."""
STEPS = frozenset({"open", "fcntl.flock", "os.listdir", "os.scandir"}) | {
    f"os.{name}" for name in ("link", "mkdir", "remove", "rename", "rmdir")
}
"""Audit events of file operations, at which another process may come between."""
INDEXED = "TEST_INDEXED"
"""The environment variable for the file in which is noted that the input was indexed."""
BEATS = 6
"""A lease is renewed so many times before it expires, as in production."""


def main() -> None:
    """Shorten the lease, and become the command."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if os.environ.get(HELD_UP):
        _hold_up(int(os.environ[HELD_UP]))
    from batchrun.core.fleet import leases

    leases.LEASE_S = float(sys.argv[1])
    leases.BEAT_S = leases.LEASE_S / BEATS
    del sys.argv[1]
    from batchrun.cli.main import main as command

    if os.environ.get(INDEXED):
        _note_indexing(os.environ[INDEXED])
    command(prog_name="batchrun")


def _hold_up(seed: int) -> None:
    """Sleep at some file operations in the present folder, as a machine with too much to do would
    have it: rarely or often, for a moment or for longer than another process needs to start.
    """
    rng = random.Random(f"{seed} {sys.argv}")
    share, longest_s = rng.choice((0.02, 0.1, 0.3)), rng.choice((0.05, 0.2, 0.6))
    here = f"{Path.cwd()}{os.sep}"

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event not in STEPS:
            return
        if given and isinstance(given[0], str | os.PathLike):
            path = os.fspath(given[0])
            if isinstance(path, str) and path.startswith(os.sep) and not path.startswith(here):
                return
        if rng.random() < share:
            time.sleep(rng.random() * longest_s)

    sys.addaudithook(hook)


def _note_indexing(path: str) -> None:
    """Write a line into a file whenever the input is indexed."""
    from batchrun.adapters.sources.opening import Input

    shard_starts = Input.shard_starts

    def noted(self: Input, *given: object) -> object:
        with Path(path).open("a") as file:
            file.write("indexed\n")
        return shard_starts(self, *given)  # type: ignore[arg-type]

    Input.shard_starts = noted  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    main()
