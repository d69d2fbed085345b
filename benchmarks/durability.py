"""What the journal costs: CPU per row of `batchrun run`, divided by that of the same run without.

Both send the same rows to the same upstream and write the same parts, one after the other on one
core, in pairs whose order is shuffled. no_journal.py is the run without: it keeps what is answered
in memory until a shard is whole. So the ratio is the price of not losing it: encoding, checksums,
the log, its flushes, the notes of requests in flight, and reading the log back.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import HERE, Cost, make_input, measure, upstream
from ratio import spread

WAYS = ("journal", "none")


def run_once(way: str, source: Path, base_url: str, concurrency: int) -> Cost:
    """Measure one run over one input; its output is removed afterwards."""
    target = source.parent / f"output-{way}"
    program = ["-m", "batchrun"] if way == "journal" else [str(HERE / "no_journal.py")]
    command = [sys.executable, *program, "run", str(source), "-o", str(target), "--model", "m"]
    command += ["--no-progress", "--base-url", base_url, "--concurrency", str(concurrency)]
    try:
        cost = measure(command, room=source.parent)
        summary = json.loads((target / "summary.json").read_bytes())
        if summary["rows"]["ok"] != summary["rows"]["input"]:
            raise SystemExit(f"{way}: {summary['rows']}")
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return cost


def shuffled(pairs: int, source: Path, base_url: str, concurrency: int) -> dict[str, list[Cost]]:
    """Measure both ways `pairs` times, in a random order within each pair."""
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    order = random.Random(pairs)
    for _ in range(pairs):
        for way in order.sample(WAYS, k=len(WAYS)):
            costs[way].append(run_once(way, source, base_url, concurrency))
    return costs


def figures(
    rows: int, costs: dict[str, list[Cost]], startup: dict[str, list[Cost]]
) -> dict[str, Any]:
    """Everything that is printed, from the measured costs."""
    cpu_s = {way: statistics.median(cost.cpu_s for cost in costs[way]) for way in WAYS}
    start_s = {way: statistics.median(cost.cpu_s for cost in startup[way]) for way in WAYS}
    net = {way: (cpu_s[way] - start_s[way]) / (rows - 1) for way in WAYS}
    pairs = zip(costs["journal"], costs["none"], strict=True)
    return {
        "rows": rows,
        "ways": {
            way: {
                "cpu_us_per_row": spread([cost.cpu_s / rows * 1e6 for cost in costs[way]]),
                "startup_cpu_s": start_s[way],
                "rows_per_s": spread([rows / cost.wall_s for cost in costs[way]]),
                "rss_max_mb": max(cost.rss_max_bytes for cost in costs[way]) / 1e6,
            }
            for way in WAYS
        },
        "ratio_of_medians": cpu_s["journal"] / cpu_s["none"],
        "ratio_without_startup": net["journal"] / net["none"],
        "ratios": [one.cpu_s / other.cpu_s for one, other in pairs],
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    print(f"{'':10}{'CPU us/row':>12}{'min':>8}{'max':>8}{'rows/s':>9}{'start-up s':>12}{'MB':>8}")
    for way, one in found["ways"].items():
        cpu = one["cpu_us_per_row"]
        print(
            f"{way:10}{cpu['median']:12.0f}{cpu['min']:8.0f}{cpu['max']:8.0f}"
            f"{one['rows_per_s']['median']:9.0f}{one['startup_cpu_s']:12.2f}"
            f"{one['rss_max_mb']:8.0f}"
        )
    print(f"\nratio of medians          {found['ratio_of_medians']:.3f}")
    print(f"the same without start-up {found['ratio_without_startup']:.3f}")
    print(f"per pair                  {'  '.join(f'{ratio:.3f}' for ratio in found['ratios'])}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--reply-bytes", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room,
        upstream(reply_bytes=options.reply_bytes) as base_url,
    ):
        full, single = Path(room, "rows.jsonl"), Path(room, "one.jsonl")
        make_input(full, options.rows)
        make_input(single, 1)
        for way in WAYS:  # once unmeasured: compiles bytecode, fills the page cache
            run_once(way, single, base_url, options.concurrency)
        startup = shuffled(3, single, base_url, options.concurrency)
        costs = shuffled(options.pairs, full, base_url, options.concurrency)
    found = figures(options.rows, costs, startup)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
