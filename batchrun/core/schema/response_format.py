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


def name_of(text: str) -> str:
    """Text as a name that servers take: letters, digits, ``_`` and ``-``, 64 at most."""
    return _NOT_IN_NAMES.sub("_", text).strip("_")[:NAME_MAX] or "answer"
