"""A run whose answers another run has: CPU per row, peak memory, requests sent (0).

The other run directory is made by a real run against the upstream of the other benchmarks. Then
the same rows are run with `--reuse`, in the order in which they were answered, shifted by some
rows, and shuffled, with the address of a listener that counts connections: there must be none.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Cost, make_input, measure, upstream
from resume import Listener

SHIFT = 333


def command(base_url: str, source: str, output: str) -> list[str]:
    """The run, at whatever endpoint."""
    run = [sys.executable, "-m", "batchrun", "run", source, "-o", output, "--model", "m"]
    return [*run, "--no-progress", "--base-url", base_url]


def ordered(path: Path, order: str) -> Path:
    """The rows of a file in another order, in a file of its own.

    By a process of its own too: what this one held would count as its children's peak memory.
    """
    found = path.with_name(f"{order}.jsonl")
    subprocess.run([sys.executable, __file__, "--reorder", order, path, found], check=True)
    return found


def reorder(order: str, source: str, target: str) -> None:
    """The work of that process."""
    lines = Path(source).read_bytes().splitlines(keepends=True)
    if order == "shifted":
        lines = lines[SHIFT:] + lines[:SHIFT]
    elif order == "shuffled":
        random.Random(1).shuffle(lines)
    Path(target).write_bytes(b"".join(lines))


def reusing(room: Path, order: str, listener: Listener) -> Cost:
    """A run that takes every answer. Raises SystemExit where one row was not answered by that."""
    source = ordered(room / "rows.jsonl", order)
    cost = measure([*command(listener.base_url, source.name, order), "--reuse", "made"], room=room)
    rows = json.loads((room / order / "summary.json").read_bytes())["rows"]
    if rows["reused"] != rows["input"] or listener.connections:
        raise SystemExit(f"{order}: {rows}, {listener.connections} connections")
    shutil.rmtree(room / order)
    source.unlink()
    return cost


def measured(options: argparse.Namespace, room: Path) -> dict[str, Any]:
    """Make the directory, and run its rows in every order."""
    make_input(room / "rows.jsonl", options.rows)
    with upstream(reply_bytes=options.reply_bytes) as base_url:
        made = measure(command(base_url, "rows.jsonl", "made"), room=room)
    listener = Listener()
    found: dict[str, Any] = {"rows": options.rows, "made": made.cpu_s / options.rows * 1e6}
    for order in options.orders:
        cost = reusing(room, order, listener)
        found[f"{order}, CPU us/row"] = cost.cpu_s / options.rows * 1e6
        found[f"{order}, peak MB"] = cost.rss_max_bytes / 1e6
    found["requests"] = listener.connections
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--reply-bytes", type=int, default=2048)
    parser.add_argument("--orders", nargs="+", default=["same", "shifted", "shuffled"])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--reorder", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reorder:
        reorder(*options.reorder)
        return
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room:
        found = measured(options, Path(room))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:24}{value:14,.2f}" if isinstance(value, float) else f"{name:24}{value:14,}")


if __name__ == "__main__":
    main()
