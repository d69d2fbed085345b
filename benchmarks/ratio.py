"""CPU per row of `batchrun run` over that of the bare loop in floor.py.

Both read the same rows and talk to the same upstream, one after the other on one core, in pairs
whose order is shuffled: what drifts on the machine meets both alike. The figure is the ratio.
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

CLIENTS = ("floor", "batchrun")


def command(client: str, source: Path, target: Path, base_url: str, concurrency: int) -> list[str]:
    """The command line with which a client sends the rows of `source`."""
    flags = ["--base-url", base_url, "--concurrency", str(concurrency)]
    if client == "floor":
        return [sys.executable, str(HERE / "floor.py"), str(source), str(target), *flags]
    run = [sys.executable, "-m", "batchrun", "run", str(source), "-o", str(target)]
    return [*run, "--model", "m", "--no-progress", *flags]


def run_once(client: str, source: Path, base_url: str, concurrency: int) -> Cost:
    """Measure one client over one input; its output is removed afterwards."""
    target = source.parent / f"output-{client}"
    try:
        return measure(command(client, source, target, base_url, concurrency), room=source.parent)
    finally:
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def shuffled_pairs(
    pairs: int, source: Path, base_url: str, concurrency: int
) -> dict[str, list[Cost]]:
    """Measure both clients `pairs` times, in a random order within each pair."""
    costs: dict[str, list[Cost]] = {client: [] for client in CLIENTS}
    order = random.Random(pairs)
    for _ in range(pairs):
        for client in order.sample(CLIENTS, k=len(CLIENTS)):
            costs[client].append(run_once(client, source, base_url, concurrency))
    return costs


def median_cpu_s(costs: list[Cost]) -> float:
    """The median CPU time of several runs."""
    return statistics.median(cost.cpu_s for cost in costs)


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def figures(
    rows: int, costs: dict[str, list[Cost]], startup: dict[str, list[Cost]]
) -> dict[str, Any]:
    """Everything that is printed, from the measured costs."""
    startup_s = {client: median_cpu_s(startup[client]) for client in CLIENTS}
    pairs = list(zip(costs["batchrun"], costs["floor"], strict=True))
    net = {c: (median_cpu_s(costs[c]) - startup_s[c]) / (rows - 1) for c in CLIENTS}
    return {
        "rows": rows,
        "pairs": len(pairs),
        "clients": {
            client: {
                "cpu_us_per_row": spread([cost.cpu_s / rows * 1e6 for cost in costs[client]]),
                "startup_cpu_s": startup_s[client],
                "rows_per_s": spread([rows / cost.wall_s for cost in costs[client]]),
                "rss_max_mb": max(cost.rss_max_bytes for cost in costs[client]) / 1e6,
            }
            for client in CLIENTS
        },
        "ratio_of_medians": median_cpu_s(costs["batchrun"]) / median_cpu_s(costs["floor"]),
        "ratio_per_pair": spread([mine.cpu_s / floor.cpu_s for mine, floor in pairs]),
        "ratios": [mine.cpu_s / floor.cpu_s for mine, floor in pairs],
        "ratio_without_startup": net["batchrun"] / net["floor"],
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    print(
        f"{'':10}{'CPU us/row':>12}{'min':>8}{'max':>8}{'rows/s':>9}{'start-up s':>12}{'RSS MB':>8}"
    )
    for name, client in found["clients"].items():
        cpu = client["cpu_us_per_row"]
        print(
            f"{name:10}{cpu['median']:12.0f}{cpu['min']:8.0f}{cpu['max']:8.0f}"
            f"{client['rows_per_s']['median']:9.0f}{client['startup_cpu_s']:12.2f}"
            f"{client['rss_max_mb']:8.0f}"
        )
    per_pair = found["ratio_per_pair"]
    print(f"\nratio of medians          {found['ratio_of_medians']:.3f}")
    print(f"the same without start-up {found['ratio_without_startup']:.3f}")
    print(f"per pair                  {'  '.join(f'{ratio:.3f}' for ratio in found['ratios'])}")
    print(
        f"                          min {per_pair['min']:.3f}, median {per_pair['median']:.3f}, "
        f"max {per_pair['max']:.3f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
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
        for client in CLIENTS:  # once unmeasured: compiles bytecode, fills the page cache
            run_once(client, single, base_url, options.concurrency)
        startup = shuffled_pairs(3, single, base_url, options.concurrency)
        costs = shuffled_pairs(options.pairs, full, base_url, options.concurrency)
    found = figures(options.rows, costs, startup)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
