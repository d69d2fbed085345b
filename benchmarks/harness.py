"""What the benchmarks share: an input, an upstream on its own core, and measured child processes.

This module and the scripts that import it load the standard library only: a child's peak memory, as
the kernel reports it, is never below what its parent held when it was started.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

WORDS = (
    "order parcel invoice refund delivery account password colour size kettle lamp jacket receipt "
    "courier street Monday Friday yesterday please again still twice never number button screen "
    "battery cable charger 订单 退款 发票 快递 地址 客服 颜色 尺码"
).split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one child process took."""

    cpu_s: float  # user and system time, of its threads and children too
    wall_s: float
    rss_max_bytes: int
    ended: bool = True  # by itself; False: it was killed at the time limit


def make_input(path: Path, rows: int) -> None:
    """Write `rows` JSON Lines of about 500 bytes: `messages` and three fields to carry along."""
    draw = random.Random(rows)
    with path.open("w", encoding="utf-8") as lines:
        for number in range(rows):
            question = " ".join(draw.choices(WORDS, k=40))
            row = {
                "messages": [
                    {"role": "system", "content": "Summarise the ticket in one sentence."},
                    {"role": "user", "content": f"Ticket {number}: {question}."},
                ],
                "ticket": f"T-{number:08d}",
                "lang": draw.choice(["en", "zh"]),
                "priority": draw.randrange(5),
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of a server on the loopback interface: what it shows, and who vouches for it."""

    chain: Path
    key: Path
    authority: Path


@contextmanager
def certificate() -> Iterator[Certificate]:
    """A new one, signed by an authority of its own, while this lasts.

    Another process makes it, so that this one stays small.
    """
    with tempfile.TemporaryDirectory(prefix="batchrun-tls-") as room:
        command = [sys.executable, "-m", "trustme", "--quiet", "--dir", room]
        subprocess.run([*command, "--identities", "127.0.0.1"], check=True)
        folder = Path(room)
        yield Certificate(folder / "server.pem", folder / "server.key", folder / "client.pem")


@contextmanager
def upstream(
    *,
    reply_bytes: int,
    latency_s: float = 0.0,
    stream_chunks: int | None = None,
    tls: Certificate | None = None,
    account: dict[str, float] | None = None,
) -> Iterator[str]:
    """Serve fixed replies from the second core; this process and its children keep to the first.

    With `stream_chunks` they are streams of so many chunks. Yields the base URL. When the server
    has ended, `account` holds what it counted: the fields of `Account` in upstream.py.
    """
    command = [sys.executable, str(HERE / "upstream.py"), f"--reply-bytes={reply_bytes}"]
    if stream_chunks is not None:
        command.append(f"--stream={stream_chunks}")
    if tls is not None:
        command += ["--tls", str(tls.chain), str(tls.key)]
    # Not the core of this process and its children, to which it may have kept for a while already.
    command.append(f"--core={CORES[-1]}")
    with subprocess.Popen(
        [*command, f"--latency={latency_s}"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            base_url = server.stdout.readline().strip()
            if not base_url:
                raise SystemExit("benchmarks/upstream.py did not start")
            os.sched_setaffinity(0, CORES[:1])
            yield base_url
        finally:
            os.sched_setaffinity(0, CORES)
            server.terminate()
            if server.stdout is not None and (counted := server.stdout.read()):
                (account if account is not None else {}).update(json.loads(counted))


def measure(
    command: Sequence[str],
    *,
    room: Path,
    more_env: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> Cost:
    """Run a command in the directory `room` to its end, or kill it after `limit_s` seconds.

    Raises SystemExit with the command's last words if it fails: a failed run has no cost.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OPENAI_") and not name.lower().endswith("_proxy")
    }
    # Modules are compiled once, as those of an installed package are: 0.2 s of every start-up.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env |= {"OPENAI_API_KEY": "bench", "PYTHONPATH": str(ROOT)} | dict(more_env or {})
    log = room / "last.log"
    with log.open("wb") as words:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=room, env=env, stdin=subprocess.DEVNULL, stdout=words, stderr=words
        )
        try:
            with _killed_after(limit_s, child.pid) as late:
                _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        wall_s = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode and not late.is_set():
        last_words = log.read_text("utf-8", errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(command)}\nended with {child.returncode}:\n{last_words}")
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=wall_s,
        rss_max_bytes=usage.ru_maxrss * 1024,
        ended=not late.is_set(),
    )


@contextmanager
def _killed_after(limit_s: float | None, pid: int) -> Iterator[threading.Event]:
    """Kill the process if this lasts longer; the event tells whether it came to that."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(threading.TIMEOUT_MAX if limit_s is None else limit_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def measure_run(
    source: Path,
    base_url: str,
    concurrency: int,
    *flags: str,
    program: Sequence[str] = ("-m", "batchrun"),
) -> Cost:
    """Measure `batchrun run` over the rows of `source`. Its output is looked at and removed.

    Raises SystemExit where not every row has an answer.
    """
    target = source.parent / "output"
    command = [sys.executable, *program, "run", str(source), "-o", str(target), "--model", "m"]
    command += ["--no-progress", "--base-url", base_url, "--concurrency", str(concurrency)]
    try:
        cost = measure([*command, *flags], room=source.parent)
        rows = json.loads((target / "summary.json").read_bytes())["rows"]
        if rows["ok"] != rows["input"]:
            raise SystemExit(f"{command}: {rows}")
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return cost
