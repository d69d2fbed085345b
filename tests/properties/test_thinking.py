"""Reasoning in tags and JSON in fences: nothing is lost, and nothing is made up."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.core.reply.fences import fenced
from batchrun.core.reply.thinking import TAGS, split
from batchrun.records import NO_USAGE, Choice, Completion
from tests.harness.slow import examples

WORDS = st.text("abcxyz", min_size=1, max_size=4)
PIECE = WORDS | st.sampled_from([t for tags in TAGS for t in tags[:2]] + [" ", "\n", "`", ". "])
TEXT = st.lists(PIECE, max_size=12).map("".join)
FINISH = st.sampled_from(["stop", "length", None])


def _bare(text):
    """A text without tags and white space."""
    for opening, closing, _ in TAGS:
        text = text.replace(opening, "").replace(closing, "")
    return "".join(text.split())


@pytest.mark.slow
@settings(max_examples=examples(300), deadline=None)
@given(TEXT, FINISH)
def test_splitting_loses_nothing(text, finish):
    """Reasoning and content together say what the content said, in its order."""
    first = Choice(0, text, None, None, finish, None, None)
    found = split(Completion(first, None, None, None, None, None, None, NO_USAGE)).first
    assert _bare((found.reasoning or "") + (found.content or "")) == _bare(text)
    assert found.content is None or found.content in text


VALUE = (
    st.none() | st.booleans() | st.integers() | WORDS | st.dictionaries(WORDS, WORDS, max_size=2)
)
FENCE = st.sampled_from(["```", "````", "~~~"])


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@settings(max_examples=examples(200), deadline=None)
@given(VALUE, FENCE, st.sampled_from(["", "json", " JSON"]), WORDS, WORDS, st.booleans())
def test_json_in_one_fence_is_found(value, fence, label, before, behind, end):
    """With any text around it, closed or not."""
    text = json.dumps(value, indent=1)
    fenced_text = f"{before}\n{fence}{label}\n{text}\n" + (f"{fence}\n{behind}" if end else "")
    assert json.loads(fenced(fenced_text, _is_json)) == value


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(WORDS | st.sampled_from(["```", "~~~", "\n", " ", "1", "[", "]"])).map("".join))
def test_what_is_found_is_json_from_the_text(text):
    """Whatever the text: nothing, or JSON that is in it."""
    found = fenced(text, _is_json)
    assert found is None or (_is_json(found) and found in text)
