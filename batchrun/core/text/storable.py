"""Values as texts that any file can hold: JSON text, and text without half surrogate pairs."""

from __future__ import annotations

import re
from typing import Any

import msgspec

TEXT_MAX = 4096
"""Characters of a text that is kept for people to read."""

_encode = msgspec.json.Encoder().encode
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: object) -> str:
    """A JSON value as compact text."""
    try:
        try:
            return _encode(value).decode()
        except UnicodeEncodeError:
            return _encode(storable(value)).decode()
    except RecursionError:
        return '"nested too deeply to be kept"'


def storable(value: Any) -> Any:
    """A JSON value whose texts can be written as UTF-8, which half a surrogate pair cannot."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def storable_text(text: str, length_max: int = TEXT_MAX) -> str:
    """Text that any file can hold, cut to a number of characters."""
    return _LONE_SURROGATE.sub("\ufffd", text[:length_max])
