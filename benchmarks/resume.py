"""A finished run that is started again: CPU above `batchrun --help`, memory, and requests sent.

The run directory is made by a real run against the upstream of the other benchmarks. Then the same
command is run again, several times, with the address of a listener that counts connections: there
must be none, and the run directory must be as it was.
"""

import argparse
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from harness import Cost, make_input, measure, upstream


class Listener:
    """Counts connections, and closes them."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            self.connections += 1
            connection.close()


def command(base_url: str, shard_rows: int) -> list[str]:
    """The run, at whatever endpoint."""
    run = [sys.executable, "-m", "batchrun", "run", "rows.jsonl", "-o", "run", "--model", "m"]
    return [*run, "--shard-rows", str(shard_rows), "--no-progress", "--base-url", base_url]


def parts(room: Path) -> dict[str, tuple[int, int]]:
    """The published files, and what would show that one was written again."""
    found = ((path, path.stat()) for path in (room / "run").glob("*/part-*"))
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found}


def median(costs: list[Cost]) -> float:
    """The median CPU time."""
    return statistics.median(cost.cpu_s for cost in costs)


def measured(options: argparse.Namespace, room: Path) -> dict[str, Any]:
    """Make the run, start it again, and compare."""
    make_input(room / "rows.jsonl", options.rows)
    with upstream(reply_bytes=options.reply_bytes) as base_url:
        started_s = time.perf_counter()
        measure(command(base_url, options.shard_rows), room=room)
        made_s = time.perf_counter() - started_s
    listener, before = Listener(), parts(room)
    first = json.loads((room / "run/summary.json").read_bytes())
    shown, again = [], []
    measure([sys.executable, "-m", "batchrun", "--help"], room=room)
    for _ in range(options.rounds):
        shown.append(measure([sys.executable, "-m", "batchrun", "--help"], room=room))
        again.append(measure(command(listener.base_url, options.shard_rows), room=room))
    last = json.loads((room / "run/summary.json").read_bytes())
    if last["rows"] != first["rows"] or last["rows"]["ok"] != options.rows:
        raise SystemExit(f"the rows were {first['rows']} and are {last['rows']}")
    if parts(room) != before:
        raise SystemExit("parts were written again")
    return {
        "rows": options.rows,
        "made_s": made_s,
        "help_cpu_s": median(shown),
        "again_cpu_s": median(again),
        "above_help_cpu_s": median(again) - median(shown),
        "again_wall_s": statistics.median(cost.wall_s for cost in again),
        "rss_max_mb": max(cost.rss_max_bytes for cost in again) / 1e6,
        "requests": last["totals"]["attempts"] - first["totals"]["attempts"],
        "connections": listener.connections,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shard-rows", type=int, default=10_000, help="rows of a part")
    parser.add_argument("--reply-bytes", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room:
        found = measured(options, Path(room))
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(
                f"{name:18}{value:14,.2f}" if isinstance(value, float) else f"{name:18}{value:14,}"
            )
    if found["requests"] or found["connections"]:
        raise SystemExit("a finished run sent something")


if __name__ == "__main__":
    main()
