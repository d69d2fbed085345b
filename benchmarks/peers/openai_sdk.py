"""The OpenAI SDK: one asynchronous client, and a semaphore around its requests.

With `--aiohttp` the SDK sends over aiohttp, which its documentation recommends for many concurrent
requests. The SDK retries and honours Retry-After by itself; it has no rate limiter.
"""

import asyncio

from common import Answers, Message, conversations, flags
from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAIError


async def answer(
    client: AsyncOpenAI, slots: asyncio.Semaphore, row: int, messages: list[Message], out: Answers
) -> None:
    """Ask for one row."""
    async with slots:
        try:
            completion = await client.chat.completions.create(model="m", messages=messages)
        except OpenAIError as error:
            out.fail(row, error)
            return
    usage = completion.usage.model_dump() if completion.usage else None
    out.write(row, completion.choices[0].message.content, usage)


async def main() -> None:
    """Ask for all rows and print how many failed."""
    parser = flags(__doc__)
    parser.add_argument("--aiohttp", action="store_true", help="send over aiohttp, not httpx")
    options = parser.parse_args()
    slots = asyncio.Semaphore(options.concurrency)
    with Answers(options.output) as out:
        async with AsyncOpenAI(
            base_url=options.base_url,
            max_retries=options.attempts - 1,
            http_client=DefaultAioHttpClient() if options.aiohttp else None,
        ) as client:
            rows = enumerate(conversations(options.input))
            await asyncio.gather(*(answer(client, slots, *row, out) for row in rows))
        print(f"{out.failed} rows failed")


if __name__ == "__main__":
    asyncio.run(main())
