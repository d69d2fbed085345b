"""LiteLLM: `acompletion`, and a semaphore around its calls.

LiteLLM retries by itself. Its limits per deployment choose among several or refuse; they do not
make a call wait, so there is no rate to set here.
"""

import asyncio
import os

from common import Answers, Message, conversations, flags

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"  # read when the package is loaded

import litellm


async def answer(
    base_url: str,
    attempts: int,
    slots: asyncio.Semaphore,
    row: int,
    messages: list[Message],
    out: Answers,
) -> None:
    """Ask for one row."""
    async with slots:
        try:
            completion = await litellm.acompletion(
                model="openai/m", messages=messages, api_base=base_url, num_retries=attempts - 1
            )
        except Exception as error:  # noqa: BLE001 (its errors have no base class of their own)
            out.fail(row, error)
            return
    out.write(row, completion.choices[0].message.content, completion.usage.model_dump())


async def main() -> None:
    """Ask for all rows and print how many failed."""
    options = flags(__doc__).parse_args()
    litellm.suppress_debug_info = True
    slots = asyncio.Semaphore(options.concurrency)
    with Answers(options.output) as out:
        rows = enumerate(conversations(options.input))
        await asyncio.gather(
            *(answer(options.base_url, options.attempts, slots, *row, out) for row in rows)
        )
        print(f"{out.failed} rows failed")


if __name__ == "__main__":
    asyncio.run(main())
