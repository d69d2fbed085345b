"""Estimating tokens without a tokenizer, for the token rate limit only.

Too high is right here: servers charge their limit with prompt plus the allowed completion before
they know the answer, and what was not used is given back once the usage is known.
"""

from __future__ import annotations

from typing import Any

LIMITS = ("max_completion_tokens", "max_tokens", "n_predict")
"""The names of the limit of an answer; servers obey one of them, and not all the same one
(llama.cpp: the last)."""

BYTES_PER_TOKEN = 3.5
"""Between Latin text (about 4 bytes a token) and CJK (about 3 bytes, one character)."""

UNSTATED_COMPLETION_TOKENS = 512
"""Assumed where a body names no limit; replaced by the real count as soon as it is known."""


INLINE_BYTES = 16 * 2**10
"""Only a body larger than this is searched for images inside it."""

IMAGE_TOKENS = 1_500
"""Assumed for an image that is sent as a data URL: servers charge by its size in pixels, some
hundred to some thousand tokens, where its bytes would count as a million.
"""


def stated_limit(body: dict[str, Any]) -> int | None:
    """The completion tokens that the body itself allows for each choice."""
    for name in LIMITS:
        if name in body and isinstance(body[name], int):
            limit: int = body[name]
            return limit if limit > 0 else None
    return None


def raised(body: dict[str, Any], most: int) -> dict[str, int]:
    """The limits of a body that another try may have higher: twice as many tokens, at most
    ``most``. Each of its names counts, since nobody knows which one the server obeys; a body
    without a limit gets none.
    """
    found = {}
    for name in LIMITS:
        limit = body.get(name)
        if isinstance(limit, float) and limit.is_integer():
            limit = int(limit)
        if type(limit) is int and 0 < limit < most:
            found[name] = min(most, 2 * limit)
    return found


def choices(body: dict[str, Any]) -> int:
    """How many answers a body asks for."""
    count = body.get("n")
    return count if isinstance(count, int) and count > 1 else 1


def estimate(body: dict[str, Any], body_bytes: int, limit: int | None) -> int:
    """Prompt plus completion tokens that a server may charge for this body, whose stated limit is
    ``limit``.
    """
    limit = limit or UNSTATED_COMPLETION_TOKENS
    images, image_bytes = _inline_images(body) if body_bytes > INLINE_BYTES else (0, 0)
    prompt = max(1, int((body_bytes - image_bytes) / BYTES_PER_TOKEN)) + images * IMAGE_TOKENS
    return prompt + (limit * choices(body) if "n" in body else limit)


def _inline_images(body: dict[str, Any]) -> tuple[int, int]:
    """How many images are inside the body, and their bytes."""
    sizes = []
    for message in body.get("messages") or ():
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            image = part.get("image_url") if isinstance(part, dict) else None
            url = image.get("url") if isinstance(image, dict) else None
            if isinstance(url, str) and url.startswith("data:"):
                sizes.append(len(url))
    return len(sizes), sum(sizes)
