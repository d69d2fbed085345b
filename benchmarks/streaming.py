"""CPU per row of `batchrun run --stream` over that of the same run without it.

Both read the same rows and get the same answer, once as a stream of chunks and once whole, from
upstreams that differ in nothing else; one run after the other on one core, in pairs whose order is
shuffled. The figure is the ratio.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from harness import Cost, make_input, measure, upstream

WAYS = ("plain", "streamed")


def run_once(way: str, source: Path, base_url: str, concurrency: int) -> Cost:
    """Measure one run; its output is removed afterwards."""
    target = source.parent / f"output-{way}"
    command = [sys.executable, "-m", "batchrun", "run", str(source), "-o", str(target)]
    command += ["--model", "m", "--no-progress", "--base-url", base_url]
    command += ["--concurrency", str(concurrency)]
    if way == "streamed":
        command.append("--stream")
    try:
        return measure(command, room=source.parent)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--reply-bytes", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room, ExitStack() as servers:
        urls = {
            way: servers.enter_context(upstream(reply_bytes=options.reply_bytes, stream_chunks=cut))
            for way, cut in zip(WAYS, (None, options.chunks), strict=True)
        }
        full, single = Path(room, "rows.jsonl"), Path(room, "one.jsonl")
        make_input(full, options.rows)
        make_input(single, 1)
        order = random.Random(options.pairs)
        startup_s = statistics.median(
            run_once(way, single, urls[way], options.concurrency).cpu_s for way in WAYS * 2
        )
        costs: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.pairs):
            for way in order.sample(WAYS, k=len(WAYS)):
                cost = run_once(way, full, urls[way], options.concurrency)
                costs[way].append((cost.cpu_s - startup_s) / (options.rows - 1) * 1e6)
    ratios = [mine / plain for mine, plain in zip(costs["streamed"], costs["plain"], strict=True)]
    if options.json:
        print(json.dumps({"cpu_us_per_row": costs, "ratios": ratios, "startup_s": startup_s}))
        return
    print(f"{options.rows} rows, {options.chunks} chunks each; CPU us/row without start-up")
    for way in WAYS:
        found = costs[way]
        print(
            f"{way:10}{statistics.median(found):8.0f}  min {min(found):.0f}, max {max(found):.0f}"
        )
    print(
        f"ratio     {statistics.median(ratios):8.2f}  min {min(ratios):.2f}, max {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
