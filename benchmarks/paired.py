"""Two ways of doing the same, compared by the CPU they take per row.

They run one after the other, in pairs whose order is shuffled: what drifts on the machine meets
both alike. Where it drifts faster than that, they run at once, on one core, the cheaper way over so
many more rows that both end together. A run over a single row tells what start-up costs. The figure
to quote is the ratio.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import Cost, make_input

Costs = dict[str, list[Cost]]
Sources = dict[str, Path]


def parser(doc: str | None, *, rows: int) -> argparse.ArgumentParser:
    """The flags that such comparisons have in common."""
    flags = argparse.ArgumentParser(description=doc)
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--rows", type=int, default=rows)
    flags.add_argument("--reply-bytes", type=int, default=2048, help="length of each answer")
    flags.add_argument("--concurrency", type=int, default=64)
    flags.add_argument("--at-once", action="store_true", help="both ways of a pair side by side")
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
    run_pair = _at_once if options.at_once else _in_turn
    rows = dict.fromkeys(ways, options.rows)
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room:
        full = _inputs(Path(room, "full"), rows)
        single = _inputs(Path(room, "single"), dict.fromkeys(ways, 1))
        order = random.Random(options.pairs)
        run_pair(order, single, run_once)  # unmeasured: compiles bytecode, fills the page cache
        startup = [run_pair(order, single, run_once) for _ in range(3)]
        if options.at_once:
            first = run_pair(order, full, run_once)
            rows[ways[0]] = round(options.rows * first[ways[1]].cpu_s / first[ways[0]].cpu_s)
            full = _inputs(Path(room, "level"), rows)
        pairs = [run_pair(order, full, run_once) for _ in range(options.pairs)]
    costs, starts = (
        {way: [pair[way] for pair in measured] for way in ways} for measured in (pairs, startup)
    )
    found = figures(rows, ways, costs, starts)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


def _inputs(folder: Path, rows: dict[str, int]) -> Sources:
    """An input for each way, in a directory of its own."""
    sources = {way: folder / way / "rows.jsonl" for way in rows}
    for way, source in sources.items():
        source.parent.mkdir(parents=True)
        make_input(source, rows[way])
    return sources


def _in_turn(
    order: random.Random, sources: Sources, run_once: Callable[[str, Path], Cost]
) -> dict[str, Cost]:
    return {way: run_once(way, sources[way]) for way in order.sample(list(sources), k=len(sources))}


def _at_once(
    _: random.Random, sources: Sources, run_once: Callable[[str, Path], Cost]
) -> dict[str, Cost]:
    with ThreadPoolExecutor(len(sources)) as threads:
        runs = {way: threads.submit(run_once, way, source) for way, source in sources.items()}
    return {way: run.result() for way, run in runs.items()}


def figures(
    rows: dict[str, int], ways: tuple[str, str], costs: Costs, startup: Costs
) -> dict[str, Any]:
    """Everything that is printed, from the measured costs; ``rows`` are those of each way."""
    base, other = ways
    start_s = {way: statistics.median(cost.cpu_s for cost in startup[way]) for way in ways}
    each = {way: [cost.cpu_s / rows[way] * 1e6 for cost in costs[way]] for way in ways}
    net = {
        way: [(cost.cpu_s - start_s[way]) / (rows[way] - 1) * 1e6 for cost in costs[way]]
        for way in ways
    }
    return {
        "rows": rows,
        "ways": {
            way: {
                "cpu_us_per_row": _spread(each[way]),
                "startup_cpu_s": start_s[way],
                "rows_per_s": _spread([rows[way] / cost.wall_s for cost in costs[way]]),
                "rss_max_mb": max(cost.rss_max_bytes for cost in costs[way]) / 1e6,
            }
            for way in ways
        },
        "ratio_of_medians": statistics.median(each[other]) / statistics.median(each[base]),
        "ratio_without_startup": statistics.median(net[other]) / statistics.median(net[base]),
        "ratios": [one / its for one, its in zip(each[other], each[base], strict=True)],
        "ratios_without_startup": [
            one / its for one, its in zip(net[other], net[base], strict=True)
        ],
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
    net = found["ratios_without_startup"]
    print(f"without start-up          {'  '.join(f'{ratio:.3f}' for ratio in net)}")
    print(f"                          median {_spread(net)['median']:.3f}")
