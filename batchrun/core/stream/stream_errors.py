"""Telling errors from other objects that servers send among the chunks of a stream."""

from __future__ import annotations

from typing import Any

from batchrun.core.reply.failure_reports import failed, is_success

JsonObject = dict[str, Any]

_OF_ERRORS = frozenset(("message", "errors", "detail", "status", "code", "msg"))


def is_error(value: JsonObject) -> bool:
    """Whether an object without choices is an error that stands by itself."""
    kind, status, code = value.get("type"), value.get("status"), value.get("code")
    if value.get("object") == "error" or isinstance(value.get("detail"), (str, list)):
        return True
    if isinstance(status, int) and status >= 400 and "title" in value:
        return True
    return isinstance(value.get("message"), str) and (
        not is_success(code) or (isinstance(kind, str) and "error" in kind.lower())
    )


def may_be_error(value: JsonObject, before: JsonObject | None) -> bool:
    """Whether an object may tell of an error: it counts as one where the answer has no finish
    reason. Some keep a connection alive by objects with fields of errors. The first of those
    counts, unless one follows that says that it failed; ``before`` is what is known.
    """
    if value.get("choices"):
        return False
    if failed(value):
        return before is None or not failed(before)
    told = before is None and "choices" not in value and not _OF_ERRORS.isdisjoint(value)
    return told and not _is_well(value)


def _is_well(value: JsonObject) -> bool:
    """Whether an object says of itself that it succeeded."""
    return value.get("success") is True or (
        value.get("code") is not None and is_success(value["code"])
    )
