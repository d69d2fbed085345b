"""CPU per row of `batchrun run` over that of the bare loop in floor.py.

Both read the same rows and talk to the same upstream, one after the other on one core.
"""

import sys
from pathlib import Path

import paired
from harness import HERE, Cost, measure, measure_run, upstream


def main() -> None:
    """Measure and print."""
    options = paired.parser(__doc__, rows=20_000).parse_args()
    with upstream(reply_bytes=options.reply_bytes) as base_url:

        def run_once(client: str, source: Path) -> Cost:
            if client == "batchrun":
                return measure_run(source, base_url, options.concurrency)
            answers = source.with_name("answers.jsonl")
            command = [sys.executable, str(HERE / "floor.py"), str(source), str(answers)]
            command += ["--base-url", base_url, "--concurrency", str(options.concurrency)]
            return measure(command, room=source.parent)

        paired.compare(options, ("floor", "batchrun"), run_once)


if __name__ == "__main__":
    main()
