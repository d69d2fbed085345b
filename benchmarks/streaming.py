"""CPU per row of `batchrun run --stream` over that of the same run without it.

Both read the same rows and get the same answer, once as a stream of chunks and once whole, from
upstreams that differ in nothing else; one run after the other on one core.
"""

from pathlib import Path

import paired
from harness import Cost, measure_run, upstream


def main() -> None:
    """Measure and print."""
    parser = paired.parser(__doc__, rows=20_000)
    parser.add_argument("--chunks", type=int, default=50)
    options = parser.parse_args()
    with (
        upstream(reply_bytes=options.reply_bytes) as plain,
        upstream(reply_bytes=options.reply_bytes, stream_chunks=options.chunks) as streamed,
    ):

        def run_once(way: str, source: Path) -> Cost:
            if way == "plain":
                return measure_run(source, plain, options.concurrency)
            return measure_run(source, streamed, options.concurrency, "--stream")

        paired.compare(options, ("plain", "streamed"), run_once)


if __name__ == "__main__":
    main()
