"""CPU per row of `batchrun run` over that of the bare loop in floor.py.

Both read the same rows and talk to the same upstream, one after the other on one core; with
`--tls`, both over TLS with verified certificates.
"""

import contextlib
import sys
from pathlib import Path

import paired
from harness import HERE, Cost, certificate, measure, measure_run, upstream


def main() -> None:
    """Measure and print."""
    parser = paired.parser(__doc__, rows=20_000)
    parser.add_argument("--tls", action="store_true", help="both over TLS")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        tls = stack.enter_context(certificate()) if options.tls else None
        trust = [] if tls is None else ["--ca-file", str(tls.authority)]
        base_url = stack.enter_context(upstream(reply_bytes=options.reply_bytes, tls=tls))

        def run_once(client: str, source: Path) -> Cost:
            if client == "batchrun":
                return measure_run(source, base_url, options.concurrency, *trust)
            answers = source.with_name("answers.jsonl")
            command = [sys.executable, str(HERE / "floor.py"), str(source), str(answers)]
            command += ["--base-url", base_url, "--concurrency", str(options.concurrency), *trust]
            return measure(command, room=source.parent)

        paired.compare(options, ("floor", "batchrun"), run_once)


if __name__ == "__main__":
    main()
