"""Several processes that do one run together: what they cost, what they bring, how they share.

`cpu`: CPU per row of `batchrun run --workers 2` over that of one process. `rate`: rows per second
of both; needs a core for each process and one for the server. `quota`: four processes under one
`--rpm`, one of which is killed, against a server that counts; `--svg FILE` draws it. `claims`: what
a fleet of many workers and shards asks of the disk that it shares. `fold`: how long the last
process takes to put a run of many shards together. `index`: how fast the first one finds where the
shards begin.
"""

import argparse
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paired
from harness import CORES, ROOT, Cost, make_input, measure_run, upstream

sys.path.insert(0, str(ROOT))

from batchrun.adapters.storage.claims_on_disk import DiskClaims
from batchrun.core.fleet import claims, leases, quota
from batchrun.core.fleet.board import Board, Place
from batchrun.core.fleet.claimant import Claimant, read_leases
from batchrun.core.fleet.quota import Limit

ONE, TWO = "one process", "two workers"
WAYS = {ONE: (), TWO: ("--workers", "2")}
SHARDS = 20
"""Shards of an input, so that two workers end at about the same time."""

WORKERS, RPM, LATENCY_S, KILL_S, END_S = 4, 3000, 0.2, 20.0, 75.0
SETTLED_S = 6.0
"""So long after the start, the new shares are in force."""
EXPIRY_S = 50.0
"""From the kill on, until the dead worker's lease is over and its share is used again."""
PUBLISHED = {"parts": [{"name": f"part-{n:05d}", "sha256": "0" * 64} for n in range(2)], "rows": 1}
"""About what the record of a published shard holds."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 280, 46, 34, 40
COLOURS = ("#c6d4e1", "#a9c0d6", "#8cadcb", "#6f99c0")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    cpu = parts.add_parser("cpu", parents=[paired.parser(None, rows=100_000)], add_help=False)
    cpu.set_defaults(go=compare_cpu)
    rate = parts.add_parser("rate")
    rate.add_argument("--rows", type=int, default=100_000)
    rate.add_argument("--rounds", type=int, default=3)
    rate.set_defaults(go=compare_rates)
    quota = parts.add_parser("quota")
    quota.add_argument("--svg", type=Path)
    quota.add_argument("--virtual", action="store_true", help="play it on virtual time")
    quota.set_defaults(go=share_a_limit)
    disk = parts.add_parser("claims")
    disk.add_argument("--shards", type=int, default=10_000)
    disk.add_argument("--workers", type=int, default=1000)
    disk.set_defaults(go=count_claims)
    fold = parts.add_parser("fold")
    fold.add_argument("--shards", type=int, default=2000)
    fold.set_defaults(go=time_fold)
    index = parts.add_parser("index")
    index.add_argument("--rows", type=int, default=200_000)
    index.set_defaults(go=time_index)
    options = parser.parse_args()
    options.go(options)


# CPU and rate


def compare_cpu(options: argparse.Namespace) -> None:
    """CPU per row, all processes on the first core and the server on the last."""
    with upstream(reply_bytes=options.reply_bytes) as base_url:

        def run_once(way: str, source: Path) -> Cost:
            return _run(way, source, base_url, options.rows, options.concurrency)

        paired.compare(options, (ONE, TWO), run_once)


def compare_rates(options: argparse.Namespace) -> None:
    """Rows per second, each process on a core of its own."""
    if len(CORES) < 3:
        sys.exit(f"this needs three cores: two for the workers, one for the server, not {CORES}")
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="fleet-") as room, upstream(reply_bytes=2048) as url:
        os.sched_setaffinity(0, CORES[:-1])
        source = Path(room, "rows.jsonl")
        make_input(source, options.rows)
        for _ in range(options.rounds):
            for way, measured in rates.items():
                cost = _run(way, source, url, options.rows, 128)
                measured.append(options.rows / cost.wall_s)
    best = {way: max(measured) for way, measured in rates.items()}
    for way, measured in rates.items():
        print(f"{way:12} {' '.join(f'{rate:9,.0f}' for rate in measured)} rows a second")
    print(f"two over one {best[TWO] / best[ONE]:.2f}")


def _run(way: str, source: Path, base_url: str, rows: int, concurrency: int) -> Cost:
    shard_rows = str(max(100, rows // SHARDS))
    return measure_run(source, base_url, concurrency, "--shard-rows", shard_rows, *WAYS[way])


# One limit


@dataclass
class Shared:
    """What was seen of four processes under one limit. Times are seconds from the first request."""

    sent_s: list[float] = field(default_factory=list)
    shares: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    """When, and what each worker held then, in requests a second."""
    killed_s: float = 0.0
    refused: int = 0


def share_a_limit(options: argparse.Namespace) -> None:
    """Run, print the figures, draw."""
    if options.virtual:
        seen = _shared_on_virtual_time()
    else:
        with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
            seen = _shared_run(Path(folder))
    limit, last_s = RPM / 60, max(seen.sent_s)
    spans = {
        "before the kill": (SETTLED_S, seen.killed_s),
        "while its lease lasts": (seen.killed_s, min(last_s, seen.killed_s + 30)),
        "afterwards": (seen.killed_s + EXPIRY_S - KILL_S, last_s - 2),
    }
    for name, (start_s, end_s) in spans.items():
        rate = sum(start_s <= at < end_s for at in seen.sent_s) / (end_s - start_s)
        print(f"{name:24} {rate:6.1f} of {limit:.0f} requests a second ({rate / limit:.1%})")
    print(f"{'most in any second':24} {_most_in(seen.sent_s, 1.0)}")
    print(f"{'most in any minute':24} {_most_in(seen.sent_s, 60.0)} of {RPM}")
    print(f"{'refused by the server':24} {seen.refused}")
    if options.svg:
        options.svg.write_text(_svg(seen, limit), "utf-8")


def _shared_run(folder: Path) -> Shared:
    rows = int(END_S * RPM / 60)
    make_input(folder / "rows.jsonl", rows)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_simulator())
        command = [sys.executable, "-m", "batchrun", "run", "rows.jsonl", "-o", "run"]
        command += ["--model", "m", "--base-url", f"http://127.0.0.1:{port}/v1", "--rpm", str(RPM)]
        command += ["--concurrency", "64", "--shard-rows", "100", "--no-progress"]
        workers = [
            subprocess.Popen(
                [*command, "--shard", f"{number}/{WORKERS}"],
                cwd=folder,
                env=_environment(),
                stderr=subprocess.DEVNULL,
            )
            for number in range(1, WORKERS + 1)
        ]
        for worker in workers:
            stack.callback(worker.wait)
            stack.callback(worker.kill)
        begun_s, shares, killed_s = time.time(), [], 0.0
        while any(worker.poll() is None for worker in workers[1:]):
            held = _held(folder / "run")
            if held:
                shares.append((time.time(), held))
            else:
                begun_s = time.time() if not shares else begun_s
            if not killed_s and shares and time.time() - shares[0][0] > KILL_S:
                workers[0].send_signal(signal.SIGKILL)
                killed_s = time.time()
            time.sleep(0.25)
    return _seen(folder / "run", shares, killed_s)


def _shared_on_virtual_time() -> Shared:
    """The same with the gates, books and leases of four workers in this process, on the fleet and
    the server of tests/simulation: no machine is too slow for it.
    """
    played = runpy.run_path(str(ROOT / "tests" / "simulation" / "test_shared_limits.py"))
    seen = Shared()

    async def body(fleet: Any, clock: Any) -> None:
        begun_s = clock.now_s()
        for number in range(WORKERS):
            fleet.join(f"worker {number}")
        while clock.now_s() - begun_s < END_S:
            at_s = clock.now_s() - begun_s
            names = fleet.store.names(quota.FOLDER)
            content = fleet.store.read(f"{quota.FOLDER}/{names[-1]}") if names else None
            seen.shares.append((at_s, _parts(content, fleet.store.put(".clock", b""))))
            if at_s >= KILL_S and not seen.killed_s:
                fleet.kill("worker 0")
                seen.killed_s = at_s
            await clock.sleep(0.25)
        seen.sent_s.extend(at - begun_s for at in fleet.server.came)

    played["fleet_of"](body, (Limit("e", quota.RPM, float(RPM)),), RPM / 60)
    return seen


def _parts(content: bytes | None, now_s: float) -> dict[str, float]:
    """What each worker may use of the limit, by a book, in requests a second."""
    holdings = quota.parse(content).holdings if content else {}
    return {
        worker: sum(each.at(name, now_s) for name in each.holds if name.startswith(quota.RPM)) / 60
        for worker, each in holdings.items()
    }


def _seen(run: Path, shares: list[tuple[float, dict[str, float]]], killed_s: float) -> Shared:
    import pyarrow.dataset as ds

    lines = ds.dataset(run / "attempts").to_table(columns=["started_at", "http_status"])
    sent = sorted(at.timestamp() for at in lines["started_at"].to_pylist())
    refused = sum(status == 429 for status in lines["http_status"].to_pylist())
    return Shared(
        sent_s=[at - sent[0] for at in sent],
        shares=[(at - sent[0], held) for at, held in shares],
        killed_s=killed_s - sent[0],
        refused=refused,
    )


def _held(run: Path) -> dict[str, float]:
    """What each worker may use by the latest book."""
    for path in sorted(run.glob("fleet/*/quota/[0-9]*"), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            return _parts(path.read_bytes(), time.time())
    return {}


def _most_in(sent_s: Sequence[float], span_s: float) -> int:
    """Most requests within any span of so many seconds."""
    first, most = 0, 0
    for last, at in enumerate(sent_s):
        while sent_s[first] <= at - span_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def _simulator() -> Iterator[int]:
    command = [sys.executable, "-m", "batchrun", "simulate", "--json", "--port", "0"]
    command += ["--latency", f"fixed:{LATENCY_S}", "--no-detail", "--rpm", str(RPM)]
    command += ["--limit-headers", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment()) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


def _svg(seen: Shared, limit: float) -> str:
    """What the workers held, stacked, and what was sent, over time."""
    last_s, top = max(seen.sent_s), limit * 1.15
    wide, high = WIDTH - LEFT - 10, HEIGHT - TOP - BOTTOM

    def x(at_s: float) -> float:
        return LEFT + wide * min(max(at_s, 0.0), last_s) / last_s

    def y(per_s: float) -> float:
        return TOP + high * (1 - per_s / top)

    def text(at_x: float, at_y: float, said: str, more: str = "") -> str:
        return f'<text x="{at_x:.0f}" y="{at_y:.0f}" {more}>{said}</text>'

    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#333">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 14, "requests per second: sent by all (line), held by each of four (areas)"),
        text(WIDTH - 10, HEIGHT - 4, "seconds", 'text-anchor="end"'),
    ]
    names = sorted({name for _, held in seen.shares for name in held})
    below = [0.0] * len(seen.shares)
    for number, name in enumerate(names):
        above = [
            under + held.get(name, 0.0) for under, (_, held) in zip(below, seen.shares, strict=True)
        ]
        times = [at_s for at_s, _ in seen.shares]
        edge = [*zip(times, above, strict=True), *reversed([*zip(times, below, strict=True)])]
        points = " ".join(f"{x(at_s):.1f},{y(min(value, top)):.1f}" for at_s, value in edge)
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<polygon points="{points}" fill="{colour}"/>')
        below = above
    rates = range(0, int(top) + 1, 10)
    out += [text(LEFT - 6, y(at) + 4, str(at), 'text-anchor="end"') for at in rates]
    seconds = range(0, int(last_s) + 1, 10)
    out += [text(x(at), HEIGHT - BOTTOM + 16, str(at), 'text-anchor="middle"') for at in seconds]
    counts = Counter(int(at_s) for at_s in seen.sent_s)
    points = " ".join(f"{x(at + 0.5):.1f},{y(counts[at]):.1f}" for at in range(int(last_s)))
    out += [
        f'<path d="M{LEFT} {y(limit):.1f}H{WIDTH - 10}" stroke="#b3432b" stroke-dasharray="5 4"/>',
        text(WIDTH - 12, y(limit) - 5, f"limit {limit:.0f}", 'text-anchor="end" fill="#b3432b"'),
        f'<polyline points="{points}" fill="none" stroke="#1d3f5e" stroke-width="2"/>',
        f'<path d="M{x(seen.killed_s):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#b3432b"/>',
        text(x(seen.killed_s) + 5, TOP - 8, "one is killed", 'fill="#b3432b"'),
    ]
    return "\n".join([*out, "</svg>\n"])


# The shared folder


def count_claims(options: argparse.Namespace) -> None:
    """What claims, leases and the book of quota cost, on the file system of TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as room:
        _time_claims(Path(room), options.shards)
        _time_leases(Path(room), options.workers)
        _time_books(Path(room), options.workers)


def _time_claims(room: Path, shards: int) -> None:
    store = DiskClaims(room, "bench")
    store.prepare(claims.FOLDER, leases.FOLDER, quota.FOLDER, quota.TIMES)
    worker = _claimant(store, shards, "0000-bench")
    with _timed(f"{shards:,} shards claimed and published", shards):
        while (claim := worker.claim()) is not None:
            worker.publish(claim.shard, PUBLISHED)
    files = [path.stat() for path in (room / claims.FOLDER).iterdir()]
    on_disk = sum(each.st_blocks for each in files) * 512
    print(f"{len(files):,} records, {on_disk / 1e6:,.1f} MB on disk")
    newcomer = _claimant(store, shards, "0001-bench")
    with _timed(f"a newcomer reads {len(files):,} records", shards):
        newcomer.look()
    with _timed("the next look, which knows them", 1):
        newcomer.look()


def _claimant(store: DiskClaims, shards: int, name: str) -> Claimant:
    board, place = Board(shards), Place(0, 1)
    return Claimant(store, board, place, name, monotonic_s=time.monotonic)


def _time_leases(room: Path, workers: int) -> None:
    stores = [DiskClaims(room, f"{number:04d}") for number in range(workers)]
    fleet = [_claimant(store, 1, f"{number:04d}-b") for number, store in enumerate(stores)]
    for worker in fleet:
        worker.beat()
    with _timed(f"{workers:,} leases renewed", workers):
        for worker in fleet:
            worker.beat()
    with _timed(f"all {workers:,} leases read", 1):
        read_leases(stores[0])


def _time_books(room: Path, workers: int) -> None:
    """Renewals one after the other, as the book makes them."""
    store = DiskClaims(room, "books")
    limits = (Limit("default", quota.RPM, 1e6), Limit("default", quota.CONCURRENCY, 1e4))
    book, number = quota.Book(), 0
    for index in range(workers):
        book = quota.renewed(book, f"{index:04d}-bench", 0.0, limits, {}, {})
    rounds = min(workers, 200)
    with _timed(f"renewals of a book of {workers:,} workers", rounds):
        for index in range(rounds):
            store.put(f"{quota.TIMES}/{index:04d}", b"")
            book = quota.renewed(book, f"{index:04d}-bench", 1.0, limits, {}, {})
            number += 1
            store.create(quota.record_name(number), book.as_bytes())
            found = store.read(quota.record_name(number))
            book = quota.parse(found or b"")
    print(f"a book has {len(book.as_bytes()):,} bytes")
    print(f"each worker renews every {quota.renewal_s(workers):g} s")


def time_index(options: argparse.Namespace) -> None:
    """How fast the first process finds where each shard begins, in JSON Lines."""
    from batchrun.adapters.sources import opening

    with tempfile.TemporaryDirectory(prefix="fleet-") as room:
        path = Path(room, "rows.jsonl")
        make_input(path, options.rows)
        given = opening.find([str(path)], "auto")
        carry, began_s = given.carry("all", 10_000), time.process_time()
        *_, (rows, _) = given.shard_starts(carry, 10_000)
        cpu_s, size = time.process_time() - began_s, path.stat().st_size
    print(f"{rows:,} rows, {size / 1e6:,.0f} MB: {size / 1e6 / cpu_s:,.0f} MB a CPU second")


def time_fold(options: argparse.Namespace) -> None:
    """A run whose shards are small, from the end of its last shard to that of the process."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as room, upstream(reply_bytes=200) as url:
        make_input(Path(room, "rows.jsonl"), options.shards * 10)
        command = [sys.executable, "-m", "batchrun", "run", "rows.jsonl", "-o", "run"]
        command += ["--model", "m", "--base-url", url, "--shard-rows", "10", "--shard", "1/1"]
        began_s, ended_s, folded_s = time.monotonic(), 0.0, 0.0
        with subprocess.Popen(
            [*command, "--no-progress"], cwd=room, env=_environment(), stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                now_s = time.monotonic()
                if not ended_s and any(Path(room, "run", "fleet").glob(".*.ended")):
                    ended_s = now_s
                with contextlib.suppress(OSError, ValueError):
                    launch = json.loads(Path(room, "run", "fleet", "launch.json").read_bytes())
                    folded_s = folded_s or (now_s if launch["state"] == "folded" else 0.0)
                time.sleep(0.02)
        last_s = time.monotonic()
    each_ms = (folded_s - ended_s) / options.shards * 1e3
    print(f"{options.shards:,} shards of 10 rows, {ended_s - began_s:.1f} s for the work")
    print(f"folded in {folded_s - ended_s:.2f} s ({each_ms:.2f} ms a shard)")
    print(f"summed up in {last_s - folded_s:.2f} s")


@contextlib.contextmanager
def _timed(what: str, times: int) -> Iterator[None]:
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    yield
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    each_ms, each_cpu_ms = took_s / times * 1e3, cpu_s / times * 1e3
    print(f"{what:48} {took_s:8.2f} s  {each_ms:8.3f} ms each, {each_cpu_ms:.3f} ms of CPU")


if __name__ == "__main__":
    main()
