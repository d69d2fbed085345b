"""Chunks of the most common shape, read quickly.

A *plain* chunk holds one choice of text and no field that is not known here: typed decoding takes
it. *Repeated* chunks equal a plain one before them but for their text: what stands around it is
compared and cut off. A chunk that is neither is for ``core.stream.fold`` to read with care.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from batchrun.core.stream import stream_json

AT_ONCE = 512
"""So many lines are compared together: where few of them are alike, the others were in vain."""

_OTHERS_MAX = 8
"""A piece of a stream ends with so many chunks of other kinds at most, if all goes as usual."""

_BACKSLASH = 0x5C
_CONTENT = b'"content":'
_STRING = re.compile(rb'\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)

_decode_text = msgspec.json.Decoder(str).decode


class PlainDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What is new in a plain chunk."""

    content: str | None = None
    role: str | None = None
    reasoning_content: None = None
    reasoning: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class PlainChoice(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The choice of a plain chunk."""

    delta: PlainDelta
    index: Literal[0] = 0
    finish_reason: str | None = None
    logprobs: None = None
    stop_reason: None = None
    matched_stop: None = None
    token_ids: None = None


class PlainChunk(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A plain chunk, in the fields that every server's chunks have."""

    choices: Annotated[list[PlainChoice], msgspec.Meta(max_length=1)]
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    usage: dict[str, Any] | None = None
    error: None = None
    obfuscation: str | None = None


_decode_chunk = msgspec.json.Decoder(PlainChunk).decode


def read_plain(data: bytes) -> PlainChunk | None:
    """The plain chunk in a datum; None where it is anything else."""
    try:
        return _decode_chunk(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class Shape(NamedTuple):
    """What stands before and behind the text of a chunk."""

    before: bytes
    behind: bytes

    def take(self, lines: list[bytes]) -> tuple[int, str]:
        """How many of the lines, from the first on, have this shape, and the text of them all
        together. 0 where that text cannot be told.
        """
        before, behind = self
        start, stop = len(before), -len(behind)
        count, least = len(lines), max(0, len(lines) - _OTHERS_MAX)
        while count > least:
            line = lines[count - 1]
            if line.startswith(before) and line.endswith(behind):
                break
            count -= 1
        texts = [line[start:stop] for line in lines[:count]]
        # One comparison of everything costs less than two a line.
        if before + (behind + before).join(texts) + behind != b"".join(lines[:count]):
            texts = []
            for line in lines:
                if not (line.startswith(before) and line.endswith(behind)):
                    break
                texts.append(line[start:stop])
        text = _joined(texts)
        return (0, "") if text is None else (len(texts), text)


def _joined(texts: list[bytes]) -> str | None:
    """Pieces of one JSON string as text; None where that cannot be told. A character whose bytes
    are in two pieces is one.
    """
    joined = b"".join(texts)
    if _BACKSLASH in joined and any(
        text.find(b"\\", -1) >= 0 or text.find(b"\\u", -5) >= 0 for text in texts
    ):
        return None  # a backslash may eat a closing quote, and half an escape is none
    try:
        return _decode_text(b'"%b"' % joined)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def shape_of(line: bytes) -> Shape | None:
    """The shape of a plain chunk, if it can be told where its text is."""
    at = line.find(_CONTENT)
    if line.find(_CONTENT, at + 1) >= 0:
        return None
    if at < 0:
        return None
    start = at + len(_CONTENT)
    if line.startswith(b'"', start):
        # Nearly always: no space, and no escape in the text.
        end = line.find(b'"', start + 1)
        if line.find(b"\\", start, end) < 0:
            return Shape(line[: start + 1], line[end:])
    text = _STRING.match(line, start)
    return None if text is None else Shape(line[: text.start(1)], line[text.end(1) :])


def is_chunks(body: bytes) -> bool:
    """Whether a body that begins with a brace is a stream of chunks all the same: its lines are
    JSON and the field names of the events are missing.
    """
    if b'"delta"' not in body[:4096]:
        return False
    value = stream_json.read(body.lstrip().partition(b"\n")[0])
    choices = value.get("choices") if isinstance(value, dict) else None
    return (
        isinstance(choices, list)
        and bool(choices)
        and isinstance(choices[0], dict)
        and "message" not in choices[0]
        and isinstance(choices[0].get("delta"), dict)
    )
