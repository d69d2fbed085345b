"""What the content of a message holds, whatever a server made of it.

By the specification content is text or null. Servers send lists of parts too (Mistral: text,
thinking, references), one part by itself, lists of texts, and JSON that a gateway parsed where the
text of it should stand. A container says nothing by being there: what counts is what is in it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from batchrun.core.text.storable import json_text

JsonObject = dict[str, Any]

_TEXT = frozenset(("text", "output_text", "input_text"))
_THINKING = frozenset(("thinking", "reasoning"))
_REFUSAL = "refusal"
_NOT_TEXT = frozenset(
    """
    image image_url image_file input_image output_image audio audio_url input_audio output_audio
    video video_url input_video output_video file file_url input_file reference citation
    redacted_thinking
    """.split()
)
"""Parts that are no text: images, sound, files (OpenAI, Anthropic and Gemini behind proxies),
Mistral's references. They are in the raw reply."""
_THEIRS = frozenset(
    """
    image image_url image_file input_image output_image audio audio_url input_audio output_audio
    video video_url input_video output_video file file_url file_id input_file reference_ids citation
    url data source b64_json
    """.split()
)
"""Where such a part has what it brings: ``{"type": "image", "colour": "red"}`` is an answer."""
_OF_TEXT_PARTS = frozenset(
    "type text id index annotations citations logprobs cache_control signature".split()
)
_OF_THOUGHTS = _OF_TEXT_PARTS | _THINKING | {"closed", "summary"}
_TEXTS = ("text", "content", "value")
"""The keys under which a text part has its text."""
_FORMAL = frozenset("type role object format expires_at".split())
"""Keys that say what an object is, and nothing of what the model said."""
DEPTH_MAX = 16
"""Values nested deeper than this say something, whatever it is."""


class Said(NamedTuple):
    """What content holds, apart from what the model thought and refused."""

    text: str | None
    thinking: str | None = None
    refusal: str | None = None


def content_as_text(content: object) -> Said:
    """Content as text. Parts are joined by kind; what is neither text nor a part is kept as its
    JSON text: all of the content where there is nothing else in it.
    """
    if isinstance(content, str) or is_null(content):
        return Said(content if isinstance(content, str) else None)
    if not isinstance(content, list):
        if not isinstance(content, dict):
            return Said(json_text(content))
        if not is_part(content):
            return Said(json_text(content) if content else "")
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    known = strange = False
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
            known = True
        elif isinstance(part, dict) and is_part(part):
            known = True
            kind = part.get("type")
            if kind in _THINKING or (kind not in _TEXT and "thinking" in part):
                thoughts.append(_thought(part))
            elif kind == _REFUSAL:
                refusals.append(part_text(part.get(_REFUSAL)))
            elif kind not in _NOT_TEXT:
                texts.append(_text_in(part))
        elif part not in ({}, []) and not is_null(part):
            texts.append(json_text(part))
            strange = True
    if strange and not known:
        return Said(json_text(content))
    return Said(
        "".join(texts),
        "".join(thoughts) if thoughts else None,
        "".join(refusals) if refusals else None,
    )


def is_null(value: object) -> bool:
    """Whether a value is null, or a number that JSON has not and that is written as null."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def is_part(value: JsonObject) -> bool:
    """Whether an object is a part of a message, and not an answer in JSON."""
    kind = value.get("type")
    if kind is None:
        keys = value.keys()
        return ("text" in value and keys <= _OF_TEXT_PARTS) or (
            "thinking" in value and keys <= _OF_THOUGHTS
        )
    if not isinstance(kind, str):
        return False
    if kind in _TEXT:
        return any(key in value for key in _TEXTS) or value.keys() <= _OF_TEXT_PARTS
    if kind in _THINKING:
        return value.keys() <= _OF_THOUGHTS or kind in value
    if kind == _REFUSAL:
        return _REFUSAL in value
    if kind in _NOT_TEXT:
        return any(key in value for key in _THEIRS)
    return "text" in value and value.keys() <= _OF_TEXT_PARTS


def part_text(value: object) -> str:
    """A part's text: text, an object that holds it, or parts once more."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next((found for key in _TEXTS if isinstance(found := value.get(key), str)), "")
    if isinstance(value, list):
        return "".join(part_text(part) for part in value if isinstance(part, (str, dict)))
    return ""


def _text_in(part: JsonObject) -> str:
    found = next((part[key] for key in _TEXTS if not is_null(part.get(key))), None)
    text = part_text(found)
    # JSON where the text of a part should stand is an answer too.
    return text if text or not says_anything(found) else json_text(found)


def _thought(part: JsonObject) -> str:
    places = ("thinking", "reasoning", "text", "summary")
    return part_text(next((part[key] for key in places if not is_null(part.get(key))), None))


def says_anything(value: object, depth: int = DEPTH_MAX) -> bool:
    """Whether anything is said in a value of a message, at any depth: empty texts, lists and
    objects say nothing, and neither do the names of types.
    """
    if depth > 0 and isinstance(value, dict):
        return any(
            says_anything(item, depth - 1) for key, item in value.items() if key not in _FORMAL
        )
    if depth > 0 and isinstance(value, list):
        return any(says_anything(item, depth - 1) for item in value)
    return not is_null(value) and value != ""


def covers(value: object, earlier: object, depth: int = DEPTH_MAX) -> bool:
    """Whether a value says all that an earlier one says: texts and lists may go on."""
    if not says_anything(earlier):
        return True
    if isinstance(value, str) and isinstance(earlier, str):
        return value.startswith(earlier)
    if depth > 0 and isinstance(value, dict) and isinstance(earlier, dict):
        return all(
            covers(value.get(key), item, depth - 1)
            for key, item in earlier.items()
            if key not in _FORMAL
        )
    if depth > 0 and isinstance(value, list) and isinstance(earlier, list):
        if len(value) >= len(earlier) and all(
            covers(now, before, depth - 1) for now, before in zip(value, earlier, strict=False)
        ):
            return True
    elif isinstance(value, (int, float)) and type(value) is type(earlier):
        return value == earlier
    # The same text may be a text here and parts there.
    now, before = content_as_text(value).text, content_as_text(earlier).text
    return bool(before) and (now or "").startswith(before or "")
