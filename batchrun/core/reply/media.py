"""Images, sound, films and files in an answer, wherever a server puts them.

- OpenAI: ``message.audio`` with base64 in ``data``.
- OpenRouter, and Gemini behind it: ``message.images``, parts of type ``image_url`` with a data URL.
- Parts of the content: ``image_url``, ``output_image``, ``image`` with a ``source`` (Anthropic
  behind proxies), ``inline_data`` (Gemini), ``audio``, ``file``.
- ``b64_json`` and ``url``, the names of OpenAI's images API, in gateways that pass its answers on.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from batchrun.core.reply.content import says_anything
from batchrun.records import Media

FIELDS: dict[str, str] = {
    "image": "image",
    "images": "image",
    "image_url": "image",
    "audio": "audio",
    "audios": "audio",
    "video": "video",
    "videos": "video",
    "file": "file",
    "files": "file",
    "media": "file",
    "attachments": "file",
}
"""Fields of a message that hold media, and what kind where they do not say."""
_KINDS = ("image", "audio", "video", "file")
_HOLDERS = (
    *("image_url", "output_image", "input_image", "image", "audio_url", "audio", "input_audio"),
    *("output_audio", "video_url", "video", "file_url", "file", "source", "inline_data"),
    "inlineData",
)
"""Where in a part the object is that has the bytes."""
_BYTES = ("data", "b64_json", "base64", "bytes", "file_data")
_ADDRESSES = ("url", "uri", "file_uri", "fileUri")
_MIMES = ("mime_type", "media_type", "mimeType", "mediaType", "content_type")
_DATA_URL = re.compile(r"data:([\w.+/-]*)(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?|gs|s3)://", re.IGNORECASE)
_NO_MEDIA = frozenset("id index expires_at transcript format detail title name".split())
DEPTH_MAX = 6
MIME_MAX = 200
ADDRESS_MAX = 8192


def media_of(message: dict[str, Any]) -> tuple[Media, ...] | None:
    """All that a message holds besides text, in the order of its fields; None where it has none."""
    found: list[Media] = []
    for name, kind in FIELDS.items():
        value = message.get(name)
        if value:
            found += _items(value, kind)
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and (named := _kind_of(part)) is not None:
                found += _items(part, named)
    return tuple(found) or None


def _kind(word: str) -> str | None:
    """``output_image``, ``image_url`` and ``image/png`` are all images."""
    lower = word.lower()
    return next((kind for kind in _KINDS if kind in lower), None)


def _kind_of(part: dict[str, Any]) -> str | None:
    """What a part of the content is; None for text and whatever else."""
    said = part.get("type")
    if isinstance(said, str):
        return _kind(said)
    return "file" if "inline_data" in part or "inlineData" in part else None


def _items(value: object, kind: str) -> Iterator[Media]:
    for item in value if isinstance(value, list) else [value]:
        found = _medium(item, kind, None, DEPTH_MAX)
        if found is not None:
            yield found
        elif says_anything(_bare(item)):
            yield Media(kind, None, None)  # whatever it is, it is in the raw reply


def _bare(item: object) -> object:
    """What an item says besides its name and its text."""
    if not isinstance(item, dict):
        return item
    return {key: value for key, value in item.items() if key not in _NO_MEDIA}


def _medium(value: object, kind: str, mime: str | None, depth: int) -> Media | None:
    """The medium in a value: a data URL, an address, base64, or an object that holds one."""
    if isinstance(value, str):
        return _of_text(value, kind, mime)
    if not isinstance(value, dict) or depth <= 0:
        return None
    said = value.get("type")
    if isinstance(said, str):
        kind = _kind(said) or kind
    mime = _mime(value, kind) or mime
    for name in (*_BYTES, *_ADDRESSES):
        inner = value.get(name)
        if isinstance(inner, str) and inner:
            found = _of_text(inner, kind, mime, plain=name in _BYTES)
            if found is not None:
                return found
    for name in _HOLDERS:
        inner = value.get(name)
        if inner:
            found = _medium(inner, _kind(name) or kind, mime, depth - 1)
            if found is not None:
                return found
    return None


def _mime(value: dict[str, Any], kind: str) -> str | None:
    for name in _MIMES:
        found = value.get(name)
        if isinstance(found, str) and found:
            return found[:MIME_MAX]
    short = value.get("format")
    if isinstance(short, str) and short.isalnum() and kind in ("audio", "image", "video"):
        return f"{kind}/{short.lower()}"[:MIME_MAX]
    return None


def _of_text(text: str, kind: str, mime: str | None, *, plain: bool = True) -> Media | None:
    match = _DATA_URL.match(text)
    if match is not None:
        mime = match[1].lower()[:MIME_MAX] or mime
        kind = _kind((mime or "").partition("/")[0]) or kind
        data = _decoded(text[match.end() :])
        return None if data is None else Media(kind, mime, data)
    if _ADDRESS.match(text):
        return Media(kind, mime, None, text[:ADDRESS_MAX])
    data = _decoded(text) if plain else None
    kind = _kind((mime or "").partition("/")[0]) or kind
    return Media(kind, mime, data) if data else None


def _decoded(text: str) -> bytes | None:
    """The bytes of base64, with or without its padding, in either alphabet; None where it is not
    such.
    """
    compact = text if text.isascii() else ""
    if any(sign in compact for sign in " \r\n\t"):
        compact = "".join(compact.split())
    compact = compact.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None
