"""What a run's settings say about conversations: the column of the user's turns, their requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from batchrun.core.request.body import BODY_BYTES_MAX, TOO_DEEP, nested_too_deeply
from batchrun.core.request.conversation import Wording
from batchrun.errors import RowError
from batchrun.records import JsonObject

if TYPE_CHECKING:
    from batchrun.core.settings.resolve import Settings

_decode = msgspec.json.Decoder().decode


def turns_of(value: object, column: str) -> list[JsonObject]:
    """The user's turns in a cell, each as the message that it becomes.

    The cell is a list, or JSON text of one (CSV). Of its items, a text is what the user says; an
    object is the user's message itself, whose ``content`` may have parts. Raises ``RowError``.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value, column)
    if value is None or value in ("", []) or (isinstance(value, str) and not value.strip()):
        message = f"column {column!r} holds no turns: a conversation needs at least one"
        raise RowError(message)
    if not isinstance(value, list | tuple):
        message = f"column {column!r} holds {_kind(value)}, not a list of the user's turns"
        raise RowError(message)
    return [_turn(item, f"{column}[{place}]") for place, item in enumerate(value)]


def _parsed(text: str, column: str) -> object:
    if nested_too_deeply(text.encode("utf-8", "replace")):
        message = f"column {column!r} {TOO_DEEP}"
        raise RowError(message)
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        message = f"column {column!r} holds text that is not a JSON list of the user's turns"
        raise RowError(message) from None


def _turn(item: object, where: str) -> JsonObject:
    if isinstance(item, str):
        item = {"role": "user", "content": item}
    if not isinstance(item, dict):
        message = f"{where} is {_kind(item)}; a turn is a text, or the user's message as an object"
        raise RowError(message)
    # A column of structs names every field in every row.
    said = {"role": "user"} | {key: value for key, value in item.items() if value is not None}
    if said["role"] != "user":
        message = (
            f"{where} has role {said['role']!r}: only the user's turns belong there. Earlier "
            "messages go before them, in `messages` or the prompt; the model answers each turn"
        )
        raise RowError(message)
    content = said.get("content")
    if content is None or (isinstance(content, str) and not content.strip()) or content == []:
        message = f"{where} is blank"
        raise RowError(message)
    if not isinstance(content, str | list):
        message = f"{where} has {_kind(content)} as its `content`, not text or a list of parts"
        raise RowError(message)
    return said


def _kind(value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "a gap (NaN)"
    if isinstance(value, bool):
        return "true" if value else "false"
    names: dict[type, str] = {str: "text", int: "a number", float: "a number", dict: "an object"}
    if value is None:
        return "null"
    return names.get(type(value), "a list" if isinstance(value, list) else "something else")


def wording_of(settings: Settings) -> Wording:
    """What makes the requests of a run's conversations."""
    return Wording(
        BODY_BYTES_MAX,
        None if settings.schema is None else dict(settings.schema),
        settings.has_budget,
        settings.truncation_limit,
    )
