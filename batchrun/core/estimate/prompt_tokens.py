"""How many tokens a server will find in the prompt of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from batchrun.core.estimate.vocabulary import Count
from batchrun.core.request.tokens import IMAGE_TOKENS

MESSAGE_TOKENS = 3
PRIMING_TOKENS = 3
"""What frames a message and opens the answer, as OpenAI documents it for its chat models; the
templates of others take from none to about twice as many, and that is the error stated."""

_encode = msgspec.json.Encoder().encode


class Prompt(NamedTuple):
    """The tokens of a prompt, and between what they lie; ``unread`` are parts that are counted by
    an assumption (images) or not at all (sound, files).
    """

    tokens: float
    low: float
    high: float
    unread: int


def prompt(body: dict[str, Any], count: Count) -> Prompt:
    """The prompt of a request body: its messages, tools and schema."""
    tokens = low = high = 0.0
    unread = images = 0
    for part in _texts(body):
        if isinstance(part, str):
            counted = count(part)
            tokens += counted.tokens
            low += counted.low
            high += counted.high
        else:
            unread += 1
            images += part
    messages = body.get("messages") or ()
    named = sum(1 for message in messages if message.get("name"))
    framing = MESSAGE_TOKENS * len(messages) + named + PRIMING_TOKENS
    pictures = images * IMAGE_TOKENS
    return Prompt(
        tokens + framing + pictures,
        low + pictures / 10,
        high + 2 * framing + pictures * 10,
        unread,
    )


def _texts(body: dict[str, Any]) -> Iterator[str | bool]:
    """Every text of the prompt; for what is none, whether it is an image."""
    for message in body.get("messages") or ():
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from map(_part, content)
        elif content is not None:
            yield _encode(content).decode()
        name = message.get("name")
        if isinstance(name, str):
            yield name
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                yield from (v for v in call["function"].values() if isinstance(v, str))
    for key in ("tools", "functions"):
        if body.get(key):
            yield _encode(body[key]).decode()
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("json_schema"):
        yield _encode(form["json_schema"]).decode()


def _part(part: object) -> str | bool:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return False
    kind = part.get("type", "text")
    text = part.get("refusal" if kind == "refusal" else "text")
    if isinstance(text, str):
        return text
    return kind in ("image_url", "input_image", "image")
