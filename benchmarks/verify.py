"""What `batchrun verify` costs: rows per CPU second and peak memory, over two sizes.

The run directories are made by `batchrun run` against the upstream of the other benchmarks.
Start-up, measured on a run of one row, is told apart; memory must not grow with the rows.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from harness import Cost, make_input, measure, upstream


def main() -> None:
    """Make a run directory of each size, verify it, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--reply-bytes", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3, help="the cheapest round counts")
    parser.add_argument("--against", action="store_true", help="compare with the input too")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    costs: dict[int, Cost] = {}
    with (
        tempfile.TemporaryDirectory(prefix="batchrun-bench-") as place,
        upstream(reply_bytes=options.reply_bytes) as base_url,
    ):
        room = Path(place)
        for rows in (1, *options.rows):
            make_input(room / "rows.jsonl", rows)
            command = [sys.executable, "-m", "batchrun"]
            arguments = ["rows.jsonl", "-o", f"run-{rows}", "--model", "m", "--no-progress"]
            measure([*command, "run", *arguments, "--base-url", base_url], room=room)
            command += ["verify", f"run-{rows}"]
            command += ["--against", "rows.jsonl"] * options.against
            rounds = [measure(command, room=room) for _ in range(options.rounds)]
            costs[rows] = min(rounds, key=lambda cost: cost.cpu_s)
    start_s = costs.pop(1).cpu_s
    found = {
        rows: {
            "cpu_s": cost.cpu_s,
            "rows_per_cpu_s": rows / cost.cpu_s,
            "rows_per_cpu_s_without_start": rows / max(1e-9, cost.cpu_s - start_s),
            "rss_max_mb": cost.rss_max_bytes / 1e6,
        }
        for rows, cost in costs.items()
    }
    if options.json:
        print(json.dumps({"start_cpu_s": start_s, "rows": found}))
        return
    print(f"start-up {start_s:.2f} CPU s")
    for rows, figures in found.items():
        print(
            f"{rows:>9} rows {figures['cpu_s']:7.2f} CPU s {figures['rows_per_cpu_s']:10,.0f} "
            f"rows/CPU s {figures['rows_per_cpu_s_without_start']:10,.0f} without start-up "
            f"{figures['rss_max_mb']:7.1f} MB"
        )


if __name__ == "__main__":
    main()
