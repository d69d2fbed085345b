"""Estimating tokens without a tokenizer, for the token rate limit only.

Too high is right here: servers charge their limit with prompt plus the allowed completion before
they know the answer, and what was not used is given back once the usage is known.
"""

from __future__ import annotations

from typing import Any

BYTES_PER_TOKEN = 3.5
"""Between Latin text (about 4 bytes a token) and CJK (about 3 bytes, one character)."""

UNSTATED_COMPLETION_TOKENS = 512
"""Assumed where a body names no limit; replaced by the real count as soon as it is known."""


def stated_limit(body: dict[str, Any]) -> int | None:
    """The completion tokens that the body itself allows for each choice."""
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if isinstance(limit, int):
            return limit if limit > 0 else None
    return None


def estimate(body: dict[str, Any], body_bytes: int) -> int:
    """Prompt plus completion tokens that a server may charge for this body."""
    limit = stated_limit(body) or UNSTATED_COMPLETION_TOKENS
    choices = body.get("n")
    if not isinstance(choices, int) or choices < 1:
        choices = 1
    return max(1, int(body_bytes / BYTES_PER_TOKEN)) + limit * choices
