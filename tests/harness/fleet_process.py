"""The command as a process of a fleet whose leases are short, so that tests need not wait.

``python tests/harness/fleet_process.py LEASE_S ARGS...`` is ``batchrun ARGS...``.
"""

from __future__ import annotations

import sys
from pathlib import Path

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

    command(prog_name="batchrun")


if __name__ == "__main__":
    main()
