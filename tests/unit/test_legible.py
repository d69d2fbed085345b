"""Names that are no UTF-8 become text that every reader takes."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.legible import json_of, legible


@given(st.binary(max_size=20))
def test_any_name_can_be_written(name):
    """Whatever bytes a name has, it is text without halves of pairs; text that was, stays."""
    text = os.fsdecode(name)
    legible(text).encode()
    try:
        name.decode()
    except UnicodeDecodeError:
        assert "\\x" in legible(text)
    else:
        assert legible(text) == text


@given(st.recursive(st.binary(max_size=8).map(os.fsdecode), st.lists), st.booleans())
def test_json_of_any_name_is_json(value, ascii_only):
    """It is JSON in UTF-8, or in ASCII, whose text is the legible one."""

    def shown(value):
        return legible(value) if isinstance(value, str) else [shown(item) for item in value]

    text = json_of(value, ascii_only=ascii_only)
    assert json.loads(text.encode("ascii" if ascii_only else "utf-8")) == shown(value)


def test_how_a_byte_is_shown():
    """By its number, as Python and shells write it."""
    assert legible(os.fsdecode(b"caf\xe9.jsonl")) == "caf\\xe9.jsonl"
    assert legible("\ud800") == "\\ud800"
