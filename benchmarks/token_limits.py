"""How much of a limit on tokens a run uses, and how often it is refused, over real HTTP.

Each situation starts a server of its own that counts tokens as the situation says, and the real
command with `--tpm`. `used` is what the server let pass, as a share of the limit; of answers far
shorter than their limit, once 50 of them are known.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from batchrun.core.settings.charge import Charge  # noqa: E402
from tests.harness import metered_server  # noqa: E402
from tests.harness.metered_server import Metered  # noqa: E402


def rows(count: int, max_tokens: int | None, words: tuple[int, ...], *, seed: int = 1) -> str:
    """Rows whose prompts have one of these numbers of words, drawn at random."""
    dice = random.Random(seed)
    lines = []
    for number in range(count):
        text = " ".join(
            dice.choice(("alpha", "of", "market", "a")) for _ in range(dice.choice(words))
        )
        row = {"custom_id": str(number), "messages": [{"role": "user", "content": text}]}
        lines.append(json.dumps(row | ({"max_tokens": max_tokens} if max_tokens else {})))
    return "\n".join(lines) + "\n"


Situation = tuple[str, Metered, Callable[[int], str], int]

SITUATIONS: dict[str, Situation] = {
    "told": (
        "60,000, max_tokens = answers",
        Metered(60_000),
        lambda s: rows(40 * s, 20, (5, 12)),
        0,
    ),
    "empty": (
        "the same, bucket empty at first",
        Metered(60_000, kind=metered_server.EmptyBucket),
        lambda s: rows(35 * s, 20, (5, 12)),
        0,
    ),
    "real": (
        "60,000, max_tokens 400, 20 come back, actual tokens count",
        Metered(60_000, Charge.REAL),
        lambda s: rows(32 * s, 400, (5, 12)),
        50,
    ),
    "reserved": (
        "the same, but max_tokens counts",
        Metered(60_000, Charge.SUM),
        lambda s: rows(3 * s, 400, (5, 12)),
        50,
    ),
    "reported": (
        "actual tokens count, and headers report what is left",
        Metered(60_000, Charge.REAL, headers=True, burst_s=60),
        lambda s: rows(60 * s, 400, (5, 12)),
        500,
    ),
    "minute": (
        "12,000 within any 60 s",
        Metered(12_000, kind=metered_server.Sliding),
        lambda s: rows(7 * s, 20, (5, 12)),
        0,
    ),
    "mixed": (
        "60,000, rows worth 0.9 s among small ones",
        Metered(60_000),
        lambda s: rows(7 * s, 20, (5,) * 9 + (875,)),
        0,
    ),
}


async def measure(name: str, seconds: int) -> None:
    """Run one situation, and print its line."""
    title, server, make, after = SITUATIONS[name]
    url, stop = await server.start()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        source.write_text(make(seconds))
        command = [
            sys.executable, "-m", "batchrun", "run", str(source), "-o", f"{folder}/out",
            "--base-url", url, "--model", "m", "--tpm", str(server.tpm), "--no-progress",
        ]  # fmt: skip
        run = await asyncio.create_subprocess_exec(
            *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        _, said = await run.communicate()
    await stop()
    print(
        f"{name:9} {title:60} used {server.used(after=after):6.1%}, refused "
        f"{server.refused_share:6.2%}, took {server.took_s:5.1f} s for {server.work_s:5.1f} s of "
        f"work, any minute {server.most_in_a_minute:6.1%}, exit {run.returncode}",
        flush=True,
    )
    notices = [line for line in said.decode().splitlines() if "reserves" in line]
    for line in notices:
        print(f"          {line}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SITUATIONS)} [default: all]")
    parser.add_argument("--seconds", type=int, default=30, help="about how long each takes")
    options = parser.parse_args()
    for name in options.names or SITUATIONS:
        asyncio.run(measure(name, options.seconds))


if __name__ == "__main__":
    main()
