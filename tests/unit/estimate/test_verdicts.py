"""How long the verdict of a judge is assumed to be."""

import pytest

from batchrun.core.estimate.verdicts import verdict_tokens

NUMBER = {"type": "integer"}
CHOICE = {"type": "string", "enum": ["accurate", "inaccurate"]}


def _of(**properties):
    return verdict_tokens({"type": "object", "properties": properties})


def test_a_verdict_grows_with_its_fields():
    """A number or a flag is a token or so, a choice as long as its values, a reason a sentence."""
    empty, number, flag = _of(), _of(mark=NUMBER), _of(mark={"type": "boolean"})
    assert empty.likely < number.likely == flag.likely < 12
    assert number.likely < _of(mark=CHOICE).likely < _of(mark={"type": "string"}).likely
    both = _of(mark=NUMBER, reason={"type": "string"})
    assert both.low < both.likely
    assert both.likely > _of(reason={"type": "string"}).likely


@pytest.mark.parametrize("schema", [None, {}, {"type": "array"}, {"properties": 3}])
def test_a_schema_without_fields_is_short(schema):
    """Whatever stands where a schema should be, there is a figure."""
    assert 0 < verdict_tokens(schema).likely < 10


def test_lists_and_objects_count_as_texts():
    """They have no bound either."""
    assert _of(steps={"type": "array"}).likely == _of(steps={"type": "string"}).likely
