"""The answer side of the chat completions protocol: one completion as OpenAI writes it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from batchrun.simulator.chat import ChatRequest
from batchrun.simulator.text import Passage, write_passage

_JSON = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says to one request; the same at every asking."""

    request: ChatRequest
    passages: tuple[Passage, ...]
    completion_tokens: int

    def encode(self, completion_id: str, created: int, system_fingerprint: str) -> bytes:
        """The response body; `created` in seconds since the epoch."""
        return _JSON.encode(
            {
                "id": completion_id,
                "object": "chat.completion",
                "created": created,
                "model": self.request.model,
                "choices": [
                    {
                        "index": index,
                        "message": {
                            "role": "assistant",
                            "content": passage.content,
                            "refusal": None,
                        },
                        "logprobs": None,
                        "finish_reason": passage.finish_reason,
                    }
                    for index, passage in enumerate(self.passages)
                ],
                "usage": self.usage(),
                "service_tier": "default",
                "system_fingerprint": system_fingerprint,
            }
        )

    def usage(self) -> dict[str, Any]:
        """The token counts as the reply has them."""
        prompt_tokens = self.request.prompt_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


def write_answer(
    request: ChatRequest, digest: bytes, key: bytes, reply_bytes: int | None
) -> Answer:
    """Write all choices; `key` is the seed's, `digest` the request's."""
    passages = tuple(
        write_passage(
            key,
            digest,
            index,
            request.said,
            reply_bytes=reply_bytes,
            tokens_max=request.completion_tokens_max,
        )
        for index in range(request.choices)
    )
    return Answer(request, passages, sum([passage.tokens for passage in passages]))
