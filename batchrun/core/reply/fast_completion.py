"""The quick reading of the most common reply: one choice of text, every field as specified.

Nearly every reply is one of these, and this costs a third of what ``core/reply/completion.py``
does, which reads all the others.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from batchrun.core.reply.answer import blank
from batchrun.core.reply.completion import TOKENS_MAX, finish_reason
from batchrun.records import Choice, Completion, Usage


class _PlainMessage(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: None = None
    function_call: None = None
    # What holds more than text is left to the long way (core/reply/media.py).
    image: None = None
    images: None = None
    image_url: None = None
    audio: None = None
    audios: None = None
    video: None = None
    videos: None = None
    file: None = None
    files: None = None
    media: None = None
    attachments: None = None


class _PlainChoice(msgspec.Struct):
    message: _PlainMessage
    index: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    finish_reason: str | None = None
    logprobs: None = None


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)] | None


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Tokens = None
    cache_write_tokens: _Tokens = None
    # As above.
    cache_creation_tokens: None = None
    cache_creation_input_tokens: None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: _Tokens = None


class _PlainUsage(msgspec.Struct):
    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    total_tokens: _Tokens = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: _Tokens = None
    cached_tokens: _Tokens = None
    cache_read_input_tokens: _Tokens = None
    reasoning_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None
    # Other names of the counts are left to the long way.
    cache_write_tokens: None = None
    input_tokens: None = None
    output_tokens: None = None
    input_tokens_details: None = None
    output_tokens_details: None = None


class _PlainCompletion(msgspec.Struct):
    choices: Annotated[list[_PlainChoice], msgspec.Meta(min_length=1, max_length=1)]
    id: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    created: Annotated[int, msgspec.Meta(ge=0, lt=10**11)] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: None = None


_new = tuple.__new__  # half the time of a named tuple's own ways
_NOT_COUNTED = _PlainUsage()
_decode_plain = msgspec.json.Decoder(_PlainCompletion).decode
_decode_usage = msgspec.json.Decoder(_PlainUsage).decode


def plain_completion(body: bytes) -> tuple[Completion, str | None] | None:
    """The completion in a body of the most common shape: one choice of text, every field of the
    specified type; and its usage as JSON text, None where it has none. None for anything else,
    which ``reply.parse`` and ``reply.completion`` then look at.

    The same as ``reply.completion(reply.parse(body))``.
    """
    try:
        plain = _decode_plain(body)
        raw = plain.usage
        counts = _decode_usage(raw) if raw else _NOT_COUNTED
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    choice = plain.choices[0]
    message = choice.message
    if not raw and b'"usage"' in body:
        return None  # it may stand where some vendors put it
    prompt, completed = counts.prompt_tokens_details, counts.completion_tokens_details
    cached, written = None, counts.cache_creation_input_tokens
    if prompt is not None:
        cached = prompt.cached_tokens
        if prompt.cache_write_tokens is not None:
            written = prompt.cache_write_tokens
    if cached is None:
        cached = counts.prompt_cache_hit_tokens
        if cached is None:
            cached = counts.cached_tokens
            if cached is None:
                cached = counts.cache_read_input_tokens
    reasoned = completed.reasoning_tokens if completed is not None else None
    if reasoned is None:
        reasoned = counts.reasoning_tokens
    reasoning, by_other_name = message.reasoning_content, message.reasoning
    reason = choice.finish_reason
    if reason != "stop" and reason is not None:
        reason = finish_reason(reason)
    first = _new(
        Choice,
        (
            choice.index,
            message.content,
            reasoning or (reasoning if by_other_name is None else by_other_name),
            None if message.refusal is None or blank(message.refusal) else message.refusal,
            reason,
            None,
            None,
        ),
    )
    told = (counts.prompt_tokens, counts.completion_tokens, counts.total_tokens)
    usage = _new(Usage, (*told, cached, reasoned, written))
    by = (plain.model, plain.id, plain.system_fingerprint, plain.service_tier, plain.created)
    completion = _new(Completion, (first, None, *by, usage, None))
    return (completion, str(raw, "utf-8") if raw else None)
