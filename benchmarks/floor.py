"""The bare loop: the least that a Python client can do per row, as the unit of comparison.

It reads JSON Lines, posts each row's messages over one pooled session, decodes the reply and writes
the answer to a file. No limits, retries, checkpoint, ledger or Parquet: a crash loses everything.
"""

import argparse
import asyncio
import resource
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import aiohttp
import orjson
import uvloop


async def worker(
    rows: Iterator[tuple[int, bytes]],
    session: aiohttp.ClientSession,
    url: str,
    output: BinaryIO,
) -> None:
    """Send one row after the other until the shared iterator is empty."""
    for number, line in rows:
        row = orjson.loads(line)
        body = orjson.dumps({"model": "m", "messages": row["messages"]})
        async with session.post(url, data=body) as response:
            answer = orjson.loads(await response.read())
        output.write(
            orjson.dumps(
                {
                    "row": number,
                    "content": answer["choices"][0]["message"]["content"],
                    "usage": answer["usage"],
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
        )


async def run(
    source: BinaryIO, output: BinaryIO, url: str, concurrency: int, ca_file: str | None
) -> None:
    """Let `concurrency` workers share the rows and the connections."""
    rows = enumerate(source)
    tls = True if ca_file is None else ssl.create_default_context(cafile=ca_file)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency, ssl=tls),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Content-Type": "application/json", "Authorization": "Bearer bench"},
    ) as session:
        await asyncio.gather(*(worker(rows, session, url, output) for _ in range(concurrency)))


def main() -> None:
    """Run the loop over a file and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path, help="JSON Lines with `messages`")
    parser.add_argument("output", type=Path, help="JSON Lines with the answers")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--ca-file", help="the authority of an https:// address")
    options = parser.parse_args()
    url = f"{options.base_url}/chat/completions"
    started = time.perf_counter()
    with options.input.open("rb") as source, options.output.open("wb") as output:
        uvloop.run(run(source, output, url, options.concurrency, options.ca_file))
    wall_s = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{wall_s:.2f} s wall, {usage.ru_utime + usage.ru_stime:.2f} s CPU with start-up")


if __name__ == "__main__":
    main()
