"""The plain fields of a JSON Schema."""

import pytest

from batchrun.core.schema.fields import Field, plain_fields


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"type": "integer"}, Field("x", "number")),
        ({"type": "number", "minimum": 0}, Field("x", "number")),
        ({"type": ["integer", "null"]}, Field("x", "number")),
        ({"type": ["integer", "number"]}, Field("x", "number")),
        ({"type": "boolean"}, Field("x", "boolean")),
        ({"type": "string"}, Field("x", "text")),
        ({"enum": ["a", "b", None]}, Field("x", "text", ("a", "b"))),
        ({"type": "string", "enum": ["a", "b"]}, Field("x", "text", ("a", "b"))),
        ({"enum": [1, 2.5]}, Field("x", "number", (1, 2.5))),
        ({"const": True}, Field("x", "boolean", (True,))),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, Field("x", "number")),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, Field("x", "text", ("a", "b"))),
        ({"$ref": "#/$defs/Mark"}, Field("x", "number")),
        ({"allOf": [{"$ref": "#/$defs/Tone"}], "default": "rude"}, Field("x", "text", ("rude",))),
        ({"type": "array", "items": {"type": "number"}}, None),
        ({"type": "object"}, None),
        ({"type": ["string", "number"]}, None),
        ({"enum": ["a", 1]}, None),
        ({"anyOf": [{"type": "number"}, {"type": "array"}]}, None),
        ({}, None),
        (True, None),
        ({"$ref": "#/$defs/Loop"}, None),
        ({"$ref": "elsewhere.json"}, None),
    ],
)
def test_the_kind_of_a_field(schema, field):
    """Numbers, booleans and text, null or not, by reference or not; nothing else is a column."""
    whole = {
        "type": "object",
        "properties": {"x": schema},
        "$defs": {
            "Mark": {"type": "integer"},
            "Tone": {"enum": ["rude"]},
            "Loop": {"$ref": "#/$defs/Loop"},
        },
    }
    assert plain_fields(whole) == (() if field is None else (field,))


@pytest.mark.parametrize("schema", [None, True, [], {"type": "string"}, {"properties": 3}])
def test_a_schema_without_fields(schema):
    """What is no object's schema has none."""
    assert plain_fields(schema) == ()


def test_the_order_and_a_reference_at_the_top():
    """Fields come in the order of the schema, which may be a reference itself."""
    inner = {"properties": {"b": {"type": "string"}, "a": {"type": "number"}}}
    found = plain_fields({"$ref": "#/$defs/V", "$defs": {"V": inner}})
    assert [field.name for field in found] == ["b", "a"]
