"""The most that one request can cost in tokens, known before it is sent.

A tokenizer that works on bytes makes no more tokens than there are bytes, and the body holds every
byte of the prompt. What a server adds (marks around messages, the frame of tools) is covered by the
body's own JSON, whose syntax is longer, and a margin. What is not text has no such bound: an image
is charged by its pixels, so it has one of its own here; anything else is refused.
"""

from __future__ import annotations

from typing import Any

from batchrun.core import tokens
from batchrun.errors import UnboundedError
from batchrun.records import WorstCase

MARGIN_TOKENS = 64
"""For what a server's template adds to the prompt whatever it holds."""

IMAGE_TOKENS_MAX = 50_000
"""Above the dearest documented image: 48,169 tokens for gpt-4o-mini in high detail (2,833 and 5,667
for each of eight tiles)."""

_TEXT = ("text", "refusal", "input_text", "output_text")
_IMAGES = ("image_url", "input_image", "image")


def worst_case(body: dict[str, Any], body_bytes: int) -> WorstCase:
    """The bound for a body of so many bytes.

    Raises ``UnboundedError`` where there is none: nothing limits the answer, or the prompt holds
    what cannot be bounded.
    """
    limit = tokens.stated_limit(body)
    if limit is None:
        message = (
            "nothing limits the answer, so its cost has no bound: set `max_completion_tokens` (or "
            "`max_tokens`) in the row, or for all rows with --param max_completion_tokens=N"
        )
        raise UnboundedError(message)
    choices = max(_whole(body, "n"), _whole(body, "best_of"))
    tier = body.get("service_tier")
    return WorstCase(
        body_bytes + MARGIN_TOKENS + _images(body) * IMAGE_TOKENS_MAX,
        limit * choices,
        tier if isinstance(tier, str) else None,
    )


def _whole(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    return value if isinstance(value, int) and value > 1 else 1


def _images(body: dict[str, Any]) -> int:
    """How many images the messages hold. Raises ``UnboundedError`` for other things than text."""
    found = 0
    for place, message in enumerate(body.get("messages") or ()):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind in _IMAGES:
                found += 1
            elif kind not in _TEXT:
                said = (
                    f"messages[{place}] has a part of type {kind!r}: how many tokens it is charged "
                    "with cannot be bounded, so it cannot be sent under a budget"
                )
                raise UnboundedError(said)
    return found
