"""The answer side of the chat completions protocol: one completion as OpenAI writes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from batchrun.simulator import faults
from batchrun.simulator.chat import ChatRequest
from batchrun.simulator.tools import Call, write_calls
from batchrun.simulator.writing.documents import write_document
from batchrun.simulator.writing.draws import Chance
from batchrun.simulator.writing.logprobs import tokens_of, write_logprobs
from batchrun.simulator.writing.text import (
    Passage,
    quote_of,
    write_passage,
    write_reasoning,
    write_refusal,
)
from batchrun.simulator.writing.tokens import count_tokens, cut_to_tokens

_JSON = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Manner:
    """How the endpoint's model answers any request."""

    reply_bytes: int | None = None  # size of an answer's content; None = 40 to 120 tokens
    refusal_rate: float = 0.0  # share of the requests that the model refuses
    reasoning_field: str | None = None  # where the reasoning stands; None = it is not told


@dataclass(frozen=True, slots=True)
class Said:
    """What the model says in one choice."""

    content: str | None
    finish_reason: str
    tokens: int  # all that were generated
    reasoning: str | None = None
    reasoning_tokens: int = 0
    refusal: str | None = None
    calls: tuple[Call, ...] = ()
    logprobs: Sequence[dict[str, Any]] | None = None  # of the content, or of the refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request; the same every time it is sent."""

    request: ChatRequest
    choices: tuple[Said, ...]
    completion_tokens: int
    reasoning_field: str | None = None

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
                        "message": self._message(said),
                        "logprobs": logprobs_of(said, said.logprobs),
                        "finish_reason": said.finish_reason,
                    }
                    for index, said in enumerate(self.choices)
                ],
                "usage": self.usage(),
                "service_tier": self.request.service_tier,
                "system_fingerprint": system_fingerprint,
            }
        )

    def _message(self, said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": said.content,
            "refusal": said.refusal,
        }
        if self.reasoning_field is not None and said.reasoning is not None:
            message[self.reasoning_field] = said.reasoning
        if said.calls and said.calls[0].legacy:
            (call,) = said.calls
            message["function_call"] = call.part(call.name, call.arguments)["function"]
        elif said.calls:
            message["tool_calls"] = [call.value() for call in said.calls]
        return message

    def usage(self) -> dict[str, Any]:
        """The token counts as the reply has them."""
        prompt_tokens = self.request.prompt_tokens
        reasoning_tokens = sum([said.reasoning_tokens for said in self.choices])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.request.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
        }


def logprobs_of(
    said: Said, entries: Sequence[dict[str, Any]] | None
) -> dict[str, Sequence[dict[str, Any]] | None] | None:
    """Entries of one choice as the protocol has them: under what they are of."""
    if not entries:
        return None
    if said.refusal is not None:
        return {"content": None, "refusal": entries}
    return {"content": entries, "refusal": None}


def write_answer(request: ChatRequest, digest: bytes, key: bytes, manner: Manner) -> Answer:
    """Write all choices; `key` is the seed's, `digest` the request's."""
    said = tuple(_say(request, digest, key, manner, index) for index in range(request.choices))
    tokens = sum([choice.tokens for choice in said])
    return Answer(request, said, tokens, manner.reasoning_field)


def _say(request: ChatRequest, digest: bytes, key: bytes, manner: Manner, index: int) -> Said:
    """Write choice `index`."""
    if manner.refusal_rate and Chance(key, digest, 0, b"refusal").share() < manner.refusal_rate:
        refusal = write_refusal(digest, request.said, request.completion_tokens_max)
        return Said(
            None,
            refusal.finish_reason,
            refusal.tokens,
            refusal=refusal.content,
            logprobs=_logprobs(request, refusal, digest, key, index),
        )
    if not request.reasoning_tokens:
        return _speak(request, digest, key, manner, index, None, 0)
    thought, spent = write_reasoning(key, digest, index, request.said, request.reasoning_tokens)
    cap = request.completion_tokens_max
    if cap is None or spent < cap:
        return _speak(request, digest, key, manner, index, thought, spent)
    # All that may be generated goes into reasoning.
    content = "" if manner.reasoning_field is None else None
    return Said(content, "length", cap, cut_to_tokens(thought, cap), cap)


def _speak(
    request: ChatRequest,
    digest: bytes,
    key: bytes,
    manner: Manner,
    index: int,
    reasoning: str | None,
    reasoned: int,
) -> Said:
    """Write choice `index` after its reasoning: most often plain text, else calls or both."""
    cap = request.completion_tokens_max
    passage: Passage | None = None
    calls: tuple[Call, ...] = ()
    has_text = True
    spent, finish_reason = reasoned, "stop"
    if request.tools is not None:
        calls, has_text = write_calls(
            request.tools, key, digest, index, quote_of(request.said), answered=request.answered
        )
    if has_text:
        left = None if cap is None else cap - spent
        passage = (
            _document(request, digest, key, index).cut(left)
            if request.json
            else write_passage(
                key, digest, index, request.said, reply_bytes=manner.reply_bytes, tokens_max=left
            )
        )
        spent += passage.tokens
        finish_reason = passage.finish_reason
    if calls:
        calls, tokens, whole = _cut_calls(calls, None if cap is None else cap - spent)
        spent += tokens
        if not whole:
            finish_reason = "length"
        elif request.tools is not None and request.tools.choice != "named":
            # Of a named tool it is `stop`, as OpenAI has it.
            finish_reason = "function_call" if request.tools.legacy else "tool_calls"
    return Said(
        None if passage is None else passage.content,
        finish_reason,
        spent,
        reasoning,
        reasoned,
        calls=calls,
        logprobs=None if passage is None else _logprobs(request, passage, digest, key, index),
    )


_ANY = {"type": "object", "properties": {"answer": {"type": "string", "minLength": 20}}}


def _document(request: ChatRequest, digest: bytes, key: bytes, index: int) -> Passage:
    """Content that is the JSON which was asked for."""
    chance = Chance(key, digest, index, b"document")
    text = write_document(_ANY if request.schema is None else request.schema, chance)
    return Passage(text, count_tokens(text), "stop")


def spoil(answer: Answer, fault: str, chance: float) -> Answer:
    """The answer as the model's fault makes it; `chance` in [0, 1) chooses how it is invalid."""
    match fault:
        case faults.TRUNCATED:
            spoilt = [_half(said) for said in answer.choices]
        case faults.EMPTY:
            spoilt = [Said("", "stop", 0) for _ in answer.choices]
        case _ if answer.request.json or any(said.calls for said in answer.choices):
            spoilt = [_invalid(said, int(chance * 3)) for said in answer.choices]
        case _:
            return answer
    tokens = sum([said.tokens for said in spoilt])
    return replace(answer, choices=tuple(spoilt), completion_tokens=tokens)


def _half(said: Said) -> Said:
    """The answer cut after half of it was generated; the reasoning is unchanged."""
    told = said.content if said.refusal is None else said.refusal
    left = max((said.tokens - said.reasoning_tokens) // 2, 1)
    calls, spent, _ = _cut_calls(said.calls, left)
    if told:
        told = cut_to_tokens(told, left)
        calls, spent = (), count_tokens(told)
    return replace(
        said,
        content=told if said.refusal is None else None,
        refusal=None if said.refusal is None else told,
        finish_reason="length",
        tokens=said.reasoning_tokens + spent,
        calls=calls,
        logprobs=said.logprobs and said.logprobs[:spent],
    )


def _invalid(said: Said, way: int) -> Said:
    """What models do wrong: a fence around the JSON, JSON that breaks off, a list of one; in place
    of the fence, a tool that there is not.
    """
    if said.calls:
        calls = [
            replace(call, name=f"{call.name}_v2")
            if way == 0
            else replace(call, arguments=_broken(call.arguments, way))
            for call in said.calls
        ]
        spent = sum([call.tokens() for call in calls]) - sum([call.tokens() for call in said.calls])
        return replace(said, calls=tuple(calls), tokens=said.tokens + spent)
    if said.content is None:
        return said
    text = _broken(said.content, way)
    spent = count_tokens(text) - count_tokens(said.content)
    return replace(said, content=text, tokens=said.tokens + spent, logprobs=None)


def _broken(text: str, way: int) -> str:
    match way:
        case 0:
            return f"```json\n{text}\n```"
        case 1:
            return text[:-1]
        case _:
            return f"[{text}]"


def _cut_calls(
    calls: tuple[Call, ...], tokens_max: int | None
) -> tuple[tuple[Call, ...], int, bool]:
    """As much of the calls as may be generated, its tokens, and whether that is all."""
    kept: list[Call] = []
    spent = 0
    for call in calls:
        tokens = call.tokens()
        if tokens_max is not None and spent + tokens > tokens_max:
            # A name is generated whole, or the call has not begun.
            left = tokens_max - spent - count_tokens(call.name)
            if left >= 0:
                cut = replace(call, arguments=cut_to_tokens(call.arguments, left))
                kept.append(cut)
                spent += cut.tokens()
            return tuple(kept), spent, False
        kept.append(call)
        spent += tokens
    return tuple(kept), spent, True


def _logprobs(
    request: ChatRequest, passage: Passage, digest: bytes, key: bytes, index: int
) -> list[dict[str, Any]] | None:
    """The entries of the passage's tokens, where they were asked for."""
    if request.top_logprobs is None:
        return None
    chance = Chance(key, digest, index, b"logprobs")
    return write_logprobs(tokens_of(passage.content), request.top_logprobs, chance)
