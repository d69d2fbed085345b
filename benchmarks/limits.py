"""Servers with limits, for clients.py: how much of a limit a client uses, what is refused, what is
lost.

The server is `batchrun simulate` on the second core. Its log has the time and the status of every
exchange, so refusals and the rate are the server's account. `used` is the least time that the limit
allows for the work, divided by the time from the first exchange to the last answer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from harness import CORES, ROOT, make_input, measure
from roster import Client, Limits

RPM = 6_000
TPM = 600_000
BURST_S = 1.0  # the simulator's default: a bucket of so many seconds' worth
TOKENS_PER_ROW = 185  # about: a prompt and an answer of make_input and the simulator
ATTEMPTS = 10  # of the peers, per row; a refusal counts as one
OK, REFUSED = 200, 429


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What the server enforces, and what the clients are told of it."""

    title: str
    server: tuple[str, ...]
    told: Limits
    needs: frozenset[str] = frozenset()  # limits that a client must be able to keep
    rows_per_s: float = RPM / 60


SITUATIONS = {
    "told": Situation(
        title=f"{RPM:,} requests a minute, set as the client's limit",
        server=("--rpm", str(RPM)),
        told=Limits(rpm=RPM),
        needs=frozenset({"rpm"}),
    ),
    "announced": Situation(
        title=f"{RPM:,} requests a minute, reported in OpenAI's headers and Retry-After",
        server=("--rpm", str(RPM)),
        told=Limits(),
    ),
    "silent": Situation(
        title=f"{RPM:,} requests a minute, reported nowhere: refusals carry no Retry-After",
        server=("--rpm", str(RPM), "--bare-429", "--limit-headers", "none"),
        told=Limits(),
    ),
    "tokens": Situation(
        title=f"{TPM:,} tokens a minute, prompt plus answer, set as the client's limit",
        server=("--tpm", str(TPM), "--charge", "real", "--limit-headers", "none"),
        told=Limits(tpm=TPM),
        needs=frozenset({"tpm"}),
        rows_per_s=TPM / 60 / TOKENS_PER_ROW,
    ),
    "tokens, reported": Situation(
        title=f"{TPM:,} tokens a minute, set as the client's limit and reported in headers",
        server=("--tpm", str(TPM), "--charge", "real"),
        told=Limits(tpm=TPM),
        needs=frozenset({"tpm"}),
        rows_per_s=TPM / 60 / TOKENS_PER_ROW,
    ),
}


def takes_part(client: Client, situation: Situation) -> bool:
    """Whether the client can be told what the situation tells; the bare loop retries nothing."""
    return client.name != "bare loop" and situation.needs <= client.limits


def prepare(
    situation: Situation, room: Path, seconds: int, concurrency: int
) -> Callable[[Client], dict[str, Any]]:
    """Make the input, which takes about ``seconds`` at the limit; returns what runs a client."""
    rows = round(situation.rows_per_s * (seconds + BURST_S))

    def run_once(client: Client) -> dict[str, Any]:
        folder = room / f"{client.name}-{len(list(room.iterdir()))}"
        folder.mkdir()
        source = folder / "rows.jsonl"
        make_input(source, rows)
        return _run(client, situation, source, rows, seconds, concurrency)

    return run_once


def _run(
    client: Client,
    situation: Situation,
    source: Path,
    rows: int,
    seconds: int,
    concurrency: int,
) -> dict[str, Any]:
    log = source.with_name("exchanges.jsonl")
    with _simulator(situation, log) as base_url:
        cost = measure(
            client.command(source, base_url, concurrency, limits=situation.told, attempts=ATTEMPTS),
            room=source.parent,
            more_env=client.environ(None),
            limit_s=3 * seconds + 30,
        )
        with urlopen(f"{base_url.removesuffix('/v1')}/stats") as reply:  # noqa: S310 (http)
            stats = json.load(reply)
    with log.open(encoding="utf-8") as lines:
        exchanges = [json.loads(line) for line in lines]
    answered_s = [exchange["t"] for exchange in exchanges if exchange["status"] == OK]
    took_s = max(answered_s) - min(exchange["t"] for exchange in exchanges)
    if situation.told.tpm:
        least_s = (stats["prompt_tokens"] + stats["completion_tokens"]) / TPM * 60 - BURST_S
    else:
        least_s = len(answered_s) / RPM * 60 - BURST_S
    return asdict(cost) | {
        "rows": rows,
        "requests": len(exchanges),
        "accepted": len(answered_s),
        "refused": sum(exchange["status"] == REFUSED for exchange in exchanges),
        "in_flight_max": stats["in_flight_max"],
        "used": max(0.0, least_s) / took_s if took_s else 0.0,
        "took_s": took_s,
        "answered": client.answered(source) if cost.ended else None,
    }


@contextmanager
def _simulator(situation: Situation, log: Path) -> Iterator[str]:
    """Serve from the second core, while this process and its children keep to the first."""
    command = [sys.executable, "-m", "batchrun", "simulate", "--port", "0", "--json"]
    command += ["--no-detail", "--latency", "fixed:0.3", "--log", str(log), *situation.server]
    os.sched_setaffinity(0, CORES[-1:])
    try:
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout is not None
                base_url = json.loads(server.stdout.readline())["base_url"]
                os.sched_setaffinity(0, CORES[:1])
                yield str(base_url)
            finally:
                server.terminate()
    finally:
        os.sched_setaffinity(0, CORES)
