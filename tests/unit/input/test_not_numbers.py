"""NaN and infinities in JSON: found outside of strings, and only there."""

import json
import math
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.input.not_numbers import finite, is_finite, nulled, parsed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_python_writes_becomes_json(value, ascii_only):
    """Whatever is around them, such tokens become null and nothing else changes."""
    text = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    found = json.loads(nulled(text))
    assert found == finite(value)
    assert (nulled(text) == text) == is_finite(value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a": 1e999, "b": -1E+400}', {"a": None, "b": None}),
        (b'{"a": 1e308, "b": 1e-999}', {"a": 1e308, "b": 0.0}),
        (b'{"a": ' + b"9" * 400 + b'.5, "b": ' + b"9" * 400 + b"}", {"a": None, "b": 10**400 - 1}),
        (b'{"NaN": "Infinity", "a\\"NaN": [-Infinity]}', {"NaN": "Infinity", 'a"NaN': [None]}),
    ],
)
def test_numbers_too_large_are_infinities(text, found):
    """A number that overflows a float is null as well; names and texts are not looked at."""
    assert msgspec.json.decode(nulled(text)) == found
    assert finite(parsed(text)) == found


@pytest.mark.parametrize("text", [b"xNaN", b"NaNNaN", b"-NaN", b"[nan]", b"+Infinity", b'"NaN'])
def test_what_is_no_such_token_stays_broken(text):
    """Nothing else that is not JSON becomes some."""
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(nulled(text))


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"NaN", b"1", b'"a', b"-", b"\\"])
def test_any_text_takes_time_by_its_length_alone(piece):
    """Broken text of a megabyte is passed over at once."""
    began = time.perf_counter()
    nulled(b'{"a":"' + piece * (2**20 // len(piece)))
    assert time.perf_counter() - began < 5


def test_values_without_any_are_the_same_object():
    """Nothing is copied that need not be."""
    value = {"a": [1.5, {"b": "x"}]}
    assert finite(value) is value
    assert finite({"a": (math.nan, 1)}) == {"a": [None, 1]}
