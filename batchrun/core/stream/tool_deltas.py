"""Putting tool calls together from their fragments.

By the specification a call's first fragment carries ``index``, ``id``, ``type`` and name, later
ones ``index`` and a piece of the arguments. Servers leave the index out, send it as text, give
parallel calls one index, repeat ids and names, or send whole calls at once. What decides is the id
first, then the index, then which call was opened last.
"""

from __future__ import annotations

import json
from typing import Any

JsonObject = dict[str, Any]

CHECKS_MAX = 16
"""How often a call's arguments are tried for being whole. Each try reads all of them."""


def integer(value: object) -> int | None:
    """A whole number, also where it is written as text or as a float."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= 10 and value.isascii() and value.isdigit():
        return int(value)
    return None


class _Call:
    """One call as far as it has come."""

    __slots__ = ("arguments", "checks", "custom", "function", "id", "key", "kind", "name", "whole")

    def __init__(self, key: int | None) -> None:
        self.key = key
        self.id: str | None = None
        self.kind: str | None = None
        self.name: str | None = None
        self.function = self.custom = False
        self.arguments: list[str] | None = None
        self.whole: object = None
        """Arguments given as a value instead of text."""
        self.checks = 0

    def is_whole(self) -> bool:
        """Whether the arguments so far are a whole JSON object."""
        if self.whole is not None:
            return True
        if not self.arguments or self.checks >= CHECKS_MAX:
            return False
        self.checks += 1
        try:
            return isinstance(json.loads("".join(self.arguments), strict=False), dict)
        except (ValueError, RecursionError):
            return False

    def value(self) -> JsonObject:
        """The call in the shape of a plain reply."""
        found: JsonObject = {"id": self.id, "type": self.kind}
        text = None if self.arguments is None else "".join(self.arguments)
        if self.custom:
            found["custom"] = {"name": self.name, "input": text}
        if self.function or not self.custom:
            arguments = self.whole if self.whole is not None else text
            found["function"] = {"name": self.name, "arguments": arguments}
        return found


class ToolCalls:
    """The tool calls of one choice."""

    __slots__ = ("_by_id", "_by_key", "_calls")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_key: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, fragment: JsonObject) -> None:
        """Take one fragment."""
        named = fragment.get("custom")
        custom = isinstance(named, dict)
        body = named if isinstance(named, dict) else fragment.get("function")
        if not isinstance(body, dict):
            body = {}
        name, arguments = body.get("name"), body.get("input" if custom else "arguments")
        name = name if isinstance(name, str) and name else None
        text = fragment.get("id")
        given = text if isinstance(text, str) and text else None
        # Mistral's default id is the text "null": it names nothing.
        call = self._call(
            integer(fragment.get("index")), None if given == "null" else given, name, arguments
        )
        if given is not None and (call.id is None or call.id == "null"):
            call.id = given
        kind = fragment.get("type")
        if call.kind is None and isinstance(kind, str) and kind:
            call.kind = kind
        call.name = call.name or name
        if custom:
            call.custom = True
        elif body:
            call.function = True
        _argue(call, arguments)

    def values(self) -> list[JsonObject]:
        """The calls in the shape of a plain reply, in the order of their indexes."""
        calls = self._calls
        if all(call.key is not None for call in calls):
            calls = sorted(calls, key=lambda call: call.key or 0)
        return [call.value() for call in calls]

    def _call(self, key: int | None, name_id: str | None, name: str | None, args: object) -> _Call:
        """The call that a fragment goes on with, opened if there is none."""
        if key is not None:
            found = self._by_key.get(key)
        else:
            found = self._calls[-1] if self._calls else None
        if name_id is not None:
            known = self._by_id.get(name_id)
            if known is not None and (key is None or found is not None or known.key is None):
                found = known
            elif found is not None and not _gets_its_id_late(found, name):
                found = None
        elif found is not None and _begins_anew(found, key, name, args):
            found = None
        if found is None:
            found = _Call(key)
            self._calls.append(found)
        if key is not None:
            self._by_key[key] = found
            if found.key is None:
                found.key = key
        if name_id is not None:
            self._by_id[name_id] = found
        return found


def _gets_its_id_late(call: _Call, name: str | None) -> bool:
    """Whether a fragment with an id may belong to a call that has none: it opens nothing new."""
    return call.id in (None, "null") and (name is None or call.name is None)


def _begins_anew(call: _Call, key: int | None, name: str | None, arguments: object) -> bool:
    """Whether a fragment without an id is the next call: it has a name, and the call before is
    whole, or is another and nothing but the order tells them apart.
    """
    if name is None or call.name is None:
        return False
    if key is None and name != call.name:
        return True
    blank = arguments is None or (isinstance(arguments, str) and not arguments.strip())
    return not blank and call.is_whole()


def _argue(call: _Call, arguments: object) -> None:
    """Add to a call's arguments: text is joined, a value stands for the whole."""
    if arguments is None:
        return
    if not isinstance(arguments, str):
        if call.whole is None or arguments:
            call.whole = arguments
    else:
        if call.arguments is None:
            call.arguments = []
        if arguments:
            call.arguments.append(arguments)
            if not call.whole:
                # An empty object that stood for arguments yet to come.
                call.whole = None
