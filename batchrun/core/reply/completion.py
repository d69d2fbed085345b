"""Reading a reply's body: a completion, an error object, or neither.

Servers deviate in every field, so nothing is assumed: each value is taken if it has the type the
column needs and is None otherwise; the raw text is kept beside the columns.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

import msgspec

from batchrun.core.reply.answer import blank
from batchrun.core.reply.content import content_as_text, part_text
from batchrun.core.reply.media import media_of
from batchrun.core.text.storable import TEXT_MAX, json_text, storable, storable_text
from batchrun.records import NO_USAGE, Choice, Completion, Failure, Media, ToolCall, Usage

ERROR_TEXT_MAX = TEXT_MAX
"""Bytes of an error body, characters of an error message, that are kept."""
WORD_MAX = 200
"""Characters of an error code that are kept."""

DIGITS_MAX = 4000
"""Python converts integers of at most 4,300 digits."""

_decode = msgspec.json.Decoder().decode
TOKENS_MAX = 10**9
"""A larger count of one answer's tokens is junk; in 64 bits, nine billion such answers add up."""


def parse(body: bytes) -> object:
    """The body's JSON value, or None where it is not JSON.

    A second, tolerant reading takes what strict parsers refuse and real servers send: a byte-order
    mark, NaN, raw control characters, half surrogate pairs, invalid UTF-8 (replaced), UTF-16.
    """
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return storable(json.loads(_text_inside(body), strict=False, parse_int=whole_number))
    except (ValueError, RecursionError):
        return None


def flaw(body: bytes) -> str | None:
    """Why a body is not JSON, in a few words; None where it is."""
    if parse(body) is not None or body.strip() == b"null":
        return None
    text = _text_inside(body)
    if not text:
        return "it is empty"
    if text.startswith("<"):
        return "a page, not JSON"
    try:
        json.loads(text, strict=False, parse_int=whole_number)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return f"not JSON, for something follows behind character {error.pos:,}"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            return "JSON that breaks off"
        return f"not JSON, from character {error.pos:,} on"
    except (ValueError, RecursionError):
        pass
    return "JSON that is nested too deeply"


def _text_inside(body: bytes) -> str:
    encoding = json.detect_encoding(body)
    return body.decode(encoding, errors="replace").lstrip("\ufeff \t\r\n")


def whole_number(digits: str) -> int | float:
    """An integer of any length; one that Python refuses to convert is as good as infinite."""
    return int(digits) if len(digits) <= DIGITS_MAX else float(digits)


def text_of(body: bytes, limit: int) -> str:
    """The body as text that any file can hold, cut to ``limit`` bytes without splitting a
    character.
    """
    if len(body) <= limit:
        return body.decode("utf-8", errors="replace")
    # A decoder that expects more keeps the bytes of an unfinished character to itself.
    return codecs.getincrementaldecoder("utf-8")("replace").decode(body[:limit])


def completion(value: object) -> Completion | None:
    """The completion in a parsed body, or None where it is not one.

    It is one if it is an object with no truthy ``error`` and a non-empty list ``choices`` whose
    first entry has an object ``message``. Of later entries, an object without one is a choice of
    nulls, and what is no object is left out.
    """
    if not isinstance(value, dict) or value.get("error"):
        return None
    listed = value.get("choices")
    if not isinstance(listed, list) or not listed:
        return None
    choices: list[Choice] = []
    media: list[Media] = []
    for place, item in enumerate(listed):
        if place == 0 and not (isinstance(item, dict) and isinstance(item.get("message"), dict)):
            return None
        if isinstance(item, dict):
            choices.append(_choice(item, place))
            message = item.get("message")
            if isinstance(message, dict):
                media += media_of(message) or ()
    if len(choices) > 1:
        choices.sort(key=lambda choice: choice.index)
    first = choices[0]
    created = value.get("created")
    return Completion(
        first=first,
        choices=tuple(choices) if len(choices) > 1 or first.logprobs is not None else None,
        model=_text(value.get("model")),
        response_id=_text(value.get("id")),
        system_fingerprint=_text(value.get("system_fingerprint")),
        service_tier=_text(value.get("service_tier")),
        created_s=_moment(created),
        usage=usage_of(value),
        media=tuple(media) or None,
    )


def usage(value: object) -> Usage:
    """Token counts from a ``usage`` object; nothing is added up that the server did not say."""
    if not isinstance(value, dict):
        return NO_USAGE
    return Usage(
        prompt_tokens=_first_count(value, _PROMPT),
        completion_tokens=_first_count(value, _COMPLETION),
        total_tokens=_first_count(value, _TOTAL),
        cached_tokens=_first_count(value, _CACHED),
        reasoning_tokens=_first_count(value, _REASONING),
        cache_write_tokens=_first_count(value, _CACHE_WRITE),
    )


# Where each count stands, by vendor; the first that is a count is taken.
_PROMPT = (("prompt_tokens",), ("input_tokens",))
_COMPLETION = (("completion_tokens",), ("output_tokens",))
_TOTAL = (("total_tokens",),)
_CACHED = (
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),  # DeepSeek
    ("cached_tokens",),  # Moonshot
    ("cache_read_input_tokens",),  # Anthropic, behind a proxy
)
_CACHE_WRITE = (
    ("prompt_tokens_details", "cache_write_tokens"),  # OpenAI from GPT-5.6 on, OpenRouter
    ("input_tokens_details", "cache_write_tokens"),
    ("prompt_tokens_details", "cache_creation_tokens"),  # LiteLLM
    ("prompt_tokens_details", "cache_creation_input_tokens"),  # DashScope
    ("cache_write_tokens",),
    ("cache_creation_input_tokens",),  # Anthropic, behind a proxy
)
_REASONING = (
    ("completion_tokens_details", "reasoning_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
    ("reasoning_tokens",),  # SGLang
)


def _first_count(value: dict[str, Any], places: tuple[tuple[str, ...], ...]) -> int | None:
    for first, *inner in places:
        found = value.get(first)
        if inner:
            found = found.get(inner[0]) if isinstance(found, dict) else None
        count = _count(found)
        if count is not None:
            return count
    return None


def usage_of(value: object) -> Usage:
    """The usage in a parsed body: at its place, or where Moonshot and Groq put it."""
    return usage_and_text(value)[0]


def usage_and_text(value: object) -> tuple[Usage, str | None]:
    """The same, and the object that it was read from as JSON text; None where there is none."""
    if not isinstance(value, dict):
        return NO_USAGE, None
    groq, choices = value.get("x_groq"), value.get("choices")
    last = choices[0] if isinstance(choices, list) and choices else None
    told: object = None
    for holder in (value, last, groq):
        if isinstance(holder, dict):
            there = holder.get("usage")
            found = usage(there)
            if found != NO_USAGE:
                return found, json_text(there)
            told = there if told is None else told
    return NO_USAGE, json_text(told) if isinstance(told, dict) else None


def failure(error_class: str, code: str | None, message: str) -> Failure:
    """A failure with its texts made storable and bounded."""
    return Failure(
        error_class, storable_text(code, WORD_MAX) if code else None, storable_text(message)
    )


def _choice(item: dict[str, Any], place: int) -> Choice:
    message = item.get("message")
    if not isinstance(message, dict):
        message = {}
    index = item.get("index")
    logprobs = item.get("logprobs")
    given = content_as_text(message.get("content"))
    reasoning = _reasoning(message)
    refusal = _text(message.get("refusal"))
    if blank(refusal):
        refusal = None if blank(given.refusal) else given.refusal
    text, audio = given.text, message.get("audio")
    if isinstance(audio, dict) and blank(text):
        text = _text(audio.get("transcript")) or text  # what was spoken, in words
    return Choice(
        index=index if type(index) is int and 0 <= index < 2**31 else place,
        content=text,
        reasoning=given.thinking if reasoning is None else reasoning,
        refusal=refusal,
        finish_reason=finish_reason(item.get("finish_reason")),
        tool_calls=_tool_calls(message),
        logprobs=json_text(logprobs) if logprobs is not None else None,
    )


def _reasoning(message: dict[str, Any]) -> str | None:
    """Reasoning by either of its names; an empty one does not hide the other."""
    found: str | None = None
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        text = (part_text(value) or None) if isinstance(value, (list, dict)) else _text(value)
        if text:
            return text
        found = text if found is None else found
    return found


def _tool_calls(message: dict[str, Any]) -> tuple[ToolCall, ...] | None:
    calls = message.get("tool_calls")
    if isinstance(calls, dict):
        calls = [calls]
    if isinstance(calls, list) and calls:
        found = tuple(filter(_calls, (_tool_call(c) for c in calls if isinstance(c, dict))))
        if found:
            return found
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and legacy:
        # The call of the older protocol has neither id nor type, and none is made up.
        call = _tool_call({"function": legacy})
        if _calls(call):
            return (call,)
    return None


def _calls(call: ToolCall) -> bool:
    """Whether a call calls anything. Gateways send calls without name, id and arguments beside
    text; a call with a name is one whatever its arguments.
    """
    return (
        not blank(call.name)
        or _word(call.id) is not None
        or (_word(call.arguments) or "{}").strip() not in ("{}", "[]")
    )


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = call.get("function")
    if not isinstance(function, dict):
        function = call.get("custom")
        if not isinstance(function, dict):
            function = call
    arguments = function.get("arguments", function.get("input"))
    return ToolCall(
        id=_text(call.get("id")),
        type=_text(call.get("type")),
        name=_text(function.get("name")),
        arguments=arguments
        if isinstance(arguments, str) or arguments is None
        else json_text(arguments),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_NOTHING = frozenset(("", "null", "none", "nil", "<nil>", "undefined"))
"""Null as text, in lower case: written so by gateways in JavaScript, Python, Lua and Go."""
_UNSPECIFIED = "finish_reason_unspecified"
"""What an unset finish reason is called in Gemini's protocol."""


def _word(text: str | None) -> str | None:
    """A text, None where it is null written as text."""
    return None if text is None or text.strip().lower() in _NOTHING else text


def finish_reason(value: object) -> str | None:
    """A finish reason as sent; what is no text is kept as its JSON text. None where there is none:
    null and nothing, in whatever way they are written.
    """
    if not isinstance(value, str):
        return _word(json_text(value)[:WORD_MAX]) if value else None
    reason = _word(value)
    return None if reason is not None and reason.strip().lower() == _UNSPECIFIED else reason


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 12.0 is how some proxies write 12
    if type(value) is int and 0 <= value <= TOKENS_MAX:
        return value
    return None


def _moment(value: object) -> int | None:
    """Seconds since the epoch that a millisecond timestamp can hold (years 1970 to 5138)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11:
        return int(value)
    return None
