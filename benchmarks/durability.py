"""What the journal costs: CPU per row of `batchrun run`, divided by that of the same run without.

Both send the same rows to the same upstream and write the same parts, one after the other on one
core. no_journal.py is the run without: it keeps what is answered in memory until a shard is whole.
So the ratio is the price of not losing it: encoding, checksums, the log, its flushes, the notes of
requests in flight, and reading the log back.
"""

from pathlib import Path

import paired
from harness import HERE, Cost, measure_run, upstream


def main() -> None:
    """Measure and print."""
    options = paired.parser(__doc__, rows=20_000).parse_args()
    with upstream(reply_bytes=options.reply_bytes) as base_url:

        def run_once(way: str, source: Path) -> Cost:
            if way == "journal":
                return measure_run(source, base_url, options.concurrency)
            program = [str(HERE / "no_journal.py")]
            return measure_run(source, base_url, options.concurrency, program=program)

        paired.compare(options, ("none", "journal"), run_once)


if __name__ == "__main__":
    main()
