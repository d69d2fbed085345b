"""Texts of others on one line."""

import pytest

from batchrun.core.text.wording import shortened


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("as it is", 20, "as it is"),
        ("on\n two \t lines ", 20, "on two lines"),
        ("one two three four five", 20, "one two three ..."),
        ("\u670d\u52a1\u5668" * 20, 20, ("\u670d\u52a1\u5668" * 6)[:16] + " ..."),
        ("a " + "b" * 50, 20, "a " + "b" * 14 + " ..."),
        ("", 20, ""),
    ],
)
def test_a_long_text_is_cut_between_words_where_there_are_any(text, most, shown):
    """A sentence without spaces, as Chinese has them, keeps its beginning."""
    assert shortened(text, most) == shown
    assert len(shown) <= most
