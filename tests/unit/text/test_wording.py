"""Counts with their nouns."""

import pytest

from batchrun.core.text.wording import counted, verb


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
