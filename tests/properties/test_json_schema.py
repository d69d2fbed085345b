"""Documents that fit their schema pass, and what was changed about them does not."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.core.schema.json_schema import encoded
from batchrun.core.verdict.answer_checks import Asked, Policy, flaw_of
from batchrun.records import Choice, Completion, Usage
from batchrun.simulator.writing.documents import write_document
from batchrun.simulator.writing.draws import Chance
from tests.harness.slow import examples

NAMES = st.text("abcdefgh_é", min_size=1, max_size=4)


def _leaf(kind, values, wrong):
    """A schema of a type, a value that fits and one that does not."""
    return st.tuples(st.just({"type": kind}), values, st.sampled_from(wrong))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.one_of(
    _leaf("string", TEXT, [1, None, [], {}]),
    _leaf("integer", st.integers(-(2**70), 2**70), ["1", 1.5, None, True]),
    _leaf("number", st.floats(allow_nan=False, allow_infinity=False), ["1", None, False]),
    _leaf("boolean", st.booleans(), [0, "true", None]),
    _leaf("null", st.none(), [0, "", False]),
    st.integers(0, 9).map(lambda n: ({"enum": [n, "x"]}, n, n + 1)),
    st.integers(1, 9).map(lambda n: ({"type": "string", "maxLength": n}, "é" * n, "é" * (n + 1))),
    st.integers(0, 9).map(lambda n: ({"type": "integer", "minimum": n}, n, n - 1)),
)


def _lists(inner):
    """Lists: the wrong one has a wrong item at its end."""
    return st.tuples(inner, st.integers(1, 3)).map(
        lambda made: (
            {"type": "array", "items": made[0][0], "minItems": 1},
            [made[0][1]] * made[1],
            [*[made[0][1]] * made[1], made[0][2]],
        )
    )


@st.composite
def _objects(draw, inner):
    """Objects: the wrong one has a wrong value, lacks a key, or has one too many."""
    fields = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    schema = {
        "type": "object",
        "properties": {name: part[0] for name, part in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }
    good = {name: part[1] for name, part in fields.items()}
    spoilt = draw(st.sampled_from(sorted(fields)))
    wrong = {
        "value": good | {spoilt: fields[spoilt][2]},
        "lacking": {name: value for name, value in good.items() if name != spoilt},
        "more": good | {spoilt + "+": 1},
    }
    return schema, good, wrong[draw(st.sampled_from(sorted(wrong)))]


CASES = st.recursive(LEAVES, lambda inner: _lists(inner) | _objects(inner), max_leaves=8)


def _flaw(schema, content):
    body = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    choice = Choice(0, content, None, None, "stop", None, None)
    answer = Completion(choice, None, None, None, None, None, None, Usage())
    return flaw_of(answer, Asked()(body), Policy())


@given(CASES, st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_what_fits_passes_and_what_was_changed_does_not(case, as_reference):
    """By whatever way the schema says it, inline or by reference."""
    schema, good, wrong = case
    if as_reference:
        schema = {"$ref": "#/$defs/it", "$defs": {"it": schema}}
    assert _flaw(schema, json.dumps(good)) is None
    flaw = _flaw(schema, json.dumps(wrong, ensure_ascii=False))
    assert flaw.error_class == "invalid_output" and flaw.again
    assert len(flaw.message) < 500
    assert encoded(schema)


@given(CASES, st.binary(min_size=32, max_size=32))
@settings(max_examples=examples(100), deadline=None)
def test_the_simulated_model_keeps_to_the_schema(case, digest):
    """Its documents fit, and depend on seed and request alone."""
    schema, _, _ = case
    text = write_document(schema, Chance(b"key", digest, 0, b"document"))
    assert _flaw(schema, text) is None, text
    assert text == write_document(schema, Chance(b"key", digest, 0, b"document"))
