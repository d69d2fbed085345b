"""Names that are no UTF-8 become text that every reader takes."""

import json
import os
import subprocess

from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.core.text.legible import json_of, legible, shell_word
from tests.harness.slow import examples


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


@given(st.binary(max_size=12).filter(lambda name: b"\0" not in name))
@example(b"it's \\ \xe9")
@settings(max_examples=examples(25), deadline=None)
def test_a_word_of_a_command_line(name):
    """Pasted into a shell it is that name again, byte by byte."""
    word = shell_word(os.fsdecode(name))
    word.encode()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True, env={"LC_ALL": "C"}
    )
    assert done.stdout == name
