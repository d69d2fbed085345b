"""The most that one request can cost in tokens, known before it is sent.

A tokenizer that works on bytes makes no more tokens than there are bytes, and the body holds every
byte of the prompt. What a server adds (marks around messages, the frame of tools) is covered by the
body's own JSON, whose syntax is longer, and a margin. What is not text has no such bound: an image
is charged by its pixels, so it has one of its own here; anything else is refused, and so is what
makes a server fetch text of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from batchrun.core.request.tokens import LIMITS
from batchrun.errors import UnboundedError
from batchrun.records import WorstCase

MARGIN_TOKENS = 1024
"""For what a server adds to the prompt whatever it holds: a system prompt of its own, marks around
messages, how tools are to be called. Generous: nobody documents it for all models. A bill above the
worst case is noticed, and later reservations are raised by as much."""

IMAGE_TOKENS_MAX = 50_000
"""Above the dearest documented image: 48,169 tokens for gpt-4o-mini in high detail (2,833 and 5,667
for each of eight tiles)."""

CACHE_WRITE_TIMES = 2
"""Where a body marks what is to be cached, writing it costs up to twice the input's price."""

_TEXT = ("text", "refusal", "input_text", "output_text")
_IMAGES = ("image_url", "input_image", "image")
_THINKING = (
    ("thinking_budget",),
    ("thinking_token_budget",),
    ("thinking", "budget_tokens"),
    ("reasoning", "max_tokens"),
)
"""Some servers count what is thought apart from the limit of the answer."""
_FETCHING = (
    "web_search_options",
    "search_settings",
    "search_parameters",
    "enable_search",
    "plugins",
    "data_sources",
    "compound_custom",
    "session_params",
    "chat_template",
)
"""They add text to the prompt that is not in the body, or calls with a price of their own."""
_OWN_TOOLS = ("function", "custom")
"""Tools that the caller runs; others are the server's, which puts in what they find."""


def worst_case(body: Mapping[str, Any], wire: bytes, *, raised_to: int | None = None) -> WorstCase:
    """The bound for a body, and for its bytes as they are sent. ``raised_to`` is the limit that a
    later try of it may have.

    Raises ``UnboundedError`` where there is none: nothing limits the answer, or the prompt holds
    what cannot be bounded.
    """
    choices = max(_whole(body, "n"), _whole(body, "best_of"))
    output = max(_limit(body), raised_to or 0) + sum(_thinking(body, *names) for names in _THINKING)
    _require_told(body)
    given = _bytes(wire) + MARGIN_TOKENS + _images(body) * IMAGE_TOKENS_MAX
    if b'"cache_control"' in wire:
        given *= CACHE_WRITE_TIMES
    output *= choices
    if body.get("prediction") is not None:
        output += len(wire)  # what of it is rejected is billed as output
    tier = body.get("service_tier")
    return WorstCase(given, output, tier.lower() if isinstance(tier, str) else None)


def _limit(body: Mapping[str, Any]) -> int:
    """The largest of the limits, whichever the server obeys."""
    given = [_int(name, body[name]) for name in LIMITS if body.get(name) is not None]
    if not given or min(given) <= 0:  # 0 and less are no limit to some
        message = (
            "nothing limits the answer, so its cost has no bound: set `max_completion_tokens` (or "
            "`max_tokens`) in the row, or for all rows with --max-tokens N"
        )
        raise UnboundedError(message)
    return max(given)


def _whole(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    return 1 if value is None else max(1, _int(name, value))


def _thinking(body: Mapping[str, Any], name: str, inner: str | None = None) -> int:
    value = body.get(name)
    if inner is not None:
        value = value.get(inner) if isinstance(value, dict) else None
    return 0 if value is None else max(0, _int(name, value))


def _int(name: str, value: object) -> int:
    """A number that every server reads as the same one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # columns with nulls come as floats; servers take 2.0 for 2
    if type(value) is not int:
        message = f"`{name}` is {value!r}, no whole number, so the request's cost has no bound"
        raise UnboundedError(message)
    return value


def _require_told(body: Mapping[str, Any]) -> None:
    """Raises ``UnboundedError`` for what adds to the cost out of sight."""
    for name in _FETCHING:
        if body.get(name) not in (None, False, []):
            _refuse(f"`{name}`", "adds to the cost what is not in the request")
    if body.get("models"):
        _refuse("`models`", "lets another model answer, at another price")
    modalities = body.get("modalities")
    if body.get("audio") is not None or (modalities and modalities != ["text"]):
        _refuse("an answer that is not text (`audio`, `modalities`)", "has prices of its own")
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
        if kind not in _OWN_TOOLS:
            _refuse(f"a tool of type {kind!r}", "is the server's, and adds what it finds")


def _refuse(what: str, why: str) -> None:
    message = f"{what} {why}: this cannot be bounded, so it cannot be sent under a budget"
    raise UnboundedError(message)


def _bytes(wire: bytes) -> int:
    """How many bytes a tokenizer may see. Some bring text into a normal form first, in which a few
    characters are longer: NFC for one, NFKC makes eighteen letters of one.
    """
    if wire.isascii():
        return len(wire)
    text = wire.decode()
    forms = (unicodedata.normalize("NFC", text), unicodedata.normalize("NFKC", text))
    return max(len(wire), *(len(form.encode()) for form in forms))


def _images(body: Mapping[str, Any]) -> int:
    """How many images the messages hold. Raises ``UnboundedError`` for other things than text."""
    found = 0
    for place, message in enumerate(body.get("messages") or ()):
        if message.get("audio") is not None:
            _unbounded(place, "an earlier answer in `audio`")
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind in _IMAGES:
                _require_image(place, part)
                found += 1
            elif kind not in _TEXT:
                _unbounded(place, f"a part of type {kind!r}")
    return found


def _require_image(place: int, part: Mapping[str, Any]) -> None:
    """A data URL may hold a document or a film under the name of an image."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if isinstance(url, str) and url[:5].lower() == "data:" and url[:11].lower() != "data:image/":
        _unbounded(place, f"an image that is none ({url[:20]!r})")


def _unbounded(place: int, what: str) -> None:
    message = (
        f"messages[{place}] has {what}: how many tokens it is charged with cannot be bounded, so "
        "it cannot be sent under a budget"
    )
    raise UnboundedError(message)
