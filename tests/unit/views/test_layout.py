"""Text in columns of a terminal: what is cut, where lines end, what never gets through."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.views.layout import clipped, columns_of, cut, padded, wrap

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(WORDS, st.integers(20, 120), st.integers(0, 6))
def test_no_text_steers_a_terminal_or_loses_a_word(text, width, indent):
    """Whatever the text: no control character gets out, and every word of ASCII stays whole."""
    out = "\n".join(wrap(text, width, indent))
    assert not [c for c in out if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0]
    assert not set(out) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    words = {word for word in re.split("[ \n\t]+", text) if word.isascii() and word.isalnum()}
    assert words <= set(out.split())


@given(st.lists(st.text("abc ", min_size=1, max_size=12), max_size=40), st.integers(40, 120))
def test_lines_fit_where_words_do(words, width):
    """With words shorter than a line, no line is wider than the terminal."""
    assert all(columns_of(line) <= width for line in wrap(" ".join(words), width, 4, hang=2))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_wide_characters_take_two_columns(width):
    """Text without spaces is broken anywhere but before closing punctuation."""
    lines = list(wrap("漢字が続く、長い文。" * 20, width, 2))
    assert max(map(columns_of, lines)) <= width
    assert not [line for line in lines if line.strip()[0] in "、。"]
    assert "".join(line.strip() for line in lines) == "漢字が続く、長い文。" * 20


def test_an_indent_is_kept():
    """What is wrapped is indented by two more, and the first line uses the whole width."""
    lines = list(wrap("  " + "words " * 20, 40, hang=2))
    assert lines[0] == "  " + " ".join(["words"] * 6)
    assert all(line.startswith("    words") for line in lines[1:])


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
THUMB = "\U0001f44d\U0001f3fd"
MIXED = st.text(st.sampled_from([*"ab 漢字ｶ한é、", "\u0301", "\U0001f600"]), max_size=60)


@given(MIXED, st.integers(4, 40), st.booleans())
def test_cells_of_a_table_line_up(text, width, right):
    """A text of any script takes no more columns than it may, and exactly as many when padded."""
    shown = clipped(text, width)
    assert columns_of(shown) <= width
    assert shown == text or (shown.endswith("...") and columns_of(text) > width)
    cell = padded(shown, width, right=right)
    assert columns_of(cell) == width and cell.strip(" ") == shown.strip(" ")


@pytest.mark.parametrize("sign", [FAMILY, THUMB])
def test_a_line_does_not_end_within_an_emoji(sign):
    """Parts that make one sign stay on one line."""
    lines = list(wrap(sign * 30, 40))
    assert len(lines) > 1
    assert all(line == sign * (len(line) // len(sign)) for line in lines)


def test_long_texts_are_cut_at_a_word_and_say_how_long_they_are():
    """The note has the length in characters and lines, and the flag that shows all."""
    text = "word " * 1000 + "\nend"
    shown, note = cut(text, full=False)
    assert shown.endswith("word") and len(shown) <= 2000
    assert note == "[cut: 5,004 characters in 2 lines in all; --full shows them]"
    assert cut(text, full=True) == (text, None)
    assert cut("short", full=False) == ("short", None)


def test_many_lines_are_cut_too():
    """A text of short lines does not fill screen after screen."""
    shown, note = cut("a\n" * 100, full=False)
    assert shown.count("\n") < 40 and note is not None
