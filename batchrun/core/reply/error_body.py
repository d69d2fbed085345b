"""Reading an error's body, in all the shapes that servers give it.

In this order: ``{"error": {...}}``; ``{"error": "text"}``, with ``error_type`` beside it; a flat
object with ``object: error``; either of them in an array (Gemini); ``detail`` as text or list
(FastAPI); a flat ``message`` or RFC 7807's ``title`` and ``detail``; with the error of somebody
further up as JSON text inside the message, or under ``metadata.raw`` (OpenRouter); and Azure's
``innererror``. What vendors report in fields of their own comes last
(``core/reply/failure_reports.py``). What is none of these has no code and no message.

An error's *names* are its identifiers: codes, types, statuses and reasons, the inner ones too. They
are compared as a whole. A name of ours begins with ``@``, so that no server can send it: it comes
from the structure, from a code that a vendor has made up (``core/reply/vendor_codes.py``), else
from the words of the message (``core/reply/phrases.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from batchrun.core.reply import headers as header
from batchrun.core.reply.completion import WORD_MAX, parse
from batchrun.core.reply.failure_reports import VENDOR, reports
from batchrun.core.reply.phrases import (
    MODERATED,
    NO_LIMIT,
    PER_DAY,
    PHRASES,
    SPENDING,
    TOO_LARGE,
    UNPARSED,
)
from batchrun.core.reply.vendor_codes import MINIMAX, VAGUE, meaning_of
from batchrun.core.text.storable import json_text, storable_text

LAYERS_MAX = 8
"""Errors inside errors that are looked at."""
NESTED_TEXT_MAX = 65_536
"""Characters of a JSON text inside a message that is read."""
PHRASE_TEXT_MAX = 2000
"""Characters of a message that a phrase is looked for in."""
ONE_WORD_MAX = 40
"""A message of so few characters is a name of its own: vLLM's to a wrong key is one word."""


# The figures of a refusal by OpenAI, Groq and others: what the limit is, and what was asked for.
_FIGURES = re.compile(
    r"(?:Request too large|Rate limit reached) for [^\n]{0,300}?"
    r"\bLimit:? (\d[\d,.]{0,20})[^\n]{0,80}?\bRequested:? (\d[\d,.]{0,20})",
    re.IGNORECASE,
)

# The name of the exception, or the code, that the words follow (LiteLLM, DashScope).
_RAISED_AS = re.compile(r"(?:<\d{3}> ?)?(?:litellm\.)?([A-Za-z][\w.]{3,80}): ")
# The code that MiniMax puts behind its words.
_NUMBERED = re.compile(r"""[^\n"'`{}\[\]]{1,200} ?\((\d{4})\)$""")

# How long to come back, in a refusal's words (Groq, OpenAI, Gemini, Azure).
_ASKED = re.compile(
    rf"(?:(?:try again|retry) (?:in|after)|replenished in) (\d+:\d\d:\d\d|{header.DURATION})",
    re.IGNORECASE,
)


class ErrorBody(NamedTuple):
    """An error as far as its body tells of it.

    ``code`` and ``kind`` are what it calls itself (``code`` and ``type``), ``status`` the HTTP
    status that stands inside, ``message`` a bounded text. ``layers`` are its objects, the
    outermost first, and ``said`` all its messages.
    """

    code: str | None
    kind: str | None
    message: str
    status: int | None
    names: frozenset[str]
    layers: tuple[Mapping[str, Any], ...] = ()
    said: tuple[str, ...] = ()


NO_ERROR = ErrorBody(None, None, "", None, frozenset())


def read(value: object) -> ErrorBody:
    """What a parsed body says about an error; ``NO_ERROR`` where it says nothing."""
    layers = tuple(_layers(value))
    if not layers:
        return NO_ERROR
    said: list[str] = []
    for layer in layers:
        text = _message(layer)
        if text and text not in said:
            said.append(text)
    # An error that only repeats another's as JSON is shown as the other.
    fields = (layer.get(name) for layer in layers for name in ("message", "detail"))
    repeats = {text for text in fields if isinstance(text, str) and _nested(text) is not None}
    shown = [text for text in said if text not in repeats] or said
    names = frozenset(_names(layers, said))
    return ErrorBody(
        code=next((code for layer in layers if (code := _word(layer.get("code")))), None),
        kind=next((kind for layer in layers if (kind := _word(layer.get("type")))), None),
        message=storable_text(": ".join(shown[:3])),
        status=next((status for layer in layers if (status := _status(layer))), None),
        names=names,
        layers=layers,
        said=tuple(said),
    )


def wait_s(error: ErrorBody, *, wall_s: float) -> float | None:
    """Seconds that an error's body asks to wait: in a field, in Google's RetryInfo, in headers
    that a gateway passes on, or in the words of its message.
    """
    for layer in error.layers:
        for field, scale in (("retry_after_ms", 1e-3), ("retry_after", 1.0), ("retryDelay", 1.0)):
            found = _seconds(layer.get(field), wall_s)
            if found is not None:
                return found * scale
        for detail in _objects(layer.get("details")):
            found = _seconds(detail.get("retryDelay"), wall_s)
            if found is not None:
                return found
        metadata = layer.get("metadata")
        if isinstance(metadata, dict):
            found = _seconds(metadata.get("retry_after"), wall_s)
            passed_on = metadata.get("headers")
            if found is None and isinstance(passed_on, dict):
                lowered = {
                    name.lower(): text
                    for name, item in passed_on.items()
                    if (text := _word(item)) is not None
                }
                found = header.retry_after_s(lowered, wall_s=wall_s)
                if found is None:
                    found = header.reset_s(lowered, wall_s=wall_s)
            if found is not None:
                return found
    for text in error.said:
        asked = _ASKED.findall(text[-PHRASE_TEXT_MAX:])
        if asked:
            return header.wait_s(asked[-1].strip(" ,").lower(), wall_s=wall_s)
    return None


def _layers(value: object) -> Iterator[dict[str, Any]]:
    """The objects that describe the error, the outermost description first."""
    waiting = [value]
    found = 0
    while waiting and found < LAYERS_MAX:
        value = waiting.pop(0)
        if isinstance(value, list):
            value = next((item for item in value if isinstance(item, dict)), None)
        if not isinstance(value, dict):
            continue
        inner = value.get("error") or value.get("errors") or value.get("Error")
        if isinstance(inner, list):
            inner = next((item for item in inner if isinstance(item, (dict, str)) and item), None)
        if isinstance(inner, dict):
            # What stands beside the error adds to it, and comes after it.
            beside = {name: item for name, item in value.items() if name in _BESIDE}
            waiting[:0] = [inner, beside] if beside else [inner]
            continue
        if isinstance(inner, str) and inner:
            value = {**value, "message": inner}
            if "error_type" in value:
                value["type"] = value["error_type"]
        found += 1
        yield value
        waiting += [*reports(value), value.get("Response")]
        waiting += [value.get("innererror"), _nested(value.get("message"))]
        waiting.append(_nested(value.get("detail")))
        metadata = value.get("metadata")
        if isinstance(metadata, dict):
            raw = metadata.get("raw")
            inside = _nested(raw)
            plain = {"message": raw} if isinstance(raw, str) and raw else raw
            waiting.append(plain if inside is None else inside)


_BESIDE = frozenset(
    "code type status statusCode status_code http_code error_type retry_after message".split()
)


def _message(layer: Mapping[str, Any]) -> str | None:
    """The layer's own words; what is no text is shown as JSON."""
    for name in ("message", "detail", "title", "msg", "Message"):
        found = layer.get(name)
        if found:
            return found if isinstance(found, str) else json_text(found)
    return None


def _nested(text: object) -> object:
    """The value of a JSON object or array of objects that is a text, or None."""
    if not isinstance(text, str) or len(text) > NESTED_TEXT_MAX:
        return None
    if text.lstrip()[:1] not in ("{", "["):
        return None
    found = parse(text.encode(errors="replace"))
    return found if isinstance(found, dict) or _objects(found) else None


def _names(layers: tuple[dict[str, Any], ...], said: list[str]) -> Iterator[str]:
    meant = False
    for layer in layers:
        metadata = layer.get("metadata")
        holders = [layer, *_objects(layer.get("details"))]
        if isinstance(metadata, dict):
            holders.append(metadata)
            if metadata.get("reasons"):
                yield MODERATED
        for holder in holders:
            for word in _identifiers(holder):
                yield word
                if (meaning := meaning_of(word, layer.get(VENDOR))) is not None:
                    meant = meant or meaning not in VAGUE
                    yield meaning
        for problem in _objects(layer.get("detail")):
            # FastAPI's reason; what else is there may hold the prompt.
            if meaning_of(_word(problem.get("type")) or "") == UNPARSED:
                yield UNPARSED
    for text in said:
        yield from _names_in(text[:PHRASE_TEXT_MAX].strip(), meant=meant)


def _identifiers(holder: Mapping[str, Any]) -> Iterator[str]:
    for field in _IDENTIFIERS:
        word = _word(holder.get(field))
        if word and not word.startswith("@"):
            yield word
            if "spend_limit" in word:
                yield SPENDING
    for violation in _objects(holder.get("violations")):
        if "PerDay" in str(violation.get("quotaId")):
            yield PER_DAY


def _names_in(text: str, *, meant: bool) -> Iterator[str]:
    """The names that a message stands for. Where a code says what is ``meant``, its words are no
    second opinion.
    """
    if 0 < len(text) <= ONE_WORD_MAX and not text.startswith("@"):
        yield text
    if not meant:
        raised, numbered = _RAISED_AS.match(text), _NUMBERED.match(text)
        by_code = meaning_of(raised[1] if raised else text) if raised or " " not in text else None
        if by_code is None and numbered:
            by_code = meaning_of(numbered[1], MINIMAX)
        if by_code is not None:
            yield by_code
        if by_code is None or by_code in VAGUE:
            for phrase in PHRASES:
                if phrase.pattern.match(text):
                    yield phrase.name
    figures = _FIGURES.match(text)
    if figures:
        limit, requested = (_figure(group) for group in figures.groups())
        if limit == 0:
            yield NO_LIMIT
        elif requested > limit:
            yield TOO_LARGE


_IDENTIFIERS = ("code", "type", "status", "error_type", "reason", "limit_source")


def _figure(text: str) -> float:
    try:
        return float(text.rstrip(",.").replace(",", ""))
    except ValueError:
        return 0.0 if not text.strip("0,.") else float("nan")


def _status(layer: Mapping[str, Any]) -> int | None:
    """An HTTP error status that the layer names."""
    for name in ("code", "status", "statusCode", "status_code", "http_code"):
        word = _word(layer.get(name))
        if word is not None and _ERROR_STATUS.fullmatch(word):
            return int(word)
    return None


_ERROR_STATUS = re.compile("[45][0-9][0-9]")


def _word(value: object) -> str | None:
    """An identifier: text, or a number as text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, (dict, list)) or value == "about:blank":
        return None  # the type of a problem report (RFC 9457) that is no more than its status
    if isinstance(value, int) and abs(value) > 10**18:
        return None
    return storable_text(str(value), WORD_MAX)


def _seconds(value: object, wall_s: float) -> float | None:
    """A wait given as a number, as text, or as Google's ``{"seconds": ..., "nanos": ...}``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return header.number_s(value, wall_s=wall_s) if abs(value) < 10**18 else None
    if isinstance(value, dict):
        whole = _seconds(value.get("seconds"), wall_s)
        part = value.get("nanos")
        nanos = part if type(part) is int and 0 <= part < 10**9 else 0
        return None if whole is None and not nanos else (whole or 0.0) + nanos / 1e9
    return header.wait_s(value, wall_s=wall_s) if isinstance(value, str) else None


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
