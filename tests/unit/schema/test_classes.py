"""Schemas that libraries make of classes, as strict servers take them."""

from typing import Literal

import pydantic
import pytest

from batchrun.core.schema import json_schema
from batchrun.core.schema.response_format import of_document, schema_of, strict_document


class Place(pydantic.BaseModel):
    """Where it happened."""

    city: str = pydantic.Field(description="the city")
    next: "Place | None" = None


class Review(pydantic.BaseModel):
    """Defaults, a reference with a description, and a property named like a keyword."""

    mood: Literal["good", "bad"] = "good"
    default: int = 3
    place: Place = pydantic.Field(description="the place")
    places: list[Place] = []


def _objects(node):
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield node
        for value in node.values():
            yield from _objects(value)
    if isinstance(node, list):
        for value in node:
            yield from _objects(value)


def test_a_class_becomes_a_strict_schema():
    """All properties required, no others, no defaults, nothing next to a reference; names and
    descriptions stay, and it still is a schema.
    """
    document = strict_document(Review.model_json_schema(), "Review")
    assert (document["name"], document["strict"]) == ("Review", True)
    schema = document["schema"]
    found = list(_objects(schema))
    assert len(found) == 2
    for each in found:
        assert each["required"] == list(each["properties"])
        assert each["additionalProperties"] is False
    assert set(schema["properties"]) == {"mood", "default", "place", "places"}
    assert "default" not in schema["properties"]["mood"]
    place = schema["properties"]["place"]
    assert place["description"] == "the place" and place["anyOf"] == [{"$ref": "#/$defs/Place"}]
    json_schema.require(json_schema.encoded(schema))
    assert schema_of(of_document(document, "answer")) == schema


@pytest.mark.parametrize("kind", [dict[str, int], dict, list[dict[str, str]]])
def test_free_keys_are_not_strict(kind):
    """Such a schema stays what it is: a strict one would forbid what it allows."""
    schema = pydantic.TypeAdapter(kind).json_schema()
    document = strict_document(schema, "x")
    assert document == {"name": "x", "schema": schema, "strict": False}


def test_the_schema_that_was_given_is_not_changed():
    """A program may go on with its own."""
    schema = Review.model_json_schema()
    strict_document(schema, "Review")
    assert schema == Review.model_json_schema()
