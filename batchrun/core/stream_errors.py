"""Telling errors from other objects that servers send among the chunks of a stream."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

_OF_ERRORS = frozenset(("message", "errors", "detail", "status", "code", "msg"))


def is_error(value: JsonObject) -> bool:
    """Whether an object without choices is an error that stands by itself."""
    kind, status = value.get("type"), value.get("status")
    if value.get("object") == "error" or isinstance(value.get("detail"), (str, list)):
        return True
    if isinstance(status, int) and status >= 400 and "title" in value:
        return True
    return isinstance(value.get("message"), str) and (
        value.get("code") is not None or (isinstance(kind, str) and "error" in kind.lower())
    )


def may_be_error(value: JsonObject) -> bool:
    """Whether an object without choices has a field of errors. Some keep a connection alive by
    such: it is an error where the answer has no finish reason.
    """
    return "choices" not in value and not _OF_ERRORS.isdisjoint(value)
