"""How long the verdict of a judge is, going by its JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.estimate.estimating import Range
from batchrun.core.schema.fields import Field, plain_fields, resolved

BYTES_PER_TOKEN = 4
FRAME_TOKENS = 3
"""The braces, and for each property its quotes, colon and comma: as good as one token each."""
NUMBER = Range(1, 1, 4)
BOOLEAN = Range(1, 1, 1)
TEXT = Range(8, 50, 0)
"""A reason in a phrase, and in two sentences: a prior, set by hand. Other than for an answer, the
limit tells nothing: it is set with room to spare."""


def verdict_tokens(schema: object) -> Range:
    """The low and the likely number of tokens of an object of this schema. The upper end is left to
    the limit of the request: nothing else bounds a text.
    """
    found = resolved(schema, schema)
    properties = found.get("properties") if isinstance(found, Mapping) else None
    plain = {field.name: field for field in plain_fields(schema)}
    whole = Range(FRAME_TOKENS, FRAME_TOKENS, 0)
    for name in properties if isinstance(properties, Mapping) else ():
        frame = FRAME_TOKENS + _tokens(str(name))
        value = _value(plain.get(str(name)))
        whole.add(frame + value.low, frame + value.likely, 0)
    return whole


def _value(field: Field | None) -> Range:
    """The value of a property; lists and objects are taken for a text."""
    if field is None or (field.kind == "text" and not field.choices):
        return TEXT
    if field.choices:
        lengths = [_tokens(str(choice)) for choice in field.choices]
        return Range(min(lengths), sum(lengths) / len(lengths), max(lengths))
    return BOOLEAN if field.kind == "boolean" else NUMBER


def _tokens(text: str) -> Any:
    return max(1.0, len(text.encode()) / BYTES_PER_TOKEN)
