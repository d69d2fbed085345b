"""The command as a process of a fleet whose leases are short, so that tests need not wait.

``python tests/harness/fleet_process.py LEASE_S ARGS...`` is ``batchrun ARGS...``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

INDEXED = "TEST_INDEXED"
"""The environment variable for the file in which is noted that the input was indexed."""
BEATS = 6
"""A lease is renewed so many times before it expires, as in production."""


def main() -> None:
    """Shorten the lease, and become the command."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from batchrun.core.fleet import leases

    leases.LEASE_S = float(sys.argv[1])
    leases.BEAT_S = leases.LEASE_S / BEATS
    del sys.argv[1]
    from batchrun.cli.main import main as command

    if os.environ.get(INDEXED):
        _note_indexing(os.environ[INDEXED])
    command(prog_name="batchrun")


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
