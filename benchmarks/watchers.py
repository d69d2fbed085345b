"""What the browsers that follow a run cost it: CPU of `batchrun status --serve` with many clients.

    python benchmarks/watchers.py [--clients 100] [--seconds 20]

The run has paused rows all the time, so that its page is as large as a live one; each client asks
for the page every two seconds, as the page itself does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

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


def main() -> None:
    """Print the share of one core that the server takes, alone and with the clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        rows = Path(folder, "rows.jsonl")
        message = {"messages": [{"role": "user", "content": "Hello?"}], "model": "m"}
        rows.write_text(f"{json.dumps(message)}\n" * 100_000)
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
