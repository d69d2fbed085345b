"""Hours under every fault: nothing may grow, and nothing may be lost.

Two simulated endpoints, processes of their own, answer with every error that does not stop a run,
drop and cut connections, stall, send garbage and broken streams. Three legs share the time:

- *plain*: one run over an endless pipe of rows,
- *streamed*: the same with --stream,
- *killed*: run directories that are run, killed at random and resumed until they are complete.

Once a second the run's memory, open files, threads and logs are read from /proc and its checkpoint.
The soak fails where memory, open files or threads of an endless run grow after its warm-up, where
the logs outgrow their bound, where a run ends otherwise than it should, and where `verify` finds
anything, or other rows than were written into the pipe.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from harness import ROOT, make_input

BATCHRUN = [sys.executable, "-m", "batchrun"]
ENDS_THE_ROW = (
    "400 400-llama 400-sglang 400-tgi 400-filter 400-azure 400-invalid 400-tool 403-moderation 410 "
    "413 422 429-too-large 402-weight 501"
).split()
IS_TRIED_AGAIN = (
    "402-in-flight 429 429-slow-down 408 409 421 424 425 498 499 500 502 503 503-loading 503-queue "
    "504 520 521 522 523 524 525 526 529 530 200-flat 200-nested 200-array 200-text 200-empty "
    "200-null 200-unfinished"
).split()
OTHERS = {
    "drop": 0.004,
    "cut": 0.004,
    "stall": 0.0003,
    "garbage": 0.002,
    "error-200": 0.002,
    "stream-end": 0.003,
    "stream-stall": 0.0003,
    "stream-error": 0.003,
    "no-done": 0.003,
    "odd-framing": 0.02,
    "truncated": 0.005,
    "empty": 0.005,
}
"""Shares of all requests. What stops a run (a key, a quota, a path) has no place in a soak."""
CONCURRENCY = 32
SHARD_ROWS = 2000
KILLED_ROWS = 20_000
GROWTH_MB_MAX = 8.0
GROWTH_SHARE_MAX = 0.06
"""Memory may be so much higher in the last quarter than in the second, by their medians."""
FILES_MAX = 8
"""The same of open files: connections come and go, with every cut one."""
LOGS_MB_MAX = 512.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    at_s: float
    rss_mb: float
    files: int
    threads: int
    logs_mb: float
    rows: int


@dataclass(slots=True)
class Leg:
    """What became of one part of the soak."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    rows: int = 0
    sessions: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)

    def claim(self, holds: bool, text: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Something that must hold."""
        if not holds:
            self.problems.append(f"{self.name}: {text}")


@contextlib.contextmanager
def endpoints(room: Path) -> Iterator[Path]:
    """Two simulated endpoints, and a config file that names them."""
    faults = [f"--error={name}=0.0005" for name in ENDS_THE_ROW]
    faults += [f"--error={name}=0.001" for name in IS_TRIED_AGAIN]
    faults += [f"--{name}={share}" for name, share in OTHERS.items()]
    with contextlib.ExitStack() as stack:
        tables = []
        for number in (1, 2):
            command = [*BATCHRUN, "simulate", "--json", "--no-detail", f"--seed={number}", *faults]
            command += ["--latency=lognormal:0.02:0.5", "--retry-after=0.2"]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), cwd=room)
            )
            stack.callback(process.terminate)
            assert process.stdout is not None
            base_url = json.loads(process.stdout.readline())["base_url"]
            tables.append(
                f'[[endpoint]]\nname = "sim-{number}"\nbase_url = "{base_url}"\n'
                f"concurrency = {CONCURRENCY}\n"
            )
        config = room / "soak.toml"
        config.write_text(
            "".join(tables) + "[retry]\ntimeout_s = 5.0\nmax_attempts = 6\n"
            '[guards]\nmax_failures = "50%"\n',
            encoding="utf-8",
        )
        yield config


def environment() -> dict[str, str]:
    """That of this process, without what would lead the runs elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OPENAI_") and not name.lower().endswith("_proxy")
    }
    return kept | {"PYTHONPATH": str(ROOT)}


def command(config: Path, source: str, target: Path, *, stream: bool) -> list[str]:
    """The run."""
    run = [*BATCHRUN, "run", source, "-o", str(target), "-c", str(config), "--model", "m"]
    run += ["--no-progress", "--shard-rows", str(SHARD_ROWS), "--grace", "5"]
    return [*run, "--stream" if stream else "--no-stream"]


def sample(process: int, target: Path, started_s: float) -> Sample | None:
    """Look at a run; None where it has just ended."""
    proc = Path(f"/proc/{process}")
    try:
        pages = int((proc / "statm").read_text(encoding="ascii").split()[1])
        files = len(list((proc / "fd").iterdir()))
        threads = len(list((proc / "task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    rows, logs = 0, 0
    with contextlib.suppress(OSError, ValueError):
        live = json.loads((target / "checkpoint/status.json").read_bytes())
        rows = live["ok"] + live["error"]
    for log in target.glob("checkpoint/shard-*.log"):
        with contextlib.suppress(FileNotFoundError):
            logs += log.stat().st_size
    rss_mb = pages * resource.getpagesize() / 1e6
    at_s = time.monotonic() - started_s
    return Sample(at_s, rss_mb, files, threads, logs / 1e6, rows)


def feed(pipe: IO[bytes], lines: Sequence[bytes], until_s: float) -> list[int]:
    """Write rows for as long as the leg lasts; returns a list that gets their number."""
    written: list[int] = []

    def write() -> None:
        count = 0
        with contextlib.suppress(BrokenPipeError):
            while time.monotonic() < until_s:
                # Every row is a request of its own: the simulator draws faults by the request.
                pipe.write(lines[count % len(lines)].replace(b"Ticket ", b"Ticket %d-" % count))
                count += 1
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        written.append(count)

    threading.Thread(target=write, daemon=True).start()
    return written


def endless(leg: Leg, room: Path, config: Path, seconds: float, *, stream: bool) -> None:
    """One run over a pipe that is fed for so long."""
    target = room / leg.name
    lines = (room / "rows.jsonl").read_bytes().splitlines(keepends=True)
    started_s = time.monotonic()
    log = room / f"{leg.name}.log"
    with (
        log.open("wb") as words,
        subprocess.Popen(
            command(config, "-", target, stream=stream),
            stdin=subprocess.PIPE, stdout=words, stderr=words, env=environment(), cwd=room,
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        written = feed(process.stdin, lines, started_s + seconds)
        while process.poll() is None:
            seen = sample(process.pid, target, started_s)
            if seen is not None and time.monotonic() - started_s < seconds:
                leg.samples.append(seen)
            time.sleep(1.0)
    leg.sessions += 1
    leg.claim(process.returncode in (0, 1), f"exit code {process.returncode}: {last_words(log)}")
    check(leg, room, target, sum(written))
    judge(leg)


def judge(leg: Leg) -> None:
    """Hold the last quarter of an endless run against its second."""
    quarter = len(leg.samples) // 4
    if quarter < 5:
        leg.problems.append(f"{leg.name}: {len(leg.samples)} samples are too few to judge by")
        return
    early, late = leg.samples[quarter : 2 * quarter], leg.samples[-quarter:]
    was = statistics.median(one.rss_mb for one in early)
    grown = statistics.median(one.rss_mb for one in late) - was
    leg.claim(grown <= max(GROWTH_MB_MAX, GROWTH_SHARE_MAX * was), f"memory grew by {grown:.1f} MB")
    more = statistics.median(one.files for one in late) - statistics.median(
        one.files for one in early
    )
    leg.claim(more <= FILES_MAX, f"{more:.0f} more files are open")
    new = max(one.threads for one in late) - max(one.threads for one in leg.samples[:-quarter])
    leg.claim(new <= 0, f"{new} more threads")
    logs = max(one.logs_mb for one in leg.samples)
    leg.claim(logs <= LOGS_MB_MAX, f"the logs took {logs:.0f} MB")


def killed(leg: Leg, room: Path, config: Path, seconds: float) -> None:
    """Run directories that are killed and resumed until they are complete, one after another."""
    draw, until_s, number = random.Random(7), time.monotonic() + seconds, 0
    started_s = time.monotonic()
    while time.monotonic() < until_s:
        number += 1
        target, log = room / f"killed-{number}", room / "killed.log"
        run = command(config, "rows.jsonl", target, stream=number % 2 == 0)
        code, kills_left = None, draw.randint(2, 6)
        while code is None:
            with log.open("wb") as words:
                process = subprocess.Popen(
                    run, stdin=subprocess.DEVNULL, stdout=words, stderr=words,
                    env=environment(), cwd=room,
                )  # fmt: skip
            leg.sessions += 1
            end_s = time.monotonic() + draw.uniform(1.5, 8.0)
            while process.poll() is None and (not kills_left or time.monotonic() < end_s):
                seen = sample(process.pid, target, started_s)
                if seen is not None:
                    leg.samples.append(seen)
                time.sleep(1.0 if not kills_left else 0.25)
            if process.poll() is None:
                process.kill()
                process.wait()
                leg.kills += 1
                kills_left -= 1
            else:
                code = process.returncode
        leg.claim(code in (0, 1), f"exit code {code}: {last_words(log)}")
        left = [path.name for path in target.rglob("*.tmp")]
        left += [path.name for path in target.glob("checkpoint/shard-*.log")]
        leg.claim(not left, f"{left} was left behind")
        check(leg, room, target, KILLED_ROWS)


def check(leg: Leg, room: Path, target: Path, rows: int) -> None:
    """Every row has an outcome, and `verify` agrees; then the directory goes."""
    try:
        summary = json.loads((target / "summary.json").read_bytes())
    except (OSError, ValueError) as error:
        leg.problems.append(f"{leg.name}: no summary: {error}")
        return
    counts = summary["rows"]
    whole = counts["input"] == rows == counts["ok"] + counts["error"] and counts["pending"] == 0
    leg.claim(whole, f"{rows:,} rows were written, and the summary has {counts}")
    leg.claim(counts["ok"] > rows // 2, f"only {counts['ok']:,} of {rows:,} rows are ok")
    done = subprocess.run(
        [*BATCHRUN, "verify", str(target), "--json"],
        stdin=subprocess.DEVNULL, capture_output=True, env=environment(), cwd=room, check=False,
    )  # fmt: skip
    leg.claim(done.returncode == 0, f"verify: {(done.stdout + done.stderr)[-1000:]!r}")
    leg.rows += rows
    if not leg.problems:
        shutil.rmtree(target)


def last_words(log: Path) -> str:
    """The end of what a run said."""
    return log.read_text("utf-8", errors="replace")[-500:]


def show(legs: Sequence[Leg]) -> None:
    """Print ten moments of each leg, and what they come to."""
    print(f"{'leg':10}{'s':>7}{'rows':>11}{'RSS MB':>9}{'files':>7}{'threads':>9}{'logs MB':>9}")
    for leg in legs:
        step = max(1, len(leg.samples) // 10)
        for one in leg.samples[::step]:
            print(
                f"{leg.name:10}{one.at_s:7.0f}{one.rows:11,}{one.rss_mb:9.1f}{one.files:7}"
                f"{one.threads:9}{one.logs_mb:9.1f}"
            )
    print()
    for leg in legs:
        print(f"{leg.name:10}" + "  ".join(f"{k} {v:,}" for k, v in totals(leg).items()))


def totals(leg: Leg) -> dict[str, float]:
    """A leg in figures. The slope is that of the samples behind the first quarter."""
    found: dict[str, float] = {
        "rows": leg.rows,
        "sessions": leg.sessions,
        "kills": leg.kills,
        "most_mb": round(max((one.rss_mb for one in leg.samples), default=0.0), 1),
        "most_files": max((one.files for one in leg.samples), default=0),
        "most_threads": max((one.threads for one in leg.samples), default=0),
        "most_logs_mb": round(max((one.logs_mb for one in leg.samples), default=0.0), 1),
    }
    warm = leg.samples[len(leg.samples) // 4 :]
    if leg.sessions == 1 and len(warm) > 2:
        fit = statistics.linear_regression([s.at_s for s in warm], [s.rss_mb for s in warm])
        found["slope_mb_per_min"] = round(60 * fit.slope, 2)
    return found


def main() -> None:
    """Soak, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    legs = [Leg("plain"), Leg("streamed"), Leg("killed")]
    plain, streamed, torn = legs
    with tempfile.TemporaryDirectory(prefix="batchrun-soak-") as place:
        room = Path(place)
        make_input(room / "rows.jsonl", KILLED_ROWS)
        with endpoints(room) as config:
            endless(plain, room, config, 0.35 * options.seconds, stream=False)
            endless(streamed, room, config, 0.35 * options.seconds, stream=True)
            killed(torn, room, config, 0.3 * options.seconds)
    problems = [text for leg in legs for text in leg.problems]
    if options.json:
        samples = {leg.name: [asdict(one) for one in leg.samples] for leg in legs}
        figures = {leg.name: totals(leg) for leg in legs}
        found: dict[str, Any] = {"problems": problems, "legs": figures, "samples": samples}
        print(json.dumps(found))
    else:
        show(legs)
    for text in problems:
        print(f"FAILED {text}", file=sys.stderr)
    if problems:
        raise SystemExit(1)
    print("nothing grew and nothing was lost", file=sys.stderr)


if __name__ == "__main__":
    main()
