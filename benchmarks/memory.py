"""Peak memory of `batchrun run` over a small and a large input: it must not grow with the rows."""

import argparse
import json
import tempfile
from pathlib import Path

from harness import make_input, measure_run, upstream


def main() -> None:
    """Measure each input size once and print the peaks and the growth between first and last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--reply-bytes", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--shard-rows", type=int, help="small ones make publishing the slowest")
    parser.add_argument("--max-mb", type=float, help="fail where a peak is above this")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    flags = [] if options.shard_rows is None else ["--shard-rows", str(options.shard_rows)]
    peaks_mb: dict[int, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="batchrun-bench-") as room,
        upstream(reply_bytes=options.reply_bytes) as base_url,
    ):
        for rows in options.rows:
            source = Path(room, f"{rows}.jsonl")
            make_input(source, rows)
            cost = measure_run(source, base_url, options.concurrency, *flags)
            peaks_mb[rows] = cost.rss_max_bytes / 1e6
            source.unlink()
    growth_mb = peaks_mb[options.rows[-1]] - peaks_mb[options.rows[0]]
    if options.json:
        print(json.dumps({"rss_max_mb": peaks_mb, "growth_mb": growth_mb}))
    else:
        for rows, peak_mb in peaks_mb.items():
            print(f"{rows:>10} rows {peak_mb:8.1f} MB", flush=True)
        print(f"{'growth':>15} {growth_mb:8.1f} MB")
    if options.max_mb is not None and max(peaks_mb.values()) > options.max_mb:
        raise SystemExit(f"more than {options.max_mb:g} MB")


if __name__ == "__main__":
    main()
