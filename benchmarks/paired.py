"""Two ways of doing the same, compared by the CPU they take per row.

They run one after the other, in pairs whose order is shuffled: what drifts on the machine meets
both alike. A run over a single row tells what start-up costs. The figure to quote is the ratio.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Cost, make_input

Costs = dict[str, list[Cost]]


def parser(doc: str | None, *, rows: int) -> argparse.ArgumentParser:
    """The flags that such comparisons have in common."""
    flags = argparse.ArgumentParser(description=doc)
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--rows", type=int, default=rows)
    flags.add_argument("--reply-bytes", type=int, default=2048, help="length of each answer")
    flags.add_argument("--concurrency", type=int, default=64)
    flags.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return flags


def compare(
    options: argparse.Namespace,
    ways: tuple[str, str],
    run_once: Callable[[str, Path], Cost],
) -> None:
    """Measure both ways and print what they cost; the ratio is the second over the first.

    `run_once` measures one way over one input, in whose directory it may write.
    """
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room:
        full, single = Path(room, "rows.jsonl"), Path(room, "one.jsonl")
        make_input(full, options.rows)
        make_input(single, 1)
        for way in ways:  # once unmeasured: compiles bytecode, fills the page cache
            run_once(way, single)
        startup = _shuffled(ways, 3, single, run_once)
        costs = _shuffled(ways, options.pairs, full, run_once)
    found = figures(options.rows, ways, costs, startup)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


def _shuffled(
    ways: tuple[str, str], pairs: int, source: Path, run_once: Callable[[str, Path], Cost]
) -> Costs:
    costs: Costs = {way: [] for way in ways}
    order = random.Random(pairs)
    for _ in range(pairs):
        for way in order.sample(ways, k=len(ways)):
            costs[way].append(run_once(way, source))
    return costs


def figures(rows: int, ways: tuple[str, str], costs: Costs, startup: Costs) -> dict[str, Any]:
    """Everything that is printed, from the measured costs."""
    base, other = ways
    cpu_s = {way: statistics.median(cost.cpu_s for cost in costs[way]) for way in ways}
    start_s = {way: statistics.median(cost.cpu_s for cost in startup[way]) for way in ways}
    net = {way: (cpu_s[way] - start_s[way]) / (rows - 1) for way in ways}
    pairs = zip(costs[other], costs[base], strict=True)
    return {
        "rows": rows,
        "ways": {
            way: {
                "cpu_us_per_row": _spread([cost.cpu_s / rows * 1e6 for cost in costs[way]]),
                "startup_cpu_s": start_s[way],
                "rows_per_s": _spread([rows / cost.wall_s for cost in costs[way]]),
                "rss_max_mb": max(cost.rss_max_bytes for cost in costs[way]) / 1e6,
            }
            for way in ways
        },
        "ratio_of_medians": cpu_s[other] / cpu_s[base],
        "ratio_without_startup": net[other] / net[base],
        "ratios": [one.cpu_s / its.cpu_s for one, its in pairs],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


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
    ratios = _spread(found["ratios"])
    print(f"\nratio of medians          {found['ratio_of_medians']:.3f}")
    print(f"the same without start-up {found['ratio_without_startup']:.3f}")
    print(f"per pair                  {'  '.join(f'{ratio:.3f}' for ratio in found['ratios'])}")
    print(f"                          median {ratios['median']:.3f}")
