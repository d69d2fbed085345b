"""How much sooner a run ends when its longest answers start first.

The real engine on virtual time, with an answer's seconds drawn from a lognormal distribution. The
ideal is the work divided by what is in flight, or the longest answer if that takes longer. Known
lengths are those of the answers times a random factor, such that both correlate by so much.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from batchrun.records import Request
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.virtual import run_virtual
from tests.harness.rig import Rig


class Known:
    """``engine.row_order.Lengths`` from a list."""

    def __init__(self, lengths: Sequence[float]) -> None:
        self._lengths = lengths

    async def known(self, requests: Sequence[Request]) -> Mapping[int, float]:
        """See ``Lengths``."""
        return {request.row: self._lengths[request.row] for request in requests}


def makespan(seconds: Sequence[float], in_flight: int, known: Sequence[float] | None) -> float:
    """Virtual seconds of a run whose answers take so long."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        rig = Rig(
            len(seconds),
            transport=FakeTransport(latency_s=lambda request: seconds[request.row]),
            concurrency=in_flight,
            shard_rows=1000,
            lengths=None if known is None else Known(known),
        )
        await rig.run()
        return loop.time() - began_s

    return run_virtual(run())


def draw(rows: int, sigma: float, likeness: float, seed: int) -> tuple[list[float], list[float]]:
    """Seconds of answers with a median of 10, and what is known of them; their logarithms correlate
    by ``likeness``.
    """
    dice = random.Random(seed)
    real, known = [], []
    for _ in range(rows):
        normal, noise = dice.gauss(0, 1), dice.gauss(0, 1)
        real.append(10 * math.exp(sigma * normal))
        told = likeness * normal + math.sqrt(1 - likeness**2) * noise
        known.append(10 * math.exp(sigma * told))
    return real, known


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--sigma", type=float, default=0.9)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.rows:,} rows, {options.in_flight} in flight, sigma {options.sigma:g}")
    print("makespan over the ideal, median of seeds (smallest to largest)")
    for likeness in (None, 0.3, 0.6, 0.9, 1.0):
        ratios = []
        for seed in range(options.seeds):
            seconds, known = draw(options.rows, options.sigma, likeness or 0.0, seed)
            ideal = max(sum(seconds) / options.in_flight, *seconds)
            told = None if likeness is None else known
            ratios.append(makespan(seconds, options.in_flight, told) / ideal)
        name = "input order" if likeness is None else f"lengths known, likeness {likeness:g}"
        middle = statistics.median(ratios)
        print(f"{name:30} {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
