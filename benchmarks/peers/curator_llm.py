"""Bespoke Curator: an `LLM` over a data set, with its OpenAI backend.

It limits requests and tokens per minute. Unless they are set it asks the server for them, with a
request that has no messages, and takes 200 requests a minute where the reply does not say.
"""

import importlib.util
import os
from typing import Any

from common import Answers, conversations, flags

LITELLM = importlib.util.find_spec("litellm")
assert LITELLM is not None
assert LITELLM.submodule_search_locations is not None
# Read when the package is loaded. A run sends nothing but to the server that is measured: no usage
# reports, prices and the tokenizer from the copies that LiteLLM, which Curator needs, installs.
os.environ |= {
    "TELEMETRY_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    "TIKTOKEN_CACHE_DIR": f"{LITELLM.submodule_search_locations[0]}/litellm_core_utils/tokenizers",
}

from bespokelabs import curator  # noqa: E402

UNLIMITED = 1_000_000_000


class Answer(curator.LLM):  # type: ignore[misc] # the package has no type information
    """Passes the messages on, and keeps the row's number with its answer."""

    def prompt(self, row: dict[str, Any]) -> Any:
        """Return the row's messages."""
        return row["messages"]

    def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
        """Return what is kept of an answer."""
        return {"row": row["row"], "content": response}


def main() -> None:
    """Ask for all rows and print how many failed."""
    parser = flags(__doc__)
    parser.add_argument("--unlimited", action="store_true", help="the server has no limits")
    options = parser.parse_args()
    limits = {
        "max_requests_per_minute": options.rpm or (UNLIMITED if options.unlimited else None),
        "max_tokens_per_minute": options.tpm
        or (UNLIMITED if options.unlimited or options.rpm else None),
    }
    if options.tpm and not options.rpm:
        limits["max_requests_per_minute"] = UNLIMITED
    llm = Answer(
        model_name="m",
        backend="openai",
        backend_params={
            "base_url": options.base_url,
            "api_key": "bench",
            "max_concurrent_requests": options.concurrency,
            "max_retries": options.attempts - 1,
            "require_all_responses": False,
            **limits,
        },
    )
    rows = [
        {"row": row, "messages": messages}
        for row, messages in enumerate(conversations(options.input))
    ]
    done = llm(rows, working_dir=str(options.output.with_suffix(".curator")))
    answered = 0
    with Answers(options.output) as out:
        for line in done.dataset:
            out.write(line["row"], line["content"], None)
            answered += 1
    print(f"{len(rows) - answered} rows failed")


if __name__ == "__main__":
    main()
