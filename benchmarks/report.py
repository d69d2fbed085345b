"""CPU, memory and bytes of ``batchrun report`` by the number of rows: none may grow without bounds.

    python benchmarks/report.py [ROWS]...

The rows of a small run are repeated under other numbers and ids; the state of the run is the small
one's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = (10, 10_000, 1_000_000)
PART_ROWS, GROUP_ROWS = 10_000, 1_024
COMMAND = (sys.executable, "-m", "batchrun")


def make(folder: Path, rows: int) -> Path:
    """A run directory whose results have so many rows."""
    source, run = folder / "rows.jsonl", folder / f"run-{rows}"
    message = {"role": "user", "content": "What is it? " * 20}
    line = json.dumps({"model": "m", "messages": [message], "topic": "a<b"})
    source.write_text(f"{line}\n" * min(rows, 2_000))
    flags = ("--provider", "simulator", "--no-progress", "--quiet")
    subprocess.run([*COMMAND, "run", source, "-o", run, *flags], check=True)
    parts = run / "results"
    small = pq.read_table(parts)
    for part in range(-(-rows // PART_ROWS)):
        first, count = part * PART_ROWS, min(PART_ROWS, rows - part * PART_ROWS)
        table = pa.concat_tables([small] * (-(-count // len(small)))).slice(0, count)
        numbers = pa.array(range(first, first + count), pa.int64())
        ids = pa.array([f"id-{n}" for n in range(first, first + count)], pa.string())
        table = table.set_column(0, "row", numbers).set_column(1, "custom_id", ids)
        name = parts / f"part-{part:08d}.parquet"
        pq.write_table(table, name, row_group_size=GROUP_ROWS, compression="zstd")
    return run


def main(counts: list[int]) -> None:
    """Print a line for each number of rows."""
    print(f"{'rows':>10} {'CPU s':>7} {'peak MB':>8} {'bytes':>8}")
    for rows in counts:
        with tempfile.TemporaryDirectory() as folder:
            run = make(Path(folder), rows)
            child = subprocess.Popen([*COMMAND, "report", run], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            size = (run / "report.html").stat().st_size
            cpu_s = usage.ru_utime + usage.ru_stime
            print(f"{rows:>10,} {cpu_s:>7.1f} {usage.ru_maxrss / 1024:>8.0f} {size:>8,}")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or list(ROWS))
