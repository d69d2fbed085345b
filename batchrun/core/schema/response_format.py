"""``response_format``: the schema in one, and one made of a schema.

The command line loads this with the settings; what it takes to read a schema is loaded with the
first one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from batchrun.errors import NotASchemaError

NAME_MAX = 64
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_DATA = frozenset({"const", "enum", "examples", "required"})
"""Keys of a schema whose values are data, not schemas."""
_WRAPPER = frozenset({"name", "description", "schema", "strict"})


def schema_of(response_format: object) -> Any:
    """The JSON Schema in a ``response_format``, or None where there is none.

    It stands under ``json_schema.schema`` (OpenAI, vLLM), or under ``schema`` beside the type
    ``json_schema`` or ``json_object`` (llama.cpp, Together).
    """
    if not isinstance(response_format, Mapping):
        return None
    kind = response_format.get("type")
    if kind not in ("json_schema", "json_object"):
        return None
    named = response_format.get("json_schema")
    if kind == "json_schema" and isinstance(named, Mapping) and named.get("schema") is not None:
        return named["schema"]
    return response_format.get("schema")


def asks_for_json(response_format: object) -> bool:
    """Whether the answer is to be JSON of any kind."""
    return isinstance(response_format, Mapping) and response_format.get("type") == "json_object"


def of_document(document: object, name: str) -> dict[str, Any]:
    """The ``response_format`` that asks for a schema.

    ``document`` is the schema; or an object of ``name``, ``schema`` and maybe ``strict`` and
    ``description``, as OpenAI's ``json_schema`` is; or a whole ``response_format`` with one. Only
    what it does not say is filled in: ``strict`` is true, and ``name`` becomes the name.

    Raises ``NotASchemaError`` where it is no object. Whether the schema is one is not looked at.
    """
    if not isinstance(document, Mapping):
        raise NotASchemaError("it is not a JSON object")
    inner = document.get("json_schema")
    if document.get("type") == "json_schema" and isinstance(inner, Mapping):
        document = inner
        if "schema" not in document:
            raise NotASchemaError("it is a response_format without a schema in it")
    wrapped: dict[str, Any] = {"name": name_of(name), "strict": True}
    if document.keys() <= _WRAPPER and isinstance(document.get("schema"), Mapping):
        wrapped |= document
    else:
        wrapped["schema"] = dict(document)
    return {"type": "json_schema", "json_schema": wrapped}


def strict_document(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A schema that a library made from a class, as a document for ``of_document``.

    Strict servers want every property required, no others allowed, no defaults, and nothing next to
    a ``$ref``: such a schema is made of it, as OpenAI's own client makes one
    (https://platform.openai.com/docs/guides/structured-outputs). A schema with free keys, such as
    that of a ``dict[str, int]``, stays as it is and is not ``strict``.
    """
    if _has_free_keys(schema):
        return {"name": name_of(name), "schema": dict(schema), "strict": False}
    return {"name": name_of(name), "schema": _strict(schema), "strict": True}


def _has_free_keys(node: object) -> bool:
    if isinstance(node, Mapping):
        free = node.get("type") == "object" and "properties" not in node
        return (
            free
            or bool(node.get("additionalProperties"))
            or any(map(_has_free_keys, node.values()))
        )
    return isinstance(node, (list, tuple)) and any(map(_has_free_keys, node))


def _strict(node: Any, *, names: bool = False) -> Any:
    """A part of a schema as strict servers take it; ``names``: its keys are names of properties."""
    if isinstance(node, (list, tuple)):
        return [_strict(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    made = {
        key: _strict(value, names=not names and key in ("properties", "$defs"))
        if key not in _DATA or names
        else value
        for key, value in node.items()
        if names or key != "default"
    }
    if not names and isinstance(made.get("properties"), dict):
        made |= {"required": list(made["properties"]), "additionalProperties": False}
    if not names and "$ref" in made and len(made) > 1:
        made = {"anyOf": [{"$ref": made.pop("$ref")}], **made}
    return made


def name_of(text: str) -> str:
    """Text as a name that servers take: letters, digits, ``_`` and ``-``, 64 at most."""
    return _NOT_IN_NAMES.sub("_", text).strip("_")[:NAME_MAX] or "answer"
