"""Counts with their nouns, and paragraphs that end at words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.text.wording import counted, verb, wrapped


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")]
)
def test_one_is_singular(number, text):
    """Only one is one."""
    assert counted(number, "row") == text


def test_plurals_and_verbs_of_their_own():
    """A plural that is no s, and the verb that goes with a number."""
    assert counted(2, "entry", "entries") == "2 entries"
    assert (verb(1, "is", "are"), verb(0, "is", "are")) == ("is", "are")


@given(st.text(alphabet="ab \n-", max_size=300), st.sampled_from([40, 80]))
def test_lines_end_at_words(text, width):
    """No line is too long but for a word that is; no word is lost or broken."""
    lines = list(wrapped(text, width))
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    assert " ".join(lines).split() == text.split()


def test_an_indent_is_kept():
    """What is wrapped is indented by two more."""
    lines = list(wrapped("  " + "word " * 20, 40))
    assert lines[0].startswith("  word") and all(line.startswith("    word") for line in lines[1:])
