"""The answer side of the chat completions protocol: one completion as OpenAI writes it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from batchrun.simulator import faults
from batchrun.simulator.chat import ChatRequest
from batchrun.simulator.documents import Numbers, write_document
from batchrun.simulator.text import Passage, write_passage
from batchrun.simulator.tokens import count_tokens

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
                        "message": self._message(passage, completion_id),
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

    def _message(self, passage: Passage, completion_id: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": passage.content, "refusal": None}
        if passage.calls is None:
            return message
        function = {"name": passage.calls, "arguments": passage.content}
        message["content"] = None
        if self.request.tool is not None and self.request.tool.legacy:
            return {**message, "function_call": function}
        call = {"id": call_id(completion_id), "type": "function", "function": function}
        return {**message, "tool_calls": [call]}

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


def call_id(completion_id: str) -> str:
    """The id of a completion's tool call."""
    return f"call_{completion_id[-16:]}"


def write_answer(
    request: ChatRequest, digest: bytes, key: bytes, reply_bytes: int | None
) -> Answer:
    """Write all choices; `key` is the seed's, `digest` the request's."""
    structured = request.json or request.tool is not None
    passages = tuple(
        _structured(request, Numbers(key, digest, index))
        if structured
        else write_passage(
            key,
            digest,
            index,
            request.said,
            reply_bytes=reply_bytes,
            tokens_max=request.completion_tokens_max,
        )
        for index in range(request.choices)
    )
    return _answer(request, passages)


def _answer(request: ChatRequest, passages: tuple[Passage, ...]) -> Answer:
    return Answer(request, passages, sum([passage.tokens for passage in passages]))


_ANY = {"type": "object", "properties": {"answer": {"type": "string", "minLength": 20}}}
_NO_ARGUMENTS = {"type": "object"}


def _structured(request: ChatRequest, numbers: Numbers) -> Passage:
    """A choice that is a document, or a tool call."""
    tool = request.tool
    if tool is not None:
        text = write_document(tool.parameters or _NO_ARGUMENTS, numbers)
        reason = "function_call" if tool.legacy else "tool_calls"
        passage = Passage(text, count_tokens(text), reason, tool.name)
    else:
        text = write_document(_ANY if request.schema is None else request.schema, numbers)
        passage = Passage(text, count_tokens(text), "stop")
    cap = request.completion_tokens_max
    return passage if cap is None else passage.cut(cap)


def spoil(answer: Answer, fault: str, chance: float) -> Answer:
    """The answer as the model's fault makes it; `chance` in [0, 1) chooses how it is invalid."""
    match fault:
        case faults.TRUNCATED:
            spoilt = [passage.cut(max(passage.tokens // 2, 1)) for passage in answer.passages]
        case faults.EMPTY:
            spoilt = [Passage("", 0, "stop") for _ in answer.passages]
        case _ if answer.request.json or answer.request.tool is not None:
            spoilt = [_invalid(passage, int(chance * 3)) for passage in answer.passages]
        case _:
            return answer
    return _answer(answer.request, tuple(spoilt))


def _invalid(passage: Passage, way: int) -> Passage:
    """What models do wrong: a fence around the JSON, JSON that breaks off, a list of one; in place
    of the fence, a tool that there is not.
    """
    text, calls = passage.content, passage.calls
    match way:
        case 0 if calls is not None:
            calls = f"{calls}_v2"
        case 0:
            text = f"```json\n{text}\n```"
        case 1:
            text = text[:-1]
        case _:
            text = f"[{text}]"
    return Passage(text, count_tokens(text), passage.finish_reason, calls)
