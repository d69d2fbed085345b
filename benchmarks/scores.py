"""What scores and metrics cost: CPU seconds and memory of ``batchrun score`` over many rows.

    .venv/bin/python benchmarks/scores.py [--rows 1000000]

A run directory is made by writing its parts directly; then five scores and six metrics, among them
one by group and one whose interval takes the jackknife, are computed in a process of its own.
Bounds: 30 s of CPU and 400 MB for a million rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.columns import schema as part_schema

SHARD_ROWS = 10_000
CPU_S_MAX, MEMORY_MB_MAX = 30.0, 400.0
EVALUATION = """
[scores]
correct = "exact(letter(content), expected)"
close = "close(num(content), value, 0.01)"
length = { sql = "len(content)", errors = "skip" }
named = "contains_text(content, expected)"
cheap = "completion_tokens < 100"
[metrics]
accuracy = "avg(correct)"
close = "avg(close)"
length = "avg(length)"
by_topic = { value = "avg(correct)", by = "topic", cluster = "passage" }
ratio = "sum(correct) / sum(cheap)"
p95 = "quantile_cont(latency_s, 0.95)"
[gates]
accuracy = ">= 0.1"
"""


def make(folder: Path, rows: int) -> None:
    """Write the results of a run that never was, and its summary."""
    carried = pa.schema(
        [
            ("expected", pa.string()),
            ("value", pa.float64()),
            ("topic", pa.string()),
            ("passage", pa.int64()),
        ]
    )
    schema = part_schema.results_schema(carried)
    for kind in ("results", "checkpoint"):
        (folder / kind).mkdir(parents=True)
    errors = 0
    for shard, first in enumerate(range(0, rows, SHARD_ROWS)):
        numbers = range(first, min(rows, first + SHARD_ROWS))
        failed = [n % 997 == 0 for n in numbers]
        errors += sum(failed)
        given = {
            "row": list(numbers),
            "custom_id": [f"id-{n}" for n in numbers],
            "status": ["error" if bad else "ok" for bad in failed],
            "content": [
                None
                if bad
                else f"The passage says so in line {n % 90}, and twice. Answer: {'ABCD'[n % 4]}, "
                f"about {n % 1000:,}.5 points"
                for n, bad in zip(numbers, failed, strict=True)
            ],
            "completion_tokens": [n % 200 for n in numbers],
            "latency_s": [n % 100 / 10 for n in numbers],
            "response": [json.dumps({"n": n, "text": "x" * 400}) for n in numbers],
            "expected": ["ABCD"[n % 3] for n in numbers],
            "value": [n % 1000 + 0.5 for n in numbers],
            "topic": [f"topic {n % 7}" for n in numbers],
            "passage": [n // 10 for n in numbers],
        }
        table = pa.table(
            [
                pa.array(given[field.name], field.type)
                if field.name in given
                else pa.nulls(len(numbers), field.type)
                for field in schema
            ],
            schema=schema,
        )
        path = folder / "results" / f"part-{shard:08d}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=1024)
    summary = {
        "status": "complete_with_errors",
        "exit_code": 1,
        "rows": {"input": rows, "ok": rows - errors, "error": errors, "pending": 0},
        "totals": {"cost_usd": None},
        "errors": {"timeout": errors},
        "settings": {},
        "version": "0",
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def main() -> None:
    """Measure, and fail where it is more than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as room:
        folder, config = Path(room, "run"), Path(room, "c.toml")
        make(folder, rows)
        config.write_text(EVALUATION)
        command = [sys.executable, "-m", "batchrun", "score", str(folder), "-c", str(config)]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout, end="")
    cpu_s, memory_mb = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"{rows:,} rows, 5 scores, 6 metrics: {cpu_s:.1f} s of CPU, {memory_mb:.0f} MB")
    bound_s = CPU_S_MAX * max(rows, 100_000) / 1_000_000
    if done.returncode or cpu_s > bound_s or memory_mb > MEMORY_MB_MAX:
        sys.exit(f"more than {bound_s:.0f} s or {MEMORY_MB_MAX:.0f} MB, or it failed")


if __name__ == "__main__":
    main()
