"""What `batchrun compare` takes for a million rows against a million: CPU and memory.

Two run directories of the same rows, with two scores and three metrics (a share, a mean by group, a
median by jackknife); 4 of 100 answers differ. With ``--shuffled`` the second run has its rows in
another order. The command runs as a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.harness.finished_runs import write_run

CONFIG = """
[scores]
correct = "exact(last_match(content, 'answer is (.)'), expected)"
length = "len(content)"
[metrics]
accuracy = "avg(correct)"
by_topic = { value = "avg(length)", by = "topic" }
median_length = "median(length)"
[gates.compare]
baseline = "baseline"
accuracy = { not_worse_by = 0.01 }
"""
WORDS = "the model thinks that one of these is what was asked for here and so".split()
CARRIED = [("topic", pa.string()), ("expected", pa.string())]


def rows(count: int, seed: int, order: list[int]) -> Iterator[dict[str, Any]]:
    """Rows of a run; of other seeds, 4 of 100 answer otherwise."""
    for number in order:
        dice = random.Random(number)
        answer = dice.choice("ABCD")
        text = " ".join(dice.choices(WORDS, k=40))
        if seed and random.Random(number + count * seed).random() < 0.04:
            answer = random.Random(number * 3 + seed).choice("ABCD")
        yield {
            "custom_id": f"row-{number}",
            "content": f"{text}. The answer is {answer}.",
            "model": "m",
            "prompt_tokens": 100,
            "completion_tokens": 50 + number % 7,
            "cost_usd": 0.001 * (1 + number % 5),
            "latency_s": 0.5 + dice.random(),
            "topic": f"topic-{number % 20}",
            "expected": dice.choice("ABCD"),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--folder", type=Path, help="Keep the runs here, and use them again.")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="batchrun-compare-"))
    try:
        for seed, name in enumerate("ab"):
            if not (folder / name).exists():
                order = list(range(options.rows))
                if seed and options.shuffled:
                    random.Random(1).shuffle(order)
                write_run(folder / name, rows(options.rows, seed, order), CARRIED)
        config = folder / "config.toml"
        config.write_text(CONFIG)
        command = [sys.executable, "-m", "batchrun", "compare", folder / "a", folder / "b"]
        done = subprocess.run(
            [*command, "-c", config, "--json"], stdout=subprocess.PIPE, check=False
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = json.loads(done.stdout)
        print(
            f"{found['pairs']:,} pairs, exit {done.returncode}: "
            f"{used.ru_utime + used.ru_stime:.1f} s of CPU, {used.ru_maxrss / 1024:.0f} MB, "
            f"on {os.cpu_count()} cores"
        )
        print(json.dumps({name: found[name] for name in ("scores", "metrics")}, indent=1))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
