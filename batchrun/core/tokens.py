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


def estimate(body: dict[str, Any], body_bytes: int) -> tuple[int, bool]:
    """Prompt plus completion tokens that a server may charge for this body, and whether the body
    itself limits the completion.
    """
    limit = body.get("max_completion_tokens")
    if not isinstance(limit, int):
        limit = body.get("max_tokens")
    stated = isinstance(limit, int) and limit > 0
    if not stated:
        limit = UNSTATED_COMPLETION_TOKENS
    choices = body.get("n")
    if not isinstance(choices, int) or choices < 1:
        choices = 1
    return max(1, int(body_bytes / BYTES_PER_TOKEN)) + int(limit or 0) * choices, stated
