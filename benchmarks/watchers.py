"""What the browsers that follow a run cost it: CPU of `batchrun status --serve`, and wall-clock.

    python benchmarks/watchers.py [--clients 100] [--seconds 20]
    python benchmarks/watchers.py --pairs 5 [--clients 100] [--rows 3000]

The first measures the CPU of server and run while clients follow it. The second times whole runs
with and without clients, one after the other in turn, and prints the ratio of every pair: a run of
32 requests in flight that take 0.2 s each. Each client asks for the page every two seconds, as the
page itself does; all of them are on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from batchrun.simulator.embedded import EmbeddedSimulator
from batchrun.simulator.latency import FixedLatency
from batchrun.simulator.plan import SimulatorOptions

COMMAND = (sys.executable, "-m", "batchrun")
EVERY_S = 2.0


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process so far (Linux)."""
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def client(address: str, until_s: float, session: aiohttp.ClientSession) -> int:
    """Follow the page; returns how often it was answered."""
    answered = 0
    while time.monotonic() < until_s:
        async with session.get(address) as reply:
            assert reply.status == 200
            await reply.read()
            answered += 1
        await asyncio.sleep(EVERY_S)
    return answered


async def follow(address: str, clients: int, seconds: float) -> int:
    """All clients at once."""
    until_s = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return sum(
            await asyncio.gather(*(client(address, until_s, session) for _ in range(clients)))
        )


def timed(folder: Path, name: str, endpoint: str, clients: int, rows: int) -> float:
    """Wall-clock seconds of a whole run that so many clients follow; its server is there anyway."""
    source = folder / f"{rows}.jsonl"
    if not source.exists():
        _write(source, rows)
    flags = ("--base-url", endpoint, "--concurrency", "32", "--no-progress", "--quiet")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = subprocess.Popen([*COMMAND, "run", source, "-o", name, *flags], cwd=folder)
    _until((folder / name / "checkpoint" / "status.json").exists)
    command = [*COMMAND, "status", name, "--serve", str(port)]
    server = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: _listens(port))
        if clients:
            asyncio.run(_follow_run(f"http://127.0.0.1:{port}/", clients, run))
        assert run.wait() == 0
    finally:
        server.kill()
        run.kill()
        server.wait()
        run.wait()
    return float(json.loads((folder / name / "summary.json").read_text())["wall_s"])


async def _follow_run(address: str, clients: int, run: subprocess.Popen[bytes]) -> None:
    """All clients, until the run has ended."""
    following = asyncio.ensure_future(follow(address, clients, 3600))
    await asyncio.to_thread(run.wait)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def _until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 120
    while not holds():
        if time.monotonic() > until_s:
            raise TimeoutError
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _write(path: Path, rows: int) -> None:
    message = {"messages": [{"role": "user", "content": "Hello?"}], "model": "m"}
    path.write_text(f"{json.dumps(message)}\n" * rows)


def compare(pairs: int, clients: int, rows: int) -> None:
    """Print the time of every pair of runs, and the median of the ratios."""
    ratios = []
    options = SimulatorOptions(latency=FixedLatency(0.2))
    with tempfile.TemporaryDirectory() as folder, EmbeddedSimulator(options) as endpoint:
        for pair in range(pairs):
            order = (0, clients) if pair % 2 == 0 else (clients, 0)
            found = {
                each: timed(Path(folder), f"run-{pair}-{each}", endpoint.base_url, each, rows)
                for each in order
            }
            ratios.append(found[clients] / found[0])
            print(
                f"{found[0]:6.2f} s alone, {found[clients]:6.2f} s with {clients} clients: "
                f"{ratios[-1]:.3f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f}")


def main() -> None:
    """Print the share of one core that the server takes, alone and with the clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000)
    options = parser.parse_args()
    if options.pairs:
        compare(options.pairs, options.clients, options.rows)
        return
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        rows = Path(folder, "rows.jsonl")
        _write(rows, 100_000)
        flags = ("--provider", "simulator", "--no-progress", "--rpm", "3000", "--quiet")
        run = subprocess.Popen([*COMMAND, "run", rows, "-o", "run", *flags], cwd=folder)
        time.sleep(8)
        command = [*COMMAND, "status", "run", "--serve", str(port)]
        server = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        time.sleep(4)
        try:
            address = f"http://127.0.0.1:{port}/"
            for clients in (0, 1, options.clients):
                before = cpu_s(server), cpu_s(run), time.monotonic()
                if clients:
                    answered = asyncio.run(follow(address, clients, options.seconds))
                else:
                    answered = 0
                    time.sleep(options.seconds)
                wall_s = time.monotonic() - before[2]
                of_server = (cpu_s(server) - before[0]) / wall_s
                of_run = (cpu_s(run) - before[1]) / wall_s
                print(
                    f"{clients:>4} clients: {answered:>5} pages, server {of_server:6.2%} of a core,"
                    f" run {of_run:6.2%}",
                    flush=True,
                )
        finally:
            server.kill()
            run.kill()
            server.wait()
            run.wait()


if __name__ == "__main__":
    main()
