"""``NaN`` and infinities in JSON, as Python and others write them although JSON has none.

They mean a missing value, so they become null in carried fields and cannot be sent. A number too
large for a float (``1e999``) parses as infinity, and is treated as one here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# A string that is never closed ends with the text: linear, whatever the text is.
_TOKENS = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|NaN|-?Infinity|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?',
    re.DOTALL,
)


def nulled(text: bytes) -> bytes:
    """JSON text with null for every such token outside of strings; the same text without one."""
    return _TOKENS.sub(_null, text)


def _null(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if token[:1] == b'"' or token.lstrip(b"-").isdigit():
        return token
    # Also of the words: Python's numbers have the same names.
    return token if math.isfinite(float(token)) else b"null"


def parsed(text: bytes) -> Any:
    """The value of JSON text with such tokens as floats. Raises ``ValueError``, or
    ``RecursionError``.
    """
    return json.loads(text)


def finite(value: Any) -> Any:
    """A value of JSON with null for every such float in it; the same object without one."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return value if is_finite(value) else {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return value if is_finite(value) else [finite(item) for item in value]
    return value


def is_finite(value: Any) -> bool:
    """Whether no such float is in a value of JSON."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(is_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_finite(item) for item in value)
    return True
