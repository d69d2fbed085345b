"""JSON values as the chunks of a stream bring them, and the one value they become.

Read as tolerantly as plain replies are, with one difference: halves of surrogate pairs are kept
until the end, since a server may cut a pair in two and send the halves in two chunks.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from batchrun.core.reply.completion import whole_number

JsonObject = dict[str, Any]

UNREADABLE = object()
"""What is not JSON."""

DEPTH_MAX = 64
TOO_DEEP = "nested too deeply to be kept"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_HALF = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def read(text: bytes) -> object:
    """The JSON value in a text, or ``UNREADABLE``."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        decoded = text.decode("utf-8-sig", errors="replace")
        return json.loads(decoded, strict=False, parse_int=whole_number)
    except (ValueError, RecursionError):
        return UNREADABLE


def completion(
    head: JsonObject, choices: list[JsonObject], usage: JsonObject | None, other: JsonObject
) -> JsonObject:
    """A plain completion, from what the chunks of a stream said of it."""
    value: JsonObject = {
        "id": head.get("id"),
        "object": "chat.completion",
        "created": head.get("created"),
        "model": head.get("model"),
        "choices": choices,
    }
    if usage is not None:
        value["usage"] = usage
    for key in ("service_tier", "system_fingerprint"):
        if key in head:
            value[key] = head[key]
    return value | other if other else value


def write(value: Any) -> bytes:
    """A value as JSON in UTF-8: pairs put together, single halves replaced, absurd depths cut."""
    try:
        return _write(value)
    except RecursionError:
        return _write(_cut(value, DEPTH_MAX))


def _write(value: Any) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:
        value = _mended(value)
    except OverflowError:
        pass
    try:
        return _encode(value)
    except OverflowError:
        # An integer beyond 64 bits.
        return json.dumps(_mended(value), ensure_ascii=False, separators=(",", ":")).encode()


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", _PAIR.sub(_joined, value))
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _cut(value: Any, depth: int) -> Any:
    if not isinstance(value, (list, dict)):
        return value
    if depth == 0:
        return TOO_DEEP
    if isinstance(value, list):
        return [_cut(item, depth - 1) for item in value]
    return {key: _cut(item, depth - 1) for key, item in value.items()}
