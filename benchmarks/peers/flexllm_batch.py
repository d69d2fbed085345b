"""flexllm: its batch with a checkpoint file, yielding answers as they complete.

It retries, honours Retry-After, and limits requests per second (`max_qps`); it has no limit on
tokens.
"""

import asyncio
from contextlib import aclosing

from common import Answers, conversations, flags
from flexllm import LLMClient


async def main() -> None:
    """Ask for all rows and print how many failed."""
    options = flags(__doc__).parse_args()
    checkpoint = options.output.with_suffix(".checkpoint.jsonl")
    with Answers(options.output) as out:
        async with LLMClient(
            model="m",
            base_url=options.base_url,
            api_key="bench",
            concurrency_limit=options.concurrency,
            # Unset it is 1,000 a second; 0 lifts it.
            max_qps=options.rpm / 60 if options.rpm else 0,
            retry_times=options.attempts,
        ) as client:
            answers = client.chat_batch_iter(
                conversations(options.input),
                output_jsonl=str(checkpoint),
                save_input=False,
                show_progress=False,
            )
            async with aclosing(answers):
                async for row, result in answers:
                    if result.ok:
                        out.write(row, result.content, result.usage)
                    else:
                        out.fail(row, result.error)
        print(f"{out.failed} rows failed")


if __name__ == "__main__":
    asyncio.run(main())
