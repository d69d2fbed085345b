"""``export --expand``: the fields of answers that are JSON, as columns ``answer.FIELD``.

The fields are the top-level properties of the JSON Schema that the run asked for. Other fields of
an answer stay in ``content``, which is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from batchrun.core.reply.fences import fenced
from batchrun.core.schema.fields import resolved
from batchrun.core.schema.response_format import schema_of
from batchrun.errors import UsageError

PREFIX = "answer."
_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


class AnswerFields:
    """The columns of a schema's fields, made of ``content``."""

    def __init__(self, schema: Any) -> None:
        """``schema`` is the JSON Schema of the answers. Raises ``UsageError`` for one without
        fields.
        """
        found = resolved(schema, schema)
        fields = found.get("properties") if isinstance(found, Mapping) else None
        if not isinstance(fields, Mapping) or not fields:
            message = "--expand: the schema of the run has no top-level properties to expand"
            raise UsageError(message)
        self._types = {name: _type_of(resolved(each, schema)) for name, each in fields.items()}
        self.fields = [pa.field(PREFIX + name, kind) for name, kind in self._types.items()]
        """The columns, in the order of the schema."""

    def added(self, table: pa.Table) -> pa.Table:
        """The table with these columns appended. They are null for an answer that is not a JSON
        object, and for a value of another type than its field's.
        """
        answers = [_object(text) for text in table.column("content").to_pylist()]
        for name, kind in self._types.items():
            values = [_value(answer.get(name), kind) for answer in answers]
            table = table.append_column(pa.field(PREFIX + name, kind), pa.array(values, kind))
        return table


def of_run(settings: Mapping[str, Any]) -> AnswerFields:
    """The fields of a run with these recorded settings. Raises ``UsageError`` where it asked for no
    schema.
    """
    params = settings.get("request.params")
    given = settings.get("request.schema")
    if given is None and isinstance(params, Mapping):
        given = params.get("response_format")
    schema = schema_of(given)
    if schema is None:
        message = (
            "--expand makes columns of the fields in the run's JSON Schema (--schema), and the run "
            "has none"
        )
        raise UsageError(message)
    return AnswerFields(schema)


def _type_of(schema: Any) -> pa.DataType:
    """The type of a column; text, JSON for what is neither text nor number nor truth value."""
    if not isinstance(schema, Mapping):
        return pa.string()
    told = schema.get("type")
    kinds = {told} if isinstance(told, str) else set(told or ())
    for each in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        inner = each.get("type") if isinstance(each, Mapping) else None
        kinds |= {inner} if isinstance(inner, str) else set(inner or ("object",))
    kinds.discard("null")
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    return _TYPES.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()


def _object(text: str | None) -> Mapping[str, Any]:
    found = _parsed(text)
    if found is None and text:
        inside = fenced(text, lambda part: _parsed(part) is not None)
        found = _parsed(inside)
    return found if isinstance(found, dict) else {}


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _value(value: Any, kind: pa.DataType) -> Any:
    """A value as its column has it; None for one that does not fit."""
    if value is None:
        return None
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if pa.types.is_floating(kind):
        return float(value) if abs(value) < 1e308 else None
    whole = int(value) if value == value // 1 else None
    return whole if whole is not None and -(2**63) <= whole < 2**63 else None
