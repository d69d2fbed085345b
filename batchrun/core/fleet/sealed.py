"""Records that tell whether they are what was written: JSON objects with a checksum in them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

_KEY = "checksum"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its checksum."""
    return {**value, _KEY: _checksum(json.loads(json.dumps(value)))}


def unsealed(content: bytes) -> dict[str, Any]:
    """A record without its checksum. Raises ``ValueError`` for one that is damaged."""
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        message = "it is no JSON object"
        raise ValueError(message)  # noqa: TRY004 - what it holds is wrong
    if value.pop(_KEY, None) != _checksum(value):
        message = "its checksum is wrong"
        raise ValueError(message)
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"
