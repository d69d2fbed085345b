"""What reading input costs: memory over many rows, skipping, and the first row of a resumed run.

Each figure comes from a process of its own that reads with the real readers, carried columns
included, and sends nothing. `grown` is how much more memory it held at the end than after the first
tenth of the rows; `first row` is CPU time from opening the input to the first row of a resume.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from harness import make_input

SHARD_ROWS = 10_000
KINDS = ("jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "parquet", "parquet, one row group")


def main() -> None:
    """Make the inputs, measure each in a process of its own, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="rows read to measure memory")
    parser.add_argument("--resume-rows", type=int, default=1_000_000, help="rows of a resumed run")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, metavar="KIND")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--convert", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, path, rows = options.measure
        print(json.dumps(MEASURES[what](path, int(rows))))
        return
    if options.convert:
        _convert(*options.convert)
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room:
        for kind in options.kinds:
            path = _made(Path(room), kind, options.rows)
            found[kind] = _measured("read", path, options.rows)
            path.unlink()
            path = _made(Path(room), kind, options.resume_rows)
            found[kind] |= _measured("resume", path, options.resume_rows)
            path.unlink()
            if not options.json:
                print(f"{kind:24}" + "".join(f"{k} {v:,.1f}   " for k, v in found[kind].items()))
    if options.json:
        print(json.dumps(found))


def _measured(what: str, path: Path, rows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, str(path), str(rows)]
    done = subprocess.run(command, check=True, capture_output=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _made(room: Path, kind: str, rows: int) -> Path:
    """The input, made by a process that may hold what it likes."""
    path = room / f"rows.{kind.partition(',')[0]}"
    plain = room / "plain.jsonl"
    make_input(plain, rows)
    if kind == "jsonl":
        return plain
    command = [sys.executable, __file__, "--convert", kind, str(plain), str(path), str(rows)]
    subprocess.run(command, check=True)
    plain.unlink()
    return path


def _convert(kind: str, plain: str, to: str, rows: str) -> None:
    """Write the rows of a JSON Lines file as another kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with Path(plain).open(encoding="utf-8") as lines:
        if kind.startswith("parquet"):
            size = int(rows) if "," in kind else 20_000
            group = [_cells(line) for line in islice(lines, size)]
            with pq.ParquetWriter(to, pa.Table.from_pylist(group[:1]).schema) as writer:
                while group:
                    writer.write_table(pa.Table.from_pylist(group), row_group_size=size)
                    group = [_cells(line) for line in islice(lines, size)]
            return
        packing = {"gz": "gzip", "zst": "zstd"}.get(to.rpartition(".")[2])
        with pa.output_stream(to, compression=packing) as out:
            if kind.startswith("csv"):
                out.write(b"messages,ticket,lang,priority\n")
            for line in lines:
                out.write((line if kind.startswith("jsonl") else _record(line)).encode())


def _cells(line: str) -> dict[str, object]:
    row: dict[str, object] = json.loads(line)
    return row | {"messages": json.dumps(row["messages"], ensure_ascii=False)}


def _record(line: str) -> str:
    cells = (str(cell).replace('"', '""') for cell in _cells(line).values())
    return ",".join(f'"{cell}"' for cell in cells) + "\n"


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def read(path: str, rows: int) -> dict[str, float]:
    """Read all rows; how fast, and how memory grew."""
    from batchrun.adapters.sources import opening
    from batchrun.records import Position, Span

    given = opening.find([path], "auto")
    reader = given.reader(given.carry("all", SHARD_ROWS), SHARD_ROWS)
    started_s, seen, early_mb, most_mb = time.process_time(), 0, 0.0, 0.0
    for block in reader.blocks([Span(0, None, Position())], limit=None):
        seen += len(block.rows)
        if seen < rows // 10:
            early_mb = max(early_mb, _rss_mb())
        most_mb = max(most_mb, _rss_mb())
    assert seen == rows, seen
    cpu_s = time.process_time() - started_s
    return {"rows/s": rows / cpu_s, "most MB": most_mb, "grown MB": most_mb - early_mb}


def resume(path: str, rows: int) -> dict[str, float]:
    """Enter the input at its middle, as a resumed run does."""
    from batchrun.adapters.sources import opening
    from batchrun.records import Position, Span

    shard = rows // 2 // SHARD_ROWS
    given = opening.find([path], "auto")
    carry = given.carry("all", SHARD_ROWS)
    reader = given.reader(carry, SHARD_ROWS)
    end = Position()
    for block in reader.blocks([Span(0, shard - 1, Position())], limit=None):
        end = block.end
    started_s = time.process_time()
    given = opening.find([path], "auto")
    blocks = given.reader(carry, SHARD_ROWS).blocks([Span(shard, None, end)], limit=None)
    first = next(iter(blocks)).first_row
    cpu_s = time.process_time() - started_s
    assert first == shard * SHARD_ROWS, first
    figures = {"first row s": cpu_s}
    if not path.endswith("parquet"):
        figures["skipped MB/s"] = end.offset / 1e6 / cpu_s
    return figures


MEASURES: dict[str, Callable[[str, int], dict[str, float]]] = {"read": read, "resume": resume}

if __name__ == "__main__":
    main()
