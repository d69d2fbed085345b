"""batchrun and other libraries over the same rows, against the same server, one after the other.

Every run has a fresh server on the second core and the client alone on the first. A round runs
every client once, in shuffled order; figures are medians over the rounds. A run that takes longer
than the limit is killed, and counts for what the server had answered by then. `limits.py` has the
second part, servers with limits. The page is written after each situation, from all that has been
measured: a situation that is measured again replaces what stands there.
"""

import argparse
import datetime as dt
import itertools
import os
import platform
import random
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import limits
import results
from harness import CORES, Certificate, certificate, make_input, measure, upstream
from roster import CLIENTS, Client, NotInstalledError

REPLY_BYTES = 2048
Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much is measured."""

    rows: tuple[int, ...]
    runs: int
    limit_s: float  # per run
    pace_s: int  # how long a run of limits.py takes at the server's limit
    pace_runs: int
    start_ups: int


FULL = Plan(rows=(5_000, 50_000), runs=5, limit_s=120.0, pace_s=60, pace_runs=3, start_ups=3)
QUICK = Plan(rows=(5_000,), runs=3, limit_s=30.0, pace_s=12, pace_runs=1, start_ups=1)


def rounds(
    clients: list[Client], runs: int, run_once: Callable[[Client], Run]
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run every client ``runs`` times, in an order that changes.

    Returns the runs of each, and the last words of those that failed, which are not run again.
    """
    found: dict[str, list[Run]] = {client.name: [] for client in clients}
    failed: dict[str, str] = {}
    order = random.Random(runs)
    for number in range(runs):
        for client in order.sample(clients, k=len(clients)):
            if client.name in failed:
                continue
            load = os.getloadavg()[0]
            try:
                run = run_once(client)
            except SystemExit as error:
                failed[client.name] = str(error).strip().splitlines()[-1]
                print(f"  {client.name} failed: {error}", file=sys.stderr, flush=True)
                continue
            found[client.name].append(run | {"load": load})
            said = f"{run['cpu_s']:.1f} s CPU, {run['wall_s']:.1f} s"
            print(f"  round {number + 1}: {client.name}: {said}", file=sys.stderr, flush=True)
    return {name: runs for name, runs in found.items() if runs}, failed


def measure_client(
    client: Client,
    source: Path,
    *,
    concurrency: int,
    latency_s: float = 0.0,
    tls: Certificate | None = None,
    limit_s: float | None = None,
) -> Run:
    """One run: its cost, the server's account, and the rows that have an answer in the output.

    Raises SystemExit if the client fails.
    """
    account: dict[str, float] = {}
    _clean(source)
    with upstream(
        reply_bytes=REPLY_BYTES, latency_s=latency_s, tls=tls, account=account
    ) as base_url:
        cost = measure(
            client.command(source, base_url, concurrency, limits=None),
            room=source.parent,
            more_env=client.environ(tls),
            limit_s=limit_s,
        )
    answered = client.answered(source) if cost.ended else None
    return asdict(cost) | {"server": account, "answered": answered}


def _clean(source: Path) -> None:
    """Leave nothing but the input: every run starts anew."""
    for entry in source.parent.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != source:
            entry.unlink()


def machine() -> dict[str, str]:
    """What it ran on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": f"{cpu}, {len(CORES)} cores",
        "system": f"Linux {platform.release()}",
        "python": f"Python {platform.python_version()}",
    }


def installed(names: list[str], figures: results.Figures) -> list[Client]:
    """Those of the clients that could be installed; the others are noted as missing."""
    clients = []
    for client in (CLIENTS[name] for name in names):
        try:
            figures.clients[client.name] = {"versions": client.install()}
        except NotInstalledError as error:
            figures.clients[client.name] = {"missing": str(error)}
            print(f"{client.name} is not installed: {error}", file=sys.stderr, flush=True)
        else:
            clients.append(client)
    return clients


def start_up(clients: list[Client], plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """Runs over a single row; the first of each is not counted, as it compiles the bytecode."""
    with _input(1) as source:

        def run_once(client: Client) -> Run:
            return measure_client(client, source, concurrency=options.concurrency)

        rounds(clients, 1, run_once)
        runs, failed = rounds(clients, plan.start_ups, run_once)
    return {"runs": runs, "failed": failed}


@contextmanager
def _input(rows: int) -> Iterator[Path]:
    """An input of so many rows in a directory of its own, while this lasts."""
    with tempfile.TemporaryDirectory(prefix="batchrun-compare-") as room:
        source = Path(room) / "rows.jsonl"
        make_input(source, rows)
        yield source


def throughput(
    clients: list[Client],
    plan: Plan,
    *,
    rows: int,
    latency_ms: int,
    connection: str,
    concurrency: int,
) -> dict[str, Any]:
    """Measure one situation."""
    title = f"{rows:,} rows, {latency_ms} ms, {connection}"
    print(title, file=sys.stderr, flush=True)
    with ExitStack() as stack:
        source = stack.enter_context(_input(rows))
        tls = stack.enter_context(certificate()) if connection == "TLS" else None

        def run_once(client: Client) -> Run:
            return measure_client(
                client,
                source,
                concurrency=concurrency,
                latency_s=latency_ms / 1000,
                tls=tls,
                limit_s=plan.limit_s,
            )

        runs, failed = rounds(clients, plan.runs, run_once)
    return {
        "title": title,
        "rows": rows,
        "latency_ms": latency_ms,
        "connection": connection,
        "concurrency": concurrency,
        "limit_s": plan.limit_s,
        "runs": runs,
        "failed": failed,
    }


def arguments() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="5,000 rows, 3 runs of at most 30 s; pace once"
    )
    parts = ["throughput", "pace"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--clients", nargs="+", default=list(CLIENTS), choices=list(CLIENTS))
    parser.add_argument("--rows", nargs="+", type=int, metavar="N", help="[5000 50000]")
    parser.add_argument("--runs", type=int, help="of each client in each situation [5]")
    parser.add_argument("--limit", type=float, metavar="S", help="for one run [120]")
    parser.add_argument("--latency", nargs="+", type=int, default=[0, 100], metavar="MS")
    connections, situations = ["plain", "TLS"], list(limits.SITUATIONS)
    parser.add_argument("--connections", nargs="+", default=connections, choices=connections)
    parser.add_argument("--pace", nargs="+", default=situations, choices=situations)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    return parser.parse_args()


def main() -> None:
    """Measure what the flags ask for, and write the page."""
    options = arguments()
    figures = results.Figures.load()
    if options.page:
        results.write(figures)
        return
    if len(CORES) < 2:
        raise SystemExit("the server and the client need a core each; this process may use one")
    base = QUICK if options.quick else FULL
    plan = Plan(
        rows=tuple(options.rows or base.rows),
        runs=options.runs or base.runs,
        limit_s=options.limit or base.limit_s,
        pace_s=base.pace_s,
        pace_runs=base.pace_runs,
        start_ups=base.start_ups,
    )
    clients = installed(options.clients, figures)
    note = {"machine": machine(), "command": shlex.join(["benchmarks/clients.py", *sys.argv[1:]])}

    def keep(part: dict[str, Any], key: str, found: dict[str, Any]) -> None:
        today = dt.datetime.now(dt.UTC).date().isoformat()
        part[key] = found | note | {"date": today}
        figures.save()
        results.write(figures)

    if "throughput" in options.parts:
        print("start-up", file=sys.stderr, flush=True)
        keep(figures.start_up, "start-up", start_up(clients, plan, options))
        for rows, latency_ms, connection in itertools.product(
            plan.rows, options.latency, options.connections
        ):
            found = throughput(
                clients,
                plan,
                rows=rows,
                latency_ms=latency_ms,
                connection=connection,
                concurrency=options.concurrency,
            )
            keep(figures.throughput, found["title"], found)
    if "pace" in options.parts:
        for name in options.pace:
            print(f"pace: {name}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="batchrun-pace-") as room:
                situation = limits.SITUATIONS[name]
                run_once = limits.prepare(situation, Path(room), plan.pace_s, options.concurrency)
                able = [client for client in clients if limits.takes_part(client, situation)]
                runs, failed = rounds(able, plan.pace_runs, run_once)
            described = {"title": situation.title, "seconds": plan.pace_s}
            keep(figures.pace, name, described | {"runs": runs, "failed": failed})


if __name__ == "__main__":
    main()
