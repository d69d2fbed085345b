"""The fields of a JSON Schema for objects: the properties at its top, and the kind of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "boolean", "text"]

_KINDS: Mapping[str, Kind] = {
    "string": "text",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
}
_REFERENCES_MAX = 20
"""References that are followed before one is taken for a circle."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field with one plain value. ``choices`` are its values where the schema lists them."""

    name: str
    kind: Kind
    choices: tuple[Any, ...] = ()


def plain_fields(schema: object) -> tuple[Field, ...]:
    """The top-level properties that are numbers, booleans or text (null allowed), in the order of
    the schema. Lists and objects are left out.
    """
    found = resolved(schema, schema)
    fields = found.get("properties") if isinstance(found, Mapping) else None
    if not isinstance(fields, Mapping):
        return ()
    plain = (_field(str(name), each, schema) for name, each in fields.items())
    return tuple(field for field in plain if field is not None)


def resolved(schema: Any, root: Any) -> Any:
    """A schema without a reference at its top; only those within the document are followed."""
    for _ in range(_REFERENCES_MAX):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        schema = root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name) if isinstance(schema, Mapping) else None
    return None


def _field(name: str, schema: Any, root: Any) -> Field | None:
    kinds: set[Kind | None] = set()
    choices: list[Any] = []
    for kind, values in _alternatives(schema, root, 0):
        kinds.add(kind)
        choices += values
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    return None if kind is None else Field(name, kind, tuple(dict.fromkeys(choices)))


def _alternatives(
    schema: Any, root: Any, depth: int
) -> Iterator[tuple[Kind | None, tuple[Any, ...]]]:
    """What a value may be, null aside: each kind (None for a list, an object, or anything), with
    the values that are listed.
    """
    schema = resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _REFERENCES_MAX:
        yield None, ()
        return
    # A field with a title or a default has its type one level down.
    whole = schema.get("allOf")
    if isinstance(whole, list) and len(whole) == 1 and "type" not in schema:
        yield from _alternatives(whole[0], root, depth + 1)
        return
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(listed, list):
        for value in listed:
            if value is not None:
                kind = _kind_of(value)
                yield kind, () if kind is None else (value,)
        return
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list) and "type" not in schema:
            for each in schema[word]:
                yield from _alternatives(each, root, depth + 1)
            return
    told = schema.get("type")
    for name in [told] if isinstance(told, str) else told if isinstance(told, list) else ["any"]:
        if name != "null":
            yield _KINDS.get(str(name)), ()


def _kind_of(value: object) -> Kind | None:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else None
